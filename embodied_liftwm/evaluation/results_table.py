"""The results table: every model judged on the same held-out episodes by the same code, seed by seed and pooled.

A row of the table is a kind of model, trained at several seeds. Intervals are over episodes (`statistics.bootstrap_mean`):
seeds are pooled, and what the seeds of one episode have in common stays together. Differences are paired view by view.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.judging import JudgeFactory, judge_all
from embodied_liftwm.evaluation.left_out import PERSISTENCE_NEEDS, lacking
from embodied_liftwm.evaluation.metrics.calibration import calibration_error
from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS, Persistence, PersistenceRow
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.statistics import Estimate, bootstrap_mean, bootstrap_sums
from embodied_liftwm.evaluation.summary import VIEW_METRICS, gap_label
from embodied_liftwm.evaluation.views.episodes import known_truth
from embodied_liftwm.evaluation.views.novel import ViewRow, novel_views

POOLED = "pooled"
COMPARED = (("glo", "2d_only"), ("oracle", "glo"), ("glo", "recurrent"), ("glo", "none"))
"""Pairs of rows whose difference has a row of its own."""

IMAGE_COLUMNS = (
    Column("PSNR (dB)", ("psnr",), 2, "higher"),
    Column("PSNR, seen px", ("psnr_seen",), 2, "higher"),
    Column("SSIM", ("ssim",), 3, "higher"),
    Column("SSIM, seen px", ("ssim_seen",), 3, "higher"),
    Column("epipolar (px)", ("epipolar_px",), 2, "lower"),
    Column("true frames", ("epipolar_floor_px",), 2),
)
GEOMETRY_COLUMNS = (
    Column("depth RMSE (m)", ("depth_rmse_m",), 3, "lower"),
    Column("seen px (m)", ("depth_rmse_seen_m",), 3, "lower"),
    Column("seen px / median", ("depth_rmse_seen_rel",), 3, "lower"),
    Column("AbsRel, seen px", ("abs_rel_seen",), 3, "lower"),
    Column("δ < 1.25, seen px", ("delta_125_seen",), 3, "higher"),
    Column("normals, seen px (°)", ("normal_deg_seen",), 1, "lower"),
)


def persistence_figure(low: int = 0, high: int = 0) -> str:
    """What the persistence score of a bin of gaps is called; of all gaps without one."""
    return f"persistence_{gap_label(low, high)}" if high else "persistence"


PERSISTENCE_COLUMNS = (
    Column("persistence", (persistence_figure(),), 3, "higher"),
    *(Column(f"gap {gap_label(*ends)}", (persistence_figure(*ends),), 3, "higher") for ends in GAP_BINS),
    Column("another scene's state", ("persistence_floor",), 3),
)


class Judged(NamedTuple):
    """One model's rows."""

    views: list[ViewRow]
    persistence: list[PersistenceRow]


@dataclass(frozen=True)
class TableFigure:
    """A mean with its 95 % interval over episodes."""

    row: str  # such as "glo", or "glo - 2d_only": paired
    seed: str  # of one training, or "pooled"
    figure: str  # a column of `ViewRow`, "seen_ece", or "persistence" with its bin of gaps
    mean: float
    low: float
    high: float
    count: int  # views or returns of objects
    episodes: int


def judge(model: Any, name: str, source: str, episodes: Sequence[Episode], context: int, views: int, device: str) -> Judged:
    """Novel views and, where episodes tell what it needs, persistence of one model.

    Args:
        model: anything that can observe and render.
        name: its row.
        source: what messages call it.
        episodes: held-out ones.
        context: frames observed before novel views are rendered.
        views: novel views of an episode.
        device: torch device.
    """
    factories: list[JudgeFactory] = [novel_views(episodes, context, views)]
    factories += [] if lacking(PERSISTENCE_NEEDS, known_truth(episodes)) else [Persistence]
    views_rows, *more = judge_all([CheckedModel(model, name, source)], episodes, factories, device)
    return Judged(views_rows, more[0] if more else [])


Table = Mapping[str, Mapping[int, Judged]]
"""Row -> training seed -> its rows."""


def table_figures(table: Table, resamples: int, compared: Sequence[tuple[str, str]] = COMPARED) -> list[TableFigure]:
    """Every figure of every row and of every pair of `compared` that is there, seed by seed and pooled."""
    found = []
    for row, by_seed in table.items():
        found += _of_row(row, _values(by_seed), resamples) + _calibration(row, by_seed, resamples)
    for ours, theirs in compared:
        if ours in table and theirs in table:
            found += _of_row(f"{ours} - {theirs}", _differences(_values(table[ours]), _values(table[theirs])), resamples)
    return found


