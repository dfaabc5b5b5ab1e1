"""Frames for tests of latent caches: cameras that look along x, walls ahead of them, and points lifted one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry import look_at
from embodied_liftwm.memory.latents.cache import CellFrame, cell_evidence
from embodied_liftwm.protocols import Camera

SIZE, STRIDE, CHANNELS = 32, 2, 5
GRID = SIZE // STRIDE


def camera_at(*eyes: tuple[float, float, float], ahead: tuple[float, float, float] = (1.0, 0.0, 0.0)) -> Camera:
    """A camera a row at these places, all looking the same way."""
    eye = torch.tensor(eyes)
    half = SIZE / 2
    intrinsics = torch.tensor([[half, 0.0, half - 0.7], [0.0, 1.1 * half, half + 0.4], [0.0, 0.0, 1.0]])
    return Camera(intrinsics.expand(len(eyes), 3, 3).clone(), look_at(eye, eye + torch.tensor([ahead])), SIZE, SIZE)


def latents_of(seed: int, rows: int = 1) -> Tensor:
    """Latents in [-1, 1] that differ from cell to cell. [rows, CHANNELS, GRID, GRID]"""
    return 2.0 * torch.rand(rows, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(seed)) - 1.0


def frame_of(depth: Tensor | float, latents: Tensor, camera: Camera, spread: float = 0.02) -> CellFrame:
    """A frame whose depth is known to `spread`."""
    depths = depth if isinstance(depth, Tensor) else torch.full((len(latents), GRID, GRID), depth)
    evidence = cell_evidence(depths, torch.full_like(depths, spread), camera, STRIDE)
    return CellFrame(depths, evidence, latents, camera, STRIDE)


def lifted(frame: CellFrame, row: int) -> np.ndarray:
    """Where each cell of a row lies, one ray after another. [GRID * GRID, 3]"""
    K = frame.camera.intrinsics[row].numpy().astype(np.float64)
    pose = frame.camera.world_from_camera[row].numpy().astype(np.float64)
    points = []
    for down in range(GRID):
        for across in range(GRID):
            u, v = (across + 0.5) * STRIDE, (down + 0.5) * STRIDE
            z = float(frame.depth[row, down, across])
            x, y = (u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z
            points.append(pose[:3, :3] @ [x, y, z] + pose[:3, 3])
    return np.array(points)
