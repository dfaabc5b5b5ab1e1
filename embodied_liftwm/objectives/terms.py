"""The terms of the objective.

Every term is a log-likelihood with a learned noise scale, which is its weight: for a Laplace term,
log p(x | z) = -|x - x'| / b - log 2b is largest at b = E|x - x'|, so a term that can be explained well counts more, and no
sum of losses is tuned by hand. Terms are averaged over pixels, so that each is in nats per number observed.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.geometry.normals import coherence_errors
from embodied_liftwm.geometry.warp import backward_warp
from embodied_liftwm.objectives.observations import TeacherObservations
from embodied_liftwm.objectives.photometric import edge_aware_smoothness, photometric_error
from embodied_liftwm.protocols import Camera


class Lifted(NamedTuple):
    """Depth beliefs of F = B * K context frames, and how well each plane explains them from other frames."""

    log_belief: Tensor  # [F, P, h, w]
    depth: Tensor  # [F, h, w] metres, the expected one
    cost: Tensor  # [F, S, P, h, w] colour difference under each plane, over a small window
    known: Tensor  # [F, S, P, h, w] bool
    rgb: Tensor  # [F, 3, h, w] the frames, a pixel a cell
    normal: Tensor  # [F, 3, h, w] unit, in the camera's frame
    intrinsics: Tensor  # [F, 3, 3] of the grid of cells


class Viewed(NamedTuple):
    """F = B * V rendered targets, and what was foreseen of the task."""

    target_rgb: Tensor  # [F, 3, H, W]
    rgb: Tensor  # [F, 3, H, W]
    scale: Tensor  # [F, H, W] standard deviation of the colours
    depth: Tensor  # [F, H, W] metres
    camera: Camera  # F cameras
    source_rgb: Tensor  # [F, S, 3, H, W] other frames, which the depth should explain the targets from
    source_world_from_camera: Tensor  # [F, S, 4, 4]
    lifted_depth: Tensor | None  # [F, H, W] metres: what the lift makes of the targets themselves, where the model lifts
    lifted_spread: Tensor | None  # [F, H, W] standard deviation of its logarithm
    seen: Tensor | None  # [F, H, W] probability that the pixel was observed, where the model tells
    was_seen: Tensor | None  # [F, H, W] bool: by the lifted depths it was
    kl: Tensor | None  # [B, K] of the latents' posterior to the map's prior, nats per number of a frame
    reward: Tensor  # [B, K]
    reward_mean: Tensor | None  # [B, K]; None where goals are of another kind than the model's
    continued: Tensor  # [B, K] 1 where the episode went on
    continuation: Tensor | None  # [B, K] probability; None as above


class Moved(NamedTuple):
    """Beliefs on the velocities of cells of F = B * K context frames, and how well each explains frames of other times."""

    log_belief: Tensor  # [F, V, h, w]
    cost: Tensor  # [F, S, V, h, w] colour difference under each velocity, over a small window
    known: Tensor  # [F, S, V, h, w] bool: source s judges, and sees the cell under this velocity


class Rollout(NamedTuple):
    """Everything a term may read: what the model said, beside what was observed."""

    batch_size: int  # B
    lifted: Lifted | None  # None for models that do not lift
    viewed: Viewed | None  # None while only geometry is trained
    twist: Tensor  # [B, P, 6] observed motion, m and rad in the camera's frame
    twist_mean: Tensor | None  # [B, P, 6]; None of a body that is not the model's
    twist_scale: Tensor | None  # [B, P, 6]
    moved: Moved | None = None  # None for models to which nothing moves
    teachers: TeacherObservations | None = None  # None where there is no teacher


class Term(nn.Module, ABC):
    """One kind of observation; subclasses give its log-likelihood."""

    name: str

    @abstractmethod
    def log_prob(self, rollout: Rollout) -> Tensor:
        """Nats per number observed; zeros where the rollout has nothing to say. [B, T], T frames or steps of a window."""


class LaplaceScale(nn.Module):
    """A learned noise scale b > 0."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(float(initial)).log())

    def log_prob(self, error: Tensor) -> Tensor:
        """log p of absolute errors: -|e| / b - log 2b."""
        log_scale = self.log_scale.clamp(-6.0, 3.0)
        return error * -torch.exp(-log_scale) - (log_scale + math.log(2.0))


