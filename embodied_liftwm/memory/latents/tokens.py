"""Tokens of the bounded latent cache: what is kept of each, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.memory.latents.cache import packed
from embodied_liftwm.memory.slots import Slots, spread

MOST_EVIDENCE = 6e4
"""Evidence grows no further, 1/m^2: half precision ends at 65504."""


@dataclass(frozen=True)
class Tokens(Slots):
    """N tokens a row. Packed, a token costs 21 bytes and 2 for each channel."""

    offsets: Tensor  # [B, N, 3] float16 metres from the row's origin: where it was when it was last seen
    velocities: Tensor  # [B, N, 3] float16 metres a step
    latents: Tensor  # [B, N, D + 1] float16, the last channel is `observed`
    evidence: Tensor  # [B, N] float16 1/m^2 inverse variance of where it is, 0 in free slots
    seen_at: Tensor  # [B, N] float32 step at which it was last seen
    relocations: Tensor  # [B, N] int8 times that it was found again elsewhere, one after another

    @classmethod
    def empty(cls, batch_size: int, count: int, latent_dim: int, like: Tensor, compact: bool) -> Self:
        """Free slots, on the device of `like`; in its dtype unless `compact`."""
        shape, dtype = (batch_size, count), torch.float16 if compact else like.dtype
        return cls(
            offsets=like.new_zeros(*shape, 3, dtype=dtype),
            velocities=like.new_zeros(*shape, 3, dtype=dtype),
            latents=like.new_zeros(*shape, latent_dim + 1, dtype=dtype),
            evidence=like.new_zeros(shape, dtype=dtype),
            seen_at=like.new_zeros(shape),
            relocations=like.new_zeros(shape, dtype=torch.int8),
        )

    @property
    def occupied(self) -> Tensor:
        """Slots that hold a token. [B, N] bool"""
        return self.evidence > 0

    def unpacked(self, like: Tensor) -> Self:
        """The same in the dtype of `like`, to compute with."""
        return self.map(lambda t: t.to(like.dtype) if t.is_floating_point() else t)

    def packed(self, like: Self) -> Self:
        """The same in the dtypes of `like`."""
        kinds = {name: t.dtype for name, t in like.named_tensors().items()}
        bounded = self.evidence.clamp(max=MOST_EVIDENCE)
        return type(self)(
            offsets=self.offsets.to(kinds["offsets"]),
            velocities=self.velocities.to(kinds["velocities"]),
            latents=packed(self.latents, kinds["latents"]),
            evidence=bounded.to(kinds["evidence"]),
            seen_at=self.seen_at.to(kinds["seen_at"]),
            relocations=self.relocations,
        )

    @property
    def looks(self) -> Tensor:
        """What tokens are compared by: latents alone. [B, N, D]"""
        return self.latents[..., :-1]

    def put(self, slots: Tensor, new: Self) -> Self:
        """With the tokens of `new` [B, K] in `slots` [B, K]; those of slot N are dropped."""

        def scattered(mine: Tensor, theirs: Tensor) -> Tensor:
            longer = torch.cat([mine, torch.zeros_like(mine[:, :1])], dim=1)
            return longer.scatter(1, spread(slots, mine), theirs)[:, :-1]

        return self.map_with(new, scattered)

    def choose(self, mask: Tensor, other: Self) -> Self:
        """Tokens of `self` where `mask` [B, N] is true, of `other` elsewhere."""
        return self.map_with(other, lambda a, b: torch.where(mask[..., None] if a.dim() == 3 else mask, a, b))


def token_bytes(latent_dim: int) -> int:
    """Bytes of a packed token."""
    one = Tokens.empty(1, 1, latent_dim, torch.zeros(()), compact=True)
    return one.nbytes()
