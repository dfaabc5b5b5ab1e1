"""Moving primitives: a fixed budget of points that go on moving while nothing sees them.

The map of patches takes the world to stand still. What an encoder believes to move is kept here: a point a cell, with a
velocity, a colour, a latent and its size. Time passes for all of them (`MoverDynamics`): those behind a screen come out on its
other side. A frame replaces the points that it sees again, which hand their velocity on; takes those away that it sees through;
and adds what moves in it. Points that it does not show, since they are out of view or hidden by something nearer, stay. Reading
is splatting (`latents.read`), each point as large as the cell that it was seen through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.cameras import back_project, project, resize_intrinsics
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.latents.read import LatentRead, points_of_squares, read_placed
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import TensorTree

MOVES = 0.9
"""Probability from which on a cell is taken to move: with 0.5 a quarter of the points are right, with this nearly half
(docs/experiments.md, section 20, which tried the next two as well)."""
LEAST_LOOKS = 3.0
"""A point that was seen to move in fewer frames is forgotten when it is not seen to move again: most of them were mistakes."""
SAME_DEPTH, GATE_SIGMAS = 0.1, 2.0
"""Share of a depth by which a point and what is seen in its place may differ, or so many of their standard deviations."""
SAME_COLOUR = 0.12
"""Mean difference of colour up to which what is seen in a point's place is that point, even if it is not seen to move."""
MOST_LOOKS = 8.0
"""A velocity is the mean of at most so many looks: things do change their ways."""
POINT_PX, MOST_POINTS = 0.7, 8
"""Largest distance of splatted points of one primitive in pixels, and how many of them a side there are at most."""
NEAR_M = 0.05
RETENTION = 0.995
"""Share of its velocity that an object keeps a step, before anything is learned."""
DRIFT_M = 0.005
"""Standard deviation by which an object strays from its way a step, before anything is learned."""


@dataclass(frozen=True)
class Movers(TensorTree):
    """M moving points a row."""

    means: Tensor  # [B, M, 3] metres, world frame
    velocities: Tensor  # [B, M, 3] metres a step
    rgb: Tensor  # [B, M, 3] in [0, 1]
    latents: Tensor  # [B, M, D]
    sizes: Tensor  # [B, M] metres
    evidence: Tensor  # [B, M] 1/m^2 inverse variance of where it is, 0 for free ones
    looks: Tensor  # [B, M] frames that its velocity comes from
    unseen: Tensor  # [B, M] steps since it was last seen

    @classmethod
    def empty(cls, batch_size: int, budget: int, latent_dim: int, like: Tensor) -> Self:
        """Only free points, on the device and of the dtype of `like`."""
        vectors = [like.new_zeros(batch_size, budget, n) for n in (3, 3, 3, latent_dim)]
        return cls(*vectors, *(like.new_zeros(batch_size, budget) for _ in range(4)))


class Sight(NamedTuple):
    """What a frame shows of things that move, cell by cell."""

    depth: Tensor  # [B, h, w] metres
    certainty: Tensor  # [B, h, w] 1/m^2 inverse variance of where the surface is, 0 where that is not known
    velocity: Tensor  # [B, 3, h, w] metres a step, if it moves
    moving: Tensor  # [B, h, w] probability that it does
    latents: Tensor  # [B, D, h, w]
    rgb: Tensor  # [B, 3, h, w]


class MoverDynamics(nn.Module):
    """Time passes: velocities are kept to a learned share a step, and where things are becomes unsure by a learned drift.

    v(t + s) = r^s v(t),  x(t + s) = x(t) + v(t) (r^s - 1) / (r - 1),  var(t + s) = var(t) + (q s)^2, for negative s too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss_logit = nn.Parameter(torch.tensor((1 - RETENTION) / RETENTION).log())
        self.log_drift = nn.Parameter(torch.tensor(DRIFT_M).log())

    def forward(self, movers: Movers, steps: Tensor) -> Movers:
        """The points after `steps` [B]."""
        elapsed = steps[:, None]
        loss = torch.sigmoid(self.loss_logit)
        kept = torch.exp(elapsed * torch.log1p(-loss))
        way = (1.0 - kept) / loss
        variance = 1.0 / movers.evidence.clamp_min(1e-6) + (elapsed * self.log_drift.exp()).square()
        return replace(
            movers,
            means=movers.means + way[..., None] * movers.velocities,
            velocities=kept[..., None] * movers.velocities,
            evidence=torch.where(movers.evidence > 0, 1.0 / variance, 0.0),
            unseen=(movers.unseen + elapsed).clamp_min(0.0),
        )


def write_movers(movers: Movers, sight: Sight, camera: Camera, stride: int) -> Movers:
    """Take a frame a row into the moving points.

    Args:
        movers: as they are by now (`MoverDynamics`).
        sight: what is seen.
        camera: by whom.
        stride: pixels a side of a cell.
    """
    cells = Camera(resize_intrinsics(camera.intrinsics, 1.0 / stride), camera.world_from_camera, *sight.depth.shape[1:])
    found = _compare(movers, sight, cells)
    new, valid = _primitives(movers, sight, cells, found)
    movers = replace(movers, unseen=torch.where(found.still, 0.0, movers.unseen))
    kept = (movers.evidence > 0) & ~found.gone & (movers.looks >= LEAST_LOOKS)
    worth = torch.cat([valid * (1.0 + sight.moving.flatten(1)), kept / (1.0 + movers.unseen)], dim=1).detach()
    best = worth.topk(movers.means.shape[1], dim=1)
    chosen = _either(new, movers, best.indices)
    return replace(chosen, evidence=chosen.evidence * (best.values > 0))


def _either(first: Movers, second: Movers, which: Tensor) -> Movers:
    """The points `which` [B, K] of both lists, one after the other."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        index = which.view(*which.shape, *[1] * (a.dim() - 2))
        return torch.cat([a, b], dim=1).gather(1, index.expand(*which.shape, *a.shape[2:]))

    return Movers(*map(choose, first.named_tensors().values(), second.named_tensors().values()))


