"""Compiled kernels of the RGB cloud: merging a frame's points, and painting what a camera sees.

The torch code of `cloud` and `render` is the reference. Keys are computed in float64, so that both agree on the voxel of every
point.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from embodied_liftwm.kernels import compiled, project

AXIS_BITS = 21
"""Bits of a voxel's coordinate along each axis; three of them fit into the 63 of a key."""
HALF_RANGE = 1 << (AXIS_BITS - 1)
RUN = 256
"""Points that are left out together where a camera cannot see the cube that holds them."""
IMAGINED = 128
"""Bit of the last byte of looks; the rest of it is the size."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class Plan(NamedTuple):
    """Where new points go among old ones."""

    chosen: np.ndarray  # [K] int64 numbers of the new points that are kept, in the order of their keys
    places: np.ndarray  # [K] int64 first old point whose key is not below
    taken: np.ndarray  # [K] bool: that old point lies in the same voxel, and is replaced


NOTHING = Plan(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))


class PaintRules(NamedTuple):
    """The constants of `render`, float32."""

    near_m: Any
    splat: Any
    most_px: Any
    tolerance: Any


class Row(NamedTuple):
    """One row of a cloud."""

    points: np.ndarray  # [N, 3]
    looks: np.ndarray  # [N, 4] uint8
    voxel_m: float


class Eye(NamedTuple):
    """One camera."""

    matrix: np.ndarray  # [3, 4] from world points to homogeneous pixels
    focal: Any  # pixels, float32
    planes: np.ndarray  # [P, 4] float64: what is seen lies where n . x + d >= 0, n of length 1
    sizes: np.ndarray  # [256] metres, of the last byte of looks


class Picture(NamedTuple):
    """What it sees: zeros, written."""

    rgb: np.ndarray  # [H, W, 3] in [0, 1]
    depth: np.ndarray  # [H, W] metres
    visible: np.ndarray  # [H, W] 0 or 1
    observed: np.ndarray  # [H, W] share in [0, 1]


class Splats(NamedTuple):
    """Points that touch the image, of which `place` fills the first few."""

    points: np.ndarray  # [N] int64 which
    centres: np.ndarray  # [N, 2] pixels
    depths: np.ndarray  # [N] metres
    sides: np.ndarray  # [N] pixels, of the square that is painted


def plan(old: np.ndarray, new: np.ndarray, voxel_m: float) -> Plan:
    """Plan how points `new` [M, 3] are merged into sorted points `old` [N, 3]; of those in one voxel the last is kept."""
    keys = np.empty(len(new), np.int64)
    keys_of(new, voxel_m, keys)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.ones(len(keys), np.bool_)
    last[:-1] = keys[1:] != keys[:-1]
    chosen, keys = order[last], keys[last]
    places, taken = np.empty(len(keys), np.int64), np.empty(len(keys), np.bool_)
    _search(old, keys, voxel_m, places, taken)
    return Plan(chosen, places, taken)


@compiled
def _spread(x):
    """The lower 21 bits of x, two zeros between each."""
    x = x & 0x1FFFFF
    x = (x | x << 32) & 0x1F00000000FFFF
    x = (x | x << 16) & 0x1F0000FF0000FF
    x = (x | x << 8) & 0x100F00F00F00F00F
    x = (x | x << 4) & 0x10C30C30C30C30C3
    return (x | x << 2) & 0x1249249249249249


@compiled
def _gathered(x):
    """The inverse of `_spread`: every third bit of x."""
    x = x & 0x1249249249249249
    x = (x | x >> 2) & 0x10C30C30C30C30C3
    x = (x | x >> 4) & 0x100F00F00F00F00F
    x = (x | x >> 8) & 0x1F0000FF0000FF
    x = (x | x >> 16) & 0x1F00000000FFFF
    return (x | x >> 32) & 0x1FFFFF


@compiled
def _key(point, voxel_m):
    """`cloud.keys_of` one point."""
    key = np.int64(0)
    for k in range(3):
        voxel = np.int64(math.floor(np.float64(point[k]) / voxel_m)) + HALF_RANGE
        key |= _spread(voxel) << k
    return key


@compiled
def keys_of(points, voxel_m, keys):
    """Keys of points [M, 3] into keys [M]."""
    for m in range(len(points)):
        keys[m] = _key(points[m], voxel_m)


@compiled
def _search(old, keys, voxel_m, places, taken):
    """`Plan` of sorted keys [K]. Each search begins where the last one ended, and goes on by doubled steps."""
    at = 0
    for j in range(len(keys)):
        step, high = 1, at
        while high < len(old) and _key(old[high], voxel_m) < keys[j]:
            at = high + 1
            high = high + step
            step *= 2
        high = min(high, len(old))
        while at < high:
            middle = (at + high) // 2
            if _key(old[middle], voxel_m) < keys[j]:
                at = middle + 1
            else:
                high = middle
        places[j] = at
        taken[j] = at < len(old) and _key(old[at], voxel_m) == keys[j]


@compiled
def merge(old, new, chosen, places, taken, out):
    """Write the old values [N, C] and the chosen of the new [M, C] to out, in the order of their keys."""
    read, written = 0, 0
    for j in range(len(chosen)):
        run = places[j] - read
        if run > 0:
            out[written : written + run] = old[read : places[j]]
            written += run
        read = places[j] + (1 if taken[j] else 0)
        out[written] = new[chosen[j]]
        written += 1
    out[written : written + len(old) - read] = old[read:]


@compiled
def _in_view(first, last, planes, voxel_m):
    """Whether some point with a key between two may lie inside of all planes [P, 4], judged by a sphere around their cube."""
    differing, level = first ^ last, 0
    while differing >> (3 * level):
        level += 1
    edge = voxel_m * np.float64(1 << level)
    radius = 0.5 * math.sqrt(3.0) * edge * 1.001 + 1e-4  # and a little for rounding
    low = first >> (3 * level) << (3 * level)
    x = (_gathered(low) - HALF_RANGE) * voxel_m + 0.5 * edge
    y = (_gathered(low >> 1) - HALF_RANGE) * voxel_m + 0.5 * edge
    z = (_gathered(low >> 2) - HALF_RANGE) * voxel_m + 0.5 * edge
    for p in range(len(planes)):  # noqa: SIM110 (numba has no generators)
        if planes[p, 0] * x + planes[p, 1] * y + planes[p, 2] * z + planes[p, 3] < -radius:
            return False
    return True


@compiled
def paint(row, eye, rules, picture):
    """`render.render_cloud` of one row from one camera."""
    count = len(row.points)
    real = row.points.dtype
    splats = Splats(np.empty(count, np.int64), np.empty((count, 2), real), np.empty(count, real), np.empty(count, real))
    found = 0
    for first in range(0, count, RUN):
        end = min(first + RUN, count)
        if _in_view(_key(row.points[first], row.voxel_m), _key(row.points[end - 1], row.voxel_m), eye.planes, row.voxel_m):
            found = _place(row, eye, rules, picture.depth.shape, first, end, splats, found)
    surface = np.full(picture.depth.shape, np.float32(np.inf))
    _cover(splats, found, surface)
    _blend(row.looks, splats, found, surface, rules.tolerance, picture)


@compiled
def _place(row, eye, rules, shape, first, end, splats, found):
    """Append points [first, end) that touch the image to the splats; returns how many there are then."""
    for n in range(first, end):
        x, y, z = row.points[n]
        across, down, depth = project(eye.matrix, x, y, z)
        if not depth > rules.near_m:
            continue
        u, v = across / depth, down / depth
        side = min(max(rules.splat * eye.sizes[row.looks[n, 3]] * eye.focal / depth, _ONE), rules.most_px)
        reach = _HALF * side
        if u > -reach and v > -reach and u < np.float32(shape[1]) + reach and v < np.float32(shape[0]) + reach:
            splats.points[found], splats.depths[found], splats.sides[found] = n, depth, side
            splats.centres[found, 0], splats.centres[found, 1] = u, v
            found += 1
    return found


@compiled
def _edges(centre, side, size):
    """First and end of the pixels along an axis whose centres lie in [centre - side / 2, centre + side / 2)."""
    low, high = math.ceil(centre - _HALF * side - _HALF), math.ceil(centre + _HALF * side - _HALF)
    return max(int(low), 0), min(int(high), size)


@compiled
def _cover(splats, found, surface):
    """The z-buffer: least depth of every pixel."""
    for s in range(found):
        left, right = _edges(splats.centres[s, 0], splats.sides[s], surface.shape[1])
        top, bottom = _edges(splats.centres[s, 1], splats.sides[s], surface.shape[0])
        for row in range(top, bottom):
            for column in range(left, right):
                surface[row, column] = min(surface[row, column], splats.depths[s])


@compiled
def _blend(looks, splats, found, surface, tolerance, picture):
    """Means of what lies on the surface of every pixel."""
    total = np.zeros(surface.shape, surface.dtype)
    for s in range(found):
        depth, side, look = splats.depths[s], splats.sides[s], looks[splats.points[s]]
        left, right = _edges(splats.centres[s, 0], side, surface.shape[1])
        top, bottom = _edges(splats.centres[s, 1], side, surface.shape[0])
        for row in range(top, bottom):
            down = _ONE - abs(np.float32(row) + _HALF - splats.centres[s, 1]) / side
            for column in range(left, right):
                if depth <= surface[row, column] * tolerance:
                    weight = down * (_ONE - abs(np.float32(column) + _HALF - splats.centres[s, 0]) / side) / (side * side)
                    total[row, column] += weight
                    picture.depth[row, column] += weight * depth
                    if look[3] < IMAGINED:
                        picture.observed[row, column] += weight
                    for k in range(3):
                        picture.rgb[row, column, k] += weight * np.float32(look[k])
    for row in range(surface.shape[0]):
        for column in range(surface.shape[1]):
            if total[row, column] > _ZERO:
                picture.visible[row, column] = _ONE
                picture.depth[row, column] /= total[row, column]
                picture.observed[row, column] /= total[row, column]
                for k in range(3):
                    picture.rgb[row, column, k] /= total[row, column] * np.float32(255.0)
