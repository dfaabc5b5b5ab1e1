"""How right a teacher is: its pseudo-observations beside the truth of the episodes that it was shown.

Before they are compared, depths and points are aligned map by map in what their convention leaves open, and in nothing else.
Only evaluation may do this: what a training reads is never aligned with truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.evaluation.statistics import Estimate, bootstrap_sums
from embodied_liftwm.evaluation.views.episodes import truth_of
from embodied_liftwm.geometry.cameras import back_project, project, transform
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.priors.contract import DepthMaps, Matches, NormalMaps, PointMaps
from embodied_liftwm.priors.contract import PseudoObservations as Observed

WITHIN = {"depth": 0.1, "points": 0.1, "matches": 1.0, "normals": 11.25}
"""What counts as right: relative, relative, pixels, degrees."""


@dataclass(frozen=True)
class QualityRow:
    """One kind of pseudo-observation of one prior, whole or a tenth of it."""

    prior: str
    kind: str
    tenth: int  # of confidence, 1 the least sure; 0 for all of it
    number: int  # pixels or matches
    coverage: float  # share of all pixels of all frames that have confidence above 0; of matches, their number a frame
    confidence: float  # mean
    error: float  # mean: relative of depth (AbsRel) and points, pixels of matches, degrees of normals
    rmse: float  # metres of depth and points, pixels of matches, degrees of normals
    within: float  # share with a relative error below 0.1, below 1 pixel, below 11.25 degrees
    cpu_s: float  # a frame


class Judged(NamedTuple):
    """Errors of what has confidence, and that confidence."""

    error: Tensor  # [n] as in `QualityRow.error`
    absolute: Tensor  # [n] as in `QualityRow.rmse`
    confidence: Tensor  # [n]


def compare(observed: Observed, truth: Truth, intrinsics: Tensor) -> Iterator[tuple[str, Judged]]:
    """Each kind of pseudo-observation that can be judged, beside the truth of its episode."""
    depth, poses = torch.from_numpy(truth.depth).float(), torch.from_numpy(truth.world_from_camera)
    if observed.depth is not None:
        yield "depth", depth_errors(observed.depth, depth)
    if observed.normals is not None:
        yield "normals", normal_errors(observed.normals, depth, intrinsics)
    if observed.points is not None:
        yield "points", point_errors(observed.points, depth, poses, intrinsics)
    if observed.matches is not None:
        yield "matches", match_errors(observed.matches, depth, poses, intrinsics)


def depth_errors(maps: DepthMaps, truth: Tensor) -> Judged:
    """Of metric depth as it is, of the others once their maps are aligned."""
    parts = []
    for values, confidence, true in zip(maps.values, maps.confidence, truth[maps.frames], strict=True):
        said = (confidence > 0) & (true > 0)
        if said.any():
            depth = aligned(values[said], confidence[said], true[said], maps.convention)
            away = (depth - true[said]).abs()
            parts.append(Judged(away / true[said], away, confidence[said]))
    return _joined(parts)


def aligned(values: Tensor, weight: Tensor, true: Tensor, convention: str) -> Tensor:
    """Depth in metres of what a convention says of n pixels: median ratio, or least squares in inverse depth."""
    if convention == "metric":
        return values
    if convention == "scale_free":
        return values * (true / values).median()
    root = weight.sqrt()
    system = torch.stack([values, torch.ones_like(values)], dim=1) * root[:, None]
    scale, shift = torch.linalg.lstsq(system.double(), (root / true).double()[:, None], driver="gelsd").solution[:, 0].float()
    return 1.0 / (scale * values + shift).clamp_min(0.05)


def normal_errors(maps: NormalMaps, depth: Tensor, intrinsics: Tensor) -> Judged:
    """Angles to the normals of the true depth."""
    true = depth_to_normals(depth[maps.frames], intrinsics.expand(len(maps.frames), 3, 3))
    said = (maps.confidence > 0) & (true.abs().sum(1) > 0)
    angle = torch.rad2deg((maps.values * true).sum(1).clamp(-1.0, 1.0).acos())[said]
    return Judged(angle, angle, maps.confidence[said])


def point_errors(maps: PointMaps, depth: Tensor, poses: Tensor, intrinsics: Tensor) -> Judged:
    """Distances to the true points in the reference camera's frame, absolute and relative to how far they are."""
    parts = []
    for points, confidence, frame, reference in zip(maps.points, maps.confidence, maps.frames, maps.references, strict=True):
        world = back_project(depth[frame][None], intrinsics[None], poses[frame][None])
        true = transform(inverse_pose(poses[reference])[None], world)[0]
        said = (confidence > 0) & (depth[frame] > 0)
        if said.any():
            found, true = points[said], true[said]
            far = true.norm(dim=-1)
            found = found if maps.convention == "metric" else found * (far / found.norm(dim=-1).clamp_min(1e-6)).median()
            away = (found - true).norm(dim=-1)
            parts.append(Judged(away / far, away, confidence[said]))
    return _joined(parts)


