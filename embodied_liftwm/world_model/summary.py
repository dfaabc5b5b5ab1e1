"""What a world model tells planners and policies of its map: a bird's-eye code around the agent, and where the goal may be."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.goals import colour_likeness, goal_place

GRID_CELLS, GRID_CELL_M = 12, 0.75
"""The bird's-eye summary covers 9 x 9 m around the agent."""
GRID_CHANNELS, GOAL_FEATURES = 5, 5
WHOLE_VOTE = 0.125
"""Surface, in AREA_M2, that has a whole vote on where the goal is."""


class Surface(NamedTuple):
    """All that a map keeps, in its smallest pieces: M of each of N primitives."""

    points: Tensor  # [B, N, M, 3] metres, world frame
    rgb: Tensor  # [B, N, M, 3] in [0, 1]
    area: Tensor  # [B, N, M] in AREA_M2, 0 for free ones


def egocentric(means: Tensor, world_from_camera: Tensor) -> Tensor:
    """World points [B, N, 3] as (ahead, left, up) of a camera, in its heading: turned about gravity only. [B, N, 3]"""
    heading = F.normalize(world_from_camera[:, :2, 2], dim=-1)
    offset = means - world_from_camera[:, None, :3, 3]
    ahead = (offset[..., :2] * heading[:, None]).sum(-1)
    left = offset[..., 1] * heading[:, None, 0] - offset[..., 0] * heading[:, None, 1]
    return torch.stack([ahead, left, offset[..., 2]], dim=-1)


def egocentric_code(surface: Surface, goal: Tensor, world_from_camera: Tensor) -> tuple[Tensor, Tensor]:
    """What a map holds around the agent, as `birds_eye` puts it, and where in it the goal is, as `goal_features` put it.

    Args:
        surface: the map.
        goal: the task's instruction. [B, G]
        world_from_camera: where the agent is. [B, 4, 4]
    """
    likeness = colour_likeness(surface.rgb, goal)
    mass, goal_mass = surface.area.sum(-1), (surface.area * likeness).sum(-1)
    grid = birds_eye(mass, goal_mass, *egocentric(_middles(surface), world_from_camera).unbind(-1))
    place = goal_place(surface.points.flatten(1, 2), surface.area.flatten(1) / WHOLE_VOTE, likeness.flatten(1))
    ahead, left, _ = egocentric(place.xyz[:, None], world_from_camera).unbind(-1)
    return grid, goal_features(WHOLE_VOTE * place.mass[:, None], ahead, left)


def _middles(surface: Surface) -> Tensor:
    """Mean of the pieces of every primitive. [B, N, 3]"""
    there = (surface.area > 0).to(surface.points)
    return (surface.points * there[..., None]).sum(2) / there.sum(-1, keepdim=True).clamp_min(1.0)


def birds_eye(mass: Tensor, goal_mass: Tensor, ahead: Tensor, left: Tensor, up: Tensor) -> Tensor:
    """Occupancy by height, evidence and goal likeness of N primitives, log-summed on a grid around the agent.

    Args:
        mass: how much there is of each, 0 for free ones. [B, N]
        goal_mass: and how much of that looks like the goal. [B, N]
        ahead, left, up: where it is, metres from the camera in its heading. [B, N]

    Returns:
        [B, cells * channels]
    """
    half = GRID_CELLS * GRID_CELL_M / 2
    column = ((ahead + half) / GRID_CELL_M).floor()
    row = ((left + half) / GRID_CELL_M).floor()
    inside = (column >= 0) & (column < GRID_CELLS) & (row >= 0) & (row < GRID_CELLS)
    cell = (row.clamp(0, GRID_CELLS - 1) * GRID_CELLS + column.clamp(0, GRID_CELLS - 1)).long()
    mass = mass * inside
    low, high = (up < -0.5).to(mass), (up > 0.8).to(mass)
    channels = torch.stack([mass * low, mass * (1 - low) * (1 - high), mass * high, goal_mass * inside, mass], dim=-1)
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
