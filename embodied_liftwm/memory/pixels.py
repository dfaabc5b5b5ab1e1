"""What memories that are read pixel by pixel share: what is read of each primitive, and how one read is laid over another."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from embodied_liftwm.memory.contract import Read
from embodied_liftwm.memory.latents.read import LatentRead
from embodied_liftwm.protocols import Camera

LEAST_EVIDENCE = 1e-6
"""Evidence below which doubt grows no further, 1/m^2."""


class Coloured(Protocol):
    """Primitives, or texels of them, with colour, latent and evidence."""

    @property
    def rgb(self) -> Tensor: ...  # [B, ..., 3]
    @property
    def latents(self) -> Tensor: ...  # [B, ..., D]
    @property
    def evidence(self) -> Tensor: ...  # [B, ...] 1/m^2


def values_of(world: Coloured) -> Tensor:
    """What a decoder reads of each primitive or texel: colour, latent, and the doubt that is left. [B, ..., 3 + D + 1]"""
    doubt = -0.25 * world.evidence.clamp_min(LEAST_EVIDENCE).log() + 1.5
    return torch.cat([world.rgb, world.latents, doubt.unsqueeze(-1)], dim=-1)


def read_of(splatted: LatentRead) -> Read:
    """What was splatted of `values_of`."""
    features = splatted.latents * splatted.visible.unsqueeze(1)
    return Read(features[:, :-1], splatted.visible, splatted.depths * splatted.visible, features[:, -1:])


def behind(back: Read, front: Read) -> Read:
    """`back`, but for pixels that `front` covers with something nearer."""
    mine, theirs = (s.depth / s.visible.clamp_min(1e-3) for s in (back, front))
    nearer = (front.visible > 0.5) & ((back.visible < 0.5) | (theirs < mine))
    return front.map_with(back, lambda a, b: torch.where(nearer.unsqueeze(1) if a.dim() == 4 else nearer, a, b))


def certainty_of(depth: Tensor, spread: Tensor, camera: Camera) -> Tensor:
    """Inverse variance of where the surface of every pixel of `camera` is, as a constant. [B, H, W] 1/m^2"""
    footprint = depth / camera.intrinsics[:, None, None, 0, 0]
    certainty = 1.0 / (footprint.square() + (depth * spread).square())
    return certainty.detach()
