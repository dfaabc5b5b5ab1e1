"""A latent cache under a hard budget of bytes: tokens are merged, doubted, moved and, when it is full, thinned out.

A write holds what is remembered against the frame (`compare`), looks for what is not in its place elsewhere
(`movers`), puts what nothing explains into free slots, and makes room first where there are too few
(`thin`). All slots are there from the start: no step costs more than another for the cache's age. Time that passes
moves what is believed to move, and changes one number a row: a token's place is that of its last sight, and its velocity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.latents.cache import CellFrame, LatentCache, check_frame, counted_from
from embodied_liftwm.memory.latents.compare import CONFIRMED, compare, explained_cells, forget_lost_movers, merge
from embodied_liftwm.memory.latents.movers import relocate
from embodied_liftwm.memory.latents.thin import thin
from embodied_liftwm.memory.latents.tokens import Tokens, token_bytes

ROW_BYTES = 16
"""The origin and the clock of a row."""
HALF_SURE = 1.0
"""Evidence at which a token's weight is a half, 1/m^2."""
LONGEST_COAST = 64.0
"""Steps after which a token that is not seen again stands still."""


@dataclass(frozen=True)
class BoundedCache(LatentCache):
    """N slots a row, as many as the budget has bytes for."""

    clock: Tensor  # [B] steps since the beginning
    tokens: Tokens

    @classmethod
    def empty(cls, batch_size: int, slots: int, latent_dim: int, like: Tensor, compact: bool = True) -> Self:
        """Free slots alone (see `slots_for`), on the device of `like`; in its dtype unless `compact`."""
        tokens = Tokens.empty(batch_size, slots, latent_dim, like, compact)
        return cls(like.new_zeros(batch_size, 3), like.new_zeros(batch_size), tokens)

    @property
    def occupied(self) -> Tensor:
        """Slots that hold a token. [B, N] bool"""
        return self.tokens.occupied

    def weights(self) -> Tensor:
        evidence = self.tokens.evidence.to(self.origin)
        return evidence / (evidence + HALF_SURE)

    def stored_latents(self) -> Tensor:
        return self.tokens.latents

    def places(self, steps: Tensor | None = None) -> Tensor:
        now = self.clock if steps is None else self.clock + steps
        elapsed = (now[:, None] - self.tokens.seen_at).clamp(-LONGEST_COAST, LONGEST_COAST)
        elapsed = torch.where(self.tokens.relocations >= CONFIRMED, elapsed, 0.0)
        return self.tokens.offsets.to(self.origin) + elapsed[..., None] * self.tokens.velocities.to(self.origin)

    def drifts(self) -> bool:
        return bool((self.occupied & (self.tokens.relocations >= CONFIRMED)).any())

    def pass_time(self, steps: Tensor) -> Self:
        """Let `steps` [B] go by, or back: what moves, moves."""
        return replace(self, clock=self.clock + steps)

    def write(self, frame: CellFrame) -> Self:
        """Take in a frame a row; differentiable in its latents and depth, evidence is a constant.

        Raises:
            UserError: the frame cannot be placed, or has more cells than the cache has slots. The cache is as it was.
        """
        check_frame(frame, self)
        slots = self.occupied.shape[1]
        if frame.depth[0].numel() > slots:
            raise UserError(f"a frame of {frame.depth[0].numel()} cells does not fit into a cache of {slots} tokens")
        begun = self._begun(frame, ~self.occupied.any(1))
        cells = counted_from(begun.origin, frame.cells)
        tokens, places = begun.tokens.unpacked(self.origin), begun.places()
        found = compare(tokens, places, frame, cells)
        explained = explained_cells(found, cells.height * cells.width)
        fresh = _fresh(frame, begun, ~explained)
        moved, elsewhere, shown = relocate(tokens, places, found, fresh, self.clock)
        kept = merge(tokens, places, found, frame, cells, self.clock)
        kept = moved.choose(elsewhere, forget_lost_movers(kept, found.contradicted))
        fresh = replace(fresh, evidence=torch.where(shown, 0.0, fresh.evidence))
        return replace(begun, tokens=_keep(kept, fresh, begun).packed(self.tokens))


def slots_for(memory_bytes: int, latent_dim: int, cells: int) -> int:
    """How many tokens a row a budget holds. Raises UserError where that is less than the cells of one frame."""
    slots = (memory_bytes - ROW_BYTES) // token_bytes(latent_dim)
    if slots < cells:
        least = cells * token_bytes(latent_dim) + ROW_BYTES
        raise UserError(
            f"bytes={memory_bytes}: holds {max(0, slots)} tokens of {token_bytes(latent_dim)} bytes, fewer than the "
            f"{cells} cells of one frame; must be at least {least}"
        )
    return slots


def _fresh(frame: CellFrame, cache: BoundedCache, wanted: Tensor) -> Tokens:
    """The frame's cells as tokens, those that are `wanted` [B, C] bool; others are free."""
    latents, evidence = frame.tokens()
    offsets = frame.points() - cache.origin[:, None]
    wanted = wanted & (evidence > 0)
    return Tokens(
        offsets=torch.where(wanted[..., None], offsets, 0.0),
        velocities=torch.zeros_like(offsets),
        latents=torch.where(wanted[..., None], latents, 0.0),
        evidence=torch.where(wanted, evidence, 0.0).detach(),
        seen_at=cache.clock[:, None].expand_as(evidence),
        relocations=torch.zeros_like(evidence, dtype=torch.int8),
    )


def _keep(old: Tokens, fresh: Tokens, cache: BoundedCache) -> Tokens:
    """Put new tokens into free slots; rows that have too few of them are thinned out, old and new together."""
    count = old.evidence.shape[1]
    free = ~old.occupied
    full = free.sum(1) < fresh.occupied.sum(1)
    kept = old
    if not bool(full.all()):
        nth_free = torch.where(free, free.cumsum(1) - 1, count)
        places = torch.arange(count, device=free.device).expand_as(nth_free)
        slot_of = torch.full_like(nth_free[:, :1], count).repeat(1, count + 1).scatter(1, nth_free, places)
        nth_new = (fresh.occupied.cumsum(1) - 1).clamp(0, count)
        kept = old.put(torch.where(fresh.occupied, slot_of.gather(1, nth_new), count), fresh)
    if bool(full.any()):
        everything = old.concatenate(fresh)
        places = replace(cache, tokens=everything).places()
        kept = thin(everything, places, count).where(full, kept)
    return kept
