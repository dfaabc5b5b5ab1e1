"""A bounded buffer of frames with their poses, newest first: what `keyframes` and `recent` keep, each by a rule of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree


@dataclass(frozen=True)
class FrameBuffer(TensorTree):
    """M frames a row."""

    SIZE: ClassVar[int]
    rgb: Tensor  # [B, M, 3, H, W] uint8
    poses: Tensor  # [B, M, 4, 4] world_from_camera
    filled: Tensor  # [B, M] bool

    @classmethod
    def empty(cls, batch_size: int, image_size: tuple[int, int], like: Tensor) -> Self:
        """No frames yet, on the device and of the dtype of `like`."""
        poses = torch.eye(4, dtype=like.dtype, device=like.device).expand(batch_size, cls.SIZE, 4, 4).clone()
        rgb = torch.zeros(batch_size, cls.SIZE, 3, *image_size, dtype=torch.uint8, device=like.device)
        return cls(rgb, poses, torch.zeros(batch_size, cls.SIZE, dtype=torch.bool, device=like.device))

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `chosen` [B, S] of each row: rgb in [0, 1] [B, S, 3, H, W] and poses. [B, S, 4, 4]"""
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        return self.rgb[rows, chosen].to(self.poses.dtype) / 255.0, self.poses[rows, chosen]

    def pushed(self, rgb: Tensor, pose: Tensor) -> Self:
        """With a frame more in every row, [B, 3, H, W] in [0, 1], and without the oldest."""
        frame = (rgb.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)
        filled = torch.ones_like(self.filled[:, 0])
        given = (frame, self.rgb), (pose.detach(), self.poses), (filled, self.filled)
        return type(self)(*(_pushed(new, old) for new, old in given))


def _pushed(new: Tensor, old: Tensor) -> Tensor:
    """`new` [B, ...] before all but the last of `old` [B, M, ...]; without torch's threads, which cost more than the copy."""
    if old.device.type != "cpu":
        return torch.cat([new[:, None], old[:, :-1]], dim=1)
    return torch.from_numpy(np.concatenate([new.numpy()[:, None], old.numpy()[:, :-1]], axis=1))
