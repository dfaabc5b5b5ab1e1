"""Surface normals of a depth map, and how well depths and normals agree."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import camera_rays


def depth_to_normals(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Unit normals in the camera frame that face the camera.

    Central differences of the lifted points, exact on planes; one-sided at the image's border and beside invalid depth.

    Args:
        depth: z-depth in metres, 0 where invalid. [B, H, W], H and W at least 2
        intrinsics: pixels, pixel centres at half-integers. [B, 3, 3]

    Returns:
        Normals, 0 where the depth or both neighbours along an axis are invalid. [B, 3, H, W]
    """
    points = camera_rays(intrinsics, *depth.shape[-2:]) * depth[..., None]
    valid = depth > 0
    along_u, has_u = _difference(points, valid, dim=2)
    along_v, has_v = _difference(points, valid, dim=1)
    # u is right and v is down, so v x u points towards the camera for a surface seen from its front.
    normal = torch.linalg.cross(along_v, along_u)
    usable = (valid & has_u & has_v)[..., None]
    normal = F.normalize(torch.where(usable, normal, normal.new_tensor([0.0, 0.0, -1.0])), dim=-1)
    return torch.where(usable, normal, torch.zeros_like(normal)).movedim(-1, 1)


def _difference(points: Tensor, valid: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Step along an image axis [B, H, W, 3], and where there is one [B, H, W]."""
    size = points.shape[dim]
    step = points.narrow(dim, 1, size - 1) - points.narrow(dim, 0, size - 1)
    usable = valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1)
    step = torch.where(usable[..., None], step, torch.zeros_like(step))
    before, after = ((1, 0), (0, 1)) if dim == 2 else ((0, 0, 1, 0), (0, 0, 0, 1))
    total = F.pad(step, (0, 0, *before)) + F.pad(step, (0, 0, *after))
    return total, F.pad(usable, before) | F.pad(usable, after)


LEAST_COSINE = 0.05
"""Between a normal and the line of sight: a surface seen from its edge or its back says nothing of its neighbours."""


def coherence_errors(depth: Tensor, normal: Tensor, intrinsics: Tensor, reach: tuple[int, ...]) -> Tensor:
    """How far the plane through each pixel, with its normal, misses the depths of its neighbours.

    Args:
        depth: z-depth in metres, above 0. [B, H, W]
        normal: unit normals in the camera frame, towards the camera. [B, 3, H, W]
        intrinsics: pixels. [B, 3, 3]
        reach: pixels between neighbours; all four directions of each are taken.

    Returns:
        Absolute log-ratios of depth on the plane to the neighbour's own, pixels and neighbours in one axis. [B, M]
    """
    rays = camera_rays(intrinsics, *depth.shape[-2:]).movedim(-1, 1)
    log_depth = depth.log()
    facing = torch.log((-(normal * rays).sum(1)).clamp_min(LEAST_COSINE))
    errors = []
    for step in reach:
        for dim in (1, 2):
            size = depth.shape[dim] - step
            for here, there in ((0, step), (step, 0)):
                n, r = normal.narrow(dim + 1, here, size), rays.narrow(dim + 1, there, size)
                towards = torch.log((-(n * r).sum(1)).clamp_min(LEAST_COSINE))
                on_plane = (log_depth + facing).narrow(dim, here, size) - towards
                errors.append((on_plane - log_depth.narrow(dim, there, size)).abs().flatten(1))
    return torch.cat(errors, dim=1)


def at_planes(values: Tensor, reach: tuple[int, ...]) -> Tensor:
    """Values of the pixels whose planes `coherence_errors` extends, in its order. [B, H, W] -> [B, M]"""
    found = []
    for step in reach:
        for dim in (1, 2):
            size = values.shape[dim] - step
            found += [values.narrow(dim, here, size).flatten(1) for here in (0, step)]
    return torch.cat(found, dim=1)
