"""What a camera sees of a patch map, a point at a time: `read` and what it takes of `latents.read` on a CPU, without gradients.

Kernels release the GIL; calls write patches, or rows of the image, of their own.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixels_from_world
from embodied_liftwm.geometry.compiled import arrays, as_scalars
from embodied_liftwm.kernels import compiled, project
from embodied_liftwm.memory.gaussians.rasterizer.simd import LANES, add_scaled
from embodied_liftwm.memory.latents import read as splatting
from embodied_liftwm.memory.latents.read import LatentRead
from embodied_liftwm.memory.patches.map import PatchMap, texel_m
from embodied_liftwm.memory.patches.rules import READING
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each, ranges

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_index = np.uint64  # numba checks signed indices for being negative


class ReadRules(NamedTuple):
    """What `READING` and `latents.read` say, as scalars of the tensors' dtype but for the first."""

    most_points: int
    point_px: float
    steepest: float
    near_m: float
    unsure: float
    unsure_weight: float
    placed_near_m: float  # of `latents.read`, as the next three
    covers: float
    touches: float
    precedence: float
    log_tolerance: float
    temperature: float


class Relief(NamedTuple):
    """One row of a map: N patches of M texels."""

    cells: np.ndarray  # [N, 3] int64
    faces: np.ndarray  # [N] int64
    sizes: np.ndarray  # [N] edge of a texel, metres
    heights: np.ndarray  # [N, M]
    evidence: np.ndarray  # [N, M]


class View(NamedTuple):
    """One camera."""

    matrix: np.ndarray  # [3, 4] from world points to homogeneous pixels
    focal: float  # pixels
    height: int
    width: int


class Points(NamedTuple):
    """Points that touch the image, K of them."""

    texels: np.ndarray  # [K] int64 which of the N * M
    rows: np.ndarray  # [K] int64 of the lower right pixel of the four around
    columns: np.ndarray  # [K] int64
    down: np.ndarray  # [K] share of the lower two
    right: np.ndarray  # [K] share of the right two
    depths: np.ndarray  # [K] z-depth, metres
    sure: np.ndarray  # [K] bool


class Canvas(NamedTuple):
    """What one camera sees; see `LatentRead`."""

    values: np.ndarray  # [H, W, C], zeros, written
    depths: np.ndarray  # [H, W], zeros, written
    visible: np.ndarray  # [H, W], zeros, written


@cache
def _rules(dtype: np.dtype) -> ReadRules:
    rules = ReadRules(
        most_points=READING.most_points,
        point_px=READING.point_px,
        steepest=READING.steepest,
        near_m=READING.near_m,
        unsure=READING.unsure,
        unsure_weight=READING.unsure_weight,
        placed_near_m=splatting.NEAR_M,
        covers=splatting.COVERS,
        touches=splatting.TOUCHES,
        precedence=splatting.PRECEDENCE,
        log_tolerance=math.log1p(READING.depth_tolerance),
        temperature=READING.temperature,
    )
    return as_scalars(rules, dtype)


def read_patches(world: PatchMap, values: Tensor, cameras: Camera) -> LatentRead:
    """`read.read_patches`."""
    views, channels = len(cameras.intrinsics), values.shape[-1]
    matrices = pixels_from_world(cameras.intrinsics, cameras.world_from_camera)
    shape = (views, cameras.height, cameras.width)
    seen = LatentRead(values.new_zeros(*shape, channels), values.new_zeros(shape), values.new_zeros(shape))
    fields = (world.cells, world.faces, texel_m(world.levels, world.heights), world.heights, world.evidence)
    maps, images = arrays(*fields), arrays(*seen)
    (texels,) = arrays(values.flatten(1, 2))
    matrix, focal = arrays(matrices, cameras.intrinsics[:, 0, 0])
    for v in range(views):
        row = v // (views // len(world.faces))
        view = View(matrix[v], focal[v], cameras.height, cameras.width)
        _read(Relief(*(array[row] for array in maps)), texels[row], view, Canvas(*(image[v] for image in images)))
    return seen._replace(latents=seen.latents.movedim(-1, 1))


def _read(relief: Relief, texels: np.ndarray, view: View, canvas: Canvas) -> None:
    """What one camera sees of one row of the map."""
    rules = _rules(texels.dtype)
    found: dict[int, tuple[np.ndarray, ...]] = {}

    def place(first: int, end: int) -> None:
        found[first] = place_points(relief, view, rules, first, end)

    parts = ranges(len(relief.faces))
    for_each(place, parts)
    points = Points(*(np.concatenate(arrays) for arrays in zip(*(found[first] for first, _ in parts), strict=True)))

    def paint(top: int, bottom: int) -> None:
        paint_rows(points, texels, rules, top, bottom, canvas)

    for_each(paint, ranges(view.height))


