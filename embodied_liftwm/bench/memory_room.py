"""What `liftwm bench memory` films: a textured room, and a camera that tours it and never returns to exactly where it was."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry import look_at
from embodied_liftwm.geometry.cameras import camera_rays, resize_intrinsics, transform
from embodied_liftwm.protocols import Camera

CORNERS_M = ((-3.005, -3.005, 0.005), (3.005, 3.005, 2.505))
"""Walls, floor and ceiling lie in the middle of voxels of 1 cm, not on their border: each point has one voxel to fall into."""
WAVES = ((2.1, 0.7, -0.4), (-0.9, 1.9, 1.1), (0.5, -1.1, 2.3))
"""What colours vary by, radians a metre."""
TILE_M = 0.35


class Frame(NamedTuple):
    """One frame of the tour, a batch of one."""

    rgb: Tensor  # [1, 3, H, W] in [0, 1]
    depth: Tensor  # [1, H, W] z-depth of pixels in metres, exact
    cell_depth: Tensor  # [1, h, w] that of the cells' centres
    camera: Camera


def film(step: int, image_size: int, stride: int, device: str) -> Frame:
    """Frame `step` of the tour: seven degrees and a few centimetres on from the one before."""
    camera = camera_of(step, image_size, device)
    rgb, depth = render(camera)
    side = image_size // stride
    cells = Camera(resize_intrinsics(camera.intrinsics, 1.0 / stride), camera.world_from_camera, side, side)
    return Frame(rgb, depth, render(cells)[1], camera)


def camera_of(step: int, image_size: int, device: str) -> Camera:
    """A field of view of 90 degrees. The periods of the path are primes: it repeats after 10^10 steps."""
    around = [2.0 * math.pi * step / period for period in (307.0, 193.0, 131.0, 53.0, 29.0)]
    eye = torch.tensor([[1.8 * math.sin(around[0]), 1.7 * math.sin(around[1] + 1.0), 1.25 + 0.4 * math.sin(around[2])]])
    yaw, pitch = around[3], 0.4 * math.sin(around[4])
    ahead = torch.tensor([[math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)]])
    half = image_size / 2
    intrinsics = torch.tensor([[[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]])
    return Camera(intrinsics.to(device), look_at(eye, eye + ahead).to(device), image_size, image_size)


def render(camera: Camera) -> tuple[Tensor, Tensor]:
    """Colours [1, 3, H, W] and z-depth [1, H, W] of what the rays of a camera inside the room meet."""
    rays = camera_rays(camera.intrinsics, camera.height, camera.width)
    pose = camera.world_from_camera
    eye = pose[:, None, None, :3, 3]
    ahead = transform(pose, rays) - eye
    low, high = rays.new_tensor(CORNERS_M)
    wall = torch.where(ahead > 0, high, low)
    depth = torch.where(ahead.abs() > 1e-9, (wall - eye) / ahead, torch.inf).amin(-1)
    return _colours(eye + depth[..., None] * ahead).movedim(-1, 1), depth


def _colours(points: Tensor) -> Tensor:
    """Smooth waves and tiles. [..., 3]"""
    waves = (points @ points.new_tensor(WAVES).T).sin()
    tiles = (points / TILE_M).floor().sum(-1, keepdim=True).remainder(2.0)
    return 0.45 + 0.25 * waves + 0.2 * tiles
