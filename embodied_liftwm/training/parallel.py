"""Several processes that train one model together, as `torchrun` starts them.

Every process holds the same weights, takes its share of a step's windows, and applies the same update: the mean of all
gradients. They are averaged by one all-reduce after the backward pass, not by `DistributedDataParallel`, which reduces what a
module's `forward` leads to: a world model is called through several methods, half of its parameters have no gradient in
steps of geometry alone, and gradients are to be accumulated over micro-batches first. What DDP would add, to send gradients
while others are still computed, saves little with a few million parameters.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from embodied_liftwm.errors import UserError

TIMEOUT = timedelta(hours=1)
"""How long processes wait for one another, as others do while the first one decodes a large dataset."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone unless a process group is there."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"  # what travels between processes lies there

    @classmethod
    def current(cls, device: str) -> Processes:
        """Those of torch's default process group, if there is one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes: checkpoints, logs, and what the user reads."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their means over all processes, in one message.

        Raises:
            UserError: another process is gone.
        """
        if self.world_size == 1:
            return
        with torch.no_grad(), _lost_processes():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            means = flat.div_(self.world_size).split([tensor.numel() for tensor in tensors])
            for tensor, mean in zip(tensors, means, strict=True):
                tensor.copy_(mean.view_as(tensor))

    def from_first(self, value: float) -> float:
        """The value that the first process has, exactly.

        Raises:
            UserError: it is gone.
        """
        if self.world_size == 1:
            return value
        with _lost_processes():
            shared = torch.tensor(value, dtype=torch.float64, device=self.device)
            dist.broadcast(shared, 0)
            return float(shared)

    def any(self, here: bool) -> bool:
        """Whether something is so in any of the processes.

        Raises:
            UserError: another process is gone.
        """
        share = torch.tensor(float(here), device=self.device)
        self.average([share])
        return bool(share > 0.0)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process run the block before all others do."""
        if not self.is_first:
            self.from_first(0.0)
        yield
        if self.is_first:
            self.from_first(0.0)


@contextmanager
def torchrun_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun, or another launcher that sets its variables, has started; else be alone.

    Args:
        device: of the training. With `cuda` every process takes the GPU of its local rank.

    Raises:
        UserError: the processes would share one GPU, or do not find one another.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Processes()
        return
    kind = torch.device(device)
    if kind.type == "cuda":
        _take_gpu(kind, int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    # Optimisers import it sooner or later. Imported beside a process group it holds on to the group, whose threads then
    # outlive `destroy_process_group` and may abort the interpreter while that shuts down.
    importlib.import_module("torch._dynamo")
    with _lost_processes():
        dist.init_process_group("nccl" if kind.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes.current(device)
    finally:
        dist.destroy_process_group()


def _take_gpu(device: torch.device, local_rank: int, local_world: int) -> None:
    """Make the GPU of a local rank the one that "cuda" means."""
    if device.index is not None and local_world > 1:
        raise UserError(f"device={device}: names one GPU for {local_world} processes; device=cuda gives each its own")
    found = torch.cuda.device_count()
    if local_world > found:
        raise UserError(f"{local_world} processes on this machine, but it has {found} GPUs: start at most {found}")
    torch.cuda.set_device(local_rank if device.index is None else device.index)


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Say in one line that another process is gone: its own message says why."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"lost another process of this training, see what it said ({reason[:120]})") from error
