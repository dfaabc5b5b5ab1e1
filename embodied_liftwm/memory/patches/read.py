"""Reading a patch map: what a camera sees of it, by surface splatting with a depth test.

A texel that covers more than about a pixel is splatted as several points on its own tangent plane, so that a surface seen from
close by does not let through what is behind it. The rest is `latents.read`: the first surface counts, and nothing behind it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixels_from_world
from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.memory.latents.read import LatentRead, points_of_squares, read_placed
from embodied_liftwm.memory.patches.cpu import read as on_cpu
from embodied_liftwm.memory.patches.map import PatchMap, along, side_of, texel_m
from embodied_liftwm.memory.patches.rules import READING
from embodied_liftwm.protocols import Camera


class Seen(NamedTuple):
    """Texels in the view of some camera, K of them, each as often as it is seen."""

    texels: Tensor  # [K] int64 which of the B * N * M texels
    views: Tensor  # [K] int64 which of the B * V cameras
    points: Tensor  # [K] int64 points a side
    sure: Tensor  # [K] bool: known well enough, for this view, to hide what is not


def read_patches(world: PatchMap, values: Tensor, cameras: Camera) -> LatentRead:
    """Splat the texels' values into V cameras a row; differentiable in `values` and in the map's heights.

    Args:
        world: the map, B rows.
        values: what to read of each texel. [B, N, M, C]
        cameras: B * V cameras, the views of a row one after another.

    Returns:
        The values, depths and coverage of every pixel of the B * V views.
    """
    if compilable(values, world, cameras):
        return on_cpu.read_patches(world, values, cameras)
    points = world.points()
    with torch.no_grad():
        seen = _in_view(world, points, cameras)
        tangents = _tangents(world, seen.texels)
    rows, offsets = points_of_squares(seen.points)
    texels = seen.texels[rows]
    moved = points.flatten(0, 2).index_select(0, texels) + (offsets[:, :, None] * tangents[rows]).sum(1)
    splatted = values.flatten(0, 2).index_select(0, texels)
    views, sure = seen.views[rows], seen.sure[rows]
    weights = torch.where(sure, moved.new_ones(()), READING.unsure_weight)
    options = {"depth_tolerance": READING.depth_tolerance, "temperature": READING.temperature}
    return read_placed(moved, splatted, weights, views, cameras, 1, sure, **options)


def _in_view(world: PatchMap, points: Tensor, cameras: Camera) -> Seen:
    """Cull to the cameras' frusta, a pixel around the image included, and say how many points each texel needs."""
    batch, patches, texels, _ = points.shape
    views = len(cameras.intrinsics) // batch
    matrices = pixels_from_world(cameras.intrinsics, cameras.world_from_camera).view(batch, 3 * views, 4)
    flat = points.reshape(batch, -1, 3)
    projected = torch.baddbmm(matrices[..., 3:], matrices[..., :3], flat.mT).view(batch, views, 3, -1)
    u, v, z = projected.unbind(2)
    size = texel_m(world.levels, points)[..., None].expand(-1, -1, texels).reshape(batch, 1, -1)
    reach = z + 0.5 * size * cameras.intrinsics[:, 0, 0].view(batch, views, 1)
    there = (world.evidence > 0).view(batch, 1, -1)
    inside = (z > READING.near_m) & there & (u > -reach) & (v > -reach)
    inside = inside & (u < cameras.width * z + reach) & (v < cameras.height * z + reach)
    row, view, texel = inside.nonzero(as_tuple=True)
    pixels = size[row, 0, texel] * cameras.intrinsics[row * views + view, 0, 0] / z[row, view, texel]
    count = (pixels / READING.point_px).ceil().clamp(1, READING.most_points).long()
    which = row * patches * texels + texel
    sure = world.evidence.flatten()[which].rsqrt() < READING.unsure * z[row, view, texel]
    return Seen(which, row * views + view, count, sure)


def _tangents(world: PatchMap, texels: Tensor) -> Tensor:
    """Steps of one texel along columns and rows on the relief's own slope, in metres. [K, 2, 3]"""
    side = side_of(world.evidence)
    grid, there = (t.unflatten(-1, (side, side)) for t in (world.heights, world.evidence > 0))
    rises = [_rise(grid, there), _rise(grid.mT, there.mT).mT]
    patch = texels // side**2
    size = texel_m(world.levels, world.heights).flatten()[patch]
    axes = along(world.faces.flatten()[patch])
    steps = []
    for rise, axis in zip(rises, axes[:, 1:].unbind(1), strict=True):
        height = torch.maximum(torch.minimum(rise.flatten()[texels], READING.steepest * size), -READING.steepest * size)
        step = F.one_hot(axis, 3) * size[:, None] + F.one_hot(axes[:, 0], 3) * height[:, None]
        steps.append(step)
    return torch.stack(steps, dim=1)


def _rise(heights: Tensor, there: Tensor) -> Tensor:
    """Change of height to the neighbour along the last axis, of both sides the smaller; 0 where there is none."""
    step = torch.where(there[..., 1:] & there[..., :-1], heights[..., 1:] - heights[..., :-1], torch.inf)
    before, after = F.pad(step, (1, 0), value=torch.inf), F.pad(step, (0, 1), value=torch.inf)
    least = torch.where(before.abs() < after.abs(), before, after)
    return torch.where(least.isinf(), 0.0, least)
