"""The latent read: what a camera sees of latents that are anchored to points of the world, without a pixel in between.

Points are projected into the camera's grid of cells, tested against the depth of the surface that each cell shows, and splatted
(softmax splatting: Niklaus and Liu 2020, arXiv:2003.05534). Point i lies at cell coordinates (u_i, v_i) and z-depth z_i and has
weight w_i and latent f_i; the centre of cell c is (u_c, v_c). Then

    b_i(c) = max(0, 1 - |u_i - u_c|) max(0, 1 - |v_i - v_c|)                                              bilinear share
    z*(c)  = min { z_i : b_i(c) >= 1/4 }, or min { z_i : b_i(c) > 1/100 } where there is none             surface
    s_i(c) = w_i b_i(c) (z*(c) / z_i)^(1 / temperature) if z_i and z*(c) differ by a factor of at most 1 + depth_tolerance
             and b_i(c) > 1/100, else 0                                                                   softmax over depth
    f(c)   = sum_i s_i(c) f_i / sum_i s_i(c)                                                              latent read

and the depth of c is the same mean of z_i. A point hides what is behind it in the cells that it covers: the one it falls into,
to which it gives 1/4 or more, and its nearest neighbours. Neighbours that it merely touches show it only if it lies on their
own surface, or if nothing covers them. So objects keep their outlines, and a depth map that is lifted and read from its own
camera comes back as it was, edges included, although rounding makes every point touch the cells next to its own.

z* is a constant to gradients, and rightly so: it cancels in f(c). What no cell shows is dropped before anything is splatted,
and one scatter takes all four shares, all channels and the normalisation: the cost is O(N), most of it for what is seen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import pixels_from_world, resize_intrinsics
from embodied_liftwm.protocols import Camera

NEAR_M = 0.01
"""Points nearer than this, and those behind the camera, are not seen."""
COVERS, TOUCHES = 0.25, 0.01
"""Least shares with which a point covers and touches a cell. Smaller ones are noise, and gradients grow with 1 / share."""
PRECEDENCE = 1000.0
"""1/m by which sure points come before all others; above 1 / NEAR_M."""
LARGEST_EXPONENT = 60.0
"""Softmax weights up to exp of this can be summed in float32."""
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column of the cells of a block, in the order of its shares."""


class LatentRead(NamedTuple):
    """What the cells of each camera show; h and w are the image's height and width over the stride."""

    latents: Tensor  # [B * V, D, h, w] 0 where nothing is visible
    depths: Tensor  # [B * V, h, w] expected z-depth in metres, 0 where nothing is visible
    visible: Tensor  # [B * V, h, w] in [0, 1]: how much was written, the sum of w_i b_i(c) of what c shows, at most 1


def read_latents(
    points: Tensor,
    latents: Tensor,
    weights: Tensor,
    cameras: Camera,
    stride: int,
    *,
    depth_tolerance: float = 0.1,
    temperature: float = 0.05,
) -> LatentRead:
    """Read anchored latents from V cameras a row; differentiable in points, latents, weights, poses and intrinsics.

    Args:
        points: metres, world frame. [B, N, 3]
        latents: any D >= 0 channels; of any dtype, those in view are read as the points'. [B, N, D]
        weights: confidence, 0 in empty slots, which may hold anything. [B, N]
        cameras: B * V cameras, the views of a row one after another.
        stride: pixels a side of a cell; divides the cameras' height and width.
        depth_tolerance: share of the surface's depth by which what a cell shows may lie behind it, at least 0.001.
        temperature: difference of log-depth at which a point weighs 1 / e of another.

    Raises:
        UserError: shapes do not fit, the stride does not divide the image, or the tolerance is 0 or many temperatures.
    """
    _validate(points, latents, weights, cameras, stride)
    grid = _grid(cameras, stride)
    with torch.no_grad():
        rows, views = _in_view(points, weights, _matrices(cameras, stride), grid)
    # Again from the start, for what is in view alone: gradients have no business with the rest of the memory.
    flat = (values.flatten(0, 1).index_select(0, rows) for values in (points, latents, weights.unsqueeze(-1)))
    seen, carried, weight = flat
    carried, weight = carried.to(seen.dtype), weight.squeeze(-1)
    return read_placed(seen, carried, weight, views, cameras, stride, depth_tolerance=depth_tolerance, temperature=temperature)


