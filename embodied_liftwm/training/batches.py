"""The way of a step's windows from the dataset to the device: who takes which, and how they travel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.mixture import Dataset
from embodied_liftwm.data.sampling import Batch, sample_windows
from embodied_liftwm.errors import UserError
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.teacher_windows import Observed, as_number, map_observed
from embodied_liftwm.training.teachers import Teachers

IMAGES = ("rgb", "target_rgb", "source_rgb", "recent_rgb")


@dataclass(frozen=True)
class Windows:
    """A micro-batch: windows as tensors, and what teachers observed in them."""

    batch: Batch[Tensor]
    observed: Observed
    own_body: bool = True  # whether the body that moves in them is the model's: that of the first dataset

    def map(self, change: Callable[[Tensor], Tensor]) -> Windows:
        """The same windows with every tensor changed."""
        return replace(self, batch=self.batch.map(change), observed=map_observed(self.observed, change))


def rows_of(config: TrainConfig, processes: Processes) -> range:
    """The windows of every step that this process takes.

    Raises:
        UserError: they cannot be shared evenly. The mean over equal shares is the mean over all, whatever their number.
    """
    parts = processes.world_size * config.accumulate
    if config.batch_size % parts:
        given = f"{processes.world_size} processes with accumulate={config.accumulate}"
        raise UserError(f"batch_size={config.batch_size}: is shared by {given}, so it must be a multiple of {parts}")
    share = config.batch_size // processes.world_size
    return range(processes.rank * share, (processes.rank + 1) * share)


def load_parts(
    dataset: Dataset,
    config: TrainConfig,
    step: int,
    rows: range,
    device: torch.device,
    teachers: Teachers | None = None,
    held_out: bool = False,
) -> list[Windows]:
    """Read some windows of a step as equal micro-batches, from the episodes that are learned from or from those held out.

    They stay on the CPU: for a training on CUDA in pinned memory, from where copies do not hold up the program.
    """
    batch = sample_windows(dataset.reader, config, step, rows, dataset.held_out if held_out else dataset.learned)
    observed = {} if teachers is None else teachers.read(dataset.reader, batch)
    windows = Windows(batch.map(torch.from_numpy), observed, own_body=dataset.first)
    if device.type == "cuda":
        with torch.cuda.device(device):  # a thread begins with the first GPU, and pinning would take memory there
            windows = windows.map(Tensor.pin_memory)
    size = len(rows) // config.accumulate
    return [windows.map(itemgetter(slice(first, first + size))) for first in range(0, len(rows), size)]


def to_device(windows: Windows, device: str | torch.device) -> Windows:
    """A micro-batch as the model takes it: on the device, images [..., H, W, 3] uint8 as [..., 3, H, W] float32 in [0, 1]."""
    found = windows.map(lambda t: t.to(device, non_blocking=True))
    images = {name: getattr(found.batch, name).movedim(-1, -3).float() / 255.0 for name in IMAGES}
    return replace(found, batch=replace(found.batch, **images), observed=map_observed(found.observed, as_number))
