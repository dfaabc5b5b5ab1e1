"""Two-view geometry of known cameras (Hartley and Zisserman, Multiple View Geometry, ch. 9 and 11)."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import inverse_intrinsics
from embodied_liftwm.geometry.se3 import relative_pose, skew
from embodied_liftwm.protocols import Camera


def fundamental_matrix(camera_a: Camera, camera_b: Camera) -> Tensor:
    """F with pixel_b^T F pixel_a = 0 for every pair of pixels that see the same point.

    Zero for two cameras at one place: pure rotation has no epipolar geometry.

    Returns:
        Fundamental matrices, not normalised. [B, 3, 3]
    """
    b_from_a = relative_pose(camera_b.world_from_camera, camera_a.world_from_camera)
    essential = skew(b_from_a[:, :3, 3]) @ b_from_a[:, :3, :3]
    return inverse_intrinsics(camera_b.intrinsics).mT @ essential @ inverse_intrinsics(camera_a.intrinsics)


def epipolar_lines(pixels: Tensor, fundamental: Tensor) -> Tensor:
    """Lines (a, b, c), a^2 + b^2 = 1, in the other image: (a u + b v + c) is then the signed distance in pixels.

    Args:
        pixels: (u, v) in the image `fundamental` acts on. [B, N, 2]
        fundamental: [B, 3, 3]

    Returns:
        Lines. [B, N, 3]
    """
    lines = _homogeneous(pixels) @ fundamental.mT
    return lines / lines[..., :2].norm(dim=-1, keepdim=True).clamp(min=torch.finfo(lines.dtype).tiny)


def symmetric_epipolar_distance(pixels_a: Tensor, pixels_b: Tensor, fundamental: Tensor) -> Tensor:
    """Mean of the two distances between a pixel and the epipolar line of its partner, in pixels.

    Args:
        pixels_a: [B, N, 2]
        pixels_b: claimed to see the same points. [B, N, 2]
        fundamental: of `fundamental_matrix(camera_a, camera_b)`. [B, 3, 3]

    Returns:
        Distances in pixels, 0 for a correspondence the cameras allow. [B, N]
    """
    in_b = (epipolar_lines(pixels_a, fundamental) * _homogeneous(pixels_b)).sum(-1).abs()
    in_a = (epipolar_lines(pixels_b, fundamental.mT) * _homogeneous(pixels_a)).sum(-1).abs()
    return 0.5 * (in_a + in_b)


def _homogeneous(pixels: Tensor) -> Tensor:
    return torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
