"""Random scenes in front of random cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry import se3_exp

NAMES = ("means", "quats", "scales", "opacities", "features", "viewmats", "Ks")


def intrinsics(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """About 80 degrees of field of view. [3, 3]"""
    return torch.tensor([[0.6 * size, 0.0, size / 2], [0.0, 0.6 * size, size / 2], [0.0, 0.0, 1.0]], dtype=dtype)


def random_scene(
    count: int,
    size: int = 32,
    batch: int = 2,
    views: int = 2,
    channels: int = 5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Primitives of about a pixel's share of the image each, most of them in view; every tensor requires a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    depth = 1 + 5 * uniform(batch, count)
    means = torch.stack([(uniform(batch, count) - 0.5) * 1.8 * depth, (uniform(batch, count) - 0.5) * 1.8 * depth, depth], -1)
    sigma_px = 0.7 * (size * size / max(count, 1)) ** 0.5
    scales = sigma_px * depth[..., None] / (0.6 * size) * torch.exp(0.4 * normal(batch, count, 3))
    scene = {
        "means": means,
        "quats": torch.nn.functional.normalize(normal(batch, count, 4), dim=-1),
        "scales": scales,
        "opacities": 0.05 + 0.9 * uniform(batch, count),
        "features": uniform(batch, count, channels),
        "viewmats": se3_exp(0.05 * normal(batch, views, 6)),
        "Ks": intrinsics(size).expand(batch, views, 3, 3),
    }
    return {name: scene[name].to(dtype).clone().requires_grad_() for name in NAMES}


def one_gaussian(
    mean: tuple[float, float, float] = (0.0, 0.0, 2.0),
    scale: tuple[float, float, float] = (0.1, 0.1, 0.1),
    opacity: float = 0.8,
    size: int = 33,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """One axis-aligned primitive before a camera at the origin that looks along z."""
    scene = {
        "means": torch.tensor([[mean]], dtype=dtype),
        "quats": torch.tensor([[[1.0, 0.0, 0.0, 0.0]]], dtype=dtype),
        "scales": torch.tensor([[scale]], dtype=dtype),
        "opacities": torch.tensor([[opacity]], dtype=dtype),
        "features": torch.arange(1, channels + 1, dtype=dtype).reshape(1, 1, channels),
        "viewmats": torch.eye(4, dtype=dtype).reshape(1, 1, 4, 4),
        "Ks": intrinsics(size, dtype).reshape(1, 1, 3, 3),
    }
    return {name: tensor.requires_grad_() for name, tensor in scene.items()}