def match_errors(matches: Matches, depth: Tensor, poses: Tensor, intrinsics: Tensor) -> Judged:
    """Pixels in the second frame between a match and where the true depth of its pixel in the first puts it."""
    said = matches.confidence > 0
    if not said.any():
        return _joined([])
    pixels, (first, second) = matches.pixels[said], matches.frames[said].unbind(1)
    column, row = pixels[:, 0].long().unbind(1)
    true, views = depth[first, row, column], intrinsics.expand(len(first), 3, 3)
    here = torch.cat([pixels[:, 0], torch.ones_like(pixels[:, 0, :1])], dim=1) @ intrinsics.inverse().mT * true[:, None]
    seen, ahead = project(transform(poses[first], here[:, None]), views, inverse_pose(poses[second]))
    away = torch.where(ahead[:, 0] > 0, (seen[:, 0] - pixels[:, 1]).norm(dim=-1), float(depth.shape[-1]))
    return Judged(away[true > 0], away[true > 0], matches.confidence[said][true > 0])


def _joined(parts: list[Judged]) -> Judged:
    return Judged(*(torch.cat(part) for part in zip(*parts, strict=True))) if parts else Judged(*torch.zeros(3, 0))


def summarize(name: str, kind: str, found: Judged, whole: int, cpu_s: float, tenths: bool = True) -> list[QualityRow]:
    """All of it, and its tenths by confidence where that is not the same everywhere."""
    order = found.confidence.argsort(stable=True)
    number, parts = len(order), [(0, order)]
    if tenths and number >= 10 and found.confidence[order[0]] < found.confidence[order[-1]]:
        parts += [(k + 1, order[number * k // 10 : number * (k + 1) // 10]) for k in range(10)]
    rows = []
    for tenth, where in parts:
        error, absolute, confidence = (part[where].double() for part in found)
        within, rmse = (error < WITHIN[kind]).double().mean(), absolute.square().mean().sqrt()
        sure, wrong = float(confidence.mean()), float(error.mean())
        rows.append(
            QualityRow(name, kind, tenth, len(where), len(where) / whole, sure, wrong, float(rmse), float(within), cpu_s)
        )
    return rows


@dataclass(frozen=True)
class DepthQuality:
    """A teacher's own depth of one episode, over the pixels of which it says anything."""

    teacher: str
    episode: int
    pixels: int
    coverage: float  # share of the episode's pixels
    confidence: float  # mean
    abs_rel: float
    within: float  # share with a relative error below a tenth


QUALITY_FIGURES = {"teacher_abs_rel": "abs_rel", "teacher_within": "within"}
"""Name of a figure -> the column of `DepthQuality` that it is the mean of."""


def depth_quality(teacher: str, read: Callable[[int], Observed], episodes: Iterable[Episode]) -> list[DepthQuality]:
    """A row for each episode in which the teacher says anything of depth.

    Args:
        teacher: its name in the rows.
        read: what it says of the episode at a position.
        episodes: with truth.
    """
    rows = []
    for position, episode in enumerate(episodes):
        maps = read(position).depth
        if maps is None:
            continue
        depth = torch.from_numpy(truth_of(episode, position).depth).float()
        (whole,) = summarize(teacher, "depth", depth_errors(maps, depth), depth.numel(), 0.0, tenths=False)
        if whole.number:
            means = whole.coverage, whole.confidence, whole.error, whole.within
            rows.append(DepthQuality(teacher, position, whole.number, *means))
    return rows


def quality_estimate(rows: Sequence[DepthQuality], column: str, resamples: int) -> Estimate:
    """The mean of a column over all pixels, with its interval over episodes."""
    pixels = np.array([row.pixels for row in rows], np.float64)
    totals = pixels * np.array([getattr(row, column) for row in rows], np.float64)
    return bootstrap_sums(np.stack([totals, pixels]), [row.episode for row in rows], lambda s: s[0] / s[1], resamples)
