"""When the budget is full: the finest patches are merged into ones of the next level, until it is not.

Dropping patches would leave holes where the agent once looked; coarser texels cost detail instead, and first where there is
most of it. So the budget sets the resolution of the memory and never its extent.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from embodied_liftwm.memory.patch_map import (
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


def make_room(world: PatchMap, wanted: Tensor) -> PatchMap:
    """Free at least `wanted` [B] patches in every row, if need be by making its finest patches coarser."""
    budget = world.faces.shape[1]
    allowed = (budget - wanted).clamp_min(0)
    for row in (world.occupied.sum(1) > allowed).nonzero().flatten().tolist():
        one = world.index(slice(row, row + 1))
        while int(one.occupied.sum()) > int(allowed[row]) and int(one.finest) < MAX_LEVEL:
            one = _coarsen(one)
        world = _set_row(world, row, one)
    return world


def _set_row(world: PatchMap, row: int, one: PatchMap) -> PatchMap:
    parts = one.named_tensors()
    names = iter(parts)
    return world.map(lambda t: torch.cat([t[:row], parts[next(names)], t[row + 1 :]]))


def _coarsen(world: PatchMap) -> PatchMap:
    """Merge the patches of the finest level there is, of a map of one row, into ones of the level above."""
    kept = world.patches().take(world.occupied.flatten())
    finest = kept.levels.min() + 1
    fine = kept.levels < finest
    merged = _merge(kept, fine, int(finest))
    budget = world.faces.shape[1]
    best = merged.evidence.sum(1).argsort(descending=True)[:budget] if len(merged.faces) > budget else slice(None)
    empty = type(world).empty(1, budget, side_of(world.evidence), world.latents.shape[-1], world.heights)
    fields = {}
    for name, values in merged._asdict().items():
        values = values[best]
        fields[name] = torch.cat([values, getattr(empty, name)[0, len(values) :]]).unsqueeze(0)
    return replace(empty, **fields, finest=finest.view(1))


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
