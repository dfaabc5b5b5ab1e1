"""When the budget is full: the finest patches are merged into ones of the next level, until it is not.

Dropping patches would leave holes where the agent once looked; coarser texels cost resolution instead, and first where there
is nothing to resolve: patches whose texels would mix colours, or surfaces one behind the other, stay finer by `DETAIL_LEVELS`,
as octrees keep small nodes where error is large. So the budget sets the resolution of the memory and never its extent, and a
wall makes room for the small thing in front of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from embodied_liftwm.memory.patches.frame import chroma
from embodied_liftwm.memory.patches.map import (
    DETAIL_LEVELS,
    MAX_LEVEL,
    Patches,
    PatchMap,
    along,
    patch_keys,
    side_of,
    texel_m,
    texel_points,
    unpack_keys,
)

MIXED_CHROMA, MIXED_SHARE = 0.07, 0.03
"""A texel would mix what is in it when chroma deviates by the first from its mean; a patch is detail when more than the second,
a share, of its texels would go into one that does (docs/experiments.md, section 42)."""


def add_coarsened(world: PatchMap, row: int, new: Patches) -> PatchMap:
    """Add patches [R] to one row of the map that lacks places for them: coarsen old and new together until they fit.

    Merging can make more patches than there were, where lattices do not nest and patches are few; so it goes on until they fit.
    Only where no level makes them fit are those of least evidence dropped.
    """
    one = world.index(slice(row, row + 1))
    budget, level = one.faces.shape[1], int(one.finest)
    old = one.patches().take(one.occupied.flatten())
    kept = fewest = Patches(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
    while len(kept.faces) > budget and level < MAX_LEVEL + DETAIL_LEVELS:
        level += 1
        kept = _coarsened(kept, level)
        fewest = kept if len(kept.faces) < len(fewest.faces) else fewest
    best = fewest.evidence.sum(1).argsort(descending=True, stable=True)[:budget]
    return _set_row(world, row, _as_map(fewest.take(best), one, min(level, MAX_LEVEL)))


def _coarsened(kept: Patches, level: int) -> Patches:
    """Patches of `level` at least, but for detail, which is finer by `DETAIL_LEVELS` at most."""
    least = max(level - DETAIL_LEVELS, 0)
    if bool((kept.levels < least).any()):
        kept = _merge(kept, kept.levels < least, least)
    level = min(level, MAX_LEVEL)
    fine = (kept.levels < level).nonzero().squeeze(1)
    if not len(fine):
        return kept
    dull = torch.zeros_like(kept.levels, dtype=torch.bool).index_fill(0, fine[~_is_detail(kept.take(fine), level)], True)
    return _merge(kept, dull, level) if bool(dull.any()) else kept


@torch.no_grad()
def _is_detail(fine: Patches, level: int) -> Tensor:
    """Which patches [R] hold what texels of `level` would mix with something else. [R] bool"""
    there = fine.evidence > 0
    patch, texel = there.nonzero(as_tuple=True)
    keys, place = _destination(fine, patch, texel, level)
    _, into = torch.stack([keys, place], dim=1).unique(dim=0, return_inverse=True)
    tints, count = chroma(fine.rgb[patch, texel], 1).double(), torch.bincount(into)
    mean, square = (tints.new_zeros(len(count), 3).index_add(0, into, x) / count[:, None] for x in (tints, tints.square()))
    mixed = (square - mean.square()).mean(1) > MIXED_CHROMA**2
    found = torch.zeros_like(fine.levels).index_add(0, patch, mixed[into].long())
    return found > MIXED_SHARE * there.sum(1)


def _as_map(kept: Patches, like: PatchMap, finest: int) -> PatchMap:
    """A map of one row with patches `kept` [R] in its first places, of the budget and latents of `like`."""
    empty = type(like).empty(1, like.faces.shape[1], side_of(like.evidence), like.latents.shape[-1], like.heights)
    fields = {name: torch.cat([t, getattr(empty, name)[0, len(t) :]]).unsqueeze(0) for name, t in kept._asdict().items()}
    return replace(empty, **fields, finest=torch.full_like(like.finest, finest))


def _set_row(world: PatchMap, row: int, one: PatchMap) -> PatchMap:
    return world.map_with(one, lambda t, new: torch.cat([t[:row], new, t[row + 1 :]]))


def _merge(old: Patches, fine: Tensor, level: int) -> Patches:
    """Move the texels of the patches `fine` [R] onto the lattice of `level`, into patches that are there or new ones."""
    texels = old.evidence.shape[1]
    patch, texel = ((old.evidence > 0) & fine[:, None]).nonzero(as_tuple=True)
    with torch.no_grad():
        keys, place = _destination(old, patch, texel, level)
        stay = (~fine).nonzero().squeeze(1)
        all_keys = torch.cat([patch_keys(old.cells[stay], old.faces[stay], old.levels[stay]), keys])
        distinct, where = all_keys.unique(return_inverse=True)
        slots = torch.cat([
            (where[: len(stay), None] * texels + torch.arange(texels, device=keys.device)).flatten(),
            where[len(stay) :] * texels + place,
        ])  # fmt: skip
        source = torch.cat([
            (stay[:, None] * texels + torch.arange(texels, device=keys.device)).flatten(), patch * texels + texel
        ])  # fmt: skip
        weight = old.evidence.flatten()[source]
        total = weight.new_zeros(len(distinct) * texels).index_add(0, slots, weight)
        share = weight / total[slots].clamp_min(1e-12)
        largest = torch.zeros_like(total).scatter_reduce(0, slots, weight, "amax")

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[source]
        summed = flat.new_zeros(len(total), *flat.shape[1:])
        return summed.index_add(0, slots, flat * (share if flat.dim() == 1 else share[:, None])).unflatten(0, (-1, texels))

    cells, faces, levels = unpack_keys(distinct)
    return Patches(cells, faces, levels, mean(old.heights), mean(old.rgb), mean(old.latents), largest.view(-1, texels))


def _destination(old: Patches, patch: Tensor, texel: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Key of the patch of `level`, and the texel in it, that each texel (patch [K], texel [K]) falls into."""
    points = texel_points(old.cells, old.faces, old.levels, old.heights)[patch, texel]
    side = side_of(old.evidence)
    levels = torch.full_like(patch, level)
    size = texel_m(levels, points)[:, None]
    cells = (points / (side * size)).floor()
    inner = ((points / size) - side * cells).floor().clamp(0, side - 1).long()
    faces = old.faces[patch]
    axes = along(faces)
    column, row = (inner.gather(1, axes[:, i : i + 1]).squeeze(1) for i in (1, 2))
    return patch_keys(cells.long(), faces, levels), row * side + column
