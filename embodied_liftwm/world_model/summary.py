"""What a world model tells planners and policies of its map: a bird's-eye code around the agent, and where the goal may be."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GRID_CELLS, GRID_CELL_M = 12, 0.75
"""The bird's-eye summary covers 9 x 9 m around the agent."""
GOAL_SHARPNESS = 40.0
"""Inverse squared colour distance at which a primitive stops looking like the goal."""


AREA_M2 = 0.02
"""Surface that weighs 1 in the bird's-eye summary."""
GRID_CHANNELS, GOAL_FEATURES = 5, 5


VOTERS, VOTE, CLUSTER_M = 256, 0.125, 0.35
"""Pieces of surface among which the goal is looked for; how much surface, in AREA_M2, has a whole vote; an object's radius."""
CENTRING = 3
"""Steps of mean shift from the best piece."""


class Surface(NamedTuple):
    """All that a map keeps, in its smallest pieces: M of each of N primitives."""

    points: Tensor  # [B, N, M, 3] metres, world frame
    rgb: Tensor  # [B, N, M, 3] in [0, 1]
    area: Tensor  # [B, N, M] in AREA_M2, 0 for free ones


class Landmarks(NamedTuple):
    """The map's primitives, for a summary."""

    means: Tensor  # [B, N, 3] metres, world frame
    mass: Tensor  # [B, N] how much there is of it, 0 for free ones
    goal_mass: Tensor  # [B, N] and how much of that looks like the goal


def egocentric(means: Tensor, world_from_camera: Tensor) -> Tensor:
    """World points [B, N, 3] as (ahead, left, up) of a camera, in its heading: turned about gravity only. [B, N, 3]"""
    heading = F.normalize(world_from_camera[:, :2, 2], dim=-1)
    offset = means - world_from_camera[:, None, :3, 3]
    ahead = (offset[..., :2] * heading[:, None]).sum(-1)
    left = offset[..., 1] * heading[:, None, 0] - offset[..., 0] * heading[:, None, 1]
    return torch.stack([ahead, left, offset[..., 2]], dim=-1)


def goal_likeness(rgb: Tensor, goal: Tensor) -> Tensor:
    """How much colours [B, ..., 3] look like the goal's (its first three numbers), 0 before a goal is given. [B, ...]"""
    if goal.shape[-1] < 3:
        return rgb.new_zeros(rgb.shape[:-1])
    ones = [1] * (rgb.dim() - 2)
    distance = (rgb - goal[:, :3].view(-1, *ones, 3)).square().sum(-1)
    given = (goal.abs().sum(-1) > 0).to(rgb).view(-1, *ones)
    return torch.exp(-GOAL_SHARPNESS * distance) * given


def landmarks(found: Surface, likeness: Tensor) -> Landmarks:
    """Primitives of pieces, of which `likeness` [B, N, M] says how much they look like the goal."""
    there = (found.area > 0).to(found.points)
    means = (found.points * there[..., None]).sum(2) / there.sum(-1, keepdim=True).clamp_min(1.0)
    return Landmarks(means, found.area.sum(-1), (found.area * likeness).sum(-1))


def goal_place(points: Tensor, area: Tensor, likeness: Tensor) -> tuple[Tensor, Tensor]:
    """Where the best compact cluster of what looks like the goal is; other things of its hue do not pull it away.

    Of the VOTERS pieces of surface that look most like it, those within CLUSTER_M of one vote for its place, and those within
    2.5 times that vote against it: a small object wins over a large wall. The best match wins, not the largest.

    Args:
        points: pieces of surface, world, metres. [B, K, 3]
        area: of each, in AREA_M2, 0 for free ones. [B, K]
        likeness: how much they look like the goal, in [0, 1]. [B, K]

    Returns:
        World position [B, 3] in metres, and the surface of the cluster, weighed by likeness, in AREA_M2 [B]; 0 where nothing is
        alike.
    """
    if not points.shape[1]:
        return points.new_zeros(len(points), 3), area.new_zeros(len(points))
    votes = likeness * (area / VOTE).clamp_max(1.0)
    best = votes.topk(min(VOTERS, votes.shape[1]), dim=1).indices
    points = points.gather(1, best[..., None].expand(-1, -1, 3))
    votes, alike, area = (values.gather(1, best) for values in (votes, likeness, area))
    apart = torch.cdist(points, points)
    inside = (apart < CLUSTER_M).to(votes)
    ring = (apart < 2.5 * CLUSTER_M).to(votes) - inside
    number = (inside - 0.5 * ring) @ votes[..., None]
    total = inside @ votes[..., None]
    quality = (inside @ (votes * alike)[..., None]) / total.clamp_min(1e-6)
    score = (quality * (1.0 - torch.exp(-number.clamp_min(0.0) / 4.0))).squeeze(-1)
    place = points.gather(1, score.argmax(1)[:, None, None].expand(-1, 1, 3))
    for _ in range(CENTRING):
        chosen = (torch.cdist(place, points).squeeze(1) < CLUSTER_M).to(votes)
        weight = chosen * votes * alike
        place = ((weight[..., None] * points).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-6))[:, None]
    return place.squeeze(1), (chosen * area * alike).sum(1)


def birds_eye(found: Landmarks, ahead: Tensor, left: Tensor, up: Tensor) -> Tensor:
    """Occupancy by height, evidence and goal likeness, log-summed on a grid around the agent. [B, cells * channels]"""
    half = GRID_CELLS * GRID_CELL_M / 2
    column = ((ahead + half) / GRID_CELL_M).floor()
    row = ((left + half) / GRID_CELL_M).floor()
    inside = (column >= 0) & (column < GRID_CELLS) & (row >= 0) & (row < GRID_CELLS)
    cell = (row.clamp(0, GRID_CELLS - 1) * GRID_CELLS + column.clamp(0, GRID_CELLS - 1)).long()
    mass = found.mass * inside
    low, high = (up < -0.5).to(mass), (up > 0.8).to(mass)
    channels = torch.stack([mass * low, mass * (1 - low) * (1 - high), mass * high, found.goal_mass * inside, mass], dim=-1)
    grid = channels.new_zeros(len(mass), GRID_CELLS**2, channels.shape[-1])
    grid = grid.scatter_add(1, cell[..., None].expand_as(channels), channels)
    return torch.log1p(grid).flatten(1)


def goal_features(likeness: Tensor, ahead: Tensor, left: Tensor) -> Tensor:
    """Believed direction (2), distance, mass and presence of what looks like the goal. [B, 5]"""
    mass = likeness.sum(-1)
    x = (likeness * ahead).sum(-1) / (mass + 0.1)
    y = (likeness * left).sum(-1) / (mass + 0.1)
    distance = torch.sqrt(x * x + y * y + 1e-6)
    return torch.stack([x / distance, y / distance, distance / 5.0, torch.log1p(mass), (mass > 1.0).to(mass)], dim=-1)
