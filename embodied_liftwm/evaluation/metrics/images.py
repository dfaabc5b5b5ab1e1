"""Image and depth metrics: functions of tensors, unreduced over the batch.

Colour is [B, 3, H, W] in [0, 1]; depth is z-depth [B, H, W] in metres, 0 where there is none. Masks are bool [B, H, W] and say
which pixels count. A row without a counted pixel gives NaN, never a guess. A model that gives no depth at a pixel that counts
is scored as if it had said 0 m: abstaining is not free.
"""

from __future__ import annotations

import torch
from kornia.metrics import ssim as _kornia_ssim
from torch import Tensor

from embodied_liftwm.geometry.normals import depth_to_normals

MSE_FLOOR = 1e-10
"""Mean squared error under which PSNR is no longer told apart: 100 dB."""

COLOUR_TOLERANCE = 0.15
"""Persistence: a colour is right when the root mean square over its channels is off by less."""

DEPTH_TOLERANCE = 0.10
"""Persistence: a depth is right when it is off by at most this share of the true depth."""

EDGE = 0.02
"""Second difference of inverse depth, times the depth, from which a pixel lies on an edge: on planes it is zero."""


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over all axes but the first, of the pixels in `mask`.

    Args:
        values: [B, H, W]
        mask: bool [B, H, W]; all pixels count without one.

    Returns:
        [B], NaN where no pixel counts.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    kept = torch.where(mask, values, torch.zeros_like(values))  # not a product: 0 * inf is NaN
    return kept.flatten(1).sum(1) / mask.flatten(1).sum(1)


def psnr(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error over the counted pixels and the channels.

    Args:
        predicted: [B, 3, H, W] in [0, 1]
        true: [B, 3, H, W] in [0, 1]
        mask: pixels that count. bool [B, H, W]

    Returns:
        Decibels, at most 100. [B]
    """
    mse = masked_mean((predicted - true).square().mean(1), mask)
    return -10.0 * torch.log10(mse.clamp(min=MSE_FLOOR))


def ssim(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, map averaged over channels and pixels.

    The map is computed on the whole image, reflected at the border; the mask chooses where it is averaged. Colours are clipped
    to [0, 1] first, since the constants of SSIM assume that range.

    Args:
        predicted: [B, 3, H, W] in [0, 1]
        true: [B, 3, H, W] in [0, 1]
        mask: pixels that count. bool [B, H, W]

    Returns:
        At most 1. [B]
    """
    similarity = _kornia_ssim(predicted.clamp(0, 1), true.clamp(0, 1), window_size=11, max_val=1.0).mean(1)
    return masked_mean(similarity, mask)


def depth_rmse(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root mean square depth error in metres over counted pixels with a true depth.

    Args:
        predicted: metres, 0 where the model has none. [B, H, W]
        true: metres, 0 where invalid. [B, H, W]
        mask: pixels that count. bool [B, H, W]

    Returns:
        Metres. [B]
    """
    return masked_mean((predicted - true).square(), _valid(true, mask)).sqrt()


def abs_rel(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of |predicted - true| / true over counted pixels with a true depth (Eigen et al. 2014).

    Arguments as `depth_rmse`. Returns [B].
    """
    return masked_mean((predicted - true).abs() / true.clamp(min=1e-6), _valid(true, mask))


def delta_125(predicted: Tensor, true: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of counted pixels where max(predicted / true, true / predicted) < 1.25 (Eigen et al. 2014).

    Arguments as `depth_rmse`. Returns [B].
    """
    ratio = torch.maximum(predicted / true.clamp(min=1e-6), true / predicted.clamp(min=1e-6))
    return masked_mean((ratio < 1.25).float(), _valid(true, mask))


def normal_angle(predicted: Tensor, true: Tensor, intrinsics: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean angle between the normals of predicted and of true depth, over counted pixels on smooth true surfaces.

    Edges and creases are left out (`smooth_surface`). Where the prediction has no normal the angle is 90 degrees.

    Args:
        predicted: metres, 0 where the model has none. [B, H, W]
        true: metres, 0 where invalid. [B, H, W]
        intrinsics: pixels. [B, 3, 3]
        mask: pixels that count. bool [B, H, W]

    Returns:
        Degrees. [B]
    """
    cosine = (depth_to_normals(predicted, intrinsics) * depth_to_normals(true, intrinsics)).sum(1)
    smooth = smooth_surface(true)
    return masked_mean(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))), smooth if mask is None else mask & smooth)


def smooth_surface(depth: Tensor) -> Tensor:
    """Pixels whose neighbours along both axes lie on one plane with them, as nearly as a smooth surface does.

    Inverse depth is linear over the image of a plane, so its second difference is zero there; it is large at the border of an
    object and at a crease between two walls.

    Args:
        depth: metres, 0 where invalid. [B, H, W]

    Returns:
        bool [B, H, W]; false at the image's border and beside invalid depth.
    """
    inverse = torch.where(depth > 0, 1.0 / depth.clamp(min=1e-6), torch.inf)
    inner = inverse[:, 1:-1, 1:-1]
    along_u = inverse[:, 1:-1, 2:] + inverse[:, 1:-1, :-2] - 2 * inner
    along_v = inverse[:, 2:, 1:-1] + inverse[:, :-2, 1:-1] - 2 * inner
    flat = (along_u.abs() < EDGE * inner) & (along_v.abs() < EDGE * inner) & inner.isfinite()
    return torch.nn.functional.pad(flat, (1, 1, 1, 1))


def persistent_pixels(rgb: Tensor, depth: Tensor, true_rgb: Tensor, true_depth: Tensor) -> Tensor:
    """Where the model shows the right thing at the right place.

    A pixel counts as right when the root mean square of its colour error over the channels is under 0.15 AND its depth is
    within 10 % of the true depth, which must be valid.

    Args:
        rgb: predicted. [B, 3, H, W] in [0, 1]
        depth: predicted, metres. [B, H, W]
        true_rgb: [B, 3, H, W] in [0, 1]
        true_depth: metres, 0 where invalid. [B, H, W]

    Returns:
        bool [B, H, W]
    """
    return right_colour(rgb, true_rgb) & right_depth(depth, true_depth)


def right_colour(rgb: Tensor, true_rgb: Tensor) -> Tensor:
    """The first condition of `persistent_pixels` by itself. bool [B, H, W]"""
    return (rgb - true_rgb).square().mean(1).sqrt() < COLOUR_TOLERANCE


def right_depth(depth: Tensor, true_depth: Tensor) -> Tensor:
    """The second condition of `persistent_pixels` by itself. bool [B, H, W]"""
    return ((depth - true_depth).abs() <= DEPTH_TOLERANCE * true_depth) & (true_depth > 0)


def _valid(true: Tensor, mask: Tensor | None) -> Tensor:
    return true > 0 if mask is None else mask & (true > 0)
