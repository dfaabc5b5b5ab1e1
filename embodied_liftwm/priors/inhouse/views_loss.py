"""What `inhouse_views` learns from: what the views showed, and how far the frame's pixels were.

Colours have a Laplace distribution whose scale the network says, one a pixel for its three channels. Its log-density alone
would leave what is hard for last, since errors count by the inverse of the scale; so it is multiplied by the root of the scale,
held fixed, which moves no optimum of a pixel (beta-NLL with beta = 1/2, after Seitzer et al. 2022, arXiv:2203.09168). Depth, in
metres, learns as in `depth_loss`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.priors.inhouse.depth_loss import GRADIENT_WEIGHT, depth_residual, gradient_matching, laplace_nll
from embodied_liftwm.priors.inhouse.views_network import Imagined

BETA = 0.5
"""Power of the scale that the log-density of colours is multiplied by."""
DEPTH_WEIGHT = 0.2
"""Of what depth learns from, beside the views."""


class ViewsLosses(NamedTuple):
    """A mean over pixels each; what is minimised is `weighted + DEPTH_WEIGHT * (depth + GRADIENT_WEIGHT * gradient)`."""

    weighted: Tensor  # [] as `views`, each pixel times the root of its scale
    views: Tensor  # [] negative log-likelihood of a colour, nats a channel
    depth: Tensor  # [] negative log-likelihood of log-depth, nats
    gradient: Tensor  # []
    depth_error: Tensor  # [] mean absolute log-ratio
    error: Tensor  # [] mean absolute difference of colours
    psnr: Tensor  # [] dB, of the mean squared error

    def total(self) -> Tensor:
        """What is minimised. []"""
        return self.weighted + DEPTH_WEIGHT * (self.depth + GRADIENT_WEIGHT * self.gradient)


def views_losses(imagined: Imagined, views: Tensor, depth: Tensor) -> ViewsLosses:
    """How far what was imagined is from what is true.

    Args:
        imagined: of B frames, V views each.
        views: what was seen there. [B, V, 3, H, W] in [0, 1]
        depth: true z-depth of the frames, metres, 0 where invalid. [B, H, W]
    """
    valid = depth > 0
    residual = depth_residual(imagined.guess.log_depth, depth, "metric")
    depth_nats = torch.where(valid, laplace_nll(residual, imagined.guess.log_spread), 0.0).sum() / valid.sum().clamp_min(1)
    missed = imagined.rgb - views
    nats = laplace_nll(missed, imagined.log_scale.unsqueeze(2))
    return ViewsLosses(
        weighted=(nats * torch.exp(BETA * imagined.log_scale.detach()).unsqueeze(2)).mean(),
        views=nats.mean(),
        depth=depth_nats,
        gradient=gradient_matching(residual, valid),
        depth_error=(residual.detach().abs().sum() / valid.sum().clamp_min(1)),
        error=missed.detach().abs().mean(),
        psnr=-10.0 / math.log(10.0) * missed.detach().square().mean().clamp_min(1e-10).log(),
    )
