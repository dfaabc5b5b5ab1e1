"""When the budget is full: neighbours with like latents are merged until it is not, and only then is the least useful evicted.

Evicting first would leave holes where the agent once looked; merging costs detail instead, and first where there is most of it.
Space is cut into voxels, the finest that make enough room. In each the surest token takes in those that are like it; what is
not like it stays by itself, as detail. Where even the coarsest voxels leave too many, details go before the voxels' surest, and
what is least sure first: places go last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.memory.latent_cache_compare import SIMILAR
from embodied_liftwm.memory.latent_cache_tokens import MOST_EVIDENCE, Tokens

VOXELS_M = tuple(0.03 * 1.25**k for k in range(16))
"""Voxel edges to try, metres, finest first: 3 cm to 0.85 m."""
FILL = 0.8
"""Share of the budget that is left in use, so that thinning is not needed again at the next frame."""
SAME_VELOCITY = 0.02
"""Metres a step by which velocities of tokens that are merged differ at most."""
NOWHERE = torch.iinfo(torch.int64).max


class Groups(NamedTuple):
    """Tokens in an order in which each voxel's follow one another, the surest first, free ones last."""

    order: Tensor  # [B, K] int64 which token
    leader: Tensor  # [B, K] int64 where in this order its voxel begins
    kept: Tensor  # [B, K] bool: it stays, since it leads or is not like its leader

    def first(self) -> Tensor:
        """Which lead. [B, K] bool"""
        return self.leader == torch.arange(self.leader.shape[1], device=self.leader.device)


def thin(tokens: Tokens, places: Tensor, slots: int) -> Tokens:
    """Merge and evict until at most `FILL * slots` are left.

    Args:
        tokens: unpacked, K of them, no fewer than `slots`.
        places: where they are now, metres. [B, K, 3]
        slots: N.

    Returns:
        N tokens.
    """
    most = max(1, int(FILL * slots))
    with torch.no_grad():
        found = _finest(tokens, places, most)
    members = tokens.gather(found.order)
    joined = _joined(members, found)
    with torch.no_grad():
        worth = joined.evidence / (2.0 * MOST_EVIDENCE) + found.first().to(joined.evidence)
        best = torch.where(found.kept, worth, 0.0).topk(slots, dim=1)
        stays = (best.values > 0) & (torch.arange(slots, device=places.device) < most)
    chosen = joined.gather(best.indices)
    return replace(chosen, evidence=torch.where(stays, chosen.evidence, 0.0))


def _joined(members: Tokens, found: Groups) -> Tokens:
    """Leaders with the latents of what they took in, weighted by evidence; their places are their own, on the surface."""
    taken = ~found.kept | found.first()
    weight = torch.where(taken & members.occupied, members.evidence, 0.0)
    leader = found.leader[..., None].expand_as(members.latents)
    total = torch.zeros_like(weight).scatter_add(1, found.leader, weight)
    summed = torch.zeros_like(members.latents).scatter_add(1, leader, weight[..., None] * members.latents)
    mean = summed / total.clamp_min(1e-9)[..., None]
    return replace(members, latents=torch.where((found.first() & (total > 0))[..., None], mean, members.latents))


def _finest(tokens: Tokens, places: Tensor, most: int) -> Groups:
    """Groups of the finest voxels that leave at most so many tokens in each row, found by bisection."""
    surest = torch.where(tokens.occupied, tokens.evidence, -1.0).argsort(dim=1, descending=True, stable=True)
    edges = places.new_tensor(VOXELS_M)
    low = torch.zeros(len(surest), dtype=torch.int64, device=places.device)
    high = torch.full_like(low, len(VOXELS_M) - 1)
    while bool((low < high).any()):
        middle = (low + high) // 2
        fits = _grouped(tokens, places, surest, edges[middle]).kept.sum(1) <= most
        low, high = torch.where(fits, low, torch.minimum(middle + 1, high)), torch.where(fits, middle, high)
    return _grouped(tokens, places, surest, edges[high])


def _grouped(tokens: Tokens, places: Tensor, surest: Tensor, edge: Tensor) -> Groups:
    """Groups by voxels of `edge` [B]; `surest` [B, K] orders the tokens by evidence."""
    keys, positions = _keys(tokens, places, edge).gather(1, surest).sort(dim=1, stable=True)
    order = surest.gather(1, positions)
    begins = torch.cat([torch.ones_like(keys[:, :1], dtype=torch.bool), keys[:, 1:] != keys[:, :-1]], dim=1)
    place = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    leader = torch.where(begins, place, 0).cummax(1).values
    members = tokens.gather(order)
    leaders = members.gather(leader)
    like = (members.latents - leaders.latents).abs().mean(-1) < SIMILAR
    like = like & ((members.velocities - leaders.velocities).norm(dim=-1) < SAME_VELOCITY)
    return Groups(order, leader, (keys != NOWHERE) & (begins | ~like))


def _keys(tokens: Tokens, places: Tensor, edge: Tensor) -> Tensor:
    """One integer a voxel, `NOWHERE` for free slots. [B, K] int64"""
    voxel = (places.detach() / edge[:, None, None]).floor().clamp(-(2**20), 2**20 - 1).long() + 2**20
    x, y, z = voxel.unbind(-1)
    return torch.where(tokens.occupied, (x * 2**21 + y) * 2**21 + z, NOWHERE)
