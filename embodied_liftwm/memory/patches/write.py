"""Writing a frame into a patch map: update what is in view (`integrate`), and allocate patches for what is new.

Pixels that no texel explains allocate the patches that their points fall into. What is out of sight stays as it is: that is
what permanence means here.

The cost of a step does not depend on how many came before, and is proportional to what is in view.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.patches.coarsen import add_coarsened
from embodied_liftwm.memory.patches.cpu import allocate as allocate_on_cpu
from embodied_liftwm.memory.patches.cpu import integrate as integrate_on_cpu
from embodied_liftwm.memory.patches.frame import frame_of
from embodied_liftwm.memory.patches.hidden import hidden_patches, joined, places_behind
from embodied_liftwm.memory.patches.integrate import associate, integrable, integrate, take_in
from embodied_liftwm.memory.patches.look_weights import KalmanWeights
from embodied_liftwm.memory.patches.map import (
    NOWHERE,
    Patches,
    PatchMap,
    along,
    level_of,
    patch_keys,
    side_of,
    texel_m,
    unpack_keys,
)
from embodied_liftwm.memory.patches.rules import LEAST_PIXELS, LEAST_TEXELS, REACH
from embodied_liftwm.memory.patches.types import Frame
from embodied_liftwm.protocols import Camera

NEW_PATCHES = 192
"""Patches that one frame may allocate."""


def write_patches(
    world: PatchMap,
    depth: Tensor,
    certainty: Tensor,
    latents: Tensor,
    rgb: Tensor,
    camera: Camera,
    fusion: KalmanWeights | None = None,
) -> PatchMap:
    """Write one frame a row into the map.

    Args:
        world: the map, B rows of N patches.
        depth: z-depth at every pixel, metres. [B, H, W]
        certainty: inverse variance of where the surface is, 1/m^2; 0 where nothing shall be written. [B, H, W]
        latents: what the encoder says of each cell. [B, D, h, w] with H = h * stride
        rgb: the frames in [0, 1]. [B, 3, H, W]
        camera: the cameras that saw them.
        fusion: what a look at a texel counts against what is remembered; `KalmanWeights` if None.

    Returns:
        The map after the frame; differentiable in depth and latents, not in which texel is which pixel.
    """
    frame, fusion = frame_of(depth, certainty, latents, rgb, camera, world.finest), fusion or KalmanWeights()
    if integrable(fusion, frame, world):
        return _write_compiled(world, frame, fusion)
    world, explained = _update(world, frame, fusion)
    return _allocate(world, frame, explained, fusion)


def _write_compiled(world: PatchMap, frame: Frame, fusion: KalmanWeights) -> PatchMap:
    """`_update` and `_allocate` by kernels that change a copy of the map."""
    given = integrate_on_cpu.given(frame, fusion)
    before = world.patches()
    world, explained, some = integrate_on_cpu.update(world, frame, given)
    if len(some):
        old, batch = before.take(some), some // world.faces.shape[1]
        found = associate(old, batch, old.mean_heights(), frame)
        world = _set_aside(world, *hidden_patches(old, batch, found, frame))
    crowded = integrate_on_cpu.allocate(world, *_wanted(world, frame, explained), given)
    return _insert(world, *crowded) if crowded else world


def _update(world: PatchMap, frame: Frame, fusion: KalmanWeights) -> tuple[PatchMap, Tensor]:
    """Take the frame into the patches in view. Also returns which pixels are explained. [B, H, W] bool"""
    rows = _in_view(world, frame.camera)
    old = world.patches().take(rows)
    batch = rows // world.faces.shape[1]
    found = associate(old, batch, old.mean_heights().detach(), frame)
    new, pixels = take_in(old, batch, found, frame, fusion)
    explained = torch.zeros_like(frame.footprint).index_fill(0, pixels, 1.0)
    camera = frame.camera
    explained = explained.view(-1, 1, camera.height, camera.width)
    world = _set_aside(put(world, rows, new), *hidden_patches(old, batch, found, frame))
    return world, F.max_pool2d(explained, 3, stride=1, padding=1).squeeze(1) > 0


def _set_aside(world: PatchMap, aside: Patches, batch: Tensor) -> PatchMap:
    """Put what is hidden now, patches of rows `batch` [K], ascending, behind what hides it, in a map of the caller's own."""
    if not len(batch):
        return world
    known, rows = places_behind(world, aside, batch)
    rows, rest = rows[known], (~known).nonzero().squeeze(1)
    world = put(world, rows, joined(world.patches().take(rows), aside.take(known)), into=True)
    return _insert(world, aside.take(rest), batch[rest])


