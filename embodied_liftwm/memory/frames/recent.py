"""The last few frames, whatever the camera did: what motion is seen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from embodied_liftwm.memory.frames.buffer import FrameBuffer

STEPS = (2, 4, 6)
"""How many steps ago the frames were that a frame is compared with."""


@dataclass(frozen=True)
class RecentFrames(FrameBuffer):
    """The frames of the last max(STEPS) steps."""

    SIZE: ClassVar[int] = max(STEPS)

    def sources(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The frames of STEPS ago, seen from the step that comes next.

        Returns:
            rgb in [0, 1] [B, S, 3, H, W], poses [B, S, 4, 4], when they were, in steps [B, S] (negative), and whether they are
            there [B, S] bool.
        """
        ago = torch.tensor(STEPS, device=self.poses.device).expand(len(self.poses), -1)
        rgb, poses = self.take(ago - 1)
        return rgb, poses, -ago.to(poses), self.filled.gather(1, ago - 1)
