"""A short, bounded memory of recent frames: what stereo needs, and nothing that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree

CAPACITY = 12
"""Frames kept, M."""
BASELINE_M = (0.1, 1.2)
"""Between these distances two cameras see a room with parallax, and still see the same of it."""
BEST_BASELINE_M = 0.5
MAX_TURN_COSINE = 0.8
"""Cosine of the largest angle between optical axes at which the images still overlap."""
NEW_AT_M, NEW_AT_COSINE = 0.08, 0.985
"""A frame is kept when the camera moved this far, or turned this much, since the last kept one."""


@dataclass(frozen=True)
class Keyframes(TensorTree):
    """The last M frames that differed in pose, newest first."""

    rgb: Tensor  # [B, M, 3, H, W] uint8
    poses: Tensor  # [B, M, 4, 4] world_from_camera
    filled: Tensor  # [B, M] bool

    @classmethod
    def empty(cls, batch_size: int, image_size: int, like: Tensor) -> Self:
        """No frames yet, on the device and of the dtype of `like`."""
        poses = torch.eye(4, dtype=like.dtype, device=like.device).expand(batch_size, CAPACITY, 4, 4).clone()
        rgb = torch.zeros(batch_size, CAPACITY, 3, image_size, image_size, dtype=torch.uint8, device=like.device)
        return cls(rgb, poses, torch.zeros(batch_size, CAPACITY, dtype=torch.bool, device=like.device))

    def sources(self, pose: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The frames that best triangulate what a camera at `pose` [B, 4, 4] sees.

        Returns:
            rgb in [0, 1] [B, count, 3, H, W], poses [B, count, 4, 4], and whether each has parallax and overlap. [B, count]
        """
        baseline, cosine = relation(pose, self.poses)
        good = self.filled & has_parallax(pose, self.poses)
        penalty = (baseline / BEST_BASELINE_M).clamp_min(1e-6).log().abs() + 2.0 * (1.0 - cosine)
        chosen = torch.where(good, penalty, torch.inf).topk(count, dim=1, largest=False).indices
        rows = torch.arange(len(pose), device=pose.device)[:, None]
        return self.rgb[rows, chosen].to(pose.dtype) / 255.0, self.poses[rows, chosen], good[rows, chosen]

    def add(self, rgb: Tensor, pose: Tensor) -> Self:
        """Keep a frame [B, 3, H, W] in [0, 1], in rows where the camera moved since the last one kept."""
        baseline, cosine = relation(pose, self.poses)
        moved = ~self.filled[:, 0] | (baseline[:, 0] > NEW_AT_M) | (cosine[:, 0] < NEW_AT_COSINE)
        frame = (rgb.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)
        pushed = type(self)(
            torch.cat([frame[:, None], self.rgb[:, :-1]], dim=1),
            torch.cat([pose[:, None], self.poses[:, :-1]], dim=1),
            torch.cat([torch.ones_like(self.filled[:, :1]), self.filled[:, :-1]], dim=1),
        )
        return pushed.where(moved, self)


def relation(pose: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance in metres, and cosine between the optical axes, of `pose` [B, 4, 4] and `others` [B, M, 4, 4]. [B, M] twice"""
    baseline = (others[:, :, :3, 3] - pose[:, None, :3, 3]).norm(dim=-1)
    return baseline, (others[:, :, :3, 2] * pose[:, None, :3, 2]).sum(-1)


def has_parallax(pose: Tensor, others: Tensor) -> Tensor:
    """Whether each of `others` [B, M, 4, 4] sees what `pose` [B, 4, 4] sees, from far enough aside. [B, M] bool"""
    baseline, cosine = relation(pose, others)
    return (baseline > BASELINE_M[0]) & (baseline < BASELINE_M[1]) & (cosine > MAX_TURN_COSINE)
