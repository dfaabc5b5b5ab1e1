"""An RGB cloud seen from a camera: a z-buffer, and the mean of what lies on its surface.

Each point is a square that faces the camera, about as large as the pixel that it was seen as, so that surfaces have no
pinholes. The z-buffer holds the least depth z* of every pixel; the picture is the mean over the points with
z <= (1 + tolerance) z*, those near the pixel's centre and those seen finely first: visibility and blending are two passes, as
in surface splatting (Zwicker et al. 2001). Taking the nearest point alone would show the front of the noise: of the many points
that frames left of one surface the nearest is the one whose depth is most wrong.

    w_i(c) = (1 - |u_i - u_c| / s_i) (1 - |v_i - v_c| / s_i) / s_i^2    within the square of side s_i around (u_i, v_i), else 0
    s_i    = clamp(SPLAT size_i focal / z_i, 1, MOST_PX)

Nothing here has a gradient: a cloud of points that other frames left is data.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixels_from_world
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import compiled, project
from embodied_liftwm.memory.cloud.cloud import HALF_RANGE, IMAGINED, RgbCloud, key_of, observed_of, sizes_of
from embodied_liftwm.memory.latents.read import NEAR_M
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

SPLAT = 1.5
"""Side of a square, in sizes of its point: below 2 a frame read from its own camera comes back as it was, above 1.4 a
surface that is seen turned about or from the side stays closed."""
MOST_PX = 4
"""Largest side of a square: what was seen from afar does not cover what lies around it."""
DEPTH_TOLERANCE = 0.1
"""Share of the surface's depth by which what a pixel shows may lie behind it, as of patches (`patches.rules`)."""
RUN = 256
"""Points that are left out together where a camera cannot see the cube that holds them."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class PaintRules(NamedTuple):
    """The constants above."""

    near_m: np.float32
    splat: np.float32
    most_px: np.float32
    tolerance: np.float32


class Row(NamedTuple):
    """One row of a cloud."""

    points: np.ndarray  # [N, 3]
    looks: np.ndarray  # [N, 4] uint8
    voxel_m: float


class Eye(NamedTuple):
    """One camera."""

    matrix: np.ndarray  # [3, 4] from world points to homogeneous pixels
    focal: np.float32  # pixels
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


class CloudView(NamedTuple):
    """What each camera sees."""

    rgb: Tensor  # [B * V, 3, H, W] in [0, 1], 0 where nothing is seen
    depth: Tensor  # [B * V, H, W] z-depth in metres, 0 where nothing is seen
    visible: Tensor  # [B * V, H, W] 0 or 1
    observed: Tensor  # [B * V, H, W] in [0, 1]: of what is seen, how much was observed and not imagined; 0 where nothing is


@torch.no_grad()
def render_cloud(cloud: RgbCloud, cameras: Camera, culled: bool = True) -> CloudView:
    """Render V cameras a row.

    Args:
        cloud: B rows.
        cameras: B * V cameras, the views of a row one after another.
        culled: leave out runs of points that no camera sees; the picture is the same.
    """
    matrices = pixels_from_world(cameras.intrinsics, cameras.world_from_camera)
    if not compilable(cloud.points, cameras):
        return _render_torch(cloud, cameras, matrices)
    views = len(matrices) // len(cloud.count)
    shape = (cameras.height, cameras.width)
    seen = CloudView(*(matrices.new_zeros(len(matrices), *size) for size in ((*shape, 3), shape, shape, shape)))
    points, looks, matrix, focal, *pictures = arrays(cloud.points, cloud.looks, matrices, cameras.intrinsics[:, 0, 0], *seen)
    counts = cloud.count.tolist()

    def task(v: int) -> None:
        b = v // views
        row = Row(points[b, : counts[b]], looks[b, : counts[b]], cloud.voxel_m)
        planes = _planes(matrix[v], *shape) if culled else np.zeros((0, 4))
        eye = Eye(matrix[v], focal[v], planes, _sizes())
        _paint(row, eye, _rules(), Picture(*(picture[v] for picture in pictures)))

    for_each(task, [(v,) for v in range(len(matrices))])
    return seen._replace(rgb=seen.rgb.permute(0, 3, 1, 2))


@cache
def _rules() -> PaintRules:
    return PaintRules(*(np.float32(x) for x in (NEAR_M, SPLAT, MOST_PX, 1.0 + DEPTH_TOLERANCE)))


@cache
def _sizes() -> np.ndarray:
    """Metres that each value of the byte of sizes stands for. [256] float32"""
    return sizes_of(torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 4)).numpy()


def _planes(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where a point must lie to touch the image: n . x + d >= 0, n of length 1. [5, 4] float64

    With (u z, v z, z) = P (x, 1): z >= NEAR_M, u >= -MOST_PX / 2 is (P_0 + MOST_PX / 2 P_2) (x, 1) >= 0, and so on.
    """
    (across, down, ahead), margin = matrix.astype(np.float64), 0.5 * MOST_PX
    near = ahead - [0.0, 0.0, 0.0, NEAR_M]
    sides = [
        across + margin * ahead,
        (width + margin) * ahead - across,
        down + margin * ahead,
        (height + margin) * ahead - down,
    ]
    planes = np.stack([near, *sides])
    return planes / np.linalg.norm(planes[:, :3], axis=1, keepdims=True)


