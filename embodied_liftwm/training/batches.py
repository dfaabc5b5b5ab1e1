"""The way of a step's windows from the dataset to the device: who takes which, and how they travel."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.sampling import sample_windows
from embodied_liftwm.errors import UserError
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.teachers import Teachers

IMAGES = ("rgb", "target_rgb", "source_rgb", "recent_rgb")


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
    reader: TrainingReader,
    config: TrainConfig,
    step: int,
    rows: range,
    device: torch.device,
    teachers: Teachers | None = None,
) -> list[dict[str, Tensor]]:
    """Read some windows of a step, as equal micro-batches of tensors by the names of `data.sampling.Batch`.

    What teachers say of them is among the tensors, by names of its own (`teacher_windows.key`). They stay on the CPU: for a
    training on CUDA in pinned memory, from where copies do not hold up the program.
    """
    batch = sample_windows(reader, config, step, rows)
    tensors = {field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(batch)}
    tensors |= {} if teachers is None else teachers.read(reader, batch)
    if device.type == "cuda":
        with torch.cuda.device(device):  # a thread begins with the first GPU, and pinning would take memory there
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    size = len(rows) // config.accumulate
    return [{name: t[first : first + size] for name, t in tensors.items()} for first in range(0, len(rows), size)]


def to_device(tensors: dict[str, Tensor], device: str | torch.device) -> dict[str, Tensor]:
    """A micro-batch as the model takes it: on the device, images [..., H, W, 3] uint8 as [..., 3, H, W] float32 in [0, 1]."""
    found = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
    for name in IMAGES:
        found[name] = found[name].movedim(-1, -3).float() / 255.0
    return found