def put(world: PatchMap, rows: Tensor, new: Patches, into: bool = False) -> PatchMap:
    """The map with `new` at `rows` [R] of its B * N patches; `into`: where no gradient is recorded, it is that map, changed."""
    if into and not any(t.requires_grad for t in (*_fields(world), *new)):
        for t, value in zip(_fields(world), new, strict=True):
            t.flatten(0, 1).index_copy_(0, rows, value)
        return world
    fields = {name: t.flatten(0, 1).index_copy(0, rows, value).view_as(t) for (name, value), t in
              zip(new._asdict().items(), _fields(world), strict=True)}  # fmt: skip
    return replace(world, **fields)


def _fields(world: PatchMap) -> tuple[Tensor, ...]:
    return tuple(getattr(world, name) for name in Patches._fields)


@torch.no_grad()
def _in_view(world: PatchMap, camera: Camera) -> Tensor:
    """Occupied patches whose cubes reach into the image. [R] int64 of B * N"""
    if compilable(world.evidence, camera):
        return torch.from_numpy(allocate_on_cpu.in_view(world, camera)[0])
    edge = side_of(world.evidence) * texel_m(world.levels, world.heights)
    middle = (world.cells.to(edge) + 0.5) * edge[..., None]
    viewmats = inverse_pose(camera.world_from_camera)
    x, y, z = (middle @ viewmats[:, :3, :3].mT + viewmats[:, None, :3, 3]).unbind(-1)
    reach = REACH * edge
    focal_x, focal_y = (camera.intrinsics[:, i, i, None] for i in (0, 1))
    wide_x, wide_y = 0.5 * camera.width / focal_x, 0.5 * camera.height / focal_y
    inside = (x.abs() < z.clamp_min(0) * wide_x + 1.5 * reach) & (y.abs() < z.clamp_min(0) * wide_y + 1.5 * reach)
    return (inside & (z > -reach) & world.occupied).flatten().nonzero().squeeze(1)


def _allocate(world: PatchMap, frame: Frame, explained: Tensor, fusion: KalmanWeights) -> PatchMap:
    """Add patches for the pixels that nothing explains, to a map of the caller's own."""
    with torch.no_grad():
        keys, guess = _wanted(world, frame, explained)
        batch, nth = (keys != NOWHERE).nonzero(as_tuple=True)
        cells, faces, levels = unpack_keys(keys[batch, nth])
    if not len(batch):
        return world
    texels, channels = world.evidence.shape[-1], world.latents.shape[-1]
    blank = frame.depth.new_zeros(len(batch), texels)
    colours, latents = (blank.new_zeros(len(batch), texels, c) for c in (3, channels))
    empty = Patches(cells, faces, levels, blank, colours, latents, blank)
    new, _ = integrate(empty, batch, guess[batch, nth], frame, fusion)
    kept = ((new.evidence > 0).sum(1) >= LEAST_TEXELS).nonzero().squeeze(1)
    return _insert(world, new.take(kept), batch[kept])