@compiled
def _texel(relief, n, m, side, point):
    """World point of a texel into point [3]."""
    axis, size = relief.faces[n] // 2 % 3, relief.sizes[n]
    second, third = (axis + 1) % 3, (axis + 2) % 3
    edge = np.float32(side) * size
    point[axis] = relief.heights[n, m]
    v = m // side
    point[second] = np.float32(relief.cells[n, second]) * edge + (np.float32(m - v * side) + _HALF) * size
    point[third] = np.float32(relief.cells[n, third]) * edge + (np.float32(v) + _HALF) * size


@compiled
def _points_a_side(projected, size, view, rules):
    """Points a side that a texel in view needs, 0 out of view."""
    u, v, z = projected
    reach = z + _HALF * size * view.focal
    if not (z > rules.near_m and u > -reach and v > -reach):
        return 0
    if not (u < np.float32(view.width) * z + reach and v < np.float32(view.height) * z + reach):
        return 0
    return min(max(int(math.ceil(size * view.focal / z / rules.point_px)), 1), rules.most_points)


@compiled
def _rise(heights, evidence, m, step, first, last, limit):
    """Change of height to the neighbouring texel `step` away, of both sides the smaller; the texel may be first or last."""
    before, after = np.float32(np.inf), np.float32(np.inf)
    if not first and evidence[m - step] > _ZERO:
        before = heights[m] - heights[m - step]
    if not last and evidence[m + step] > _ZERO:
        after = heights[m + step] - heights[m]
    least = before if abs(before) < abs(after) else after
    return min(max(least, -limit), limit) if abs(least) < np.inf else _ZERO


@compiled
def _count(relief, view, rules, first, end, sides):
    """Points a side of the texels of patches first..end, into sides [end - first, M]. Returns how many points that makes."""
    side, point, total = int(round(math.sqrt(sides.shape[1]))), np.empty(3, relief.heights.dtype), 0
    for n in range(first, end):
        for m in range(sides.shape[1]):
            sides[n - first, m] = 0
            if relief.evidence[n, m] > _ZERO:
                _texel(relief, n, m, side, point)
                count = _points_a_side(project(view.matrix, point[0], point[1], point[2]), relief.sizes[n], view, rules)
                sides[n - first, m] = count
                total += count * count
    return total


@compiled
def _place(projected, k, texel, sure, view, rules, points):
    """Write a point to place k if it touches the image. Returns the next free place."""
    u, v, z = projected
    reach = _HALF * z
    if not (z > rules.placed_near_m and u >= -reach and v >= -reach):
        return k
    if not (u <= np.float32(view.width) * z + reach and v <= np.float32(view.height) * z + reach):
        return k
    x, y = u / z + _HALF, v / z + _HALF
    column, row = min(max(int(math.floor(x)), 0), view.width), min(max(int(math.floor(y)), 0), view.height)
    points.texels[k], points.columns[k], points.rows[k] = texel, column, row
    points.right[k], points.down[k] = x - np.float32(column), y - np.float32(row)
    points.depths[k], points.sure[k] = z, sure
    return k + 1


@compiled
def place_points(relief, view, rules, first, end):
    """Spread the texels of patches first..end over the image. Returns `Points`, as a tuple."""
    texels = relief.heights.shape[1]
    side = int(round(math.sqrt(texels)))
    sides = np.empty((end - first, texels), np.int64)
    total = _count(relief, view, rules, first, end, sides)
    real = np.empty((3, total), relief.heights.dtype)
    whole = np.empty((3, total), np.int64)
    points = Points(whole[0], whole[1], whole[2], real[0], real[1], real[2], np.empty(total, np.bool_))
    point, moved, k = np.empty(3, relief.heights.dtype), np.empty(3, relief.heights.dtype), 0
    for n in range(first, end):
        size, axis = relief.sizes[n], relief.faces[n] // 2 % 3
        second, third, limit = (axis + 1) % 3, (axis + 2) % 3, rules.steepest * size
        heights, evidence = relief.heights[n], relief.evidence[n]
        for m in range(texels):
            count = sides[n - first, m]
            if count == 0:
                continue
            _texel(relief, n, m, side, point)
            z = project(view.matrix, point[0], point[1], point[2])[2]
            sure = _ONE / math.sqrt(evidence[m]) < rules.unsure * z
            across = _rise(heights, evidence, m, 1, m % side == 0, m % side == side - 1, limit)
            along = _rise(heights, evidence, m, side, m < side, m >= texels - side, limit)
            for j in range(count):
                down = (np.float32(j) + _HALF) / np.float32(count) - _HALF
                for i in range(count):
                    right = (np.float32(i) + _HALF) / np.float32(count) - _HALF
                    moved[axis] = point[axis] + (right * across + down * along)
                    moved[second] = point[second] + right * size
                    moved[third] = point[third] + down * size
                    k = _place(project(view.matrix, moved[0], moved[1], moved[2]), k, n * texels + m, sure, view, rules, points)
    return (
        points.texels[:k], points.rows[:k], points.columns[:k], points.down[:k], points.right[:k], points.depths[:k],
        points.sure[:k],
    )  # fmt: skip


