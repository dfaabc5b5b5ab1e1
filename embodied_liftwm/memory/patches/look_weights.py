"""How much a look at a texel counts against what the map remembers of it.

A texel that a frame sees again is averaged with what is seen, weighted by evidence (`integrate`). Evidence knows of pixel
sizes and of doubtful depths, but not whether the two look alike. A small network compares them, by projection and by similarity
of latents and colours, and multiplies both evidences: a look that is worse than it claims counts less, and a memory that
contradicts its surface is given up sooner. Untrained it multiplies by one, which is the Kalman filter's update.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from embodied_liftwm.memory.patches.map import Patches, texel_m
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.types import Association, Frame, cell_of

FEATURES, UNITS = 8, 16
"""Of the network that compares: what `compare` gives, and its hidden layer."""


class Weighed(NamedTuple):
    """Evidence of R x M texels that a frame matches or fills, 1/m^2; anything for others."""

    seen: Tensor  # [R, M] of what the frame shows
    kept: Tensor  # [R, M] of what the map remembers, 0 where a texel was empty


class KalmanWeights(nn.Module):
    """Evidence as it is claimed."""

    def forward(self, old: Patches, found: Association, frame: Frame) -> Weighed:
        """Weigh the texels of R patches that `associate` found again."""
        seen = frame.certainty[found.look.pixel]
        kept = torch.minimum(old.evidence, MEETING.max_evidence_ratio * seen)
        return Weighed(seen, torch.where(found.matched, kept, 0.0))


class LearnedWeights(KalmanWeights):
    """Evidence as experience has it; differentiable in latents, evidence and its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.compare = nn.Sequential(nn.Linear(FEATURES, UNITS), nn.SiLU(), nn.Linear(UNITS, 2))
        for parameter in self.compare[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, old: Patches, found: Association, frame: Frame) -> Weighed:
        weights = super().forward(old, found, frame)
        patch, texel = found.matched.nonzero(as_tuple=True)
        factors = self.factors(compare(old, found, frame, patch, texel))
        place = patch, texel
        return Weighed(*(w.index_put(place, w[place] * f) for w, f in zip(weights, factors.unbind(-1), strict=True)))

    def factors(self, features: Tensor) -> Tensor:
        """By what the evidences seen and kept are multiplied: [K, 8] as `compare` gives them -> [K, 2]"""
        return (MEETING.largest_log_factor * torch.tanh(self.compare(features))).exp()


def compare(old: Patches, found: Association, frame: Frame, patch: Tensor, texel: Tensor) -> Tensor:
    """What tells a good match from a bad one, for texels `texel` [K] of patches `patch` [K]: numbers around one. [K, 8]"""
    pixel = found.look.pixel[patch, texel]
    depth, seen = frame.depth[pixel].detach(), frame.certainty[pixel].clamp_min(MEETING.least_evidence)
    kept = old.evidence[patch, texel].clamp_min(MEETING.least_evidence)
    behind = found.look.z[patch, texel] - depth
    latents = old.latents[patch, texel] - frame.latents[cell_of(pixel, frame)]
    colours = old.rgb[patch, texel] - frame.rgb[pixel]
    size = texel_m(old.levels, depth)[patch]
    features = [
        (20.0 * behind / depth).clamp(-2, 2),
        (behind.abs() * torch.rsqrt(1.0 / seen + 1.0 / kept)).clamp_max(2),
        (0.25 * (kept / seen).log()).clamp(-2, 2),
        (-0.5 * (seen * depth.square()).log() + 3.0).clamp(-2, 2),
        latents.abs().mean(-1).clamp_max(3),
        (5.0 * colours.abs().mean(-1)).clamp_max(3),
        (size / frame.footprint[pixel]).log().clamp(-2, 2),
        frame.edge[pixel].to(depth),
    ]
    return torch.stack(features, dim=-1)
