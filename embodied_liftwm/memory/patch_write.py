"""Writing a frame into a patch map: update what is seen again, forget what is gone, allocate patches for what is new.

Association is projective. A texel that falls onto a pixel at the depth the pixel shows, as far as both can tell, *is* what the
pixel sees; the two are averaged, weighted by evidence, as a Kalman filter would. One that hangs in front of the surface which
the pixels around see through it is gone; so is one that is now seen from much closer, for finer patches take its place. Empty
texels are filled where the frame shows a surface in their column of space. Pixels that no texel explains allocate the patches
that their points fall into. All else is out of sight and stays: that is what permanence means here.

The cost of a step does not depend on how many came before, and is proportional to what is in view.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.patch_backend import compilable
from embodied_liftwm.memory.patch_coarsen import add_coarsened
from embodied_liftwm.memory.patch_map import (
    NOWHERE,
    Patches,
    PatchMap,
    along,
    level_of,
    patch_keys,
    side_of,
    texel_m,
    texel_points,
    unpack_keys,
)
from embodied_liftwm.protocols import Camera

GATE_SIGMAS = 2.0
"""Two depths are one when they differ by less than this many of their joint standard deviations,"""
GATE_RANGE = (0.03, 0.1)
"""but in any case when they differ by less than the first share of the depth, and never by more than the second."""
MAX_EVIDENCE_RATIO = 8.0
"""Old evidence counts at most this many times the new frame's, so that the map follows a world that changes."""
COARSE = 2.5
"""A texel so much larger than those that its pixel would allocate gives way to them; a pixel fills none smaller by as much."""
FILL_GATE = 0.03
"""An empty texel's column meets the surface when their depths agree to this share."""
FILL_REACH = 0.5
"""How far outside its cube, in edges of the cube, a patch follows a surface."""
FACING_COSINE = 0.5
"""A patch takes no surface that is turned away further from its direction."""
EDGE = 0.1
"""A step of depth between neighbouring pixels, as a share of it, beyond which a pixel may mix two surfaces."""
EDGE_TRUST = 0.1
"""Evidence of such pixels, relative to others."""
SETTLE = 3
"""Iterations by which an empty texel finds the surface in its column."""
NEW_PATCHES = 192
"""Patches that one frame may allocate."""
MIN_PIXELS, MIN_TEXELS = 8, 6
"""Unexplained pixels that allocate a patch, and texels without which it is not kept."""
SMOOTHING_CELLS, SMOOTHING_LOG = 2, 0.08
"""Normals are of the depth averaged over windows of this radius, among depths whose logarithms differ by about the second."""
LEAST_EVIDENCE = 1e-6
"""Evidence below which variances grow no further, 1/m^2."""
NEAR_M = 0.05


class Surfaces(NamedTuple):
    """The geometry that frames show."""

    points: Tensor  # [B, H, W, 3] metres, world frame
    normals: Tensor  # [B, H, W, 3] unit, world frame, towards the camera
    nearest: Tensor  # [B, H, W] least depth of the 3 x 3 pixels around, metres
    edge: Tensor  # [B, H, W] bool: among them are two surfaces


class Frame(NamedTuple):
    """One frame as it is written; pixels of all rows in one list, B * H * W long, unless said otherwise."""

    camera: Camera  # B cameras
    depth: Tensor  # z-depth, metres
    certainty: Tensor  # inverse variance of where the surface is, 1/m^2; 0 where depth is too doubtful
    rgb: Tensor  # [B * H * W, 3] in [0, 1]
    latents: Tensor  # [B * h * w, D]
    stride: int  # pixels a side of a cell of latents
    points: Tensor  # [B * H * W, 3] metres, world frame
    normals: Tensor  # [B * H * W, 3] unit, world frame, towards the camera
    nearest: Tensor  # least depth of the 3 x 3 pixels around, metres
    edge: Tensor  # bool: among them are two surfaces
    footprint: Tensor  # metres a pixel's width covers there
    finest: Tensor  # and edge of the finest texels that it may allocate: the footprint, or more where the budget was full


class Look(NamedTuple):
    """Where texels of R patches fall in the frames of their rows."""

    pixel: Tensor  # [R, M] int64 in the list of all pixels, 0 outside
    uv: Tensor  # [R, M, 2] pixels
    z: Tensor  # [R, M] metres
    inside: Tensor  # [R, M] bool