def _render_torch(cloud: RgbCloud, cameras: Camera, matrices: Tensor) -> CloudView:
    """The same on any device: the reference."""
    views = len(matrices) // len(cloud.count)
    seen = [
        _paint_torch(cloud.points[b, :kept], cloud.looks[b, :kept], matrices[v], cameras.intrinsics[v, 0, 0], cameras)
        for b, kept in enumerate(cloud.count.tolist())
        for v in range(b * views, (b + 1) * views)
    ]
    return CloudView(*(torch.stack(parts) for parts in zip(*seen, strict=True)))


def _paint_torch(points: Tensor, looks: Tensor, matrix: Tensor, focal: Tensor, camera: Camera) -> CloudView:
    """One row from one camera."""
    projected = points.to(matrix) @ matrix[:, :3].T + matrix[:, 3]
    ahead = projected[:, 2] > NEAR_M
    projected, looks = projected[ahead], looks[ahead]
    depth = projected[:, 2]
    centres = projected[:, :2] / depth[:, None]
    sides = (SPLAT * sizes_of(looks).to(depth) * focal / depth).clamp(1.0, MOST_PX)
    extent = centres.new_tensor([camera.width, camera.height])
    near = ((centres > -0.5 * sides[:, None]) & (centres < extent + 0.5 * sides[:, None])).all(-1)
    centres, depth, sides, looks = centres[near], depth[near], sides[near], looks[near]
    cells, weights = _squares(centres, sides, camera)
    depths = depth[:, None].expand_as(weights)
    surface = depth.new_full((camera.height * camera.width + 1,), torch.inf).scatter_reduce(
        0, cells.flatten(), depths.flatten(), "amin"
    )
    weights = torch.where(depths <= surface[cells] * (1.0 + DEPTH_TOLERANCE), weights, 0.0)
    observed = observed_of(looks).to(depth)[:, None]
    values = torch.cat([looks[:, :3].to(depth) / 255.0, depth[:, None], observed, torch.ones_like(observed)], dim=1)
    sums = values.new_zeros(len(surface), 6).index_add(0, cells.flatten(), (weights[..., None] * values[:, None]).flatten(0, 1))
    sums = sums[:-1].T.unflatten(1, (camera.height, camera.width))
    means = sums[:5] / torch.where(sums[5] > 0, sums[5], 1.0)
    return CloudView(means[:3], means[3], (sums[5] > 0).to(depth), means[4])


def _squares(centres: Tensor, sides: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Pixels that squares cover, the number of pixels where there is none, and their weights. [M, MOST_PX ** 2] each"""
    first = (centres - 0.5 * sides[:, None] - 0.5).ceil()
    steps = torch.arange(MOST_PX, device=centres.device)
    pixels = first[:, None] + steps[:, None]  # [M, MOST_PX, 2]
    extent = centres.new_tensor([camera.width, camera.height])
    covered = (pixels < (centres + 0.5 * sides[:, None] - 0.5).ceil()[:, None]) & (pixels >= 0) & (pixels < extent)
    shares = (1.0 - (pixels + 0.5 - centres[:, None]).abs() / sides[:, None, None]) / sides[:, None, None]
    shares, pixels = torch.where(covered, shares, 0.0), pixels.long()
    both = covered[:, :, None, 1] & covered[:, None, :, 0]
    cells = torch.where(both, pixels[:, :, None, 1] * camera.width + pixels[:, None, :, 0], camera.height * camera.width)
    return cells.flatten(1), (shares[:, :, None, 1] * shares[:, None, :, 0]).flatten(1)


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
def _paint(row, eye, rules, picture):
    """`render_cloud` of one row from one camera."""
    count = len(row.points)
    real = row.points.dtype
    splats = Splats(np.empty(count, np.int64), np.empty((count, 2), real), np.empty(count, real), np.empty(count, real))
    found = 0
    for first in range(0, count, RUN):
        end = min(first + RUN, count)
        if _in_view(key_of(row.points[first], row.voxel_m), key_of(row.points[end - 1], row.voxel_m), eye.planes, row.voxel_m):
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