def read_placed(
    points: Tensor,
    latents: Tensor,
    weights: Tensor,
    views: Tensor,
    cameras: Camera,
    stride: int,
    sure: Tensor | None = None,
    *,
    depth_tolerance: float = 0.1,
    temperature: float = 0.05,
) -> LatentRead:
    """`read_latents` of points [M, 3], latents [M, D] and weights [M], each for the camera `views` [M] alone.

    The points lie in front of their camera, within half a cell of its image; others are not splatted. Where some are `sure`
    [M] bool, a point that is not hides none that is.
    """
    tolerance = _log_tolerance(depth_tolerance, temperature)
    grid, matrices = _grid(cameras, stride), _matrices(cameras, stride)
    with torch.no_grad():
        placed, projected = _place(points, views, matrices, grid)
        shown = _depth_test(placed, projected, grid, tolerance, sure)
    rows, blocks = shown.placed.rows, shown.placed.blocks
    projected = _project(points.index_select(0, rows), matrices, shown.placed.views)
    shares, depths = _shares(projected, shown.placed.corners)
    mass = torch.where(shown.cells, shares * weights.index_select(0, rows)[:, None], 0.0)
    softmax = torch.where(shown.cells, (shown.log_surface - depths.log()[:, None]) / temperature, 0.0).exp()
    values = [latents.index_select(0, rows), depths[:, None], torch.ones_like(depths[:, None])]
    splats = (mass * softmax)[:, :, None] * torch.cat(values, dim=-1)[:, None]
    sums = _scatter(splats.flatten(1), blocks, grid)
    total = sums[:, -1:]
    means = sums[:, :-1] / torch.where(total > 0, total, 1.0)
    visible = _scatter(mass, blocks, grid).squeeze(1).clamp(max=1.0)
    return LatentRead(means[:, :-1], means[:, -1], visible)