def relative_changes(
    table: Table, compared: Sequence[tuple[str, str]], figures: Sequence[str], resamples: int
) -> list[TableFigure]:
    """By which share a mean differs between two rows, over the same views: `<figure>_change`, in percent."""
    found = []
    for ours, theirs in compared:
        mine, others = _values(table[ours]), _values(table[theirs])
        both = {seed: mine[seed] for seed in sorted(mine.keys() & others.keys())}
        for (name, seeds), figure in itertools.product(_groups(both).items(), figures):
            pairs = [(mine[seed][figure], others[seed][figure]) for seed in seeds]
            assert all(first.cases == second.cases for first, second in pairs), f"{figure}: judged on different cases"
            columns = np.concatenate([np.stack([first.values, second.values]) for first, second in pairs], axis=1)
            kept = ~np.isnan(columns).any(0)
            owners = [episode for (first, _) in pairs for episode in first.episodes]
            owners = [owner for owner, keep in zip(owners, kept, strict=True) if keep]
            estimate = bootstrap_sums(columns[:, kept], owners, lambda s: 100.0 * (s[0] / s[1] - 1.0), resamples)
            found.append(_figure(f"{ours} - {theirs}", name, f"{figure}_change", estimate))
    return found


class _Numbers(NamedTuple):
    values: np.ndarray  # [R]
    episodes: list[int]
    cases: list[tuple[int, int, int]]  # what each number is of: models are compared on the same


Values = dict[int, dict[str, _Numbers]]
"""Seed -> figure -> its numbers."""


def _values(by_seed: Mapping[int, Judged]) -> Values:
    return {seed: _of_model(judged) for seed, judged in by_seed.items()}


def _of_model(judged: Judged) -> dict[str, _Numbers]:
    found = {name: _numbers(judged.views, name) for name in VIEW_METRICS}
    found[persistence_figure()] = _numbers(judged.persistence, "score")
    for ends in GAP_BINS:
        inside = [row for row in judged.persistence if ends[0] <= row.gap <= ends[1]]
        found[persistence_figure(*ends)] = _numbers(inside, "score")
    return found | {"persistence_floor": _numbers(judged.persistence, "floor")}


def _numbers(rows: Sequence[Any], column: str) -> _Numbers:
    cases = [(row.episode, row.frame, getattr(row, "object_id", 0)) for row in rows]
    return _Numbers(np.array([getattr(row, column) for row in rows], np.float64), [row.episode for row in rows], cases)


def _differences(ours: Values, theirs: Values) -> Values:
    found: Values = {}
    for seed in ours.keys() & theirs.keys():
        found[seed] = {}
        for figure, mine in ours[seed].items():
            other = theirs[seed][figure]
            assert mine.cases == other.cases, f"{figure}: models were judged on different cases"
            found[seed][figure] = mine._replace(values=mine.values - other.values)
    return dict(sorted(found.items()))


def _of_row(row: str, values: Values, resamples: int) -> list[TableFigure]:
    found = []
    for name, seeds in _groups(values).items():
        for figure in next(iter(values.values()), {}):
            parts = [values[seed][figure] for seed in seeds]
            numbers, episodes = np.concatenate([p.values for p in parts]), [e for p in parts for e in p.episodes]
            estimate = bootstrap_mean(numbers, episodes, resamples)
            if estimate.count:  # a bin of gaps that no return fell into has no figure
                found.append(_figure(row, name, figure, estimate))
    return found


def _calibration(row: str, by_seed: Mapping[int, Judged], resamples: int) -> list[TableFigure]:
    """Of pooled bins, so that a difference of two rows has none: it is no mean over views."""
    found = []
    for name, seeds in _groups(by_seed).items():
        estimate = calibration_error([view for seed in seeds for view in by_seed[seed].views], resamples)
        if estimate.count:
            found.append(_figure(row, name, "seen_ece", estimate))
    return found


def _groups(seeds: Iterable[int]) -> dict[str, list[int]]:
    """What figures are given of: all seeds pooled, then each."""
    every = list(seeds)
    return {POOLED: every} | {str(seed): [seed] for seed in every}


def _figure(row: str, seed: str, figure: str, estimate: Estimate) -> TableFigure:
    return TableFigure(row, seed, figure, estimate.mean, estimate.low, estimate.high, estimate.count, estimate.clusters)


def pooled(figures: Sequence[TableFigure]) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> figure -> its estimate over all seeds, as `tables.figure_table` reads it."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for f in figures:
        if f.seed == POOLED:
            ends = {"low": f.low, "high": f.high} if np.isfinite(f.low) else {"low": None, "high": None}
            found.setdefault(f.row, {})[f.figure] = {"mean": f.mean, "count": f.count, "clusters": f.episodes} | ends
    return found
