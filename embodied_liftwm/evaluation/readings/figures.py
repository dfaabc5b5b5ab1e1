"""Figures of the three readings, and what the report shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.permanence.suites import Chart, Row, Table
from embodied_liftwm.evaluation.readings.outcomes import FOUND_M, OUTCOMES, ActRow, ProbeRow, RenderRow, VerdictRow
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.statistics import (
    bootstrap_iqm,
    bootstrap_mean,
    column_mean,
    grouped,
    paired_difference,
    wilson_interval,
)
from embodied_liftwm.evaluation.summary import gap_label

Draw = tuple[int, int]
ACT_FIGURES = ("spl", "soft_spl", "steps", "path_m", "final_distance_m", "bumps")
SEED_MARK = "#"
"""Models of one kind, trained from several seeds, are called kind#1, kind#2, ..."""


def summarize(rows: Sequence[Row], resamples: int, seed: int) -> dict[str, Any]:
    """Figures of one task; see `suites.Summarize`.

    Returns:
        probe, render, act, fails: figures by model; difference: of the first model and each other, paired; kinds:
        interquartile means over the seeds of one kind, where there are several.
    """
    draw = resamples, seed
    probes, renders = _by_model(rows, ProbeRow), _by_model(rows, RenderRow)
    acts, verdicts = _by_model(rows, ActRow), _by_model(rows, VerdictRow)
    found: dict[str, Any] = {
        "probe": {name: _probe(own, draw) for name, own in probes.items()},
        "render": {name: _render(own, draw) for name, own in renders.items()},
        "act": {name: _act(own, draw) for name, own in acts.items()},
        "fails": {name: _fails(own) for name, own in verdicts.items()},
    }
    found["difference"] = _differences(probes, renders, acts, draw)
    kinds = _kinds(probes, renders, acts, draw)
    return found | ({"kinds": kinds} if kinds else {})


def _by_model(rows: Sequence[Row], kind: type) -> dict[str, list[Any]]:
    return grouped([row for row in rows if isinstance(row, kind)], "model")


def _mean(rows: Sequence[Any], name: str, draw: Draw) -> dict[str, Any]:
    return column_mean(rows, name, *draw).as_dict()


def _share(right: Sequence[bool], rows: Sequence[Any], draw: Draw) -> dict[str, Any]:
    return bootstrap_mean([float(value) for value in right], [row.episode for row in rows], *draw).as_dict()


def _in_bins(rows: Sequence[Any]) -> dict[str, list[Any]]:
    return {gap_label(*ends): [row for row in rows if ends[0] <= row.gap <= ends[1]] for ends in GAP_BINS}


def _probe(rows: Sequence[ProbeRow], draw: Draw) -> dict[str, Any]:
    def figures(group: Sequence[ProbeRow]) -> dict[str, Any]:
        return {
            "error_m": _mean(group, "probe_error_m", draw),
            "baseline_m": _mean(group, "probe_baseline_m", draw),
            "found": _share([row.probe_error_m <= FOUND_M for row in group], group, draw),
            "baseline_found": _share([row.probe_baseline_m <= FOUND_M for row in group], group, draw),
        }

    bins = {name: figures(group) for name, group in _in_bins(rows).items()}
    return figures(rows) | {"called": figures([row for row in rows if row.called]), "bins": bins}


def _render(rows: Sequence[RenderRow], draw: Draw) -> dict[str, Any]:
    def figures(group: Sequence[RenderRow]) -> dict[str, Any]:
        asked = [row for row in group if not np.isnan(row.place_error_m)]
        found = {name: _mean(group, name, draw) for name in ("score", "colour_share", "depth_share")}
        return found | {"found": _share([row.place_error_m <= FOUND_M for row in asked], asked, draw)}

    bins = {name: figures(group) for name, group in _in_bins(rows).items()}
    return figures(rows) | {"called": figures([row for row in rows if row.called]), "bins": bins}