def log_marginal(log_belief: Tensor, cost: Tensor, known: Tensor, noise: LaplaceScale, outliers: float) -> Tensor:
    """log p of frames from their sources, hypotheses marginalised: see `MultiViewTerm`.

    Args:
        log_belief: log-probability of every hypothesis. [F, P, h, w]
        cost: how badly source s is explained under it. [F, S, P, h, w]
        known: whether the source sees the cell under it. [F, S, P, h, w] bool
        noise: of the costs.
        outliers: share of cells that no hypothesis explains, with density 1.

    Returns:
        Nats per cell, the mean over sources of each cell and over cells; 0 for cells that no source sees. [F]
    """
    belief = log_belief.exp().unsqueeze(1) * known
    mass = belief.sum(2)
    inlier = (belief * noise.log_prob(cost).exp()).sum(2) / mass.clamp_min(1e-12)
    nats = torch.log((1.0 - outliers) * inlier + outliers)
    mass = mass.detach()
    return ((mass * nats).sum(1) / mass.sum(1).clamp_min(1.0)).mean((1, 2))


def _nothing(rollout: Rollout) -> Tensor:
    return rollout.twist.new_zeros(rollout.batch_size, 1)


class FrameTerm(Term):
    """p(x_t | z): target frames, Gaussian noise whose scale the model gives per pixel.

    Where a surface is known to a few pixels, the best picture of it is the mean of what it may be, and that is blurred. Under
    Laplace noise it would be the median, which is sharp and often wrong.
    """

    name = "frame"

    def log_prob(self, rollout: Rollout) -> Tensor:
        if rollout.viewed is None:
            return _nothing(rollout)
        expected = DiagonalGaussian(rollout.viewed.rgb, rollout.viewed.scale.unsqueeze(1))
        nats = expected.log_prob(rollout.viewed.target_rgb)
        return nats.mean((1, 2, 3)).view(rollout.batch_size, -1)


class MultiViewTerm(Term):
    """p(x_s -> x_t | depth): the depth that the model claims must explain a frame from other frames.

    For a belief over planes the depth is marginalised exactly: log sum_p q(p | s sees p) p(x_t | x_s, p), with Laplace noise
    and a share of outliers. The sum is over the planes under which source s sees the cell at all, and the belief is
    conditioned on them, so that what lies outside a source's image is neither favoured nor ruled out; a source counts as far
    as the belief lies where it sees. Every plane gets a gradient, so there is no local minimum to fall into, as there
    is when one depth is moved by the slope of an image. A rendered depth is compared with what the lift, with those same
    sources, makes of the frame; its spread is the noise. Where a model does not lift, the frame is compared with its warped
    sources instead: of several the best counts at each pixel, which is what occlusion leaves, and pixels that a source
    explains better unwarped say nothing (both after Godard et al. 2019, arXiv:1806.01260, section 3.2).
    """

    name = "multi_view"
    OUTLIERS = 0.02
    LEAST_SPREAD = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.plane_noise = LaplaceScale(0.5)
        self.warp_noise = LaplaceScale(0.1)

    def log_prob(self, rollout: Rollout) -> Tensor:
        parts = []
        if rollout.lifted is not None:
            parts.append(self.marginal(rollout.lifted).view(rollout.batch_size, -1))
        if rollout.viewed is not None:
            parts.append(self.rendered(rollout.viewed).view(rollout.batch_size, -1))
        return torch.cat(parts, dim=1) if parts else _nothing(rollout)

    def marginal(self, lifted: Lifted) -> Tensor:
        """log p of each frame, the planes marginalised. [F]"""
        return log_marginal(lifted.log_belief, lifted.cost, lifted.known, self.plane_noise, self.OUTLIERS)

    def rendered(self, viewed: Viewed) -> Tensor:
        """log p of each target given its rendered depth. [F]"""
        if viewed.lifted_depth is None or viewed.lifted_spread is None:
            return self.warped(viewed)
        scale = viewed.lifted_spread.clamp_min(self.LEAST_SPREAD)
        return (-(viewed.depth.log() - viewed.lifted_depth.log()).abs() / scale - torch.log(2.0 * scale)).mean((1, 2))

    def warped(self, viewed: Viewed) -> Tensor:
        """log p of each target under the best of its warped sources. [F]"""
        frames, sources = viewed.source_rgb.shape[:2]

        def repeat(x: Tensor) -> Tensor:
            return x.repeat_interleave(sources, dim=0)

        height, width = viewed.target_rgb.shape[-2:]
        target = repeat(viewed.target_rgb)
        source_rgb = viewed.source_rgb.flatten(0, 1)
        poses = viewed.source_world_from_camera.flatten(0, 1)
        source = Camera(repeat(viewed.camera.intrinsics), poses, height, width)
        warp = backward_warp(source_rgb, repeat(viewed.depth), viewed.camera.map(repeat), source)
        error = photometric_error(target, warp.image)
        error = torch.where(warp.valid, error, torch.inf).unflatten(0, (frames, sources))
        unmoved = photometric_error(target, source_rgb).unflatten(0, (frames, sources)).amin(1)
        best = error.amin(1)
        counts = best < unmoved
        nats = torch.where(counts, self.warp_noise.log_prob(torch.where(counts, best, 0.0)), 0.0)
        return nats.mean((1, 2))


