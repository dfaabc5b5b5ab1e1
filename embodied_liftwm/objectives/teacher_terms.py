"""The terms of teachers: each pseudo-observation as one more factor of the likelihood, as invariant as its convention.

Depth is a belief over planes, and is summed out as in `MultiViewTerm`: log p(g | z) = log sum_p q(p) p(g | depth p), with a
share of outliers. Planes about the model's depth stand for that depth itself, so that a teacher moves it within the spacing
of planes, and mass from far planes as well. Every teacher has noise scales of its own, learned: one that contradicts
everything else is turned down by them. Confidence multiplies a log-likelihood, and terms are means over cells, as others are.

Noise may be held instead, at what it comes to for a good teacher, with no share of outliers: what most distillation is, a loss
of fixed weight. It is there to be compared with (docs/experiments.md, section 40).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embodied_liftwm.geometry.cameras import camera_rays, inverse_intrinsics
from embodied_liftwm.geometry.normals import at_planes, coherence_errors
from embodied_liftwm.objectives.observations import (
    ObservedDepth,
    ObservedMatches,
    ObservedNormals,
    ObservedPoints,
    ObservedViews,
    TeacherObservations,
)
from embodied_liftwm.objectives.teacher_noise import OUTLIERS, AddedNoise, Concentration, RadialLaplace, with_outliers
from embodied_liftwm.objectives.terms import Lifted, Rollout, Term
from embodied_liftwm.priors.alignment import fit_affine, median_log_factor, point_log_factor
from embodied_liftwm.priors.contract import Kind

REACH = 2.5
"""Planes within so many spacings of the model's depth stand for that depth: the window that its mean is taken over."""
LEAST_ERROR = 1e-3
"""Of a log-depth, or as a share: below it errors are round, so that a cell which an alignment fits exactly has no slope."""


def hypotheses(lifted: Lifted, log_planes: Tensor) -> Tensor:
    """The log-depth that each plane of a cell stands for: its own, or near the model's depth that depth. [F, P, h, w]"""
    planes, depth = log_planes[:, None, None].expand_as(lifted.log_belief), lifted.depth.log().unsqueeze(1)
    spacing = (log_planes[-1] - log_planes[0]) / (len(log_planes) - 1)
    return torch.where((planes - depth.detach()).abs() <= REACH * spacing, depth, planes)


def log_summed_out(log_belief: Tensor, log_likelihood: Tensor, outlier_nats: float, share: float) -> Tensor:
    """log( (1 - o) sum_p q(p) p(g | p) + o p(g | outlier) ), planes along axis 1. [F, P, ...] -> [F, ...]"""
    return with_outliers(torch.logsumexp(log_belief + log_likelihood, dim=1), outlier_nats, share)


class TeacherTerm(Term):
    """One kind of pseudo-observation, of any number of teachers: independent given z, so that their likelihoods add."""

    kind: ClassVar[Kind]

    def __init__(self, conventions: Mapping[str, str] | None = None, held: bool = False) -> None:
        """Take teachers by name, with the convention that each one states; `held` noise is not learned."""
        super().__init__()
        self.conventions, self.outliers = dict(conventions or {}), 0.0 if held else OUTLIERS
        self.noise = nn.ModuleDict({_key(name): self.first_noise(held) for name in self.conventions})
        self.requires_grad_(not held)

    def log_prob(self, rollout: Rollout) -> Tensor:
        observed = {} if rollout.teachers is None else getattr(rollout.teachers, self.kind)
        parts = []
        for name, convention in self.conventions.items():
            if name in observed and (rollout.lifted is not None or self.kind == "views"):
                nats = self.score(name, observed[name], convention, self.noise[_key(name)], rollout)
                parts.append(nats.view(rollout.batch_size, -1))
        return torch.stack(parts).sum(0) if parts else rollout.twist.new_zeros(rollout.batch_size, 1)

    @abstractmethod
    def first_noise(self, held: bool) -> nn.Module:
        """The noise of a teacher that nothing is known of yet, or the one that is held."""

    @abstractmethod
    def score(self, teacher: str, observed: Any, convention: str, noise: Any, rollout: Rollout) -> Tensor:
        """Log-likelihood of what that teacher observed, in nats per number. [F], or [B]"""


