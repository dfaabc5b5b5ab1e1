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

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixels_from_world
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.memory.cloud import kernels
from embodied_liftwm.memory.cloud.cloud import RgbCloud, observed_of, sizes_of
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
        row = kernels.Row(points[b, : counts[b]], looks[b, : counts[b]], cloud.voxel_m)
        planes = _planes(matrix[v], *shape) if culled else np.zeros((0, 4))
        eye = kernels.Eye(matrix[v], focal[v], planes, _sizes())
        kernels.paint(row, eye, _rules(), kernels.Picture(*(picture[v] for picture in pictures)))

    for_each(task, [(v,) for v in range(len(matrices))])
    return seen._replace(rgb=seen.rgb.permute(0, 3, 1, 2))


@cache
def _rules() -> kernels.PaintRules:
    return kernels.PaintRules(*(np.float32(x) for x in (NEAR_M, SPLAT, MOST_PX, 1.0 + DEPTH_TOLERANCE)))


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
