"""From rows to figures with intervals: what metrics.json holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embodied_liftwm.evaluation.cost import CostRow
from embodied_liftwm.evaluation.metrics.calibration import calibration_error, reliability
from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS, PersistenceRow
from embodied_liftwm.evaluation.navigation.arena import NavigationRow
from embodied_liftwm.evaluation.navigation.navigation import NavigationResult
from embodied_liftwm.evaluation.rows import plain
from embodied_liftwm.evaluation.statistics import (
    column_mean,
    grouped,
    interquartile_mean,
    paired_difference,
    wilson_interval,
)
from embodied_liftwm.evaluation.views.novel import ViewRow
from embodied_liftwm.evaluation.views.swapped import SurpriseRow

VIEW_METRICS = tuple(name for name, field in ViewRow.__dataclass_fields__.items() if str(field.type) == "float")
"""Columns of `ViewRow` whose mean over views is a figure; `seen_ece` is made of its bins."""
PERSISTENCE_METRICS = ("score", "floor", "colour_share", "depth_share", "entry_score")
NAVIGATION_METRICS = ("spl", "soft_spl", "steps", "path_m", "final_distance_m", "bumps")
LONG_GAP = 11
"""From this gap on an object counts as long unseen."""

COMPARED_VIEWS = ("psnr", "psnr_seen", "ssim", "ssim_seen", "depth_rmse_m", "depth_rmse_seen_m", "abs_rel_seen", "epipolar_px")


@dataclass
class Rows:
    """Everything measured, unaveraged. A suite that was not run is empty."""

    views: list[ViewRow] = field(default_factory=list)
    surprise: list[SurpriseRow] = field(default_factory=list)
    persistence: list[PersistenceRow] = field(default_factory=list)
    cost: list[CostRow] = field(default_factory=list)
    navigation: NavigationResult | None = None
    without: frozenset[str] = frozenset()  # columns of views that nobody could fill: they are in no figure and no table

    def flat(self) -> list[dict[str, Any]]:
        """One dict a row, the suite first. `cost` is left out: its rows are timings, and these rows are the same every time."""
        suites: dict[str, Iterable[Any]] = {"views": self.views, "surprise": self.surprise, "persistence": self.persistence}
        suites["navigation"] = self.navigation.rows if self.navigation else []
        return [{"suite": suite} | self._cells(row) for suite, rows in suites.items() for row in rows]

    def _cells(self, row: Any) -> dict[str, Any]:
        return {name: plain(value) for name, value in asdict(row).items() if name not in self.without}


def summarize(rows: Rows, resamples: int, seed: int) -> dict[str, Any]:
    """Figures of every model and agent, each with its interval, and paired differences to the baseline.

    Args:
        rows: of the models "model", perhaps "baseline", "floor", the mean colour, and "frozen_frame".
        resamples: behind each bootstrap interval.
        seed: of the bootstrap.

    Returns:
        JSON-able: views, surprise, persistence, cost by model; navigation by agent; difference: model minus baseline.
    """
    draw = resamples, seed
    found: dict[str, Any] = {}
    if rows.views:
        found["views"] = {name: _views(own, rows.without, draw) for name, own in grouped(rows.views, "model").items()}
    if rows.surprise:
        found["surprise"] = {
            name: {"right": _estimate(own, "right", draw)} for name, own in grouped(rows.surprise, "model").items()
        }
    if rows.persistence:
        found["persistence"] = {name: _persistence(own, draw) for name, own in grouped(rows.persistence, "model").items()}
    if rows.navigation:
        found["navigation"] = _navigation(rows.navigation, draw)
    difference = _differences(rows, draw)
    if difference:
        found["difference"] = difference
    if rows.cost:
        found["cost"] = {name: _cost(own) for name, own in grouped(rows.cost, "model").items()}
    return found


def gap_label(low: int, high: int) -> str:
    """How a bin of gaps is called: "11-50"."""
    return f"{low}-{high}"


def _estimate(rows: Sequence[Any], metric: str, draw: tuple[int, int]) -> dict[str, Any]:
    return column_mean(rows, metric, *draw).as_dict()


def _views(rows: list[ViewRow], without: frozenset[str], draw: tuple[int, int]) -> dict[str, Any]:
    found: dict[str, Any] = {metric: _estimate(rows, metric, draw) for metric in VIEW_METRICS if metric not in without}
    if "seen_brier" in without:
        return found
    found["seen_ece"] = calibration_error(rows, *draw).as_dict()
    bins = reliability(rows, *draw)
    found["reliability"] = [{"share": b.share, "predicted": b.predicted, "seen": b.seen.as_dict()} for b in bins]
    return found


def _persistence(rows: list[PersistenceRow], draw: tuple[int, int]) -> dict[str, Any]:
    groups = {"all": rows, f"gap_{LONG_GAP}_up": [row for row in rows if row.gap >= LONG_GAP]}
    bins = {gap_label(*ends): [row for row in rows if ends[0] <= row.gap <= ends[1]] for ends in GAP_BINS}

    def figures(group: list[PersistenceRow]) -> dict[str, Any]:
        return {metric: _estimate(group, metric, draw) for metric in PERSISTENCE_METRICS}

    return {name: figures(group) for name, group in groups.items()} | {
        "bins": {name: figures(group) for name, group in bins.items()}
    }


def _navigation(result: NavigationResult, draw: tuple[int, int]) -> dict[str, Any]:
    found = {agent: _agent(own, draw) for agent, own in grouped(result.rows, "agent").items()}
    removed = {reason: len(seeds) for reason, seeds in result.removed.items()}
    episodes = len({row.seed for row in result.rows})
    return {"agents": found, "episodes": episodes, "removed": removed, "asked": episodes + sum(removed.values())}


def _agent(rows: list[NavigationRow], draw: tuple[int, int]) -> dict[str, Any]:
    told = [row.success for row in rows if not np.isnan(row.success)]
    success = wilson_interval(sum(success > 0 for success in told), len(told)).as_dict()
    figures = {metric: _estimate(rows, metric, draw) for metric in NAVIGATION_METRICS}
    return {"success": success, **figures, "soft_spl_iqm": interquartile_mean([row.soft_spl for row in rows])}


def _differences(rows: Rows, draw: tuple[int, int]) -> dict[str, Any]:
    """Model minus baseline on the same frames, pairs and episodes; empty without a baseline."""
    found: dict[str, Any] = {}
    views = grouped(rows.views, "model")
    if "baseline" in views:
        compared = [name for name in COMPARED_VIEWS if name not in rows.without]
        found["views"] = {name: _paired(views["model"], views["baseline"], name, draw) for name in compared}
    pairs = grouped(rows.persistence, "model")
    if "baseline" in pairs:
        long = [[row for row in pairs[name] if row.gap >= LONG_GAP] for name in ("model", "baseline")]
        found["persistence"] = {
            "all": _paired(pairs["model"], pairs["baseline"], "score", draw),
            f"gap_{LONG_GAP}_up": _paired(long[0], long[1], "score", draw),
        }
    agents = grouped(rows.navigation.rows if rows.navigation else [], "agent")
    for other in ("planner_baseline", "random"):
        if "planner" in agents and other in agents:
            figures = {name: _paired(agents["planner"], agents[other], name, draw) for name in ("success", "spl", "soft_spl")}
            found.setdefault("navigation", {})[f"planner_minus_{other}"] = figures
    return found


def _paired(first: Sequence[Any], second: Sequence[Any], metric: str, draw: tuple[int, int]) -> dict[str, Any]:
    ours, theirs = ([getattr(row, metric) for row in rows] for rows in (first, second))
    return paired_difference(ours, theirs, [row.episode for row in first], *draw).as_dict()


def _cost(rows: list[CostRow]) -> dict[str, Any]:
    half = len(rows) // 2
    return {
        "observe_ms": float(np.median([row.observe_ms for row in rows])),
        "observe_ms_second_half": float(np.median([row.observe_ms for row in rows[half:]])),
        "render_ms": float(np.nanmedian([row.render_ms for row in rows])),
        "state_bytes": rows[-1].state_bytes,
        "state_bytes_halfway": rows[half].state_bytes,
        "frames": len(rows),
    }
