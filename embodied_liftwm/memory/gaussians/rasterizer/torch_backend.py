"""The reference painter: torch autograd, any device, float32 or float64.

Written to be read and to be trusted; the other backends are tested against it. Each tile of each view evaluates all its
primitives at all its pixels at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.memory.gaussians.rasterizer.projection import (
    ALPHA_MAX,
    ALPHA_MIN,
    TRANSMITTANCE_MIN,
    Projection,
    front_to_back,
)


def paint(
    projection: Projection, opacities: Tensor, features: Tensor, width: int, height: int, tile: int = 16
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite projected primitives front to back.

    Args:
        projection: [B, V, N, ...]
        opacities: [B, N]
        features: [B, N, C]
        tile: edge of a tile in px; the result does not depend on it.

    Returns:
        Features [B, V, H, W, C], alphas [B, V, H, W, 1] and depths [B, V, H, W, 1], all premultiplied by alpha.
    """
    batch, views = projection.depths.shape[:2]
    order, counts = front_to_back(projection.depths, projection.radii)
    images = [
        _paint_view(
            Projection(*(tensor[b, v][..., order[b, v, : counts[b, v]]] for tensor in projection)),
            opacities[b, order[b, v, : counts[b, v]]],
            features[b, order[b, v, : counts[b, v]]],
            width,
            height,
            tile,
        )
        for b in range(batch)
        for v in range(views)
    ]
    channels = features.shape[-1]
    image = torch.cat(images).reshape(batch, views, height, width, channels + 2)
    return image[..., :channels], image[..., channels : channels + 1], image[..., channels + 1 :]


def _paint_view(sorted_: Projection, opacities: Tensor, features: Tensor, width: int, height: int, tile: int) -> Tensor:
    """One view of primitives that are sorted and visible. [H, W, C + 2]"""
    # A weighted sum of (feature, 1, depth) gives the image, its alphas and its depths.
    depths = sorted_.depths[:, None]
    payload = torch.cat([features, torch.ones_like(depths), depths], dim=-1)
    centres = pixel_centres(height, width, features.device, features.dtype)
    rows = []
    for top in range(0, height, tile):
        row = []
        for left in range(0, width, tile):
            pixels = centres[top : top + tile, left : left + tile]
            low, high = pixels[0, 0], pixels[-1, -1]
            # One pixel of slack: what decides is the exact test on alpha, not this box.
            means2d, reach = sorted_.means2d.mT, sorted_.radii.mT + 1.0
            touches = ((means2d + reach >= low) & (means2d - reach <= high)).all(-1).nonzero().squeeze(-1)
            weights = _weights(pixels.reshape(-1, 2), means2d[touches], sorted_.conics[:, touches], opacities[touches])
            row.append((weights @ payload[touches]).reshape(*pixels.shape[:2], -1))
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows, dim=0)


def _weights(pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """Share of each pixel's colour that comes from each primitive, front to back. [P, M]"""
    dx, dy = pixels[:, :1] - means2d[:, 0], pixels[:, 1:] - means2d[:, 1]
    xx, xy, yy = conics
    power = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (opacities * torch.exp(-power)).clamp(max=ALPHA_MAX)
    alpha = torch.where((power >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
    after = torch.cumprod(1.0 - alpha, dim=-1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=-1)
    # Transmittance never rises: whatever comes after the primitive that would finish the pixel is masked with it.
    return torch.where(after > TRANSMITTANCE_MIN, alpha * before, 0.0)
