"""The last few frames, whatever the camera did: what motion is seen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree

STEPS = (2, 4, 6)
"""How many steps ago the frames were that a frame is compared with."""


@dataclass(frozen=True)
class RecentFrames(TensorTree):
    """The frames of the last max(STEPS) steps, newest first."""

    rgb: Tensor  # [B, R, 3, H, W] uint8
    poses: Tensor  # [B, R, 4, 4] world_from_camera
    filled: Tensor  # [B, R] bool

    @classmethod
    def empty(cls, batch_size: int, image_size: int, like: Tensor) -> Self:
        """No frames yet, on the device and of the dtype of `like`."""
        count = max(STEPS)
        poses = torch.eye(4, dtype=like.dtype, device=like.device).expand(batch_size, count, 4, 4).clone()
        rgb = torch.zeros(batch_size, count, 3, image_size, image_size, dtype=torch.uint8, device=like.device)
        return cls(rgb, poses, torch.zeros(batch_size, count, dtype=torch.bool, device=like.device))

    def add(self, rgb: Tensor, pose: Tensor) -> Self:
        """Keep a frame [B, 3, H, W] in [0, 1], and let the oldest go."""
        frame = (rgb.detach() * 255.0).round().clamp(0, 255).to(torch.uint8)
        return type(self)(
            torch.cat([frame[:, None], self.rgb[:, :-1]], dim=1),
            torch.cat([pose[:, None], self.poses[:, :-1]], dim=1),
            torch.cat([torch.ones_like(self.filled[:, :1]), self.filled[:, :-1]], dim=1),
        )

    def sources(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The frames of STEPS ago, seen from the step that comes next.

        Returns:
            rgb in [0, 1] [B, S, 3, H, W], poses [B, S, 4, 4], when they were, in steps [B, S] (negative), and whether they are
            there [B, S] bool.
        """
        chosen = torch.tensor([steps - 1 for steps in STEPS], device=self.poses.device)
        steps = -self.poses.new_tensor(STEPS).expand(len(self.poses), -1)
        return self.rgb[:, chosen].to(self.poses.dtype) / 255.0, self.poses[:, chosen], steps, self.filled[:, chosen]
