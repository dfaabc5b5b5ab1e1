"""Memories that grow: slots along the second axis, in blocks, with a count of those that each row has filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree


@dataclass(frozen=True)
class Growing(TensorTree):
    """Rows with as many slots as the fullest of them needs, rounded up to whole blocks.

    Every other field has the slots as its second axis. A row's first `count` slots are filled.
    """

    BLOCK: ClassVar[int]
    count: Tensor  # [B] int64

    @classmethod
    def room_for(cls, count: int) -> int:
        """Slots that a memory has whose fullest row has filled `count`."""
        return -(-count // cls.BLOCK) * cls.BLOCK

    @property
    def occupied(self) -> Tensor:
        """Slots that are filled. [B, N] bool"""
        return torch.arange(self.slots, device=self.count.device) < self.count[:, None]

    @property
    def slots(self) -> int:
        """How many each row has, filled or not."""
        return next(t.shape[1] for t in self.named_tensors().values() if t.dim() > 1)

    def resized(self, slots: int) -> Self:
        """With so many slots: the last are cut off, or empty ones added."""

        def resize(t: Tensor) -> Tensor:
            if t.dim() < 2 or t.shape[1] == slots:
                return t
            more = max(0, slots - t.shape[1])
            return F.pad(t[:, :slots], (0, 0) * (t.dim() - 2) + (0, more))

        return self.map(resize)

    def where(self, mask: Tensor, other: Self) -> Self:
        """Take rows of `self` where `mask` [B] is true, of `other` elsewhere; with the room that these rows need."""
        count = torch.where(mask, self.count, other.count)
        slots = self.room_for(int(count.max()) if len(count) else 0)
        return super(Growing, self.resized(slots)).where(mask, other.resized(slots))
