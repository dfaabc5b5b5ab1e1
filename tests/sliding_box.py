"""A textured box that slides in front of a textured wall, ray-traced in numpy, seen by a camera that stands or travels."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.protocols import Camera
from tests.toy_room import pose

SIZE, STRIDE, FOCAL = 64, 2, 38.0
SAMPLES = 2  # rays a side of a pixel
WALL_M = 2.5  # the wall is the plane x = WALL_M
BOX = np.array([[1.6, -0.35, 0.65], [1.9, 0.35, 1.35]])  # its corners at time 0, metres
VELOCITY = (0.0, 0.045, 0.0)  # on the grid of velocities of the motion encoder
RECENT, LATER = (-2, -4, -6), (-3, 2, 4, 6)
STILL, FORWARD, SIDEWAYS, TURNING = (0.0, 0.0, 0.0), (0.15, 0.0, 0.0), (0.0, 0.1, 0.0), (0.1, 0.0, 0.05)
_RNG = np.random.default_rng(3)
_WAVES = _RNG.normal(size=(2, 8, 3)) * _RNG.uniform(4.0, 16.0, (2, 8, 1))  # rad / m, of the wall and of the box
_PHASES, _TINTS = _RNG.uniform(0, 6.28, (2, 8)), _RNG.uniform(-1, 1, (2, 8, 3))


class Seen(NamedTuple):
    """A frame at time 0, and frames of the times `RECENT + LATER`."""

    rgb: Tensor  # [1, 3, H, W]
    camera: Camera
    depth: Tensor  # [1, h, w] metres, of cells of STRIDE x STRIDE pixels
    on_box: Tensor  # [h, w] bool: cells that show the box alone
    on_wall: Tensor  # [h, w] bool: cells that show the wall alone
    clear: Tensor  # [h, w] bool: of these, cells so far from the box that it hides them in no other frame
    other_rgb: Tensor  # [1, S, 3, H, W]
    other_poses: Tensor  # [1, S, 4, 4]
    steps: Tensor  # [1, S]


@lru_cache
def look(velocity: tuple[float, ...] = VELOCITY, travel: tuple[float, ...] = STILL, textured: bool = True) -> Seen:
    """What a camera sees that moves by `travel` (x, y, yaw) a step, while the box moves by `velocity` (metres a step)."""
    times = RECENT + LATER
    poses = {time: pose(*(time * np.array(travel))) for time in (0, *times)}
    frames = {time: _render(poses[time], time * np.array(velocity), textured) for time in poses}
    rgb, depth, share = frames[0]
    passed = torch.from_numpy(share)[None, None] > 0
    near = torch.nn.functional.max_pool2d(passed.float(), 31, stride=1, padding=15)  # 0.36 m at 1.6 m are 9 pixels
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return Seen(
        _image(rgb)[None],
        Camera(intrinsics[None], torch.from_numpy(poses[0])[None], SIZE, SIZE),
        _cells(torch.from_numpy(depth)[None]).float(),
        _cells(torch.from_numpy(share)[None])[0] == 1.0,
        _cells(torch.from_numpy(share)[None])[0] == 0.0,
        _cells(near[0])[0] == 0.0,
        torch.stack([_image(frames[time][0]) for time in times])[None],
        torch.from_numpy(np.stack([poses[time] for time in times]))[None],
        torch.tensor([times], dtype=torch.float32),
    )


def _cells(image: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(image, STRIDE)


def _image(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).movedim(-1, 0).float()


def _render(world_from_camera: np.ndarray, box_offset: np.ndarray, textured: bool) -> tuple[np.ndarray, ...]:
    """Frame [H, W, 3], z-depth [H, W] and the share of each pixel that shows the box [H, W]."""
    fine = SIZE * SAMPLES
    centres = ((np.arange(fine) + 0.5) / SAMPLES - SIZE / 2) / FOCAL
    rays = np.stack([*np.meshgrid(centres, centres), np.ones((fine, fine))], -1) @ world_from_camera[:3, :3].T
    eye = world_from_camera[:3, 3].astype(float)
    with np.errstate(divide="ignore"):
        slabs = np.sort(np.stack([(side - eye) / rays for side in BOX + box_offset]), axis=0)
    hit = slabs[0].max(-1) < slabs[1].min(-1)
    depth = np.where(hit, slabs[0].max(-1), (WALL_M - eye[0]) / rays[..., 0])
    points = eye + depth[..., None] * rays
    colour = _texture(points, 0) if textured else np.full_like(points, 0.5)
    colour[hit] = _texture(points[hit] - box_offset, 1)
    whole = (x.reshape(SIZE, SAMPLES, SIZE, SAMPLES, -1).mean((1, 3)) for x in (colour, depth, hit))
    return tuple(x.squeeze(-1) if x.shape[-1] == 1 else x for x in whole)


def _texture(points: np.ndarray, surface: int) -> np.ndarray:
    """Sums of waves fixed to a surface. [..., 3] metres -> [..., 3] in [0, 1]"""
    waves = np.sin(points @ _WAVES[surface].T + _PHASES[surface])
    return np.clip(0.5 + 0.12 * waves @ _TINTS[surface], 0.0, 1.0)
