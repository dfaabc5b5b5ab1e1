"""The CUDA painter: gsplat, called with our conventions, which are its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from embodied_liftwm.errors import UserError


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
    """Project and composite; arguments and results as in `rasterize`. Gives no gradient to Ks.

    Raises:
        UserError: in a backward pass with `create_graph=True`.
    """
    from gsplat import rasterization

    inputs = _Once.apply(means, quats, scales, opacities, features, viewmats)
    image, alphas, _ = rasterization(
        *inputs, Ks, width, height,
        near_plane=near, eps2d=eps2d, packed=False, render_mode="RGB+D",
    )  # fmt: skip
    # One concatenation backwards, where two slices would take five kernels.
    painted, depths = image.split([features.shape[-1], 1], dim=-1)
    return painted, alphas, depths


class _Once(torch.autograd.Function):
    """The identity, which every gradient passes: the nodes of gsplat would leave their part out of a second one."""

    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in inputs)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            raise UserError("backend='gsplat' has no second derivatives: use backend='torch', or no create_graph=True")
        return gradients
