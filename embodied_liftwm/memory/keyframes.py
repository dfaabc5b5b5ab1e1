"""A short, bounded memory of recent frames: what stereo needs, and nothing that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.geometry.view_selection import KEPT_VIEWS, choose_views, relation
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import TensorTree

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
        poses = torch.eye(4, dtype=like.dtype, device=like.device).expand(batch_size, KEPT_VIEWS, 4, 4).clone()
        rgb = torch.zeros(batch_size, KEPT_VIEWS, 3, image_size, image_size, dtype=torch.uint8, device=like.device)
        return cls(rgb, poses, torch.zeros(batch_size, KEPT_VIEWS, dtype=torch.bool, device=like.device))

    def sources(self, camera: Camera, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The frames that together best triangulate what a camera sees.

        Returns:
            rgb in [0, 1] [B, count, 3, H, W], poses [B, count, 4, 4], and whether each has parallax and overlap. [B, count]
        """
        chosen, good = choose_views(camera, self.poses, self.filled, count)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        return self.rgb[rows, chosen].to(self.poses.dtype) / 255.0, self.poses[rows, chosen], good

    def add(self, rgb: Tensor, pose: Tensor) -> Self:
        """Keep a frame [B, 3, H, W] in [0, 1], in rows where the camera moved since the last one kept."""
        baseline, cosine = relation(pose, self.poses[:, :1])
        moved = ~self.filled[:, 0] | (baseline[:, 0] > NEW_AT_M) | (cosine[:, 0] < NEW_AT_COSINE)
        if not bool(moved.any()):
            return self
        pushed = self._pushed(rgb, pose)
        return pushed if bool(moved.all()) else pushed.where(moved, self)

    def _pushed(self, rgb: Tensor, pose: Tensor) -> Self:
        """With a frame more in every row, and without the oldest."""
        frame = (rgb.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)
        return type(self)(
            torch.cat([frame[:, None], self.rgb[:, :-1]], dim=1),
            torch.cat([pose[:, None], self.poses[:, :-1]], dim=1),
            torch.cat([torch.ones_like(self.filled[:, :1]), self.filled[:, :-1]], dim=1),
        )
