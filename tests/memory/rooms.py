"""A box room with smooth colours and a box in it, ray-traced in numpy, and cameras that look about in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.map import PatchMap
from embodied_liftwm.memory.patches.write import write_patches
from embodied_liftwm.protocols import Camera

SIZE, FOCAL = 48, 40.0
ROOM = np.array([[-2.0, -2.0, 0.0], [2.0, 2.0, 2.5]])  # metres
BOX = np.array([[1.0, -0.4, 0.6], [1.5, 0.4, 1.4]])  # hangs in front of the wall at x = 2
BOX_COLOUR = np.array([0.9, 0.1, 0.1])
WAVES = np.array([[1.0, 0.3, -0.2], [-0.4, 0.9, 0.5], [0.2, -0.5, 1.1]])  # 1/m
SMOOTHNESS = 0.3 * float(np.linalg.norm(WAVES, axis=1).max())
"""The colours of the walls change by no more than this a metre."""


def camera(eye: tuple[float, float, float], yaw: float = 0.0, pitch: float = 0.0, dtype: torch.dtype = torch.float32) -> Camera:
    """One camera that looks along world x, turned left by `yaw` and down by `pitch` radians."""
    ahead = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(ahead, right), ahead], axis=1), eye
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]], dtype=dtype)
    return Camera(intrinsics[None], torch.from_numpy(pose)[None].to(dtype), SIZE, SIZE)


def render(seen_by: Camera, box: bool = False) -> tuple[Tensor, Tensor]:
    """What one camera sees: frame [1, 3, H, W] in [0, 1] and z-depth [1, H, W] in metres."""
    pose = seen_by.world_from_camera[0].double().numpy()
    centres = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    rays = np.stack([*np.meshgrid(centres, centres), np.ones((SIZE, SIZE))], -1) @ pose[:3, :3].T
    eye = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.maximum((ROOM[0] - eye) / rays, (ROOM[1] - eye) / rays).min(-1)
        slabs = np.sort(np.stack([(side - eye) / rays for side in BOX]), axis=0)
    colour = 0.5 + 0.3 * np.sin((eye + depth[..., None] * rays) @ WAVES.T)
    if box:
        enters, leaves = slabs[0].max(-1), slabs[1].min(-1)
        hit = (enters < leaves) & (enters > 0)
        depth, colour = np.where(hit, enters, depth), np.where(hit[..., None], BOX_COLOUR, colour)
    dtype = seen_by.intrinsics.dtype
    return torch.from_numpy(colour).movedim(-1, 0)[None].to(dtype), torch.from_numpy(depth)[None].to(dtype)


def nothing(budget: int = 256, rows: int = 1, dtype: torch.dtype = torch.float32) -> PatchMap:
    return PatchMap.empty(rows, budget, 8, 2, torch.zeros((), dtype=dtype))


def write(world: PatchMap, seen_by: Camera, box: bool = False, latents: Tensor | None = None) -> PatchMap:
    """Write what one camera sees, at true depth that is known to a hundredth."""
    rgb, depth = render(seen_by, box)
    if latents is None:
        latents = torch.zeros(1, world.latents.shape[-1], SIZE // 2, SIZE // 2, dtype=rgb.dtype)
    return write_patches(world, depth, (0.01 * depth) ** -2, latents, rgb, seen_by)
