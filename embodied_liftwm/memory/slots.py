"""Memories of a fixed number of slots: every tensor of theirs has the slots as its second axis."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree

NOWHERE = torch.iinfo(torch.int64).max
"""Key of a slot that holds nothing: sorted last."""


class Slots(TensorTree):
    """N slots a row."""

    def gather(self, slots: Tensor) -> Self:
        """What is at `slots` [B, K] of each row."""
        return self.map(lambda t: t.gather(1, spread(slots, t)))

    def concatenate(self, other: Self) -> Self:
        """The slots of both, along N."""
        return self.map_with(other, lambda a, b: torch.cat([a, b], dim=1))


def spread(slots: Tensor, like: Tensor) -> Tensor:
    """Numbers of slots [B, K] as an index into `like` [B, N, ...]. [B, K, ...]"""
    return slots.view(*slots.shape, *[1] * (like.dim() - 2)).expand(-1, -1, *like.shape[2:])
