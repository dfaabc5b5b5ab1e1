"""Surface normals of noisy depth: the plane that a window of pixels agrees on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import camera_rays, pixel_centres

REACH = 2
"""Windows reach so many pixels to each side."""
SAME_SURFACE = 0.05
"""Relative difference of depth at which a neighbour's weight has fallen to exp(-1/2)."""
LEAST_WEIGHT = 3.0
"""Sum of weights in a window below which there is no telling its plane: about three certain pixels."""
RESIDUAL = 0.02
"""Relative distance of the window's pixels from its plane at which confidence has fallen to exp(-1/2)."""
_RIDGE = 1e-6


def fit_normals(depth: Tensor, confidence: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a plane to every pixel's window by weighted least squares.

    On a plane n . X = d inverse depth is linear in the ray: 1 / z = (n / d) . (x, y, 1). Neighbours count by their confidence
    and by how near their depth is to the pixel's own.

    Args:
        depth: z-depth in metres, 0 where unknown. [B, H, W]
        confidence: in [0, 1]. [B, H, W]
        intrinsics: pixels. [B, 3, 3]

    Returns:
        Unit normals in the camera frame, towards the camera, and their confidence in [0, 1]: 0 where too few pixels or an
        edge-on plane say nothing, and the normal is (0, 0, -1). [B, 3, H, W], [B, H, W]
    """
    rays = camera_rays(intrinsics, *depth.shape[-2:]).movedim(-1, 1)
    nearness = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-6), 0.0)
    gram, right, square, weights = _moments(nearness, confidence * (depth > 0))
    fit = torch.linalg.solve(gram + _RIDGE * torch.eye(3, dtype=depth.dtype, device=depth.device), right.unsqueeze(-1)).squeeze(
        -1
    )
    plane = _from_pixels(fit, intrinsics)
    missed = (square - (fit * right).sum(-1)).clamp_min(0.0) / weights.clamp_min(1e-12)
    relative = missed.sqrt() / nearness.clamp_min(1e-6)
    normal = -F.normalize(plane, dim=-1).movedim(-1, 1)
    facing = -(normal * F.normalize(rays, dim=1)).sum(1)
    usable = (weights > LEAST_WEIGHT) & (facing > 0.05) & (depth > 0)
    sure = confidence * torch.exp(-0.5 * (relative / RESIDUAL).square())
    straight = normal.new_tensor([0.0, 0.0, -1.0])[:, None, None]
    return torch.where(usable.unsqueeze(1), normal, straight), sure * usable


def _from_pixels(fit: Tensor, intrinsics: Tensor) -> Tensor:
    """n / d of planes on which 1 / z = a du + b dv + c, so many pixels du and dv from each pixel's centre. [B, H, W, 3]"""
    uv = pixel_centres(*fit.shape[1:3], fit.device, fit.dtype)
    slopes, here = fit[..., :2], fit[..., 2]
    in_pixels = torch.cat([slopes, (here - (slopes * uv).sum(-1)).unsqueeze(-1)], dim=-1)
    return torch.einsum("bji,bhwj->bhwi", intrinsics, in_pixels)


def _moments(nearness: Tensor, sure: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted sums over windows: of x x^T with x = (du, dv, 1), of x / z, of 1 / z^2, and of the weights.

    [B, H, W, 3, 3], [B, H, W, 3], [B, H, W] and [B, H, W]
    """
    height, width = nearness.shape[-2:]
    padded, weights = (F.pad(part, (REACH,) * 4) for part in (nearness, sure))  # beyond the image the weight is 0
    steps = range(-REACH, REACH + 1)
    total = torch.zeros(*nearness.shape, 11, dtype=nearness.dtype, device=nearness.device)
    for down in steps:
        for across in steps:
            window = slice(REACH + down, REACH + down + height), slice(REACH + across, REACH + across + width)
            theirs = padded[:, *window]
            away = (theirs / nearness.clamp_min(1e-6) - 1.0) / SAME_SURFACE
            w = weights[:, *window] * torch.exp(-0.5 * away.square())
            x = (across, down, 1)
            pairs = [w * x[a] * x[b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
            total += torch.stack([*pairs, *(w * theirs * part for part in x), w * theirs.square(), w], dim=-1)
    gram = total[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))
    return gram, total[..., 6:9], total[..., 9], total[..., 10]
