"""The terms of the objective.

Every term is a log-likelihood with a learned noise scale, which is its weight: for a Laplace term,
log p(x | z) = -|x - x'| / b - log 2b is largest at b = E|x - x'|, so a term that can be explained well counts more, and no
sum of losses is tuned by hand. Terms are averaged over pixels, so that each is in nats per number observed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.warp import backward_warp
from embodied_liftwm.objectives.photometric import edge_aware_smoothness, photometric_error
from embodied_liftwm.protocols import Camera


class DepthPair(NamedTuple):
    """Depth maps that claim to be those of frames, with other frames that could tell."""

    depth: Tensor  # [F, H, W] metres
    rgb: Tensor  # [F, 3, H, W] the frames themselves
    camera: Camera  # F cameras
    source_rgb: Tensor  # [F, S, 3, H, W]
    source_world_from_camera: Tensor  # [F, S, 4, 4]


class Rollout(NamedTuple):
    """Everything a term may read: what the model said, beside what was observed. F = B * V target frames."""

    batch_size: int  # B
    target_rgb: Tensor  # [F, 3, H, W]
    rendered_rgb: Tensor  # [F, 3, H, W]
    rendered_scale: Tensor  # [F, H, W] Laplace scale of the colours
    rendered: DepthPair  # depth of the rendered targets
    lifted: DepthPair | None  # depth of the context frames, where the model lifts
    twist: Tensor  # [B, P, 6] observed motion, m and rad in the camera's frame
    twist_mean: Tensor  # [B, P, 6]
    twist_scale: Tensor  # [B, P, 6]
    reward: Tensor  # [B, K]
    reward_mean: Tensor  # [B, K]
    continued: Tensor  # [B, K] 1 where the episode went on
    continuation: Tensor  # [B, K] probability


class Term(nn.Module, ABC):
    """One kind of observation; subclasses give its log-likelihood."""

    name: str

    @abstractmethod
    def log_prob(self, rollout: Rollout) -> Tensor:
        """Nats per number observed. [B, T], T as many as the term has frames or steps in a window."""


class LaplaceScale(nn.Module):
    """A learned noise scale b > 0."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(initial)).log())

    def log_prob(self, error: Tensor) -> Tensor:
        """log p of absolute errors: -|e| / b - log 2b."""
        log_scale = self.log_scale.clamp(-6.0, 3.0)
        return -error * torch.exp(-log_scale) - log_scale - torch.log(torch.tensor(2.0))


class FrameTerm(Term):
    """p(x_t | z): target frames, Laplace noise whose scale the model gives per pixel."""

    name = "frame"

    def log_prob(self, rollout: Rollout) -> Tensor:
        scale = rollout.rendered_scale.unsqueeze(1)
        nats = -(rollout.target_rgb - rollout.rendered_rgb).abs() / scale - torch.log(2.0 * scale)
        return nats.mean((1, 2, 3)).view(rollout.batch_size, -1)


class MultiViewTerm(Term):
    """p(x_s -> x_t | depth): other frames, warped by the depth the model claims, must explain this one.

    Of several sources the best counts at each pixel, which is what occlusion leaves (arXiv:1806.01260, section 3.2); pixels
    that a source explains better unwarped are left out, since they say nothing about depth.
    """

    name = "multi_view"

    def __init__(self) -> None:
        super().__init__()
        self.noise = LaplaceScale(0.1)

    def log_prob(self, rollout: Rollout) -> Tensor:
        pairs = [rollout.rendered] if rollout.lifted is None else [rollout.lifted, rollout.rendered]
        return torch.cat([self._pair(pair).view(rollout.batch_size, -1) for pair in pairs], dim=1)

    def _pair(self, pair: DepthPair) -> Tensor:
        frames, sources = pair.source_rgb.shape[:2]

        def repeat(x: Tensor) -> Tensor:
            return x.repeat_interleave(sources, dim=0)

        height, width = pair.rgb.shape[-2:]
        target = repeat(pair.rgb)
        source_rgb = pair.source_rgb.flatten(0, 1)
        source = Camera(repeat(pair.camera.intrinsics), pair.source_world_from_camera.flatten(0, 1), height, width)
        warp = backward_warp(source_rgb, repeat(pair.depth), pair.camera.map(repeat), source)
        error = photometric_error(target, warp.image)
        error = torch.where(warp.valid, error, torch.inf).unflatten(0, (frames, sources))
        unmoved = photometric_error(target, source_rgb).unflatten(0, (frames, sources)).amin(1)
        best = error.amin(1)
        counts = best < unmoved
        nats = torch.where(counts, self.noise.log_prob(torch.where(counts, best, 0.0)), 0.0)
        return nats.mean((1, 2))


class SmoothnessTerm(Term):
    """log p(depth): a weak Laplace prior on depth slopes where the image has no edge."""

    name = "smoothness"
    SCALE = 10.0

    def log_prob(self, rollout: Rollout) -> Tensor:
        pairs = [rollout.rendered] if rollout.lifted is None else [rollout.lifted, rollout.rendered]
        slopes = [edge_aware_smoothness(pair.depth, pair.rgb).view(rollout.batch_size, -1) for pair in pairs]
        return -torch.cat(slopes, dim=1) / self.SCALE


class EgoMotionTerm(Term):
    """p(twist | action, last twist): Laplace with the model's own scale."""

    name = "ego_motion"

    def log_prob(self, rollout: Rollout) -> Tensor:
        scale = rollout.twist_scale
        nats = -(rollout.twist - rollout.twist_mean).abs() / scale - torch.log(2.0 * scale)
        return nats.clamp_max(8.0).mean(-1)


class RewardTerm(Term):
    """p(r | z): Laplace with one learned scale."""

    name = "reward"

    def __init__(self) -> None:
        super().__init__()
        self.noise = LaplaceScale(0.3)

    def log_prob(self, rollout: Rollout) -> Tensor:
        return self.noise.log_prob((rollout.reward - rollout.reward_mean).abs())


class ContinuationTerm(Term):
    """p(episode goes on | z): Bernoulli."""

    name = "continuation"

    def log_prob(self, rollout: Rollout) -> Tensor:
        probability = rollout.continuation.clamp(1e-5, 1 - 1e-5)
        return -F.binary_cross_entropy(probability, rollout.continued, reduction="none")


TERMS: dict[str, type[Term]] = {
    term.name: term
    for term in (FrameTerm, MultiViewTerm, SmoothnessTerm, EgoMotionTerm, RewardTerm, ContinuationTerm)
}
"""Every term by its name in `TrainConfig.terms`."""