def _act(rows: Sequence[ActRow], draw: Draw) -> dict[str, Any]:
    success = wilson_interval(sum(row.success > 0 for row in rows), len(rows)).as_dict()
    first = wilson_interval(sum(row.called_reached > 0 for row in rows), len(rows)).as_dict()
    return {"success": success, "called_reached": first} | {name: _mean(rows, name, draw) for name in ACT_FIGURES}


def _fails(rows: Sequence[VerdictRow]) -> dict[str, Any]:
    outcomes = [row.outcome for row in rows]
    return {outcome: wilson_interval(outcomes.count(outcome), len(rows)).as_dict() for outcome in OUTCOMES}


def _differences(probes: Any, renders: Any, acts: Any, draw: Draw) -> dict[str, Any]:
    """The first model minus each other, on the same objects and episodes."""
    found: dict[str, Any] = {}
    for part, by_model, name, key in (
        ("probe_error_m", probes, "probe_error_m", ("episode", "frame", "object_id")),
        ("score", renders, "score", ("episode", "object_id")),
        ("success", acts, "success", ("episode",)),
    ):
        first = next(iter(by_model), "")
        for other in list(by_model)[1:]:
            paired = _paired(by_model[first], by_model[other], name, key, draw)
            found.setdefault(f"{first} - {other}", {})[part] = paired
    return found


def _paired(ours: Sequence[Any], theirs: Sequence[Any], name: str, key: tuple[str, ...], draw: Draw) -> dict[str, Any]:
    other = {tuple(getattr(row, part) for part in key): getattr(row, name) for row in theirs}
    kept = [row for row in ours if tuple(getattr(row, part) for part in key) in other]
    values = [other[tuple(getattr(row, part) for part in key)] for row in kept]
    return paired_difference([getattr(r, name) for r in kept], values, [r.episode for r in kept], *draw).as_dict()


def _kinds(probes: Any, renders: Any, acts: Any, draw: Draw) -> dict[str, Any]:
    """Interquartile means over the models of each kind of which there are two or more."""
    kinds: dict[str, list[str]] = {}
    for name in probes:
        kinds.setdefault(name.partition(SEED_MARK)[0], []).append(name)
    parts = (("probe_error_m", probes), ("score", renders), ("success", acts))
    return {
        kind: {
            part: bootstrap_iqm(_grid([by_model[name] for name in names], part), *draw).as_dict() for part, by_model in parts
        }
        for kind, names in kinds.items()
        if len(names) > 1
    }


def _grid(models: Sequence[Sequence[Any]], name: str) -> np.ndarray:
    """Mean of a column by model and episode. [S, E]"""
    episodes = sorted({row.episode for rows in models for row in rows})
    grid = np.full((len(models), len(episodes)), np.nan)
    for i, rows in enumerate(models):
        for j, episode in enumerate(episodes):
            values = [getattr(row, name) for row in rows if row.episode == episode]
            grid[i, j] = np.mean(values) if values else np.nan
    return grid


FAILS_COLUMNS = tuple(Column(outcome, (outcome,), 0, percent=True) for outcome in OUTCOMES)
PROBE_COLUMNS = (
    Column("error, called (m)", ("called", "error_m"), 2, "lower"),
    Column("within 1 m, called", ("called", "found"), 0, "higher", percent=True),
    Column("error, all hidden (m)", ("error_m",), 2, "lower"),
    Column("mean place, all hidden (m)", ("baseline_m",), 2),
    Column("mean place within 1 m, called", ("called", "baseline_found"), 0, percent=True),
)
RENDER_COLUMNS = (
    Column("score, called", ("called", "score"), 3, "higher"),
    Column("found, called", ("called", "found"), 0, "higher", percent=True),
    Column("score, all hidden", ("score",), 3, "higher"),
    Column("right colour", ("colour_share",), 3, "higher"),
    Column("right depth", ("depth_share",), 3, "higher"),
)
ACT_COLUMNS = (
    Column("success", ("success",), 0, "higher", percent=True),
    Column("SPL", ("spl",), 3, "higher"),
    Column("SoftSPL", ("soft_spl",), 3, "higher"),
    Column("steps", ("steps",), 1),
    Column("left to go (m)", ("final_distance_m",), 2, "lower"),
)
FIRST_COLUMN = Column("reached what was called first", ("called_reached",), 0, "higher", percent=True)
IQM_COLUMNS = (
    Column("success", ("success",), 0, "higher", percent=True),
    Column("probe error (m)", ("probe_error_m",), 2, "lower"),
    Column("persistence score", ("score",), 3, "higher"),
)
WHERE = (
    "Shares of episodes. Used: the planner arrives, and probe or picture finds the object. Reached: it arrives though neither "
    "does. Not stored: it does not arrive, and neither finds it within 1 m. Not readable: one of the two finds it, the other "
    "does not. Not used: whoever was asked finds it, and the planner does not arrive."
)