class _Fate(NamedTuple):
    """What a frame makes of points [B, M]."""

    cell: Tensor  # int64 where they fall, 0 outside
    replaced: Tensor  # bool: the cell shows them, and moves: a new point is made of it
    still: Tensor  # bool: the cell shows something of their colour in their place, although it is not believed to move
    gone: Tensor  # bool: replaced, or no longer there


@torch.no_grad()
def _compare(movers: Movers, sight: Sight, cells: Camera) -> _Fate:
    """Hold points against the frame: by projection, depth and colour."""
    uv, z = project(movers.means, cells.intrinsics, inverse_pose(cells.world_from_camera))
    column, row = uv.floor().long().unbind(-1)
    inside = (z > NEAR_M) & (column >= 0) & (column < cells.width) & (row >= 0) & (row < cells.height)
    cell = torch.where(inside, row * cells.width + column, 0)
    depth, certainty, moving = (t.flatten(1).gather(1, cell) for t in (sight.depth, sight.certainty, sight.moving))
    rgb = sight.rgb.flatten(2).mT.gather(1, cell[..., None].expand(-1, -1, 3))
    known = (movers.evidence > 0) & inside & (certainty > 0)
    doubt = (1.0 / movers.evidence.clamp_min(1e-6) + 1.0 / certainty.clamp_min(1e-6)).sqrt()
    tolerance = torch.maximum(SAME_DEPTH * depth, GATE_SIGMAS * doubt) + movers.sizes
    shown = known & ((z - depth).abs() < tolerance)
    alike = (rgb - movers.rgb).abs().mean(-1) < SAME_COLOUR
    replaced, still = shown & (moving > MOVES), shown & ~(moving > MOVES) & alike
    return _Fate(cell, replaced, still, replaced | (known & (z < depth - tolerance)))


def _primitives(movers: Movers, sight: Sight, cells: Camera, found: _Fate) -> tuple[Movers, Tensor]:
    """A point a cell with the velocity of those that it replaces taken in, and which cells move. [B, h * w]"""
    points = back_project(sight.depth, cells.intrinsics, cells.world_from_camera).flatten(1, 2)
    evidence = sight.certainty.flatten(1)
    looks, before = _smooth(found.replaced * movers.looks, movers.velocities, found.cell, cells)
    velocity = sight.velocity.flatten(2).mT
    velocity = velocity + (looks / (looks + 1.0))[..., None] * (before - velocity)
    sizes = (sight.depth / cells.intrinsics[:, 0, 0, None, None]).flatten(1)
    new = Movers(
        means=points,
        velocities=velocity,
        rgb=sight.rgb.flatten(2).mT,
        latents=sight.latents.flatten(2).mT,
        sizes=sizes,
        evidence=evidence,
        looks=(looks + 1.0).clamp_max(MOST_LOOKS),
        unseen=torch.zeros_like(sizes),
    )
    return new, ((sight.moving.flatten(1) > MOVES) & (evidence > 0)).to(sizes)


@torch.no_grad()
def _smooth(weight: Tensor, velocities: Tensor, cell: Tensor, cells: Camera) -> tuple[Tensor, Tensor]:
    """Looks and mean velocity of the points that fell into 3 x 3 cells around each. [B, h * w] and [B, h * w, 3]"""
    batch, count = len(weight), cells.height * cells.width
    carried = torch.cat([weight[..., None], weight[..., None] * velocities, (weight > 0)[..., None].to(weight)], dim=-1)
    sums = weight.new_zeros(batch, count, 5).scatter_add(1, cell[..., None].expand_as(carried), carried)
    image = F.avg_pool2d(sums.mT.view(batch, 5, cells.height, cells.width), 3, stride=1, padding=1)
    total, moved, points = image.flatten(2).mT.split([1, 3, 1], dim=-1)
    return (total / points.clamp_min(1e-6)).squeeze(-1), moved / total.clamp_min(1e-6)


def read_movers(movers: Movers, values: Tensor, cameras: Camera) -> LatentRead:
    """Splat the points' values into one camera a row; differentiable in values and means.

    Args:
        movers: B rows, as they are when they are looked at.
        values: what to read of each point. [B, M, C]
        cameras: B cameras.
    """
    with torch.no_grad():
        which, views, offsets = _billboards(movers, cameras)
    points = movers.means.flatten(0, 1).index_select(0, which) + offsets
    carried = values.flatten(0, 1).index_select(0, which)
    return read_placed(points, carried, torch.ones_like(points[:, 0]), views, cameras, 1)


def _billboards(movers: Movers, cameras: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Points of squares that face the camera: which of the B * M [Q], in which camera [Q], and where on the square [Q, 3]."""
    _, z = project(movers.means, cameras.intrinsics, inverse_pose(cameras.world_from_camera))
    there = (movers.evidence > 0) & (z > NEAR_M)
    pixels = movers.sizes * cameras.intrinsics[:, 0, 0, None] / z.clamp_min(NEAR_M)
    sides = torch.where(there, (pixels / POINT_PX).ceil().clamp(1, MOST_POINTS), 0.0).long().flatten()
    which, place = points_of_squares(sides)
    views = which // movers.means.shape[1]
    axes = cameras.world_from_camera[views, :3, :2]
    return which, views, (axes * (place * movers.sizes.flatten()[which, None])[:, None]).sum(-1)
