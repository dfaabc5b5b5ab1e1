"""Cameras beside the agent's path: a step away from a frame and turned, in space that the frame itself sees to be free.

A camera inside a thing, or behind a wall, would be shown what nobody ever sees. So each one stands where the frame looks
through: within its view, and clearly before the surface there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import project
from embodied_liftwm.geometry.se3 import make_pose, so3_exp
from embodied_liftwm.priors.contract import Clip

STEP_M, ASIDE_DEG, TURN_DEG = (0.2, 0.6), (10.0, 35.0), 25.0
"""Length of a step, its angle from the optical axis to either side, and the largest turn about the camera's own vertical."""
CLEARANCE_M, ROOM_M = 0.1, 0.3
"""Around the camera, what the frame sees within the first distance must be farther than it by the second."""
VISITED_M, VISITED_DEG = 0.1, 10.0
"""A camera that is nearer to one of the clip's than both is one that the agent has been at."""
TRIES = 8
"""Cameras drawn for each one wanted."""


class Beside(NamedTuple):
    """Cameras, those of a frame one after another."""

    number: Tensor  # [K] int64: of the frame among those that were asked for
    frame_from_view: Tensor  # [K, 4, 4] in that frame's camera, metres


def cameras_beside(clip: Clip, frames: Tensor, depth: Tensor, wanted: int, seed: int) -> Beside:
    """Draw up to `wanted` cameras beside each of some frames; the same for the same seed.

    Args:
        clip: on the CPU.
        frames: [K] int64
        depth: z-depth of these frames, metres. [K, H, W]
        wanted: a frame.
        seed: of the draws.
    """
    count = len(frames)
    candidates = _drawn(count, TRIES * wanted, seed)
    poses = clip.world_from_camera[frames].unsqueeze(1) @ candidates
    good = _free(depth, clip.intrinsics, candidates[..., :3, 3]) & ~_visited(poses, clip.world_from_camera)
    first = good & (good.cumsum(1) <= wanted)
    number, draw = first.nonzero().unbind(1)
    return Beside(number, candidates[number, draw])


def _drawn(count: int, draws: int, seed: int) -> Tensor:
    """Poses in the camera that they are beside. [count, draws, 4, 4]"""
    numbers = torch.rand(count, draws, 4, generator=torch.Generator().manual_seed(seed))
    step = STEP_M[0] + (STEP_M[1] - STEP_M[0]) * numbers[..., 0]
    aside = torch.deg2rad(ASIDE_DEG[0] + (ASIDE_DEG[1] - ASIDE_DEG[0]) * numbers[..., 1])
    side = torch.where(numbers[..., 2] < 0.5, -1.0, 1.0)
    turn = math.radians(TURN_DEG) * (2.0 * numbers[..., 3] - 1.0)
    none = torch.zeros_like(step)
    moved = torch.stack([side * step * aside.sin(), none, step * aside.cos()], dim=-1)
    return make_pose(so3_exp(torch.stack([none, turn, none], dim=-1)), moved)


def _free(depth: Tensor, intrinsics: Tensor, centres: Tensor) -> Tensor:
    """Whether frames see room at points [K, D, 3] of their cameras: what is around them is farther. [K, D] bool"""
    count, height, width = depth.shape
    corners = CLEARANCE_M * centres.new_tensor([[x, y, 0.0] for x in (-1, 0, 1) for y in (-1, 0, 1)])
    around = (centres.unsqueeze(2) + corners).flatten(1, 2)
    here = torch.eye(4).expand(count, 4, 4)
    pixels, z = project(around, intrinsics.expand(count, 3, 3), here)
    size = pixels.new_tensor([width, height])
    inside = ((pixels >= 0) & (pixels <= size)).all(-1)
    # The nearest of a pixel's neighbourhood: between those nine pixels there may be an edge.
    nearest = -F.max_pool2d(-depth.unsqueeze(1), 5, stride=1, padding=2)
    seen = F.grid_sample(nearest, (2.0 * pixels / size - 1.0).unsqueeze(1), mode="nearest", align_corners=False)[:, 0, 0]
    return (inside & (seen > z + ROOM_M)).unflatten(1, (-1, len(corners))).all(-1)


def _visited(poses: Tensor, visited: Tensor) -> Tensor:
    """Whether the agent was at cameras [K, D, 4, 4], or as good as there, with one of [F, 4, 4]. [K, D] bool"""
    flat = poses.flatten(0, 1)
    near = torch.cdist(flat[:, :3, 3], visited[:, :3, 3]) < VISITED_M
    same_way = flat[:, :3, 2] @ visited[:, :3, 2].T > math.cos(math.radians(VISITED_DEG))
    return (near & same_way).any(1).view(poses.shape[:2])
