"""A short, bounded memory of recent frames: what stereo needs, and nothing that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from embodied_liftwm.geometry.view_selection import KEPT_VIEWS, choose_views, relation
from embodied_liftwm.memory.frames.buffer import FrameBuffer
from embodied_liftwm.protocols import Camera

NEW_AT_M, NEW_AT_COSINE = 0.08, 0.985
"""A frame is kept when the camera moved this far, or turned this much, since the last kept one."""


@dataclass(frozen=True)
class Keyframes(FrameBuffer):
    """The last frames that differed in pose."""

    SIZE: ClassVar[int] = KEPT_VIEWS

    def sources(self, camera: Camera, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The frames that together best triangulate what a camera sees.

        Returns:
            rgb in [0, 1] [B, count, 3, H, W], poses [B, count, 4, 4], and whether each has parallax and overlap. [B, count]
        """
        chosen, good = choose_views(camera, self.poses, self.filled, count)
        return *self.take(chosen), good

    def add(self, rgb: Tensor, pose: Tensor, unit: Tensor | float = 1.0) -> Self:
        """Keep a frame [B, 3, H, W] in [0, 1], in rows where the camera moved since the last one kept.

        Args:
            rgb, pose: the frame, and its world_from_camera [B, 4, 4].
            unit: length beside which the camera's moves count, metres. [B]
        """
        baseline, cosine = relation(pose, self.poses[:, :1])
        moved = ~self.filled[:, 0] | (baseline[:, 0] > NEW_AT_M * unit) | (cosine[:, 0] < NEW_AT_COSINE)
        if not bool(moved.any()):
            return self
        pushed = self.pushed(rgb, pose)
        return pushed if bool(moved.all()) else pushed.where(moved, self)
