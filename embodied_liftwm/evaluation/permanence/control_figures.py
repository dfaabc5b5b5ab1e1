"""The suite of controls: its figures, tables and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from embodied_liftwm.evaluation.navigation.arena import MakeAgent
from embodied_liftwm.evaluation.permanence.controls import (
    CLEARED,
    DEPTH,
    DOSES,
    ODOMETRY,
    ORACLE,
    OTHER,
    OWN,
    SWAPPED,
    ControlRow,
    measure_controls,
)
from embodied_liftwm.evaluation.permanence.suites import Chart, Suite, Table
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.statistics import column_mean, wilson_interval

TITLES = {
    OWN: "own memory",
    ORACLE: "true depth",
    SWAPPED: "another episode's",
    CLEARED: "cleared at the call",
    OTHER: "another object called",
}
X_LABELS = {ODOMETRY: "odometry noise", DEPTH: "deviation of log-depth"}
ABOUT = (
    "The planner on the model's memory, with one thing changed: its encoder is told the true depth; its state at the call is "
    "that of another episode, or is emptied, or another object is called. An agent that acts on what it remembers must fail "
    "the last three. Dose-response: believed motion that is off by a share of the motion, and encoded depth that is off by a "
    "share of itself, against the error of the goal's believed place and success. What needs an encoder with depth is left out "
    "for models that have none."
)

NEEDS = "odometry that can be disturbed, and scenes in which another object can be called"


def controls_suite(make_agent: MakeAgent) -> Suite:
    """The suite, for an agent that acts on a model."""
    measure = partial(measure_controls, make_agent)
    return Suite("controls", "Controls", ABOUT, measure, summarize_controls, show_controls, rows=(ControlRow,), ours=NEEDS)


def summarize_controls(rows: Sequence[ControlRow], resamples: int, seed: int) -> dict[str, Any]:
    """Model -> control -> dose -> estimates of success, spl, place_error_m, and of believed: the share that named a place."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys((row.model, row.control, row.dose) for row in rows):
        own = [row for row in rows if (row.model, row.control, row.dose) == key]
        model, control, dose = key
        found.setdefault(model, {}).setdefault(control, {})[f"{dose:g}"] = _figures(own, resamples, seed)
    return found


def _figures(rows: Sequence[ControlRow], resamples: int, seed: int) -> dict[str, Any]:
    success = wilson_interval(int(sum(row.success for row in rows)), len(rows)).as_dict()
    means = ("spl", "place_error_m", "believed")
    return {"success": success} | {name: column_mean(rows, name, resamples, seed).as_dict() for name in means}


def show_controls(summary: Mapping[str, Any]) -> list[Table | Chart]:
    """Success by control, place errors by control, and two dose-response curves of each noise."""
    shown: list[Table | Chart] = [
        Table(
            "Success", tuple(Column(title, (name, "0", "success"), 0, percent=True) for name, title in TITLES.items()), summary,
            "Share of episodes in which the planner reaches the goal.", terminal_columns=len(TITLES),
        ),
        Table(
            "Where the goal is believed to be",
            tuple(Column(title, (name, "0", "place_error_m")) for name, title in TITLES.items()), summary,
            "Metres from the true place at the call, where any place was believed.", terminal=False,
        ),
    ]  # fmt: skip
    for name, doses in DOSES.items():
        for figure, label, top in (("success", "success", 1.0), ("place_error_m", "error of the goal's place (m)", 3.0)):
            lines = {model: [_at(figures, name, dose, figure) for dose in (0.0, *doses)] for model, figures in summary.items()}
            if any(entry["mean"] is not None for line in lines.values() for entry in line[1:]):
                shown.append(Chart(f"{X_LABELS[name]}: {label}", [f"{dose:g}" for dose in (0.0, *doses)], lines, label, top))
    return shown


def _at(figures: Mapping[str, Any], control: str, dose: float, figure: str) -> Mapping[str, Any]:
    """An estimate, of None where there is none. Dose 0 is the model as it is."""
    entry = figures.get(control if dose else OWN, {}).get(f"{dose:g}", {})
    return entry.get(figure, {"mean": None, "low": None, "high": None})
