"""Coarsen: when the budget is full, neighbours of one colour are merged until it is not.

Dropping primitives would leave holes where the agent once looked; merging costs detail instead, and first where there is
most of it, since a voxel grid touches only what is finer than itself. So the budget sets the resolution of the memory and
never its extent.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.memory.slots import NOWHERE

VOXELS_M = tuple(0.04 * 1.25**k for k in range(24))
"""Voxel edges to try, metres, finest first."""
FILL = 0.8
"""Share of the budget that coarsening leaves in use, so that it is not needed again at the next frame."""
COLOUR_LEVELS = 3
"""Primitives whose colours differ by more than about a third are never merged: edges of objects stay sharp
(docs/experiments.md, section 2)."""
MERGED_SIGMA = 0.45
"""A merged primitive covers its voxel: standard deviation in units of the voxel's edge."""


def coarsen(gaussians: GaussianMap, budget: int) -> GaussianMap:
    """Merge within voxels, per batch row the finest that leave at most `FILL * budget` primitives.

    Args:
        gaussians: any number of slots K.
        budget: N.

    Returns:
        A map of N slots, occupied ones first.
    """
    with torch.no_grad():
        order, group, voxel = _grouping(gaussians, int(FILL * budget))
    members = gaussians.gather(order)
    slots = group.clamp_max(budget)
    weight = members.evidence
    total = _sum(weight, slots, budget)
    share = weight / total.gather(1, slots).clamp_min(1e-12)

    def mean(x: Tensor) -> Tensor:
        return _sum(x * (share if x.dim() == 2 else share[..., None]), slots, budget)

    count = _sum((weight > 0).to(weight), slots, budget)
    scales = mean(members.scales)
    floor = torch.where(count > 1, MERGED_SIGMA * voxel[:, None], 0.0)[..., None] * scales.new_tensor([1.0, 1.0, 0.0])
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    first = torch.full_like(total, order.shape[1] - 1, dtype=torch.int64).scatter_reduce(1, slots, places, "amin")
    merged = GaussianMap(
        means=mean(members.means),
        quats=members.gather(first).quats,
        scales=torch.maximum(scales, floor).clamp_min(1e-4),
        opacities=mean(members.opacities),
        rgb=mean(members.rgb),
        latents=mean(members.latents),
        evidence=mean(members.evidence.detach()),
    ).map(lambda t: t[:, :budget])
    return replace(merged, evidence=torch.where(total[:, :budget] > 0, merged.evidence, 0.0))


def _sum(x: Tensor, slots: Tensor, budget: int) -> Tensor:
    """Sum members [B, K, ...] into slots [B, N + 1, ...]; the last slot collects what is nowhere."""
    out = x.new_zeros(x.shape[0], budget + 1, *x.shape[2:])
    return out.scatter_add(1, slots.view(*slots.shape, *[1] * (x.dim() - 2)).expand_as(x), x)


def _grouping(gaussians: GaussianMap, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """An order of the primitives in which groups are contiguous, the group of each place, and the voxel edge of each row.

    Within a group the primitive of most evidence comes first. Empty slots come last, in a group past every budget.

    Returns:
        order [B, K], group [B, K], voxel edge in metres [B].
    """
    by_evidence = gaussians.evidence.argsort(dim=1, descending=True, stable=True)
    order, group = by_evidence, torch.zeros_like(by_evidence)
    voxel = gaussians.means.new_zeros(len(by_evidence))
    fits = torch.zeros(len(by_evidence), dtype=torch.bool, device=by_evidence.device)
    for edge in VOXELS_M:
        keys = _keys(gaussians, edge).gather(1, by_evidence)
        sorted_keys, positions = keys.sort(dim=1, stable=True)
        new = sorted_keys[:, 1:] != sorted_keys[:, :-1]
        found = torch.cat([torch.zeros_like(new[:, :1]), new], dim=1).cumsum(1)
        found = torch.where(sorted_keys == NOWHERE, NOWHERE, found)
        count = torch.where(sorted_keys == NOWHERE, -1, found).amax(1) + 1
        take = ~fits & ((count <= most) | (edge == VOXELS_M[-1]))
        order = torch.where(take[:, None], by_evidence.gather(1, positions), order)
        group = torch.where(take[:, None], found, group)
        voxel = torch.where(take, edge, voxel)
        fits = fits | take
        if bool(fits.all()):
            break
    return order, group, voxel


def _keys(gaussians: GaussianMap, edge: float) -> Tensor:
    """One integer per voxel and coarse colour; `NOWHERE` for empty slots. [B, K] int64"""
    cell = (gaussians.means.detach() / edge).floor().long().clamp(-(2**17), 2**17 - 1) + 2**17
    colour = (gaussians.rgb.detach() * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    x, y, z = cell.unbind(-1)
    r, g, b = colour.unbind(-1)
    bins = (r * COLOUR_LEVELS + g) * COLOUR_LEVELS + b
    keys = ((x * 2**18 + y) * 2**18 + z) * 27 + bins
    return torch.where(gaussians.occupied, keys, NOWHERE)