class TeacherDepthTerm(TeacherTerm):
    """p(depth maps | z): Laplace on log-depth, or on the teacher's inverse depth where that is affine-invariant.

    Metric: |log d - log z|. Up to a factor: the same after the factor that is best (`median_log_factor`), found at the
    model's depth and held. Affine-invariant: |d - (a / z + s)| in units of the teacher's own spread, with a and s from
    `fit_affine` (after Ranftl et al. 2020, arXiv:1907.01341). In these units the likelihood is that of the teacher's
    numbers however they are scaled, and a model gains nothing by moving everything farther away.
    """

    name = "teacher_depth"
    kind: ClassVar[Kind] = "depth"
    OUTLIER_NATS = math.log(0.2)  # uniform over the log-depths, or spreads, that there are: about five

    def first_noise(self, held: bool) -> RadialLaplace:
        return RadialLaplace(0.06 if held else 0.5)

    def score(self, teacher: str, observed: ObservedDepth, convention: str, noise: RadialLaplace, rollout: Rollout) -> Tensor:
        lifted, log_depths = _believed(rollout)
        error, known = self.errors(convention, observed, lifted, log_depths)
        nats = log_summed_out(lifted.log_belief, noise.log_prob(error), self.OUTLIER_NATS, self.outliers)
        return (observed.confidence * known[:, None, None] * nats).mean((1, 2))

    @staticmethod
    def errors(convention: str, observed: ObservedDepth, lifted: Lifted, log_depths: Tensor) -> tuple[Tensor, Tensor]:
        """How far the teacher is from each hypothesis [F, P, h, w], and of which frames that is known [F]."""
        if convention == "affine_inverse":
            fit = fit_affine(1.0 / lifted.depth, observed.values, observed.confidence)
            scale, shift, spread = (x[:, None, None, None] for x in fit[:3])
            return _length((observed.values.unsqueeze(1) - scale * torch.exp(-log_depths) - shift) / spread), fit.known
        values, known = observed.values, torch.ones_like(observed.values[:, 0, 0], dtype=torch.bool)
        if convention == "scale_free":
            factor = median_log_factor(lifted.depth.detach().log(), observed.values, observed.confidence)
            values, known = observed.values + factor.log_factor[:, None, None], factor.known
        return _length(values.unsqueeze(1) - log_depths), known


class TeacherNormalsTerm(TeacherTerm):
    """p(normals | z): von Mises-Fisher about the encoder's normals, and Laplace on what they ask of depth.

    A plane with the teacher's normal through a cell's point meets the rays of the neighbours at depths whose log-ratios to
    their own (`coherence_errors`) are Laplace, with outliers where a surface ends. Both are free of the scale of the scene.
    The same numbers are thus observed twice, of two parts of z that are not tied to one another: a composite likelihood.

    Normals do not say where surfaces end, and a small object has more neighbours on the wall behind it than cells. So of a
    teacher whose depths are learned from too, which say it, the normals are directions and ask nothing of depth
    (docs/experiments.md, section 36).
    """

    name = "teacher_normals"
    kind: ClassVar[Kind] = "normals"
    NEIGHBOURS = (1, 2)  # cells
    OUTLIER_NATS = math.log(0.5)

    def first_noise(self, held: bool) -> nn.ModuleDict:
        return nn.ModuleDict({"direction": Concentration(8.0 if held else 2.0), "slope": RadialLaplace(0.03 if held else 0.1)})

    def score(self, teacher: str, observed: ObservedNormals, convention: str, noise: Any, rollout: Rollout) -> Tensor:
        assert rollout.teachers is not None
        lifted, _ = _believed(rollout)
        agreed = observed.confidence * noise["direction"].log_prob((observed.values * lifted.normal).sum(1))
        if teacher in rollout.teachers.depth:
            return agreed.mean((1, 2))
        error = coherence_errors(lifted.depth, observed.values, lifted.intrinsics, self.NEIGHBOURS)
        nats = with_outliers(noise["slope"].log_prob(error), self.OUTLIER_NATS, self.outliers)
        return agreed.mean((1, 2)) + (at_planes(observed.confidence, self.NEIGHBOURS) * nats).mean(1)


