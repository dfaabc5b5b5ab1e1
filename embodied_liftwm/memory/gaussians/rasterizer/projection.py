"""From primitives in the world to ellipses in an image: the first half of every backend that is not gsplat's own.

EWA projection with gsplat's conventions (Zwicker et al. 2002; Ye et al. 2025, arXiv:2409.06765): the perspective map is
linearised at each mean, and `eps2d` square pixels are added to the projected covariance so that nothing falls between pixels.
Plain torch autograd: it costs O(B V N), little beside painting.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.se3 import quat_to_matrix

ALPHA_MIN = 1.0 / 255.0
"""A primitive is skipped at pixels where its alpha is smaller."""
ALPHA_MAX = 0.999
"""Alpha is capped here, so that transmittance never becomes zero."""
TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before the primitive that would leave it less than this."""
_SCALE_MAX_M = 1e4
"""Larger scales act as this one: it fills any image, and its determinant still fits float32."""
_FOV_MARGIN = 0.3
"""The linearisation point is clamped this share of half the field of view outside of the image."""


class Projection(NamedTuple):
    """Screen-space primitives. Differentiable except `radii`. Components come before N: that keeps torch's loops contiguous."""

    means2d: Tensor  # [B, V, 2, N] pixels, centres at half-integers
    conics: Tensor  # [B, V, 3, N] inverse 2D covariance (xx, xy, yy), 1 / px^2
    depths: Tensor  # [B, V, N] z-depth in the camera, metres
    radii: Tensor  # [B, V, 2, N] half extents in px outside of which alpha < ALPHA_MIN; 0 where culled


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float,
    eps2d: float,
) -> Projection:
    """Project primitives into views; arguments as in `rasterize`.

    A primitive is culled (radii 0) when it is nearer than `near`, too transparent to reach `ALPHA_MIN` anywhere, or outside
    of the image.
    """
    rotation = viewmats[..., :3, :3]
    in_camera = rotation @ means.mT[:, None] + viewmats[..., :3, 3:]
    x, y, z = in_camera.unbind(-2)
    in_front = z >= near
    x, y, z = (torch.where(in_front, value, other) for value, other in ((x, 0.0), (y, 0.0), (z, 1.0)))

    fx, fy, cx, cy = (Ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    slope_u, slope_v = x / z, y / z
    means2d = torch.stack([fx * slope_u + cx, fy * slope_v + cy], dim=-2)
    slope_u, slope_v = _clamp_slope(slope_u, fx, cx, width), _clamp_slope(slope_v, fy, cy, height)

    axes = _camera_axes(quats, scales, rotation)
    row_u = (fx / z)[..., None, :] * (axes[0] - slope_u[..., None, :] * axes[2])
    row_v = (fy / z)[..., None, :] * (axes[1] - slope_v[..., None, :] * axes[2])
    conics, variances = _conics(row_u, row_v, eps2d)

    with torch.no_grad():
        radii = _radii(variances, opacities[:, None, None])
        size = means2d.new_tensor([width, height])[:, None]
        on_image = ((means2d + radii > 0) & (means2d - radii < size)).all(-2)
        radii = torch.where((in_front & on_image)[..., None, :], radii, 0.0)
    return Projection(means2d, conics, z, radii)


def front_to_back(depths: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which to paint.

    Every backend of ours uses this order, ties included: by depth in float32, then by index.

    Args:
        depths: positive. [..., N]
        radii: 0 for what is culled. [..., 2, N]

    Returns:
        Indices, what is visible first [..., N] int64, and how many are visible [...] int64.
    """
    visible = (radii > 0).all(-2)
    # Positive floats sort like the integers with the same bits; the index in the low half makes every key unique.
    bits = depths.detach().float().view(torch.int32).long()
    index = torch.arange(depths.shape[-1], device=depths.device)
    keys = torch.where(visible, bits, torch.iinfo(torch.int32).max) << 32 | index
    # numpy sorts int64 with SIMD, many times faster than torch does.
    ordered = keys.sort(dim=-1).values if keys.is_cuda else torch.from_numpy(np.sort(keys.numpy(), axis=-1))
    return ordered & 0xFFFFFFFF, visible.sum(-1)


def _clamp_slope(slope: Tensor, focal: Tensor, centre: Tensor, size: int) -> Tensor:
    """Keep x / z near the image, where the linearisation means something."""
    margin = _FOV_MARGIN * 0.5 * size / focal
    return torch.minimum(torch.maximum(slope, -centre / focal - margin), (size - centre) / focal + margin)


def _camera_axes(quats: Tensor, scales: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows x, y, z of R_view R diag(s), whose product with its transpose is the covariance in the camera. 3 x [B, V, 3, N]"""
    world_axes = quat_to_matrix(quats) * scales.clamp(max=_SCALE_MAX_M)[..., None, :]
    flat = world_axes.permute(0, 2, 3, 1).flatten(2)
    return (rotation @ flat[:, None]).unflatten(-1, (3, -1)).unbind(2)


def _conics(row_u: Tensor, row_v: Tensor, eps2d: float) -> tuple[Tensor, Tensor]:
    """Inverse of A A^T + eps2d I for A with rows u, v [B, V, 3, N], and its diagonal before inversion [B, V, 2, N].

    The determinant is taken as |u x v|^2 + eps2d (|u|^2 + |v|^2) + eps2d^2 (Lagrange's identity), a sum of squares: the
    difference of products would be noise for needles and for what is huge.
    """
    uu, uv, vv = (row_u * row_u).sum(-2), (row_u * row_v).sum(-2), (row_v * row_v).sum(-2)
    (u0, u1, u2), (v0, v1, v2) = row_u.unbind(-2), row_v.unbind(-2)
    cross = (u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0)
    determinant = sum(c * c for c in cross) + eps2d * (uu + vv) + eps2d**2
    variance_u, variance_v = uu + eps2d, vv + eps2d
    conics = torch.stack([variance_v / determinant, -uv / determinant, variance_u / determinant], dim=-2)
    return conics, torch.stack([variance_u.detach(), variance_v.detach()], dim=-2)


def _radii(variances: Tensor, opacities: Tensor) -> Tensor:
    """Half extents of the ellipse on which alpha = ALPHA_MIN: alpha = o exp(-q / 2) gives q = 2 log(255 o). [B, V, 2, N]"""
    level = 2.0 * (torch.log(opacities.clamp(min=ALPHA_MIN)) - math.log(ALPHA_MIN))
    return torch.where(opacities >= ALPHA_MIN, (level * variances).sqrt(), 0.0)
