"""The latent cache as published: every frame's tokens are concatenated, and nothing is forgotten (Mirage, arXiv:2606.09828).

A token costs 6 bytes for its place, 1 for each channel and 1 for whether it was observed, 15 with 8 channels. At 256 x 256
pixels and a stride of 8 a frame costs 15 KB; as an RGB point cloud, with three float32 and three bytes a pixel, it costs 983
KB. The cache grows with every frame, and so does the time to read it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.memory.latents.cache import CellFrame, LatentCache, check_frame, packed

BLOCK = 4096
"""Slots by which a cache that is full grows."""


@dataclass(frozen=True)
class AppendCache(LatentCache):
    """As many tokens as were written; rows that hold fewer end with free slots. Latents are int8 (`LATENT_STEP`)."""

    offsets: Tensor  # [B, N, 3] metres from the origin
    latents: Tensor  # [B, N, D + 1] the last channel is `observed`
    count: Tensor  # [B] int64 tokens written, in the first slots

    @classmethod
    def empty(cls, batch_size: int, latent_dim: int, like: Tensor, capacity: int = 0, compact: bool = True) -> Self:
        """No tokens yet, on the device of `like`; in its dtype unless `compact`."""
        zeros = like.new_zeros
        return cls(
            origin=zeros(batch_size, 3),
            offsets=zeros(batch_size, capacity, 3, dtype=torch.float16 if compact else like.dtype),
            latents=zeros(batch_size, capacity, latent_dim + 1, dtype=torch.int8 if compact else like.dtype),
            count=zeros(batch_size, dtype=torch.int64),
        )

    @property
    def capacity(self) -> int:
        """Slots a row."""
        return self.offsets.shape[1]

    @property
    def occupied(self) -> Tensor:
        """Slots that hold a token. [B, N] bool"""
        return torch.arange(self.capacity, device=self.count.device) < self.count[:, None]

    def weights(self) -> Tensor:
        return self.occupied.to(self.origin)

    def places(self, steps: Tensor | None = None) -> Tensor:
        return self.offsets.to(self.origin)

    def stored_latents(self) -> Tensor:
        return self.latents

    def write(self, frame: CellFrame) -> Self:
        """Add the frame's cells that have evidence. Raises UserError for a frame that cannot be placed."""
        check_frame(frame, self)
        begun = self._begun(frame, self.count == 0)
        latents, evidence = frame.tokens()
        there = evidence > 0
        added = there.sum(1)
        grown = begun.with_capacity(_rounded_up(int((self.count + added).max()), self.capacity))
        # Cells that are not written go into a slot past the end, which is cut off.
        slots = torch.where(there, self.count[:, None] + there.cumsum(1) - 1, grown.capacity)
        offsets = (frame.points() - begun.origin[:, None]).to(self.offsets.dtype)
        return replace(
            grown,
            offsets=_put(grown.offsets, slots, offsets),
            latents=_put(grown.latents, slots, packed(latents, self.latents.dtype)),
            count=self.count + added,
        )

    def with_capacity(self, capacity: int) -> Self:
        """With so many slots a row, or as many as there are, if those are more."""
        more = max(0, capacity - self.capacity)
        offsets, latents = (F.pad(t, (0, 0, 0, more)) if more else t for t in (self.offsets, self.latents))
        return replace(self, offsets=offsets, latents=latents)

    def where(self, mask: Tensor, other: Self) -> Self:
        """`TensorTree.where` of two caches that are first brought to one size."""
        capacity = max(self.capacity, other.capacity)
        return super(AppendCache, self.with_capacity(capacity)).where(mask, other.with_capacity(capacity))


def _rounded_up(needed: int, capacity: int) -> int:
    """Slots for `needed` tokens: as many as there are, if they suffice, else whole blocks."""
    return capacity if needed <= capacity else -(-needed // BLOCK) * BLOCK


def _put(old: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """`old` [B, N, C] with `new` [B, K, C] in `slots` [B, K]; slot N is cut off."""
    longer = F.pad(old, (0, 0, 0, 1))
    return longer.scatter(1, slots[..., None].expand_as(new), new)[:, :-1]
