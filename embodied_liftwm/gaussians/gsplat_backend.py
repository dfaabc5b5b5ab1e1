"""The CUDA painter: gsplat, called with our conventions, which are its own."""

from __future__ import annotations

from torch import Tensor


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near: float,
    eps2d: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Project and composite; arguments and results as in `rasterize`. Gives no gradient to Ks."""
    from gsplat import rasterization

    image, alphas, _ = rasterization(
        means, quats, scales, opacities, features, viewmats, Ks, width, height,
        near_plane=near, eps2d=eps2d, packed=False, render_mode="RGB+D",
    )  # fmt: skip
    # One concatenation backwards, where two slices would take five kernels.
    painted, depths = image.split([features.shape[-1], 1], dim=-1)
    return painted, alphas, depths