def _wanted(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor]:
    """Patches that unexplained pixels fall into, those with most of them first.

    Returns:
        Keys [B, S], `NOWHERE` where there are fewer, and the mean height of the pixels of each. [B, S] metres
    """
    if compilable(world.evidence, frame.points, frame.certainty):
        distinct, count, guess = allocate_on_cpu.wanted(world, frame, explained)
    else:
        distinct, count, guess = _counted(world, frame, explained)
    most = count.topk(min(NEW_PATCHES, count.shape[1]), dim=1)
    return torch.where(most.values > 0, distinct.gather(1, most.indices), NOWHERE), guess.gather(1, most.indices)


def _counted(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the unexplained pixels into patches, by ascending key.

    Returns:
        Keys [B, L], `NOWHERE` after the last; numbers of their pixels [B, L], 0 for those that are in the map or have too few;
        mean heights of their pixels. [B, L] metres
    """
    keys, heights = _unexplained(world, frame, explained)
    keys, order = keys.sort(dim=1)
    starts = torch.cat([torch.ones_like(keys[:, :1], dtype=torch.bool), keys[:, 1:] != keys[:, :-1]], dim=1)
    group = starts.cumsum(1) - 1
    count = torch.zeros_like(heights).scatter_add(1, group, torch.ones_like(heights))
    total = torch.zeros_like(heights).scatter_add(1, group, heights.gather(1, order))
    distinct = torch.full_like(keys, NOWHERE).scatter(1, group, keys)
    known = world.keys().sort(dim=1).values
    place = torch.searchsorted(known, distinct).clamp_max(known.shape[1] - 1)
    usable = (distinct != NOWHERE) & (known.gather(1, place) != distinct) & (count >= LEAST_PIXELS)
    return distinct, torch.where(usable, count, 0.0), total / count.clamp_min(1.0)


def _unexplained(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of the patches that the unexplained pixels of each row fall into, and the pixels' heights. [B, L] each

    Rows with fewer than the most of them, L, end in `NOWHERE`.
    """
    new = ~explained.flatten(1) & (frame.certainty > 0).view(len(explained), -1)
    rows, inner = new.nonzero(as_tuple=True)
    pixels = rows * new.shape[1] + inner
    points, faces = frame.points[pixels], _faces(frame.normals[pixels])
    levels = level_of(frame.finest[pixels])
    edge = side_of(world.evidence) * texel_m(levels, points)
    cells = (points / edge[:, None]).floor().long()
    count = new.sum(1)
    place = rows, torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[rows]
    shape = (len(new), int(count.max()))
    keys = torch.full(shape, NOWHERE, device=rows.device).index_put(place, patch_keys(cells, faces, levels))
    heights = points.gather(1, along(faces)[:, :1]).squeeze(1)
    return keys, points.new_zeros(shape).index_put(place, heights)


def _faces(normals: Tensor) -> Tensor:
    """The direction nearest to each normal [K, 3]. [K] int64"""
    axis = normals.abs().argmax(-1)
    return 2 * axis + (normals.gather(1, axis[:, None]).squeeze(1) < 0).long()


def _insert(world: PatchMap, new: Patches, batch: Tensor) -> PatchMap:
    """Put patches into free places of their rows `batch` [R], ascending; rows that have too few are coarsened with them.

    The map is changed where no gradient is recorded: it must be the caller's own.
    """
    rows, budget = world.faces.shape
    occupied = world.occupied
    wanted = torch.bincount(batch, minlength=rows)
    crowded = occupied.sum(1) + wanted > budget
    if bool(crowded.any()):
        for row in crowded.nonzero().flatten().tolist():
            world = add_coarsened(world, row, new.take(batch == row))
        rest = (~crowded[batch]).nonzero().squeeze(1)
        new, batch = new.take(rest), batch[rest]
        wanted = torch.bincount(batch, minlength=rows)
    free = occupied.to(torch.uint8).argsort(dim=1, stable=True)
    rank = torch.arange(len(batch), device=batch.device) - (wanted.cumsum(0) - wanted)[batch]
    return put(world, batch * budget + free[batch, rank], new, into=True)
