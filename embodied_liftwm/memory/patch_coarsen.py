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


def add_coarsened(world: PatchMap, row: int, new: Patches) -> PatchMap:
    """Add patches [R] to one row of the map that lacks places for them: coarsen old and new together until they fit.

    Merging can make more patches than there were, where lattices do not nest and patches are few; so it goes on until they fit.
    Only where no level makes them fit are those of least evidence dropped.
    """
    one = world.index(slice(row, row + 1))
    budget = one.faces.shape[1]
    old = one.patches().take(one.occupied.flatten())
    kept = fewest = Patches(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
    while len(kept.faces) > budget and int(kept.levels.min()) < MAX_LEVEL:
        level = int(kept.levels.min()) + 1
        kept = _merge(kept, kept.levels < level, level)
        fewest = kept if len(kept.faces) < len(fewest.faces) else fewest
    best = fewest.evidence.sum(1).argsort(descending=True, stable=True)[:budget]
    return _set_row(world, row, _as_map(fewest.take(best), one))


def _as_map(kept: Patches, like: PatchMap) -> PatchMap:
    """A map of one row with patches `kept` [R] in its first places, of the budget and latents of `like`."""
    empty = type(like).empty(1, like.faces.shape[1], side_of(like.evidence), like.latents.shape[-1], like.heights)
    fields = {name: torch.cat([t, getattr(empty, name)[0, len(t) :]]).unsqueeze(0) for name, t in kept._asdict().items()}
    return replace(empty, **fields, finest=kept.levels.min().view(1))


def _set_row(world: PatchMap, row: int, one: PatchMap) -> PatchMap:
    parts = one.named_tensors()
    names = iter(parts)
    return world.map(lambda t: torch.cat([t[:row], parts[next(names)], t[row + 1 :]]))


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
