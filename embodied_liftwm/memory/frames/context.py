"""Raw context: every frame that was seen, as it was, with its pose; and which of them show what a camera looks at.

Frames are appended in place where that harms nobody: the buffer that states share has room behind the frames of all of them. A
state that is not the newest of its buffer gets a buffer of its own when it goes on. So to observe costs the same after ten
thousand frames, but for the copy when the buffer is full; and every state keeps what it held. Two threads must not continue one
state at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from embodied_liftwm.geometry.view_selection import CROWDING, relation, sees
from embodied_liftwm.memory.growing import Growing
from embodied_liftwm.protocols import Camera

GROWTH = 1.25
"""What a full buffer grows by, at least a block: copying takes a constant share of writing, and a fifth is room at most."""
NEAR_M = 0.5
"""Distance at which a view is worth half of one from the same place."""
CANDIDATES = 256
"""Frames, the nearest by pose, among which views are chosen."""
SAME_M, SAME_COSINE = 0.05, 0.01
"""Moving by so much, or turning until the cosine is so much less than 1, makes a frame another look."""


@dataclass(frozen=True)
class ContextFrames(Growing):
    """M frames a row, oldest first."""

    BLOCK: ClassVar[int] = 32
    rgb: Tensor  # [B, M, 3, H, W] uint8
    poses: Tensor  # [B, M, 4, 4] world_from_camera
    used: Tensor  # [B] int64: frames in the buffer, of all states that share it

    @classmethod
    def empty(cls, batch_size: int, image_size: tuple[int, int], like: Tensor, room: int = 0) -> Self:
        """No frames yet, and room for some, on the device and of the dtype of `like`."""
        rgb = torch.zeros(batch_size, room, 3, *image_size, dtype=torch.uint8, device=like.device)
        count = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
        return cls(count, rgb, like.new_zeros(batch_size, room, 4, 4), count.clone())

    @classmethod
    def room_for(cls, count: int) -> int:
        room = 0
        while room < count:
            room = super().room_for(max(room + 1, int(GROWTH * room)))
        return room

    def where(self, mask: Tensor, other: Self) -> Self:
        chosen = super().where(mask, other)
        return replace(chosen, used=chosen.count.clone())

    @torch.no_grad()
    def add(self, rgb: Tensor, pose: Tensor) -> Self:
        """With a frame more in every row; this one holds what it held.

        Args:
            rgb: in [0, 1]. [B, 3, H, W]
            pose: world_from_camera. [B, 4, 4]
        """
        room = int(self.count.max()) < self.slots
        alone = self.rgb.stride(0) > 0 or len(self.rgb) == 1  # rows of an expanded state are one
        newest = room and alone and torch.equal(self.used, self.count)
        mine = self if newest else self._copied(max(self.slots, self.room_for(int(self.count.max()) + 1)))
        rows = torch.arange(len(rgb), device=rgb.device)
        mine.rgb[rows, mine.count] = (rgb * 255.0).round().clamp(0, 255).to(torch.uint8)
        mine.poses[rows, mine.count] = pose.to(mine.poses)
        mine.used.add_(1)
        return replace(mine, count=mine.count + 1)

    def _copied(self, room: int) -> Self:
        """In a buffer of its own."""
        own = self.resized(room).map(torch.clone)
        return replace(own, used=own.count.clone())

    def take(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `chosen` [B * V, S], the views of a row one after another: rgb in [0, 1] [B * V, S, 3, H, W], and poses."""
        rows = torch.arange(len(chosen), device=chosen.device)[:, None] // (len(chosen) // len(self.count))
        return self.rgb[rows, chosen].to(self.poses) / 255.0, self.poses[rows, chosen]

    @torch.no_grad()
    def choose(self, cameras: Camera, count: int) -> tuple[Tensor, Tensor]:
        """Choose frames that together show what each of B * V cameras looks at, the views of a row one after another.

        The nearest one that sees the same comes first; the next is chosen for what the former show little of, as in
        `view_selection.choose_views`, but from the same place if it can be, and never from where one was already chosen.

        Returns:
            Numbers of frames, best first, and whether each shows anything of it, 0 where not. [B * V, count] int64 and bool
        """
        mine = self if self.slots else self.resized(1)
        views = len(cameras.intrinsics) // len(self.count)
        poses, occupied = (t.repeat_interleave(views, dim=0) for t in (mine.poses, mine.occupied))
        quality, found = _nearness(cameras, poses, occupied).topk(min(CANDIDATES, mine.slots), dim=1)
        rows = torch.arange(len(found), device=found.device)
        poses = poses[rows[:, None], found]
        worth = quality.unsqueeze(-1) * sees(cameras, poses)
        covered, chosen, good = torch.zeros_like(worth[:, 0]), [], []
        for _ in range(count):
            best, number = (worth / (1.0 + CROWDING * covered).unsqueeze(1)).sum(-1).max(1)
            covered = covered + worth[rows, number]
            worth = worth * _newness(poses[rows, number], poses).unsqueeze(-1)
            chosen.append(torch.where(best > 0, found[rows, number], 0))
            good.append(best > 0)
        return torch.stack(chosen, dim=1), torch.stack(good, dim=1)


def _nearness(cameras: Camera, poses: Tensor, occupied: Tensor) -> Tensor:
    """How well frames at poses [B, M, 4, 4] show what a camera near them looks at, whatever that is. [B, M] in [0, 1]"""
    baseline, cosine = relation(cameras.world_from_camera, poses)
    return occupied * (0.2 + 0.8 * cosine.clamp_min(0.0)) / (1.0 + (baseline / NEAR_M).square())


def _newness(pose: Tensor, others: Tensor) -> Tensor:
    """How much each of `others` [B, M, 4, 4] is another look than `pose` [B, 4, 4]: 0 for itself. [B, M] in [0, 1)"""
    baseline, cosine = relation(pose, others)
    itself = (baseline / SAME_M).square() + ((1.0 - cosine) / SAME_COSINE).clamp_min(0.0)
    return torch.where(itself < 1e-4, 0.0, 1.0 - torch.exp(-itself))