@compiled
def _share(points, k, corner):
    """Bilinear share of one of the four pixels around a point."""
    vertical = points.down[k] if corner >= 2 else _ONE - points.down[k]
    return vertical * (points.right[k] if corner % 2 else _ONE - points.right[k])


@compiled
def _log_surface(points, rules, top, bottom, surface):
    """Logarithm of z* of rows top..bottom, into surface [bottom - top, W]; infinite where there is none."""
    surface[:] = np.inf
    width = surface.shape[1]
    for k in range(points.rows.shape[0]):
        if points.rows[k] < top or points.rows[k] > bottom:
            continue
        z = points.depths[k]
        covering = -_ONE / z - (rules.precedence if points.sure[k] else _ZERO)
        for corner in range(4):
            row, column = points.rows[k] - 1 + corner // 2, points.columns[k] - 1 + corner % 2
            if row < top or row >= bottom or column < 0 or column >= width:
                continue
            share = _share(points, k, corner)
            if share > rules.touches:
                key = covering if share >= rules.covers else z
                surface[row - top, column] = min(surface[row - top, column], key)
    for y in range(bottom - top):
        for x in range(width):
            key = surface[y, x]
            if key < _ZERO:
                key = -_ONE / (key + rules.precedence if key <= -rules.precedence else key)
            surface[y, x] = math.log(key)


@compiled
def paint_rows(points, values, rules, top, bottom, canvas):
    """Read rows top..bottom: of what each point gives to the pixels around, keep what lies on their surface, and average.

    Args:
        points: `Points`.
        values: what to read of each texel. [N * M, C]
    """
    width, channels = canvas.depths.shape[1], values.shape[1]
    surface = np.empty((bottom - top, width), values.dtype)
    _log_surface(points, rules, top, bottom, surface)
    lanes = (channels + 2 + LANES - 1) // LANES * LANES  # the values, how much they weigh, and depth
    sums, splat = np.zeros((bottom - top, width, lanes), values.dtype), np.zeros(lanes, values.dtype)
    for k in range(points.rows.shape[0]):
        if points.rows[k] < top or points.rows[k] > bottom:
            continue
        z, value = points.depths[k], values[points.texels[k]]
        for c in range(channels):
            splat[_index(c)] = value[_index(c)]
        splat[channels], splat[channels + 1] = _ONE, z
        log_z, weight = math.log(z), _ONE if points.sure[k] else rules.unsure_weight
        for corner in range(4):
            row, column = points.rows[k] - 1 + corner // 2, points.columns[k] - 1 + corner % 2
            if row < top or row >= bottom or column < 0 or column >= width:
                continue
            share, away = _share(points, k, corner), surface[row - top, column] - log_z
            if share > rules.touches and abs(away) <= rules.log_tolerance:
                given = share * weight
                canvas.visible[row, column] += given
                add_scaled(sums[row - top, column], given * math.exp(away / rules.temperature), splat)
    _average(sums, top, bottom, canvas)


@compiled
def _average(sums, top, bottom, canvas):
    """Divide the sums of rows top..bottom by how much they weigh."""
    channels = canvas.values.shape[2]
    for y in range(top, bottom):
        for x in range(sums.shape[1]):
            row = sums[y - top, x]
            if row[channels] > _ZERO:
                canvas.depths[y, x] = row[channels + 1] / row[channels]
                canvas.visible[y, x] = min(canvas.visible[y, x], _ONE)
                for c in range(channels):
                    canvas.values[y, x, c] = row[c] / row[channels]
