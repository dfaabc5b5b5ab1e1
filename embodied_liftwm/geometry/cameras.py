"""Pinhole cameras: from pixels to the world and back.

OpenCV axes (x right, y down, z forward), pixel centres at half-integers: the centre of the top-left pixel is (0.5, 0.5) and
the image spans [0, W] x [0, H]. Depth is z-depth in metres, not ray length. Everything is differentiable and batched.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.geometry.se3 import inverse_pose

SMALLEST_DEPTH_M = 1e-6
"""Depth below which `project` no longer divides by depth, so that points behind a camera stay finite."""


def pixel_centres(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Pixel coordinates (u, v) of every pixel centre. [H, W, 2]"""
    u = torch.arange(width, device=device, dtype=dtype or torch.get_default_dtype()) + 0.5
    v = torch.arange(height, device=device, dtype=dtype or torch.get_default_dtype()) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def inverse_intrinsics(intrinsics: Tensor) -> Tensor:
    """From pixels to directions at unit depth: the inverse of upper triangular matrices that end in (0, 0, 1). [..., 3, 3]"""
    if compilable(intrinsics):
        return torch.from_numpy(inverse_intrinsics_array(*arrays(intrinsics)))
    (focal_x, skew, centre_x), (_, focal_y, centre_y), (zero, _, one) = (row.unbind(-1) for row in intrinsics.unbind(-2))
    slope = -skew / (focal_x * focal_y)
    first = torch.stack([1.0 / focal_x, slope, -centre_x / focal_x - slope * centre_y], dim=-1)
    second = torch.stack([zero, 1.0 / focal_y, -centre_y / focal_y], dim=-1)
    return torch.stack([first, second, torch.stack([zero, zero, one], dim=-1)], dim=-2)


def inverse_intrinsics_array(intrinsics: np.ndarray) -> np.ndarray:
    """`inverse_intrinsics` of an array: a fraction of the time for a single camera."""
    found = np.zeros_like(intrinsics)
    focal_x, skew, centre_x = (intrinsics[..., 0, k] for k in range(3))
    focal_y, centre_y = intrinsics[..., 1, 1], intrinsics[..., 1, 2]
    slope = -skew / (focal_x * focal_y)
    found[..., 0, 0], found[..., 0, 1], found[..., 0, 2] = 1.0 / focal_x, slope, -centre_x / focal_x - slope * centre_y
    found[..., 1, 1], found[..., 1, 2] = 1.0 / focal_y, -centre_y / focal_y
    found[..., 2, 2] = 1.0
    return found


def camera_rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Camera-frame directions through the pixel centres, scaled to z = 1 so that point = depth * ray.

    Args:
        intrinsics: pinhole intrinsics in pixels. [B, 3, 3]

    Returns:
        Rays (x / z, y / z, 1). [B, H, W, 3]
    """
    uv = pixel_centres(height, width, intrinsics.device, intrinsics.dtype)
    homogeneous = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1)
    return torch.einsum("bij,hwj->bhwi", inverse_intrinsics(intrinsics), homogeneous)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply a rigid transform [B, 4, 4] to points [B, ..., 3]."""
    flat = points.reshape(points.shape[0], -1, 3)
    moved = flat @ matrix[:, :3, :3].mT + matrix[:, None, :3, 3]
    return moved.reshape(points.shape)


def back_project(depth: Tensor, intrinsics: Tensor, world_from_camera: Tensor) -> Tensor:
    """Lift a depth map to world points.

    Args:
        depth: z-depth in metres. Where it is 0 (invalid) the point is the camera's centre. [B, H, W]
        intrinsics: pixels. [B, 3, 3]
        world_from_camera: OpenCV pose. [B, 4, 4]

    Returns:
        World points in metres. [B, H, W, 3]
    """
    rays = camera_rays(intrinsics, *depth.shape[-2:])
    return transform(world_from_camera, rays * depth[..., None])


def project(points: Tensor, intrinsics: Tensor, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Project world points into an image.

    Args:
        points: metres. [B, N, 3]
        intrinsics: pixels. [B, 3, 3]
        camera_from_world: inverse OpenCV pose (a viewmat). [B, 4, 4]

    Returns:
        Pixel coordinates (u, v) [B, N, 2], finite but meaningless where depth <= 0, and z-depth in metres [B, N], signed.
    """
    in_camera = transform(camera_from_world, points)
    depth = in_camera[..., 2]
    homogeneous = in_camera @ intrinsics.mT
    return homogeneous[..., :2] / depth.clamp(min=SMALLEST_DEPTH_M)[..., None], depth


def pixels_from_world(intrinsics: Tensor, world_from_camera: Tensor) -> Tensor:
    """What takes world points (x, y, z, 1) to homogeneous pixels (u z, v z, z): K [R | t]. [B, 3, 4]"""
    return intrinsics @ inverse_pose(world_from_camera)[:, :3]


def resize_intrinsics(intrinsics: Tensor, scale: float | tuple[float, float]) -> Tensor:
    """Intrinsics of the same camera with its image resized.

    With pixel centres at half-integers the whole upper two rows scale, principal point included.

    Args:
        intrinsics: pixels. [..., 3, 3]
        scale: new size over old, or (horizontal, vertical).
    """
    horizontal, vertical = scale if isinstance(scale, tuple) else (scale, scale)
    return intrinsics * intrinsics.new_tensor([horizontal, vertical, 1.0])[:, None]