class TeacherPointsTerm(TeacherTerm):
    """p(pointmaps | z): Laplace in three dimensions on points in the reference camera's frame.

    A cell lifted to depth z lies at z R r + t there, with the believed poses. Distances count as shares of the distance of
    the teacher's point from the camera that saw the cell. Pointmaps up to a factor are first multiplied by the one that is
    best (`point_log_factor`), found at the model's depth and held. After the regression of Wang et al. 2024 (DUSt3R,
    arXiv:2312.14132, section 3.2), with the fit for its normalisation.
    """

    name = "teacher_points"
    kind: ClassVar[Kind] = "points"
    OUTLIER_NATS = math.log(0.1)

    def first_noise(self, held: bool) -> RadialLaplace:
        return RadialLaplace(0.06 if held else 0.3, dimensions=3)

    def score(self, teacher: str, observed: ObservedPoints, convention: str, noise: RadialLaplace, rollout: Rollout) -> Tensor:
        lifted, log_depths = _believed(rollout)
        error, known = self.errors(convention, observed, lifted, log_depths)
        nats = log_summed_out(lifted.log_belief, noise.log_prob(error), self.OUTLIER_NATS, self.outliers) / noise.dimensions
        return (observed.confidence * known[:, None, None] * nats).mean((1, 2))

    @staticmethod
    def errors(convention: str, observed: ObservedPoints, lifted: Lifted, log_depths: Tensor) -> tuple[Tensor, Tensor]:
        """Relative distance of the teacher's point from each hypothesis [F, P, h, w]; of which frames that is known [F]."""
        rotation, centre = observed.reference_from_frame[:, :3, :3], observed.reference_from_frame[:, None, None, :3, 3]
        rays = camera_rays(lifted.intrinsics, *lifted.depth.shape[-2:]) @ rotation.mT.unsqueeze(1)
        points, known = observed.points, torch.ones_like(observed.points[:, 0, 0, 0], dtype=torch.bool)
        if convention == "scale_free":
            factor = point_log_factor((lifted.depth.unsqueeze(-1) * rays + centre).detach(), points, observed.confidence)
            points, known = points * factor.log_factor.exp()[:, None, None, None], factor.known
        seen = points - centre  # from the camera that saw the cell
        squared, along, length = (x.sum(-1).unsqueeze(1) for x in (seen * seen, seen * rays, rays * rays))
        depth = log_depths.exp()
        missed = (squared - 2.0 * depth * along + depth.square() * length).clamp_min(0.0)
        return torch.sqrt(missed / squared.clamp_min(1e-8) + LEAST_ERROR**2), known


