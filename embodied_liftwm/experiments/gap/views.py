"""The 3D-awareness gap on episodes: views from away from where a model looked, compared at equal 2D loss.

Protocol. The camera stays within its support while the model observes `context` frames, then goes to places at one distance
from the nearest of them and looks around. Asked for are views of the context itself, whose PSNR is the *2D loss*, and
*displaced* views, which only a model that knows depth can show: figures there are over pixels that some context frame has seen.

Two models that were trained for as long need not have the same 2D loss. Each is judged at several times of its training. The
level to compare at is the worse of the two at the end; each model's figures are interpolated to where it first reached it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.statistics import bootstrap_mean
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, batches, rollout
from embodied_liftwm.evaluation.views.novel import NovelViews, ViewRow

TWO_D, GLO = "2d_only", "glo"
TOLERANCE_M = 0.15
"""A displaced view is as far from the nearest context camera as asked, up to this: explorers stop within 0.12 m."""
FIGURES = {
    "psnr_context": ("context", "psnr"),  # the 2D loss
    "psnr": ("displaced", "psnr"),
    "psnr_seen": ("displaced", "psnr_seen"),
    "depth_rmse_seen_m": ("displaced", "depth_rmse_seen_m"),
    "abs_rel_seen": ("displaced", "abs_rel_seen"),
    "abs_rel_context": ("context", "abs_rel_seen"),
}
"""Figure -> kind of view and column of `GapRow`."""
COLUMNS = ("psnr", "psnr_seen", "depth_rmse_seen_m", "abs_rel_seen")


@dataclass(frozen=True)
class GapRow:
    """One view of one model at one time of its training."""

    support_m: float
    model: str  # TWO_D or GLO
    seed: int  # of the training
    share: float  # of the training that was done
    kind: str  # "context" or "displaced"
    episode: int
    frame: int
    psnr: float  # dB, all pixels
    psnr_seen: float
    depth_rmse_seen_m: float
    abs_rel_seen: float


@dataclass(frozen=True)
class GapFigure:
    """A mean with its 95 % interval over episodes."""

    support_m: float
    loss: str  # "equal": at the same 2D loss; "final": at the end of training
    model: str  # TWO_D, GLO, or "glo - 2d_only": paired view by view
    seed: str  # of one training, or "pooled"
    figure: str  # of FIGURES
    mean: float
    low: float
    high: float
    rows: int
    episodes: int


def displaced_frames(positions: np.ndarray, context: int, distance_m: float, count: int) -> list[int]:
    """Frames after the context whose camera is `distance_m` from the nearest of the context's, evenly spaced among all those.

    Args:
        positions: true camera centres of an episode. [F, 3]
        context: frames 0 to context - 1 are observed.
        distance_m: metres, to within `TOLERANCE_M`.
        count: frames at most.
    """
    nearest = np.linalg.norm(positions[context:, None] - positions[None, :context], axis=-1).min(1)
    return _spread(context + np.flatnonzero(np.abs(nearest - distance_m) <= TOLERANCE_M), count)


def _spread(frames: np.ndarray, count: int) -> list[int]:
    """At most `count` of these frames, evenly spaced, the last among them."""
    count = min(count, len(frames))
    return [int(frames[(i + 1) * len(frames) // count - 1]) for i in range(count)]


class GapViews(NovelViews):
    """The judge of one batch of episodes: `NovelViews` with other targets."""

    def __init__(self, batch: EpisodeBatch, context: int, distance_m: float, count: int) -> None:
        self.batch, self.context, self.targets = batch, context, []
        for e, frames in enumerate(batch.frames):
            if frames > context:
                displaced = displaced_frames(batch.truth(e).world_from_camera[:, :3, 3], context, distance_m, count)
                self.targets += [self.target(e, t) for t in _spread(np.arange(context), count) + displaced]


def judge(
    model: CheckedModel, episodes: Sequence[Episode], context: int, distance_m: float, count: int, device: str = "cpu"
) -> list[ViewRow]:
    """Views of the context (frames below `context`) and displaced views, `count` of each an episode at most.

    Raises:
        UserError: no episode has a displaced view, or one has no truth.
    """
    rows: list[ViewRow] = []
    for batch in batches(episodes, device):
        views = GapViews(batch, context, distance_m, count)
        for t, state in rollout(model, batch, context):
            rows += views.judge(model, t, state) if t in views.frames() else []
    if all(row.frame < context for row in rows):
        raise UserError(f"no frame is {distance_m} m from an episode's first {context}: raise collect.steps or displaced_m")
    return rows


def gap_row(row: ViewRow, support_m: float, seed: int, share: float, context: int) -> GapRow:
    """A view, with what was judged."""
    kind = "context" if row.frame < context else "displaced"
    figures = {name: getattr(row, name) for name in COLUMNS}
    return GapRow(support_m, row.model, seed, share, kind, row.episode, row.frame, **figures)


def first_reach(levels: Sequence[float], wanted: float) -> list[tuple[int, float]]:
    """Where a curve first reaches a level: one or two positions with weights that sum to 1; the last where it never does."""
    for i, level in enumerate(levels):
        if level >= wanted:
            weight = (wanted - levels[i - 1]) / (level - levels[i - 1]) if i else 1.0
            return [(i - 1, 1.0 - weight), (i, weight)] if i and weight < 1.0 else [(i, 1.0)]
    return [(len(levels) - 1, 1.0)]


Pair = tuple[list[GapRow], list[GapRow]]
"""Rows of `TWO_D` and of `GLO`: the same views in the same order."""


def equal_loss(two_d: Sequence[GapRow], glo: Sequence[GapRow]) -> Pair:
    """Rows of two trainings, judged at several times each, at the 2D loss that both reach."""
    curves = [_by_time(rows) for rows in (two_d, glo)]
    levels = [[_context_psnr(rows) for rows in curve] for curve in curves]
    wanted = min(level[-1] for level in levels)
    first, second = (_mixed(c, first_reach(level, wanted)) for c, level in zip(curves, levels, strict=True))
    return first, second


def at_end(rows: Sequence[GapRow]) -> list[GapRow]:
    """Rows of the end of a training."""
    return _by_time(rows)[-1]


def _by_time(rows: Sequence[GapRow]) -> list[list[GapRow]]:
    ordered = sorted(rows, key=lambda row: (row.share, row.episode, row.frame))
    return [list(group) for _, group in groupby(ordered, key=lambda row: row.share)]


def _context_psnr(rows: Sequence[GapRow]) -> float:
    return float(np.mean([row.psnr for row in rows if row.kind == "context"]))


def _mixed(curve: list[list[GapRow]], weights: list[tuple[int, float]]) -> list[GapRow]:
    """Each view's figures, averaged over times with these weights."""
    return [
        replace(views[0], **{c: sum(w * getattr(v, c) for v, (_, w) in zip(views, weights, strict=True)) for c in COLUMNS})
        for views in zip(*(curve[i] for i, _ in weights), strict=True)
    ]


