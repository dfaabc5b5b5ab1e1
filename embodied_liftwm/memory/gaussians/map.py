"""A fixed budget of 3D Gaussian primitives in the world frame of an episode.

A slot with zero evidence is empty. Every frame's contribution to a primitive is weighted by its *evidence*, the inverse
variance of where it is: the size of the patch it was seen through, and how unsure its depth was. A frame from close by, or
one with parallax, knows a surface better than one from afar or without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from embodied_liftwm.memory.slots import Slots


@dataclass(frozen=True)
class GaussianMap(Slots):
    """N Gaussian primitives per batch row."""

    means: Tensor  # [B, N, 3] metres, world frame
    quats: Tensor  # [B, N, 4] wxyz, unit
    scales: Tensor  # [B, N, 3] metres, standard deviations along the primitive's own axes
    opacities: Tensor  # [B, N] in [0, 1), 0 in empty slots
    rgb: Tensor  # [B, N, 3] in [0, 1]
    latents: Tensor  # [B, N, D]
    evidence: Tensor  # [B, N] 1/m^2, 0 in empty slots

    @classmethod
    def empty(cls, batch_size: int, budget: int, latent_dim: int, like: Tensor) -> Self:
        """A map whose slots are all free, on the device and of the dtype of `like`."""
        zeros = like.new_zeros
        quats = zeros(batch_size, budget, 4)
        quats[..., 0] = 1.0
        return cls(
            means=zeros(batch_size, budget, 3),
            quats=quats,
            scales=like.new_full((batch_size, budget, 3), 1e-3),
            opacities=zeros(batch_size, budget),
            rgb=zeros(batch_size, budget, 3),
            latents=zeros(batch_size, budget, latent_dim),
            evidence=zeros(batch_size, budget),
        )

    @property
    def occupied(self) -> Tensor:
        """Slots that hold a primitive. [B, N] bool"""
        return self.evidence > 0
