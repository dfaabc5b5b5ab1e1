"""The toy room with walls of noise, fine enough for features: frames, poses and exact depth of a drive through it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.priors.contract import Clip
from tests.toy_room import FOCAL, intrinsics, pose, render

GRAINS_M = (0.5, 0.2)
"""Sides of the cells between whose corners colours are interpolated."""
FINER = 4
"""Rays a side of a pixel, whose mean is its colour."""


class Drive(NamedTuple):
    clip: Clip
    depth: Tensor  # [F, H, W] metres, exact


def drive(frames: int, size: int, scene: int = 0) -> Drive:
    """A camera that moves sideways and forward while it turns a little."""
    steps = np.linspace(0.0, 1.0, frames)
    poses = [pose(-1.2 + 0.7 * s, -0.6 + 1.2 * s, 0.25 - 0.5 * s) for s in steps]
    views = [_colour(p, size, scene) for p in poses]
    depth = torch.from_numpy(np.stack([render(p, size, scene)[1] for p in poses])).float()
    rgb = torch.from_numpy(np.stack(views)).movedim(-1, 1).float()
    return Drive(Clip(rgb, torch.from_numpy(intrinsics(size)), torch.from_numpy(np.stack(poses))), depth)


def shaken(clip: Clip, metres: float) -> Clip:
    """The same frames, believed to be seen from elsewhere."""
    poses = clip.world_from_camera.clone()
    poses[:, :3, 3] += metres * torch.randn(len(poses), 3, generator=torch.Generator().manual_seed(0))
    return clip._replace(world_from_camera=poses)


def _colour(world_from_camera: np.ndarray, size: int, scene: int) -> np.ndarray:
    """[H, W, 3] in [0, 1]"""
    fine = size * FINER
    depth = render(world_from_camera, fine, scene)[1]
    at = (np.arange(fine) + 0.5 - fine / 2) / (FOCAL * fine)
    rays = np.stack([*np.meshgrid(at, at), np.ones((fine, fine))], -1) @ world_from_camera[:3, :3].T
    points = world_from_camera[:3, 3] + depth[..., None] * rays
    noise = sum(_value_noise(points / grain, scene + k) for k, grain in enumerate(GRAINS_M))
    return (noise / len(GRAINS_M)).reshape(size, FINER, size, FINER, 3).mean((1, 3))


def _value_noise(points: np.ndarray, seed: int) -> np.ndarray:
    """Colours [..., 3] in [0, 1] at corners of a grid of unit cells, interpolated to points [..., 3]."""
    table = np.random.default_rng(seed).uniform(size=(32, 32, 32, 3))
    corner = np.floor(points).astype(int)
    within = points - corner
    total = np.zeros(points.shape)
    for offset in np.ndindex(2, 2, 2):
        weight = np.where(np.array(offset) == 1, within, 1.0 - within).prod(-1)
        total += weight[..., None] * table[tuple(((corner + offset) % 32).transpose(-1, *range(points.ndim - 1)))]
    return total
