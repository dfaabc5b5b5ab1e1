"""Distributions that models state and objectives compare."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class DiagonalGaussian(NamedTuple):
    """A Gaussian over z whose dimensions, the last axis, are independent. Units are those of z."""

    mean: Tensor  # [..., Z]
    scale: Tensor  # [..., Z] standard deviation, above 0

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised: mean + scale * noise, for standard normal noise [..., Z], so that gradients reach both. [..., Z]"""
        return self.mean + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of values [..., Z], dimension by dimension. [..., Z]"""
        return -0.5 * ((value - self.mean) / self.scale).square() - (self.scale * math.sqrt(2.0 * math.pi)).log()

    def kl(self, prior: DiagonalGaussian) -> Tensor:
        """KL(self || prior) in nats, summed over the dimensions (Kingma and Welling 2014, arXiv:1312.6114, app. B). [...]"""
        ratio = self.scale / prior.scale
        distance = (self.mean - prior.mean) / prior.scale
        return 0.5 * (ratio.square() + distance.square() - 1.0 - 2.0 * ratio.log()).sum(-1)
