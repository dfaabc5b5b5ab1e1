"""What `inhouse_depth` learns from: depth and normals of frames, exactly as invariant as the convention it is trained for.

Depth is compared as a log-ratio, or as inverse depth, after what the convention leaves open has been taken out in closed form:

    metric          nothing
    scale_free      a factor a map: the median log-ratio goes (the scale-invariant loss of Eigen et al. 2014, arXiv:1406.2283,
                    with lambda = 1, about the median as an absolute error wants it)
    affine_inverse  a positive factor and a shift of inverse depth: both maps are brought to median 0 and mean absolute
                    deviation 1 (Eq. 5 and 6 of Ranftl et al. 2020, arXiv:1907.01341)

What is left over is explained by a Laplace distribution whose scale the network says, and its steps from pixel to pixel at
several scales are pulled to 0 (gradient matching, Eq. 11 there). Normals have a von Mises-Fisher distribution.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.priors.contract import DepthConvention
from embodied_liftwm.priors.inhouse.depth_network import Guess

GRADIENT_WEIGHT = 0.5
"""Of gradient matching, beside the log-likelihoods. Both are in nats a pixel where the spread is about 1/2."""
SCALES = (1, 2, 4, 8)
"""Pixels between the neighbours that gradient matching compares."""
BEND = 0.01
"""Second difference of inverse depth, as a share of it, from which a pixel is on an edge: there a normal is not defined."""
LEAST_DEVIATION = 1e-6
"""Of a map of inverse depth: one that is constant has no scale."""


class Truths(NamedTuple):
    """What is true of frames that the network is trained on."""

    depth: Tensor  # [B, H, W] z-depth in metres, 0 where invalid
    normals: Tensor  # [B, 3, H, W] unit, camera frame, towards the camera
    smooth: Tensor  # [B, H, W] bool, where a normal is defined


class Losses(NamedTuple):
    """A mean over pixels each; what is minimised is `depth + GRADIENT_WEIGHT * gradient + normals`."""

    depth: Tensor  # [] negative log-likelihood, nats
    gradient: Tensor  # []
    normals: Tensor  # [] negative log-likelihood, nats
    error: Tensor  # [] mean absolute residual, as the convention compares

    def total(self) -> Tensor:
        """What is minimised. []"""
        return self.depth + GRADIENT_WEIGHT * self.gradient + self.normals


def losses(guess: Guess, truths: Truths, convention: DepthConvention) -> Losses:
    """How far a guess is from what is true."""
    valid = truths.depth > 0
    residual = depth_residual(guess.log_depth, truths.depth, convention)
    return Losses(
        depth=_mean(laplace_nll(residual, guess.log_spread), valid),
        gradient=gradient_matching(residual, valid),
        normals=_mean(von_mises_fisher_nll(guess.normals, truths.normals, guess.log_concentration), truths.smooth),
        error=_mean(residual.detach().abs(), valid),
    )


def depth_residual(log_depth: Tensor, depth: Tensor, convention: DepthConvention) -> Tensor:
    """Prediction minus target, without what the convention leaves open.

    Args:
        log_depth: predicted; its negative is the logarithm of inverse depth. [B, H, W]
        depth: true z-depth in any unit, 0 where invalid; of affine_inverse its inverse may have any shift. [B, H, W]
        convention: what is left open.

    Returns:
        Log-ratios, or of affine_inverse differences of normalised inverse depth; 0 where invalid. [B, H, W]
    """
    valid = depth > 0
    target = torch.where(valid, depth, torch.ones_like(depth))
    if convention == "affine_inverse":
        residual = normalised(torch.exp(-log_depth), valid) - normalised(1.0 / target, valid)
    else:
        residual = log_depth - target.log()
        if convention == "scale_free":
            residual = residual - _median(residual, valid)
    return torch.where(valid, residual, torch.zeros_like(residual))


def normalised(values: Tensor, valid: Tensor) -> Tensor:
    """A map brought to median 0 and mean absolute deviation 1 over its valid pixels. [B, H, W]"""
    centred = values - _median(values, valid)
    kept = torch.where(valid, centred.abs(), torch.zeros_like(centred))
    deviation = kept.sum((1, 2), keepdim=True) / valid.sum((1, 2), keepdim=True).clamp_min(1)
    return centred / deviation.clamp_min(LEAST_DEVIATION)


def laplace_nll(residual: Tensor, log_spread: Tensor) -> Tensor:
    """Negative log-density of a residual under Laplace(0, exp(log_spread)), nats; shapes are kept."""
    return residual.abs() * torch.exp(-log_spread) + log_spread + math.log(2.0)


def gradient_matching(residual: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring residuals along both axes, at every scale that the map holds, summed. []"""
    total = residual.new_zeros(())
    for step in SCALES:
        part, there = residual[:, ::step, ::step], valid[:, ::step, ::step]
        for axis in (1, 2):
            size = part.shape[axis] - 1
            if size < 1:
                continue
            both = there.narrow(axis, 1, size) & there.narrow(axis, 0, size)
            total = total + _mean((part.narrow(axis, 1, size) - part.narrow(axis, 0, size)).abs(), both)
    return total


def von_mises_fisher_nll(normals: Tensor, truth: Tensor, log_concentration: Tensor) -> Tensor:
    """Negative log-density of true normals on the sphere about the predicted ones, nats.

    The density is kappa / (4 pi sinh kappa) exp(kappa cos), written so that no large kappa overflows.

    Args:
        normals: unit. [B, 3, H, W]
        truth: unit. [B, 3, H, W]
        log_concentration: logarithm of kappa. [B, H, W]
    """
    kappa = log_concentration.exp()
    apart = 1.0 - (normals * truth).sum(1)
    return kappa * apart + torch.log1p(-torch.exp(-2.0 * kappa)) - log_concentration + math.log(2.0 * math.pi)


def truths_of(depth: Tensor, intrinsics: Tensor) -> Truths:
    """Normals of a true depth map, and where they are defined.

    Inverse depth is affine in pixel coordinates on a plane, so its second difference tells planes from their edges.

    Args:
        depth: z-depth in metres, 0 where invalid. [B, H, W]
        intrinsics: pixels. [B, 3, 3]
    """
    inverse = torch.where(depth > 0, 1.0 / depth.clamp_min(LEAST_DEVIATION), torch.full_like(depth, math.inf))
    smooth = torch.zeros_like(depth, dtype=torch.bool)
    middle = inverse[:, 1:-1, 1:-1]
    along_u = (inverse[:, 1:-1, 2:] + inverse[:, 1:-1, :-2] - 2.0 * middle).abs()
    along_v = (inverse[:, 2:, 1:-1] + inverse[:, :-2, 1:-1] - 2.0 * middle).abs()
    smooth[:, 1:-1, 1:-1] = (torch.maximum(along_u, along_v) < BEND * middle) & middle.isfinite()
    return Truths(depth, depth_to_normals(depth, intrinsics), smooth)


def _median(values: Tensor, valid: Tensor) -> Tensor:
    """Lower median over the valid pixels of each map, 0 where there is none. [B, 1, 1]"""
    flat = torch.where(valid, values, torch.full_like(values, math.nan)).flatten(1)
    return torch.nan_to_num(flat.nanmedian(dim=1).values)[:, None, None]


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over chosen pixels, 0 where there is none. []"""
    return torch.where(where, values, torch.zeros_like(values)).sum() / where.sum().clamp_min(1)