class Association(NamedTuple):
    """What becomes of the texels of R patches."""

    heights: Tensor  # [R, M] metres: theirs, or where empty ones meet the surface
    look: Look
    matched: Tensor  # [R, M] bool: what its pixel sees
    gone: Tensor  # [R, M] bool
    filled: Tensor  # [R, M] bool: empty ones that meet a surface


def write_patches(world: PatchMap, depth: Tensor, certainty: Tensor, latents: Tensor, rgb: Tensor, camera: Camera) -> PatchMap:
    """Write one frame a row into the map.

    Args:
        world: the map, B rows of N patches.
        depth: z-depth at every pixel, metres. [B, H, W]
        certainty: inverse variance of where the surface is, 1/m^2; 0 where nothing shall be written. [B, H, W]
        latents: what the encoder says of each cell. [B, D, h, w] with H = h * stride
        rgb: the frames in [0, 1]. [B, 3, H, W]
        camera: the cameras that saw them.

    Returns:
        The map after the frame; differentiable in depth and latents, not in which texel is which pixel.
    """
    frame = _frame(depth, certainty, latents, rgb, camera, world.finest)
    world, explained = _update(world, frame)
    return _allocate(world, frame, explained)


def _frame(depth: Tensor, certainty: Tensor, latents: Tensor, rgb: Tensor, camera: Camera, finest: Tensor) -> Frame:
    shown = surfaces(depth, camera)
    footprint = depth.detach() / camera.intrinsics[:, None, None, 0, 0]
    allocated = torch.maximum(footprint, texel_m(finest, footprint)[:, None, None])
    return Frame(
        camera=camera,
        depth=depth.flatten(),
        certainty=(certainty * torch.where(shown.edge, EDGE_TRUST, 1.0)).flatten(),
        rgb=rgb.movedim(1, -1).flatten(0, 2),
        latents=latents.movedim(1, -1).flatten(0, 2),
        stride=rgb.shape[-1] // latents.shape[-1],
        points=shown.points.flatten(0, 2),
        normals=shown.normals.flatten(0, 2),
        nearest=shown.nearest.flatten(),
        edge=shown.edge.flatten(),
        footprint=footprint.flatten(),
        finest=allocated.flatten(),
    )


@torch.no_grad()
def surfaces(depth: Tensor, camera: Camera) -> Surfaces:
    """Points, normals and edges of frames of `depth` [B, H, W]."""
    if compilable(depth, camera):
        from embodied_liftwm.memory import patch_write_compiled

        return patch_write_compiled.surfaces(depth, camera)
    return reference_surfaces(depth, camera)