class TeacherMatchesTerm(TeacherTerm):
    """p(matches | z): a pixel lifted by the model's depth lands on its partner in the other frame; Laplace in pixels.

    With ray r of the pixel, z R r + t is projected by the other camera, and its distance from the partner counts. Without
    parallax all depths land at one place, and the match says nothing, as it should. The mean is over the matches there are.
    """

    name = "teacher_matches"
    kind: ClassVar[Kind] = "matches"
    OUTLIER_NATS = -2.0 * math.log(64.0)  # uniform over the pixels of an image
    FARTHEST_PX, LEAST_PX = 1e3, 1e-2

    def first_noise(self, held: bool) -> RadialLaplace:
        return RadialLaplace(0.5 if held else 2.0, dimensions=2)

    def score(self, teacher: str, observed: ObservedMatches, convention: str, noise: RadialLaplace, rollout: Rollout) -> Tensor:
        assert rollout.lifted is not None and rollout.teachers is not None
        log_belief, error = self.errors(observed, rollout.lifted, rollout.teachers)
        nats = log_summed_out(log_belief, noise.log_prob(error), self.OUTLIER_NATS, self.outliers) / noise.dimensions
        there = (observed.confidence > 0).sum(1).clamp_min(1)
        return (observed.confidence * nats.view_as(observed.confidence)).sum(1) / there

    @classmethod
    def errors(cls, observed: ObservedMatches, lifted: Lifted, teachers: TeacherObservations) -> tuple[Tensor, Tensor]:
        """Belief of the cells that hold the matched pixels, and pixels by which each of its depths misses. [B * M, P] each"""
        windows, (height, width) = len(observed.frame), lifted.depth.shape[-2:]
        first = torch.arange(windows, device=observed.frame.device) * (len(lifted.depth) // windows)
        frame = (observed.frame + first[:, None]).flatten()
        pixels, partners = (
            x.flatten(0, 1) / teachers.stride for x in (observed.pixels, observed.partners)
        )  # of the grid of cells
        column, row = pixels.floor().long().unbind(-1)
        cell = frame, slice(None), row.clamp(0, height - 1), column.clamp(0, width - 1)
        log_depths = hypotheses(lifted, teachers.log_planes)[cell]
        intrinsics, pose = lifted.intrinsics[frame], observed.partner_from_frame.flatten(0, 1)
        rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1).unsqueeze(-1)
        turned = (pose[:, :3, :3] @ inverse_intrinsics(intrinsics) @ rays).squeeze(-1)
        points = log_depths.exp().unsqueeze(-1) * turned.unsqueeze(1) + pose[:, None, :3, 3]
        ahead = points[..., 2] > 0.01
        z = torch.where(ahead, points[..., 2], 1.0)
        landed = (points @ intrinsics.mT)[..., :2] / z.unsqueeze(-1)
        squared = (landed - partners.unsqueeze(1)).square().sum(-1) * teachers.stride**2
        error = torch.sqrt(squared.clamp_max(cls.FARTHEST_PX**2) + cls.LEAST_PX**2)
        return lifted.log_belief[cell], torch.where(ahead, error, cls.FARTHEST_PX)


class TeacherViewsTerm(TeacherTerm):
    """p(novel views | z): as the frame term, with the teacher's own noise on top of the model's.

    Gaussian of variance s(u)^2 + c^2: s is the scale that the model gives each pixel, taken as it is, so that only real frames
    teach the model how sure to be; c is learned, a teacher.
    """

    name = "teacher_views"
    kind: ClassVar[Kind] = "views"

    def first_noise(self, held: bool) -> AddedNoise:
        return AddedNoise(0.03 if held else 0.1)

    def score(self, teacher: str, observed: ObservedViews, convention: str, noise: AddedNoise, rollout: Rollout) -> Tensor:
        nats = noise.log_prob((observed.target_rgb - observed.rgb).square().mean(1), observed.scale.detach())
        return (observed.confidence * nats).mean((1, 2))


def _believed(rollout: Rollout) -> tuple[Lifted, Tensor]:
    """The lifted frames, and the log-depths that their planes stand for."""
    assert rollout.lifted is not None and rollout.teachers is not None
    return rollout.lifted, hypotheses(rollout.lifted, rollout.teachers.log_planes)


def _length(error: Tensor) -> Tensor:
    return torch.sqrt(error.square() + LEAST_ERROR**2)


def _key(prior: str) -> str:
    """The name of a prior as torch allows it for a module."""
    return prior.replace(".", "_")


TEACHER_TERMS: dict[str, type[TeacherTerm]] = {
    term.name: term for term in (TeacherDepthTerm, TeacherNormalsTerm, TeacherPointsTerm, TeacherMatchesTerm, TeacherViewsTerm)
}
"""Every term of teachers by its name in `TrainConfig.terms`."""