def show(summary: Mapping[str, Any]) -> list[Table | Chart]:
    """Where each model fails, then the three readings; see `suites.Show`."""
    shown: list[Table | Chart] = []
    if summary["fails"]:
        shown.append(Table("Where it fails", FAILS_COLUMNS, summary["fails"], WHERE, terminal_columns=len(OUTCOMES)))
    shown.append(_acting(summary["act"]))
    shown.append(Table("Probe: where is it now?", PROBE_COLUMNS, summary["probe"], PROBE_TEXT))
    shown += _curve("Probe error by steps since last seen", summary["probe"], "error_m", "error (m)", "baseline_m")
    shown.append(Table("Render: does it come back?", RENDER_COLUMNS, summary["render"], RENDER_TEXT))
    shown += _curve("Persistence by steps since last seen", summary["render"], "score", "persistence score")
    if "kinds" in summary:
        text = "Interquartile mean over training seeds; the interval draws seeds and episodes."
        shown.append(Table("Over training seeds", IQM_COLUMNS, summary["kinds"], text))
    return shown


def _acting(figures: Mapping[str, Any]) -> Table:
    """Success; where more than one object is called, how often the first was reached, too."""
    several = any(own["called_reached"]["mean"] != own["success"]["mean"] for own in figures.values())
    asked = (ACT_COLUMNS[0], *((FIRST_COLUMN,) if several else ()), *ACT_COLUMNS[1:])
    columns = tuple(c for c in asked if any(own[c.path[0]]["mean"] is not None for own in figures.values()))
    text = "Same tours, same order, for every agent." + (
        " Success: all that were called, in turn, were reached." if several else ""
    )
    return Table("Act: the planner goes there", columns, figures, text)


PROBE_TEXT = (
    "A small network, trained on tours of other scenes, reads the frozen state's summary under the question and says where "
    "the object is relative to the camera. Mean place: the best answer that knows nothing of the episode."
)
RENDER_TEXT = (
    "Blind from the call on, each model shows what comes into view on the oracle's way: the share of the object's true pixels "
    "in the right colour at the right depth. Found: what it shows in the object's colour lies within 1 m of it. An object "
    "that a screen hides, or to which nobody knows the way, is looked for in the view that showed most of it, unless what "
    "hides it was seen since."
)


def _curve(title: str, figures: Mapping[str, Any], name: str, label: str, baseline: str = "") -> list[Table | Chart]:
    """A chart over the bins of gaps that hold anything."""
    first = next(iter(figures.values()), None)
    bins = [bin_ for bin_ in (first or {"bins": {}})["bins"] if first and first["bins"][bin_][name]["count"]]
    if not first or not bins:
        return []
    lines = {model: [own["bins"][bin_][name] for bin_ in bins] for model, own in figures.items()}
    if baseline:
        lines["mean place"] = [first["bins"][bin_][baseline] for bin_ in bins]
    tops = [estimate["high"] or estimate["mean"] or 0.0 for line in lines.values() for estimate in line]
    top = 1.0 if name == "score" else max(1.0, 1.05 * max(tops))
    notes = [f"{first['bins'][bin_][name]['count']} questions" for bin_ in bins]
    return [
        Chart(title, bins, lines, label, top, "Steps since the object was last seen.", notes, dashed=("mean place", "floor"))
    ]
