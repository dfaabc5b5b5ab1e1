"""Surface normals of noisy depth, and depth less noisy: the plane that a window of pixels agrees on."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import camera_rays, pixel_centres

REACH = 4
"""Windows reach so many pixels to each side."""
SAME_SURFACE = 0.05
"""Relative difference of depth at which a neighbour's weight has fallen to exp(-1/2)."""
LEAST_WEIGHT = 3.0
"""Sum of weights in a window below which there is no telling its plane: about three certain pixels."""
RESIDUAL = 0.02
"""Relative distance of the window's pixels from its plane at which confidence has fallen to exp(-1/2)."""
LARGEST_CHANGE = 0.1
"""Relative distance from its plane up to which a pixel's depth is moved onto it."""
PASSES = 3
"""The first weighs neighbours by how near their depth is to the pixel's own, the others by how near to the plane found."""


class PlaneFit(NamedTuple):
    """What windows say of their middle pixels."""

    depth: Tensor  # [B, H, W] metres: on the plane, or as given where that differs too much
    normals: Tensor  # [B, 3, H, W] unit, camera frame, towards the camera; (0, 0, -1) where nothing is known
    confidence: Tensor  # [B, H, W] of the normals, in [0, 1]: 0 where too few pixels or an edge-on plane say nothing


def fit_planes(depth: Tensor, confidence: Tensor, intrinsics: Tensor) -> PlaneFit:
    """Fit a plane to every pixel's window by weighted least squares.

    On a plane n . X = d inverse depth is linear in the ray: 1 / z = (n / d) . (x, y, 1). Neighbours count by their confidence
    and by how near their depth is to the pixel's own.

    Args:
        depth: z-depth in metres, 0 where unknown. [B, H, W]
        confidence: in [0, 1]. [B, H, W]
        intrinsics: pixels. [B, 3, 3]
    """
    rays = camera_rays(intrinsics, *depth.shape[-2:]).movedim(-1, 1)
    nearness = torch.where(depth > 0, 1.0 / depth.clamp_min(1e-6), 0.0)
    fit = torch.stack([torch.zeros_like(nearness), torch.zeros_like(nearness), nearness], dim=-1)
    for _ in range(PASSES):
        gram, right, square, weights = _moments(nearness, confidence * (depth > 0), fit)
        fit = _solve(gram, right)
    plane = _from_pixels(fit, intrinsics)
    missed = square - 2.0 * (fit * right).sum(-1) + torch.einsum("...i,...ij,...j->...", fit, gram, fit)
    missed = missed.clamp_min(0.0) / weights.clamp_min(1e-12)
    relative = missed.sqrt() / nearness.clamp_min(1e-6)
    normal = -F.normalize(plane, dim=-1).movedim(-1, 1)
    facing = -(normal * F.normalize(rays, dim=1)).sum(1)
    usable = (weights > LEAST_WEIGHT) & (facing > 0.05) & (depth > 0)
    sure = confidence * torch.exp(-0.5 * (relative / RESIDUAL).square())
    straight = normal.new_tensor([0.0, 0.0, -1.0])[:, None, None]
    on_plane = 1.0 / fit[..., 2].clamp_min(1e-6)
    near = usable & ((on_plane - depth).abs() < LARGEST_CHANGE * depth)
    return PlaneFit(torch.where(near, on_plane, depth), torch.where(usable.unsqueeze(1), normal, straight), sure * usable)


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """[..., 3, 3] and [..., 3] -> [..., 3], 0 where there is nothing to solve."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    ridge = (1e-6 * trace + 1e-9) * torch.eye(3, dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge, right.unsqueeze(-1)).squeeze(-1)


def _from_pixels(fit: Tensor, intrinsics: Tensor) -> Tensor:
    """n / d of planes on which 1 / z = a du + b dv + c, so many pixels du and dv from each pixel's centre. [B, H, W, 3]"""
    uv = pixel_centres(fit.shape[1], fit.shape[2], fit.device, fit.dtype)
    slopes, here = fit[..., :2], fit[..., 2]
    in_pixels = torch.cat([slopes, (here - (slopes * uv).sum(-1)).unsqueeze(-1)], dim=-1)
    return torch.einsum("bji,bhwj->bhwi", intrinsics, in_pixels)


def _moments(nearness: Tensor, sure: Tensor, fit: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted sums over windows: of x x^T with x = (du, dv, 1), of x / z, of 1 / z^2, and of the weights.

    Weights fall with the relative distance of 1 / z from the plane `fit` [B, H, W, 3], on which it is fit . x.
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
            x = (across, down, 1)
            expected = fit[..., 0] * across + fit[..., 1] * down + fit[..., 2]
            away = (theirs - expected) / (SAME_SURFACE * nearness).clamp_min(1e-6)
            w = weights[:, *window] * torch.exp(-0.5 * away.square())
            pairs = [w * x[a] * x[b] for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
            total += torch.stack([*pairs, *(w * theirs * part for part in x), w * theirs.square(), w], dim=-1)
    gram = total[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))
    return gram, total[..., 6:9], total[..., 9], total[..., 10]