class SmoothnessTerm(Term):
    """log p(depth): a weak Laplace prior on depth slopes where the image has no edge."""

    name = "smoothness"
    SCALE = 10.0

    def log_prob(self, rollout: Rollout) -> Tensor:
        pairs = []
        if rollout.lifted is not None:
            pairs.append((rollout.lifted.depth, rollout.lifted.rgb))
        if rollout.viewed is not None:
            pairs.append((rollout.viewed.depth, rollout.viewed.target_rgb))
        if not pairs:
            return _nothing(rollout)
        slopes = [edge_aware_smoothness(depth, rgb).view(rollout.batch_size, -1) for depth, rgb in pairs]
        return -torch.cat(slopes, dim=1) / self.SCALE


class DepthNormalTerm(Term):
    """log p(depth | normal): depth-normal coherence, a weak Laplace prior that surfaces are as flat as their normals say.

    The plane through a cell's point with the cell's normal n meets the ray r_j of a neighbour at
    z_j = z_i (n . r_i) / (n . r_j) (the depth-from-normal relation of Qi et al. 2018, GeoNet); the term is minus the absolute
    log-ratio of that to the neighbour's own depth, up to `LARGEST`, where a surface ends. Unlike `smoothness` it does not ask
    for surfaces that face the camera, and it is free of the scale of the scene. The noise scale is not learned: both sides are
    the model's own, so a scale that shrinks with their difference is rewarded for flattening everything.
    """

    name = "depth_normal"
    LARGEST = 0.3
    REACH = (1, 2)  # cells between neighbours

    def log_prob(self, rollout: Rollout) -> Tensor:
        if rollout.lifted is None:
            return _nothing(rollout)
        lifted = rollout.lifted
        error = coherence_errors(lifted.depth, lifted.normal, lifted.intrinsics, self.REACH)
        return -error.clamp_max(self.LARGEST).mean(1).view(rollout.batch_size, -1)


class EgoMotionTerm(Term):
    """p(twist | action, last twist): Laplace with the model's own scale."""

    name = "ego_motion"

    def log_prob(self, rollout: Rollout) -> Tensor:
        if rollout.twist_mean is None or rollout.twist_scale is None:
            return _nothing(rollout)
        return motion_log_prob(rollout.twist, rollout.twist_mean, rollout.twist_scale)


def motion_log_prob(twist: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Laplace log-density of twists [..., 6], the mean over their numbers, each at most 8 nats: beyond lies rounding. [...]"""
    return (-(twist - mean).abs() / scale - torch.log(2.0 * scale)).clamp_max(8.0).mean(-1)


class SeenTerm(Term):
    """p(was seen | z): Bernoulli, so that `View.seen` is a probability.

    A target pixel counts as seen when its lifted point agrees with the lifted depth of some context frame: no truth is read.
    """

    name = "seen"

    def log_prob(self, rollout: Rollout) -> Tensor:
        viewed = rollout.viewed
        if viewed is None or viewed.seen is None or viewed.was_seen is None:
            return _nothing(rollout)
        probability = viewed.seen.clamp(1e-4, 1 - 1e-4)
        nats = -F.binary_cross_entropy(probability, viewed.was_seen.to(probability), reduction="none")
        return nats.mean((1, 2)).view(rollout.batch_size, -1)


class RewardTerm(Term):
    """p(r | z): Laplace with one learned scale."""

    name = "reward"

    def __init__(self) -> None:
        super().__init__()
        self.noise = LaplaceScale(0.3)

    def log_prob(self, rollout: Rollout) -> Tensor:
        if rollout.viewed is None or rollout.viewed.reward_mean is None:
            return _nothing(rollout)
        return self.noise.log_prob((rollout.viewed.reward - rollout.viewed.reward_mean).abs())


class ContinuationTerm(Term):
    """p(episode goes on | z): Bernoulli."""

    name = "continuation"

    def log_prob(self, rollout: Rollout) -> Tensor:
        if rollout.viewed is None or rollout.viewed.continuation is None:
            return _nothing(rollout)
        probability = rollout.viewed.continuation.clamp(1e-5, 1 - 1e-5)
        return -F.binary_cross_entropy(probability, rollout.viewed.continued, reduction="none")


TERMS: dict[str, type[Term]] = {
    term.name: term
    for term in (
        FrameTerm,
        MultiViewTerm,
        SmoothnessTerm,
        DepthNormalTerm,
        SeenTerm,
        EgoMotionTerm,
        RewardTerm,
        ContinuationTerm,
    )
}
"""Every term by its name in `TrainConfig.terms`."""