def figures(rows: Sequence[GapRow], resamples: int) -> list[GapFigure]:
    """Every figure of every support, at equal 2D loss and at the end of training, seed by seed and pooled.

    Args:
        rows: of both models, all supports, seeds and times.
        resamples: behind each interval.
    """
    found: list[GapFigure] = []
    for support in sorted({row.support_m for row in rows}):
        pairs: dict[tuple[str, str], Pair] = {}
        for seed in sorted({row.seed for row in rows if row.support_m == support}):
            own = [row for row in rows if (row.support_m, row.seed) == (support, seed)]
            both = [[row for row in own if row.model == model] for model in (TWO_D, GLO)]
            pairs["equal", str(seed)] = equal_loss(both[0], both[1])
            pairs["final", str(seed)] = at_end(both[0]), at_end(both[1])
        for loss in ("equal", "final"):
            of_loss = {seed: pair for (name, seed), pair in pairs.items() if name == loss}
            for name, (two_d, glo) in ({"pooled": _pooled(list(of_loss.values()))} | of_loss).items():
                models = {TWO_D: two_d, GLO: glo}
                found += _figures(models, (support, loss, name), resamples, difference=True)
        others = [row for row in rows if row.support_m == support and row.model not in (TWO_D, GLO)]
        for model in dict.fromkeys(row.model for row in others):  # rows that learn nothing have an end alone
            found += _figures({model: [r for r in others if r.model == model]}, (support, "final", "pooled"), resamples)
    return found


def _pooled(pairs: Sequence[Pair]) -> Pair:
    return [row for two_d, _ in pairs for row in two_d], [row for _, glo in pairs for row in glo]


def _figures(
    models: Mapping[str, list[GapRow]], about: tuple[float, str, str], resamples: int, difference: bool = False
) -> list[GapFigure]:
    support, loss, seed = about
    found = []
    for figure, (kind, column) in FIGURES.items():
        chosen = {model: [row for row in rows if row.kind == kind] for model, rows in models.items()}
        values = {model: np.array([getattr(row, column) for row in rows]) for model, rows in chosen.items()}
        episodes = [row.episode for row in next(iter(chosen.values()))]
        if difference:
            values[f"{GLO} - {TWO_D}"] = values[GLO] - values[TWO_D]
        for model, numbers in values.items():
            e = bootstrap_mean(numbers, episodes, resamples)
            found.append(GapFigure(support, loss, model, seed, figure, e.mean, e.low, e.high, e.count, e.clusters))
    return found