def reference_surfaces(depth: Tensor, camera: Camera) -> Surfaces:
    """`surfaces` in torch."""
    nearest = -F.max_pool2d(-depth.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    farthest = F.max_pool2d(depth.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    points = back_project(depth, camera.intrinsics, camera.world_from_camera)
    return Surfaces(points, _normals(depth, camera), nearest, farthest - nearest > EDGE * depth)


def _normals(depth: Tensor, camera: Camera) -> Tensor:
    """Normals of the smoothed depth, towards the camera, in the world frame. [B, H, W, 3]"""
    reach = 2 * SMOOTHING_CELLS + 1
    log_depth = depth.log().unsqueeze(1)
    padded = F.pad(log_depth, (SMOOTHING_CELLS,) * 4, mode="replicate")
    around = F.unfold(padded, reach).unflatten(2, depth.shape[-2:])
    weight = torch.exp(-((around - log_depth) / SMOOTHING_LOG).square())
    smooth = ((around * weight).sum(1) / weight.sum(1)).exp()
    points = back_project(smooth, camera.intrinsics, camera.world_from_camera)
    normal = F.normalize(torch.linalg.cross(_slope(points, 2), _slope(points, 1)), dim=-1)
    sight = points - camera.world_from_camera[:, None, None, :3, 3]
    return torch.where((normal * sight).sum(-1, keepdim=True) > 0, -normal, normal)


def _slope(points: Tensor, dim: int) -> Tensor:
    """Change to the neighbour along `dim`, of both sides the smaller: edges of objects do not tilt their surfaces."""
    step = points.diff(dim=dim)
    first, last = step.narrow(dim, 0, 1), step.narrow(dim, step.shape[dim] - 1, 1)
    before, after = torch.cat([first, step], dim=dim), torch.cat([step, last], dim=dim)
    return torch.where(before.square().sum(-1, keepdim=True) < after.square().sum(-1, keepdim=True), before, after)


def _update(world: PatchMap, frame: Frame) -> tuple[PatchMap, Tensor]:
    """Take the frame into the patches in view. Also returns which pixels are explained. [B, H, W] bool"""
    rows = _in_view(world, frame.camera)
    old = world.patches().take(rows)
    new, pixels = integrate(old, rows // world.faces.shape[1], old.mean_heights().detach(), frame)
    explained = torch.zeros_like(frame.footprint).index_fill(0, pixels, 1.0)
    camera = frame.camera
    explained = explained.view(-1, 1, camera.height, camera.width)
    return put(world, rows, new), F.max_pool2d(explained, 3, stride=1, padding=1).squeeze(1) > 0


def put(world: PatchMap, rows: Tensor, new: Patches) -> PatchMap:
    """The map with `new` at `rows` [R] of its B * N patches."""
    fields = {name: t.flatten(0, 1).index_copy(0, rows, value).view_as(t) for (name, value), t in
              zip(new._asdict().items(), _fields(world), strict=True)}  # fmt: skip
    return replace(world, **fields)


def _fields(world: PatchMap) -> tuple[Tensor, ...]:
    return tuple(getattr(world, name) for name in Patches._fields)


@torch.no_grad()
def _in_view(world: PatchMap, camera: Camera) -> Tensor:
    """Occupied patches whose cubes reach into the image. [R] int64 of B * N"""
    edge = side_of(world.evidence) * texel_m(world.levels, world.heights)
    middle = (world.cells.to(edge) + 0.5) * edge[..., None]
    viewmats = inverse_pose(camera.world_from_camera)
    x, y, z = (middle @ viewmats[:, :3, :3].mT + viewmats[:, None, :3, 3]).unbind(-1)
    reach = (0.9 + FILL_REACH) * edge
    focal_x, focal_y = (camera.intrinsics[:, i, i, None] for i in (0, 1))
    wide_x, wide_y = 0.5 * camera.width / focal_x, 0.5 * camera.height / focal_y
    inside = (x.abs() < z.clamp_min(0) * wide_x + 1.5 * reach) & (y.abs() < z.clamp_min(0) * wide_y + 1.5 * reach)
    return (inside & (z > -reach) & world.occupied).flatten().nonzero().squeeze(1)


def integrate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> tuple[Patches, Tensor]:
    """Update, empty and fill the texels of R patches.

    Args:
        old: the patches.
        batch: the row of the frame that each of them looks at. [R]
        guess: height at which empty texels begin to look for the surface. [R] metres
        frame: what is seen.

    Returns:
        The patches after the frame, and the pixels that they explain. [K] int64
    """
    if compilable(*old, frame.depth, frame.certainty, frame.rgb, frame.latents, frame.camera):
        from embodied_liftwm.memory import patch_write_compiled

        return patch_write_compiled.integrate(old, batch, guess, frame)
    return reference_integrate(old, batch, guess, frame)


def reference_integrate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> tuple[Patches, Tensor]:
    """`integrate` in torch, but for what needs no gradient."""
    heights, look, matched, gone, filled = associate(old, batch, guess, frame)
    points = texel_points(old.cells, old.faces, old.levels, heights)
    certainty = frame.certainty[look.pixel]
    weight = torch.minimum(old.evidence, MAX_EVIDENCE_RATIO * certainty)
    share = torch.where(matched, certainty / (certainty + weight).clamp_min(1e-9), filled.to(certainty))
    evidence = torch.where(matched, certainty + weight, torch.where(filled, certainty, old.evidence))

    def blend(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine + (share if mine.dim() == 2 else share[..., None]) * (theirs - mine)

    new = old._replace(
        heights=blend(old.heights, _observed_heights(old.faces, points, look, batch, frame)),
        rgb=blend(old.rgb, _colours(look, batch, frame)),
        latents=blend(old.latents, frame.latents[_cell(look, batch, frame)]),
        evidence=torch.where(gone, 0.0, evidence),
    )
    return new, look.pixel[matched | filled]


@torch.no_grad()
def associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """Settle the texels of R patches and compare them with the frame; arguments as of `integrate`."""
    if compilable(*old, frame.depth, frame.camera):
        from embodied_liftwm.memory import patch_write_compiled

        return patch_write_compiled.associate(old, batch, guess, frame)
    return reference_associate(old, batch, guess, frame)


def reference_associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """`associate` in torch."""
    there = old.evidence > 0
    heights = _settle(old, torch.where(there, old.heights, guess[:, None]), there, batch, frame)
    points = texel_points(old.cells, old.faces, old.levels, heights)
    look = _look(points, batch, frame)
    return Association(heights, look, *_compare(old, there, points, look, frame))


def _settle(old: Patches, heights: Tensor, there: Tensor, batch: Tensor, frame: Frame) -> Tensor:
    """Heights at which empty texels meet the surface that the frame shows, by fixed-point iteration. [R, M]"""
    axis = along(old.faces)[:, :1, None].expand(-1, heights.shape[1], 1)
    for _ in range(SETTLE):
        look = _look(texel_points(old.cells, old.faces, old.levels, heights), batch, frame)
        shown = frame.points[look.pixel].gather(2, axis).squeeze(-1)
        heights = torch.where(~there & look.inside, shown, heights)
    return heights


def _look(points: Tensor, batch: Tensor, frame: Frame) -> Look:
    """Project texels [R, M, 3] into the frames of their rows [R]."""
    camera = frame.camera
    matrices = (camera.intrinsics @ inverse_pose(camera.world_from_camera)[:, :3])[batch]
    projected = torch.baddbmm(matrices[:, None, :, 3], points, matrices[:, :, :3].mT)
    z = projected[..., 2]
    uv = projected[..., :2] / z.clamp_min(NEAR_M)[..., None]
    column, row = uv.floor().long().unbind(-1)
    inside = (z > NEAR_M) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    pixel = (batch[:, None] * camera.height + row) * camera.width + column
    return Look(torch.where(inside, pixel, 0), uv, z, inside)


def _compare(old: Patches, there: Tensor, points: Tensor, look: Look, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Which texels [R, M] are what their pixel sees, which are gone, and which empty ones meet a surface."""
    depth, certainty = frame.depth[look.pixel], frame.certainty[look.pixel]
    known = look.inside & (certainty > 0)
    variance = 1.0 / old.evidence.clamp_min(LEAST_EVIDENCE) + 1.0 / certainty.clamp_min(LEAST_EVIDENCE)
    gate = (GATE_SIGMAS * variance.sqrt() / depth).clamp(*GATE_RANGE)
    difference = (look.z - depth).abs() / depth
    size = texel_m(old.levels, depth)[:, None]
    footprint = frame.footprint[look.pixel]
    same = there & known & (difference < gate)
    coarse = size > COARSE * frame.finest[look.pixel]
    doubt = (GATE_SIGMAS / (certainty.clamp_min(LEAST_EVIDENCE).sqrt() * depth)).clamp(*GATE_RANGE)
    gone = there & known & ~same & (look.z < (1.0 - doubt) * frame.nearest[look.pixel])
    meets = ~there & known & (difference < FILL_GATE) & (footprint < COARSE * size) & _belongs(old, points, look, frame)
    return same & ~coarse, gone | (same & coarse), meets


def _belongs(old: Patches, points: Tensor, look: Look, frame: Frame) -> Tensor:
    """Whether the surface at each texel lies about in its patch's cube and faces its way. [R, M] bool"""
    axis = along(old.faces)[:, :1]
    texels = points.shape[1]
    height = points.gather(2, axis[:, None].expand(-1, texels, 1)).squeeze(-1)
    edge = side_of(height) * texel_m(old.levels, height)[:, None]
    low = old.cells.gather(1, axis).to(edge) * edge
    near = (height > low - FILL_REACH * edge) & (height < low + (1.0 + FILL_REACH) * edge)
    towards = frame.normals[look.pixel].gather(2, axis[:, None].expand(-1, texels, 1)).squeeze(-1)
    return near & (towards * (1 - 2 * (old.faces % 2))[:, None] > FACING_COSINE)


def _observed_heights(faces: Tensor, points: Tensor, look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """Heights of the texels if they moved along their line of sight to the depth that is seen. [R, M] metres"""
    axis = along(faces)[:, :1]
    eye = frame.camera.world_from_camera[batch, :3, 3].gather(1, axis)
    ray = points.gather(2, axis[:, None].expand(-1, points.shape[1], 1)).squeeze(-1) - eye
    return eye + ray * frame.depth[look.pixel] / look.z.clamp_min(NEAR_M)


def _colours(look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """Colours of the frame at the texels: bilinear, but of the pixel itself where that would mix two surfaces. [R, M, 3]"""
    width, height = frame.camera.width, frame.camera.height
    low = (look.uv - 0.5).floor()
    share = (look.uv - 0.5 - low).unsqueeze(-1)
    column, row = low.long().unbind(-1)
    columns = [(column + i).clamp(0, width - 1) for i in (0, 1)]
    rows = [((batch[:, None] * height) + (row + i).clamp(0, height - 1)) * width for i in (0, 1)]
    upper, lower = (torch.lerp(frame.rgb[r + columns[0]], frame.rgb[r + columns[1]], share[..., 0, :]) for r in rows)
    smooth = torch.lerp(upper, lower, share[..., 1, :])
    return torch.where(frame.edge[look.pixel][..., None], frame.rgb[look.pixel], smooth)


def _cell(look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """The cell of latents that each texel falls into. [R, M] int64"""
    width, height = frame.camera.width, frame.camera.height
    inner = look.pixel % (width * height)
    columns, rows = width // frame.stride, height // frame.stride
    cell = (inner // width // frame.stride) * columns + inner % width // frame.stride
    return look.pixel // (width * height) * (columns * rows) + cell


def _allocate(world: PatchMap, frame: Frame, explained: Tensor) -> PatchMap:
    """Add patches for the pixels that nothing explains."""
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
    new, _ = integrate(empty, batch, guess[batch, nth], frame)
    kept = ((new.evidence > 0).sum(1) >= MIN_TEXELS).nonzero().squeeze(1)
    return _insert(world, new.take(kept), batch[kept])


def _wanted(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor]:
    """Patches that unexplained pixels fall into, those with most of them first.

    Returns:
        Keys [B, S], `NOWHERE` where there are fewer, and the mean height of the pixels of each. [B, S] metres
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
    usable = (distinct != NOWHERE) & (known.gather(1, place) != distinct) & (count >= MIN_PIXELS)
    most = torch.where(usable, count, 0.0).topk(min(NEW_PATCHES, keys.shape[1]), dim=1)
    guess = (total / count.clamp_min(1.0)).gather(1, most.indices)
    return torch.where(most.values > 0, distinct.gather(1, most.indices), NOWHERE), guess


def _unexplained(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of the patches that the unexplained pixels of each row fall into, and the pixels' heights. [B, L] each

    Rows with fewer than the most of them, L, end in `NOWHERE`.
    """
    new = ~explained.flatten(1) & (frame.certainty > 0).view(len(explained), -1)
    rows, inner = new.nonzero(as_tuple=True)
    pixels = rows * new.shape[1] + inner
    points, faces = frame.points[pixels], _faces(frame.normals[pixels])
    levels = torch.maximum(level_of(frame.footprint[pixels]), world.finest[rows])
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
    """Put patches into free places of their rows `batch` [R], ascending; rows that have too few are coarsened with them."""
    rows, budget = world.faces.shape
    crowded = world.occupied.sum(1) + torch.bincount(batch, minlength=rows) > budget
    for row in crowded.nonzero().flatten().tolist():
        world = add_coarsened(world, row, new.take(batch == row))
    rest = (~crowded[batch]).nonzero().squeeze(1)
    new, batch = new.take(rest), batch[rest]
    wanted = torch.bincount(batch, minlength=rows)
    free = world.occupied.to(torch.uint8).argsort(dim=1, stable=True)
    rank = torch.arange(len(batch), device=batch.device) - (wanted.cumsum(0) - wanted)[batch]
    return put(world, batch * budget + free[batch, rank], new)
