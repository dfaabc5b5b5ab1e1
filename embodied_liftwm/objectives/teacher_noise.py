"""The noise of teachers: learned scales, one set a teacher, that turn down whoever contradicts everything else."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

OUTLIERS = 0.05
"""Share of a teacher's numbers that have nothing to do with the scene."""


class RadialLaplace(nn.Module):
    """Laplace noise of a vector, alike in all directions: p(e) = exp(-|e| / b) / (S b^n), S = 2, 2 pi, 8 pi for n = 1, 2, 3."""

    SURFACES: ClassVar = {1: 2.0, 2: 2.0 * math.pi, 3: 8.0 * math.pi}

    def __init__(self, initial: float, dimensions: int = 1) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.log_scale = nn.Parameter(torch.tensor(float(initial)).log())

    def log_prob(self, distance: Tensor) -> Tensor:
        """log p of errors of that length, in nats."""
        log_scale = self.log_scale.clamp(-6.0, 6.0)
        return distance * -torch.exp(-log_scale) - (self.dimensions * log_scale + math.log(self.SURFACES[self.dimensions]))


class Concentration(nn.Module):
    """The learned concentration k of a von Mises-Fisher distribution on the unit sphere (Mardia and Jupp 2000, eq. 9.3.4)."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_concentration = nn.Parameter(torch.tensor(float(initial)).log())

    def log_prob(self, cosine: Tensor) -> Tensor:
        """log p of unit vectors with that cosine to the mean: log( k / (4 pi sinh k) ) + k cos, without overflow."""
        log_k = self.log_concentration.clamp(-4.0, 7.0)
        k = log_k.exp()
        return k * (cosine - 1.0) + log_k - math.log(2.0 * math.pi) - torch.log(-torch.expm1(-2.0 * k))


class AddedNoise(nn.Module):
    """Gaussian noise of a learned scale on top of Gaussian noise whose scale is given."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(initial)).log())

    def log_prob(self, squared_error: Tensor, given_scale: Tensor) -> Tensor:
        """log p of numbers whose errors have that square."""
        variance = given_scale.square() + torch.exp(2.0 * self.log_scale.clamp(-6.0, 3.0))
        return -0.5 * (squared_error / variance + torch.log(2.0 * math.pi * variance))


def with_outliers(log_likelihood: Tensor, outlier_nats: float, share: float = OUTLIERS) -> Tensor:
    """log( (1 - o) p + o p(outlier) ), of log p and log p(outlier), with a share o of outliers."""
    if share == 0.0:
        return log_likelihood
    inlier = log_likelihood + math.log(1.0 - share)
    return torch.logaddexp(inlier, inlier.new_tensor(math.log(share) + outlier_nats))
