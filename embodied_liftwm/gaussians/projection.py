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
    """Screen-space primitives. Differentiable except `radii`."""

    means2d: Tensor  # [B, V, N, 2] pixels, centres at half-integers
    conics: Tensor  # [B, V, N, 3] inverse 2D covariance (xx, xy, yy), 1 / px^2
    depths: Tensor  # [B, V, N] z-depth in the camera, metres
    radii: Tensor  # [B, V, N, 2] half extents in px outside of which alpha < ALPHA_MIN; 0 where culled


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
    in_camera = means[:, None] @ rotation.mT + viewmats[..., None, :3, 3]
    x, y, z = in_camera.unbind(-1)
    in_front = z >= near
    x, y, z = (torch.where(in_front, value, other) for value, other in ((x, 0.0), (y, 0.0), (z, 1.0)))

    fx, fy, cx, cy = (Ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    along_u = _clamp_slope(x / z, fx, cx, width)
    along_v = _clamp_slope(y / z, fy, cy, height)

    axes = _camera_axes(quats, scales, rotation)
    row_u = (fx / z)[..., None] * (axes[0] - along_u[..., None] * axes[2])
    row_v = (fy / z)[..., None] * (axes[1] - along_v[..., None] * axes[2])
    conics, variances = _conics(row_u, row_v, eps2d)

    radii = _radii(variances.detach(), opacities.detach()[:, None])
    centre = means2d.detach()
    on_image = (centre + radii > 0) & (centre - radii < centre.new_tensor([width, height]))
    radii = torch.where((in_front & on_image.all(-1))[..., None], radii, 0.0)
    return Projection(means2d, conics, z, radii)


def front_to_back(depths: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """The order in which to paint.

    Every backend of ours uses this order, ties included: by depth in float32, then by index.

    Args:
        depths: positive. [..., N]
        radii: 0 for what is culled. [..., N, 2]

    Returns:
        Indices, what is visible first [..., N] int64, and how many are visible [...] int64.
    """
    visible = (radii > 0).all(-1)
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
    """Rows x, y, z of R_view R diag(s), whose product with its transpose is the covariance in the camera. 3 x [B, V, N, 3]"""
    world_axes = quat_to_matrix(quats) * scales.clamp(max=_SCALE_MAX_M)[..., None, :]
    batch, count = quats.shape[:2]
    flat = world_axes.movedim(-2, 1).reshape(batch, 1, 3, count * 3)
    return (rotation @ flat).unflatten(-1, (count, 3)).unbind(2)


def _conics(row_u: Tensor, row_v: Tensor, eps2d: float) -> tuple[Tensor, Tensor]:
    """Inverse of A A^T + eps2d I for A with rows u, v [B, V, N, 3], and its diagonal before inversion [B, V, N, 2].

    The determinant is taken as |u x v|^2 + eps2d (|u|^2 + |v|^2) + eps2d^2 (Lagrange's identity), a sum of squares: the
    difference of products would be noise for needles and for what is huge.
    """
    uu, uv, vv = row_u.square().sum(-1), (row_u * row_v).sum(-1), row_v.square().sum(-1)
    area = torch.linalg.cross(row_u, row_v).square().sum(-1)
    determinant = area + eps2d * (uu + vv) + eps2d**2
    conics = torch.stack([vv + eps2d, -uv, uu + eps2d], dim=-1) / determinant[..., None]
    return conics, torch.stack([uu, vv], dim=-1) + eps2d


def _radii(variances: Tensor, opacities: Tensor) -> Tensor:
    """Half extents of the ellipse on which alpha = ALPHA_MIN: alpha = o exp(-q / 2) gives q = 2 log(255 o). [B, V, N, 2]"""
    level = 2.0 * (torch.log(opacities.clamp(min=ALPHA_MIN)) - math.log(ALPHA_MIN))
    return (level[..., None] * variances).sqrt() * (opacities >= ALPHA_MIN)[..., None]
