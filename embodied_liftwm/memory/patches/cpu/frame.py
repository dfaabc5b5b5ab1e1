"""`patch_frame` without gradients on a CPU: compiled kernels, shared among threads."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import inverse_intrinsics_array
from embodied_liftwm.memory.patches import frame as patch_frame
from embodied_liftwm.memory.patches.backend import arrays, as_scalars, ranges
from embodied_liftwm.memory.patches.cpu import frame_kernels as patch_frame_kernels
from embodied_liftwm.memory.patches.cpu.frame_kernels import Smoothing
from embodied_liftwm.memory.patches.map import MAX_LEVEL, texel_m
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

LEAST_PIXELS = 8192
"""Pixels that are worth a thread."""


@cache
def _smoothing(dtype: np.dtype) -> Smoothing:
    return as_scalars(Smoothing(patch_frame.SMOOTHING_CELLS, patch_frame.SMOOTHING_LOG, patch_frame.EDGE), dtype)


def surfaces(depth: Tensor, camera: Camera) -> patch_frame.Surfaces:
    """`patch_frame.surfaces`."""
    batch, height, width = depth.shape
    found = patch_frame.Surfaces(
        points=depth.new_empty(*depth.shape, 3),
        normals=depth.new_empty(*depth.shape, 3),
        nearest=torch.empty_like(depth, memory_format=torch.contiguous_format),
        edge=torch.empty_like(depth, dtype=torch.bool, memory_format=torch.contiguous_format),
    )
    depths, intrinsics, poses = arrays(depth, camera.intrinsics, camera.world_from_camera)
    turn, eye, smooth = poses[:, :3, :3] @ inverse_intrinsics_array(intrinsics), poses[:, :3, 3].copy(), np.empty_like(depths)
    points, normals, nearest, edge = arrays(*found)
    rules = _smoothing(depths.dtype)

    def smoothen(b: int, top: int, bottom: int) -> None:
        patch_frame_kernels.smooth_rows(depths[b], rules, top, bottom, smooth[b], nearest[b], edge[b])

    def lift(b: int, top: int, bottom: int) -> None:
        patch_frame_kernels.surface_rows(depths[b], smooth[b], turn[b], eye[b], top, bottom, points[b], normals[b])

    bands = [(b, top, bottom) for b in range(batch) for top, bottom in ranges(height, max(LEAST_PIXELS // width, 1))]
    for_each(smoothen, bands)
    for_each(lift, bands)
    return found


def measures(depth: Tensor, certainty: Tensor, edge: Tensor, camera: Camera, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`patch_frame.measures`."""
    depths, certainties, edges, intrinsics, levels = arrays(depth, certainty, edge, camera.intrinsics, least)
    footprint, allocated, trusted = (np.empty_like(depths) for _ in range(3))
    sizes, trust = texel_sizes()[levels], np.float32(patch_frame.EDGE_TRUST)
    for b in range(len(depths)):
        given = depths[b], certainties[b], edges[b], trust, intrinsics[b, 0, 0], sizes[b]
        patch_frame_kernels.measure(*given, footprint[b], allocated[b], trusted[b])
    return torch.from_numpy(footprint), torch.from_numpy(allocated), torch.from_numpy(trusted)


@cache
def texel_sizes() -> np.ndarray:
    """Edge of a texel at each level, metres."""
    return texel_m(torch.arange(MAX_LEVEL + 1), torch.zeros(1)).numpy()