def points_of_squares(sides: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat each of K squares k^2 times: its row [Q], and the point's place in it, in [-1/2, 1/2]. [Q, 2]"""
    counts = sides * sides
    rows = torch.repeat_interleave(counts)
    nth = torch.arange(len(rows), device=sides.device) - (counts.cumsum(0) - counts)[rows]
    side = sides[rows]
    place = torch.stack([nth % side, nth // side], dim=-1) + 0.5
    return rows, place / side[:, None] - 0.5


class Grid(NamedTuple):
    """The cells of all cameras. Each four cell centres that a point can lie between are a block; some reach over the border."""

    cameras: int  # B * V
    height: int  # cells
    width: int  # cells

    @property
    def blocks(self) -> int:
        return self.cameras * (self.height + 1) * (self.width + 1)

    def windows(self, blocks: Tensor) -> list[Tensor]:
        """What the blocks hold for each of their four cells, by cell. [blocks, 4 * C] -> 4 of [B * V, h, w, C]"""
        grid = blocks.view(self.cameras, self.height + 1, self.width + 1, 4, -1)
        return [grid[:, 1 - r : 1 - r + self.height, 1 - c : 1 - c + self.width, 2 * r + c] for r, c in CORNERS]


class Placed(NamedTuple):
    """Points in some camera's view, M of them, each as often as it is seen."""

    rows: Tensor  # [M] int64 which of the points given
    views: Tensor  # [M] int64 which of the B * V cameras
    corners: Tensor  # [M, 2] column and row of the lower right cell of the block
    blocks: Tensor  # [M] int64


class Shown(NamedTuple):
    """Points that some cell shows."""

    placed: Placed
    cells: Tensor  # [M, 4] bool: which cells of the block
    log_surface: Tensor  # [M, 4] logarithm of z* of these cells


def _grid(cameras: Camera, stride: int) -> Grid:
    return Grid(len(cameras.intrinsics), cameras.height // stride, cameras.width // stride)


def _matrices(cameras: Camera, stride: int) -> Tensor:
    """From world points to homogeneous cell coordinates. [B * V, 3, 4]"""
    return pixels_from_world(resize_intrinsics(cameras.intrinsics, 1.0 / stride), cameras.world_from_camera)


def _in_view(points: Tensor, weights: Tensor, matrices: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Cull to the cameras' frusta: which of the B * N points [M], in which of the B * V cameras [M]."""
    batch, size = weights.shape
    views = grid.cameras // batch
    stacked = matrices.view(batch, 3 * views, 4)
    projected = torch.baddbmm(stacked[..., 3:], stacked[..., :3], points.mT).view(grid.cameras, 3, size)
    seen = (weights > 0).repeat_interleave(views, dim=0) & _reachable(projected, 1, grid)
    found = seen.flatten().nonzero().squeeze(1)
    view = found // size
    return view // views * size + found % size, view


def _reachable(projected: Tensor, axis: int, grid: Grid) -> Tensor:
    """Whether points touch a cell of the grid; `axis` holds their homogeneous cell coordinates (u z, v z, z)."""
    u, v, depths = projected.unbind(axis)
    reach = 0.5 * depths
    inside = (u >= -reach) & (u <= grid.width * depths + reach) & (v >= -reach) & (v <= grid.height * depths + reach)
    return inside & (depths > NEAR_M)


def _place(points: Tensor, views: Tensor, matrices: Tensor, grid: Grid) -> tuple[Placed, Tensor]:
    """Find the block of each point that touches a cell. Also returns what `_project` would of these points."""
    projected = _project(points, matrices, views)
    rows = _reachable(projected, -1, grid).nonzero().squeeze(1)
    projected, view = projected[rows], views[rows]
    corners = (projected[:, :2] / projected[:, 2:] + 0.5).floor()
    corners = torch.minimum(corners.clamp_min(0), corners.new_tensor([grid.width, grid.height]))
    column, row = corners.long().unbind(-1)
    blocks = (view * (grid.height + 1) + row) * (grid.width + 1) + column
    return Placed(rows, view, corners, blocks), projected


def _project(points: Tensor, matrices: Tensor, views: Tensor) -> Tensor:
    """Homogeneous cell coordinates (u z, v z, z) of points [M, 3], each in the camera `views` [M] of `matrices` [., 3, 4]."""
    if len(matrices) == 1:
        return points @ matrices[0, :, :3].T + matrices[0, :, 3]
    own = matrices.index_select(0, views)
    return (own[..., :3] * points[:, None]).sum(-1) + own[..., 3]


def _shares(projected: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear shares of the block's cells [M, 4], and z-depths [M]."""
    depths = projected[:, 2]
    right, down = (projected[:, :2] / depths[:, None] + 0.5 - corners).unbind(-1)
    left, up = 1.0 - right, 1.0 - down
    return torch.stack([up * left, up * right, down * left, down * right], dim=-1), depths


def _depth_test(placed: Placed, projected: Tensor, grid: Grid, tolerance: float, sure: Tensor | None) -> Shown:
    """Keep the points that lie on the surface of a cell, within `tolerance` of log-depth."""
    shares, depths = _shares(projected, placed.corners)
    first = torch.zeros_like(depths) if sure is None else PRECEDENCE * sure[placed.rows].to(depths)
    surface = _log_surface(shares, depths[:, None], first[:, None], placed.blocks, grid)
    cells = (shares > TOUCHES) & ((surface - depths.log()[:, None]).abs() <= tolerance)
    kept = cells.any(-1).nonzero().squeeze(1)
    return Shown(Placed(*(values[kept] for values in placed)), cells[kept], surface[kept])


def _log_surface(shares: Tensor, depths: Tensor, first: Tensor, blocks: Tensor, grid: Grid) -> Tensor:
    """Logarithm of z* of the cells around each point; infinite where a cell has none. [M, 4]"""
    # Negative for points that cover the cell, so that any of them comes before all that touch it.
    keys = torch.where(shares >= COVERS, -1.0 / depths - first, torch.where(shares > TOUCHES, depths, torch.inf))
    least = keys.new_full((grid.blocks, 4), torch.inf).scatter_reduce(0, blocks[:, None].expand(-1, 4), keys, "amin")
    nearest = torch.stack(grid.windows(least)).amin(0).squeeze(-1)
    covered = torch.where(nearest <= -PRECEDENCE, nearest + PRECEDENCE, nearest)
    surface = F.pad(torch.where(nearest < 0, -1.0 / covered, nearest).log(), (1, 1, 1, 1))
    around = [surface[:, r : r + grid.height + 1, c : c + grid.width + 1] for r, c in CORNERS]
    return torch.stack(around, dim=-1).view(-1, 4)[blocks]


def _scatter(splats: Tensor, blocks: Tensor, grid: Grid) -> Tensor:
    """Add up what every point gives to the cells of its block. [M, 4 * C] -> [B * V, C, h, w]"""
    added = splats.new_zeros(grid.blocks, splats.shape[1]).index_add(0, blocks, splats)
    first, second, third, fourth = grid.windows(added)
    return (first + second + third + fourth).movedim(-1, 1)


def _log_tolerance(depth_tolerance: float, temperature: float) -> float:
    if not depth_tolerance >= 1e-3:  # below, rounding would hide surfaces from themselves
        raise UserError(f"depth_tolerance={depth_tolerance}: must be at least 0.001")
    tolerance = math.log1p(depth_tolerance)
    if not tolerance / LARGEST_EXPONENT <= temperature:
        least = f"{tolerance / LARGEST_EXPONENT:.2g} with depth_tolerance={depth_tolerance}"
        raise UserError(f"temperature={temperature}: must be at least {least}")
    return tolerance


def _validate(points: Tensor, latents: Tensor, weights: Tensor, cameras: Camera, stride: int) -> None:
    shapes = [list(values.shape) for values in (points, latents, weights)]
    rows = shapes[0][:2]
    if points.dim() != 3 or latents.dim() != 3 or shapes[0][2] != 3 or shapes[1][:2] != rows or shapes[2] != rows:
        raise UserError(f"expected points [B, N, 3], latents [B, N, D] and weights [B, N], got {', '.join(map(str, shapes))}")
    if not rows[0] or len(cameras.intrinsics) % rows[0]:
        raise UserError(f"expected a multiple of {rows[0]} cameras for as many rows, got {len(cameras.intrinsics)}")
    if stride < 1 or cameras.height % stride or cameras.width % stride:
        raise UserError(f"stride={stride}: must divide the cameras' {cameras.height} x {cameras.width} pixels")
