"""When the budget is full: neighbours with like latents are merged until it is not, and only then is the least useful evicted.

Evicting first would leave holes where the agent once looked; merging costs detail instead, and first where there is most of it.
Space is cut into voxels, the finest that make enough room. In each the surest token takes in those that are like it, and the
surest of the rest those that are like that one; what is like none of them stays by itself, as detail. Where even the coarsest
voxels leave too many, details go before the voxels' surest, and what is least sure first: places go last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.memory.latents.compare import SIMILAR
from embodied_liftwm.memory.latents.tokens import MOST_EVIDENCE, Tokens
from embodied_liftwm.memory.slots import NOWHERE

VOXELS_M = tuple(0.03 * 1.25**k for k in range(16))
"""Voxel edges to try, metres, finest first: 3 cm to 0.85 m."""
FILL = 0.8
"""Share of the budget that is left in use, so that thinning is not needed again at the next frame."""
SAME_VELOCITY = 0.02
"""Metres a step by which velocities of tokens that are merged differ at most."""
ROUNDS = 3
"""Tokens of a voxel that take in others."""


class Groups(NamedTuple):
    """Tokens in an order in which each voxel's follow one another, the surest first, free ones last."""

    order: Tensor  # [B, K] int64 which token
    leader: Tensor  # [B, K] int64 where in this order the one is that takes it in: its own place, if it stays
    rank: Tensor  # [B, K] int64: 0 for its voxel's surest, `ROUNDS` for what nothing was like

    @property
    def kept(self) -> Tensor:
        """Which stay. [B, K] bool"""
        place = torch.arange(self.leader.shape[1], device=self.leader.device)
        return self.leader == place


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
        worth = joined.evidence.double() / (2.0 * MOST_EVIDENCE) + (ROUNDS - found.rank)  # float32 would round evidence away
        best = torch.where(found.kept & joined.occupied, worth, 0.0).topk(slots, dim=1)
        stays = (best.values > 0) & (torch.arange(slots, device=places.device) < most)
    chosen = joined.gather(best.indices)
    return replace(chosen, evidence=torch.where(stays, chosen.evidence, 0.0))


def _joined(members: Tokens, found: Groups) -> Tokens:
    """Leaders with the latents of what they took in, weighted by evidence; their places are their own, on the surface."""
    weight = torch.where(members.occupied, members.evidence, 0.0)
    leader = found.leader[..., None].expand_as(members.latents)
    total = torch.zeros_like(weight).scatter_add(1, found.leader, weight)
    summed = torch.zeros_like(members.latents).scatter_add(1, leader, weight[..., None] * members.latents)
    mean = summed / total.clamp_min(1e-9)[..., None]
    return replace(members, latents=torch.where((total > 0)[..., None], mean, members.latents))


def _finest(tokens: Tokens, places: Tensor, most: int) -> Groups:
    """Groups of the finest voxels that leave at most so many tokens in each row, found by bisection."""
    surest = torch.where(tokens.occupied, tokens.evidence, -1.0).argsort(dim=1, descending=True, stable=True)
    edges = places.new_tensor(VOXELS_M)
    low = torch.zeros(len(surest), dtype=torch.int64, device=places.device)
    high = torch.full_like(low, len(VOXELS_M) - 1)
    while bool((low < high).any()):
        middle = (low + high) // 2
        found = _grouped(tokens, places, surest, edges[middle])
        fits = (found.kept & tokens.occupied.gather(1, found.order)).sum(1) <= most
        low, high = torch.where(fits, low, torch.minimum(middle + 1, high)), torch.where(fits, middle, high)
    return _grouped(tokens, places, surest, edges[high])


def _grouped(tokens: Tokens, places: Tensor, surest: Tensor, edge: Tensor) -> Groups:
    """Groups by voxels of `edge` [B]; `surest` [B, K] orders the tokens by evidence."""
    keys, positions = _keys(tokens, places, edge).gather(1, surest).sort(dim=1, stable=True)
    order = surest.gather(1, positions)
    begins = torch.cat([torch.ones_like(keys[:, :1], dtype=torch.bool), keys[:, 1:] != keys[:, :-1]], dim=1)
    place = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    members = tokens.gather(order)
    found, rank, rest, leads = place, torch.full_like(place, ROUNDS), keys != NOWHERE, begins
    for number in range(ROUNDS):
        leader = torch.where(leads, place, 0).cummax(1).values
        taken = rest & _alike(members, members.gather(leader))
        found, rank = torch.where(taken, leader, found), torch.where(leads & taken, number, rank)
        rest = rest & ~taken
        leads = rest & (_nth(rest, begins) == 1)
    return Groups(order, found, rank)


def _alike(members: Tokens, leaders: Tokens) -> Tensor:
    """Which of the members may be merged with their leaders. [B, K] bool"""
    apart = (members.velocities - leaders.velocities).norm(dim=-1)
    return ((members.looks - leaders.looks).abs().mean(-1) < SIMILAR) & (apart < SAME_VELOCITY)


def _nth(rest: Tensor, begins: Tensor) -> Tensor:
    """The how manieth of its voxel's `rest` [B, K] bool each is, where voxels begin at `begins` [B, K] bool. [B, K]"""
    count = rest.cumsum(1)
    before = torch.where(begins, count - rest.long(), 0).cummax(1).values
    return count - before


def _keys(tokens: Tokens, places: Tensor, edge: Tensor) -> Tensor:
    """One integer a voxel, `NOWHERE` for free slots. [B, K] int64"""
    voxel = (places.detach() / edge[:, None, None]).floor().clamp(-(2**20), 2**20 - 1).long() + 2**20
    x, y, z = voxel.unbind(-1)
    return torch.where(tokens.occupied, (x * 2**21 + y) * 2**21 + z, NOWHERE)
