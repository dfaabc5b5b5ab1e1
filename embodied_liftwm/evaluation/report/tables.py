"""The report's words and tables, from the figures of metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.summary import LONG_GAP, gap_label
from embodied_liftwm.evaluation.views.mean_colour import FROZEN_FRAME

LONG = f"gap_{LONG_GAP}_up"
NONE = "–"

AGENTS = {
    "planner": "planner",
    "planner_baseline": "planner on baseline",
    "policy": "PPO policy",
    "random": "random",
    "oracle": "scripted oracle",
}
"""Who navigates, as the report calls them."""


@dataclass(frozen=True)
class Column:
    """One metric of a table."""

    title: str
    path: tuple[str, ...]  # into a model's or agent's figures, to an estimate
    digits: int = 2
    better: str = ""  # "higher", "lower", or "" where best means nothing
    percent: bool = False


@dataclass(frozen=True)
class Cell:
    """A figure and its interval as text."""

    value: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows are models or agents, columns metrics."""

    titles: list[str]
    rows: list[tuple[str, str, list[Cell]]]  # key (a CSS class), label, cells


VIEW_COLUMNS = (
    Column("PSNR, seen px (dB)", ("psnr_seen",), 2, "higher"),
    Column("PSNR, all px (dB)", ("psnr",), 2, "higher"),
    Column("SSIM, seen px", ("ssim_seen",), 3, "higher"),
    Column("SSIM, all px", ("ssim",), 3, "higher"),
    Column("depth RMSE, seen px (m)", ("depth_rmse_seen_m",), 3, "lower"),
    Column("RMSE / median depth", ("depth_rmse_seen_rel",), 3, "lower"),
    Column("AbsRel, seen px", ("abs_rel_seen",), 3, "lower"),
    Column("δ < 1.25, seen px", ("delta_125_seen",), 3, "higher"),
    Column("normals, seen px (°)", ("normal_deg_seen",), 1, "lower"),
    Column("epipolar (px)", ("epipolar_px",), 2, "lower"),
)
WHOLE_GEOMETRY_COLUMNS = (
    Column("depth RMSE (m)", ("depth_rmse_m",), 3, "lower"),
    Column("RMSE / median depth", ("depth_rmse_rel",), 3, "lower"),
    Column("AbsRel", ("abs_rel",), 3, "lower"),
    Column("δ < 1.25", ("delta_125",), 3, "higher"),
    Column("normals (°)", ("normal_deg",), 1, "lower"),
)
"""Over all pixels: where true depth is known, and not which pixels were seen."""
CALIBRATION_COLUMNS = (
    Column("truly seen", ("seen_share",), 3),
    Column("Brier of seen", ("seen_brier",), 3, "lower"),
    Column("ECE of seen", ("seen_ece",), 3, "lower"),
    Column("mean seen", ("seen_predicted",), 3),
)
"""How far `View.seen` is a probability: the share of pixels that some context frame saw, its scores, and its mean."""
SURPRISE_COLUMNS = (Column("swapped frames surprise more", ("right",), 0, "higher", percent=True),)
PERSISTENCE_COLUMNS = (
    Column("score", ("all", "score"), 3, "higher"),
    Column(f"score, gap ≥ {LONG_GAP}", (LONG, "score"), 3, "higher"),
    Column("another scene's state", ("all", "floor"), 3),
    Column("right colour", ("all", "colour_share"), 3, "higher"),
    Column("right depth", ("all", "depth_share"), 3, "higher"),
    Column("score at entry", ("all", "entry_score"), 3, "higher"),
)
NAVIGATION_COLUMNS = (
    Column("success", ("success",), 0, "higher", percent=True),
    Column("SPL", ("spl",), 3, "higher"),
    Column("SoftSPL", ("soft_spl",), 3, "higher"),
    Column("steps", ("steps",), 1),
    Column("path (m)", ("path_m",), 2),
    Column("left to go (m)", ("final_distance_m",), 2, "lower"),
)


def labels_of(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """How tables and the report call each model: by its memory, else its type."""
    labels = {key: str(entry["memory"] or entry["type"]) for key, entry in models.items()}
    if len(set(labels.values())) < len(labels):
        labels = {key: f"{labels[key]}, {Path(models[key]['source']).name}" for key in labels}
    if "baseline" in labels:
        labels["baseline"] = f"{labels['baseline']} (baseline)"
    return labels | {"floor": "mean colour (lower bound)", FROZEN_FRAME: "last frame, held still (lower bound)"}


def view_columns(views: dict[str, Any]) -> tuple[tuple[Column, ...], tuple[Column, ...], tuple[Column, ...]]:
    """Columns of images, geometry and calibration that the figures of novel views have: without truth there are fewer."""
    seen = "psnr_seen" in views["model"]
    geometry = VIEW_COLUMNS[4:] if seen else WHOLE_GEOMETRY_COLUMNS
    parts = VIEW_COLUMNS[:4], geometry, CALIBRATION_COLUMNS
    images, depths, calibration = (tuple(c for c in part if c.path[0] in views["model"]) for part in parts)
    return images, depths, calibration


def navigation_columns(agents: dict[str, Any]) -> tuple[Column, ...]:
    """Columns of navigation that have a figure: environments may not tell of success or of shortest ways."""
    known = {c.path for c in NAVIGATION_COLUMNS if any(_reach(one, c.path).get("mean") is not None for one in agents.values())}
    return tuple(column for column in NAVIGATION_COLUMNS if column.path in known)


def figure_table(figures: dict[str, Any], labels: dict[str, str], columns: tuple[Column, ...], rank: tuple[str, ...]) -> Table:
    """A table with the best of the `rank` rows marked in each column that has a better end."""
    cells: dict[str, list[Cell]] = {key: [] for key in figures}
    for column in columns:
        means: dict[str, Any] = {key: _reach(figures[key], column.path).get("mean") for key in figures}
        ranked = [float(means[key]) for key in rank if means.get(key) is not None]
        best = None
        if column.better and len(ranked) > 1:
            first, second = sorted(ranked, reverse=column.better == "higher")[:2]
            best = first if first != second else None  # a tie has no winner
        for key in figures:
            won = best is not None and key in rank and means[key] == best
            cells[key].append(cell(_reach(figures[key], column.path), column.digits, won, column.percent))
    return Table([column.title for column in columns], [(key, labels.get(key, key), cells[key]) for key in figures])


def cost_table(cost: dict[str, Any], labels: dict[str, str], act_ms: dict[str, float]) -> Table:
    """Milliseconds and bytes of each model; the last column is an action of the planner on it."""
    titles = ["observe (ms)", "later half (ms)", "render (ms)", "state (KiB)", "halfway (KiB)"] + ["action (ms)"] * bool(act_ms)
    rows = []
    for key, one in cost.items():
        times = (one["observe_ms"], one["observe_ms_second_half"], one["render_ms"])
        cells = [f"{ms:.1f}" for ms in times] + [f"{one[b] / 1024:.1f}" for b in ("state_bytes", "state_bytes_halfway")]
        acting = act_ms.get("planner" if key == "model" else f"planner_{key}")
        cells += [NONE if acting is None else f"{acting:.0f}"] if act_ms else []
        rows.append((key, labels.get(key, key), [Cell(text) for text in cells]))
    return Table(titles, rows)


def cell(estimate: dict[str, Any], digits: int, best: bool = False, percent: bool = False) -> Cell:
    """An estimate as text: 24.91 and [24.1, 25.6]."""

    def shown(value: float) -> str:
        return f"{100 * value:.{digits}f} %" if percent else f"{value:.{digits}f}"

    if estimate.get("mean") is None:
        return Cell(NONE)
    low, high = estimate.get("low"), estimate.get("high")
    interval = "" if low is None or high is None else f"[{shown(low)}, {shown(high)}]"
    return Cell(shown(estimate["mean"]), interval, best)


def headline(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """The three lines that matter: what was measured, ours, and what stands beside it."""
    found = []
    views = metrics.get("views", {})
    if "model" in views:
        name, about = (
            ("psnr_seen", "dB on pixels it has seen before")
            if "psnr_seen" in views["model"]
            else ("psnr", "dB on frames to come")
        )
        found.append(_card(about, views, (name,), 1, _difference(metrics, "views", name, 1)))
    kept = metrics.get("persistence", {})
    if "model" in kept:
        path = (LONG, "score") if _reach(kept["model"], (LONG, "score")).get("count") else ("all", "score")
        after = f" after {LONG_GAP}+ steps out of view" if path[0] == LONG else ""
        name = f"of an object returns right{after}"
        card = _card(name, kept, path, 2, _difference(metrics, "persistence", path[0], 2))
        card["beside"] += f" · another scene's state {cell(_reach(kept['model'], (path[0], 'floor')), 2).value}"
        found.append(card)
    agents = metrics.get("navigation", {}).get("agents", {})
    if "planner" in agents:
        cells = {name: cell(agents[name]["success"], 0, percent=True) for name in AGENTS if name in agents}
        own = cells.pop("planner")
        others = " · ".join(f"{AGENTS[name]} {other.value}" for name, other in cells.items())
        name = "of tours end at the remembered object"
        found.append({"value": own.value, "interval": own.interval, "name": name, "beside": others})
    return found


def _card(name: str, figures: dict[str, Any], path: tuple[str, ...], digits: int, difference: str) -> dict[str, str]:
    own = cell(_reach(figures["model"], path), digits)
    beside = []
    if "baseline" in figures:
        beside.append(f"baseline {cell(_reach(figures['baseline'], path), digits).value}{difference}")
    if "floor" in figures:
        beside.append(f"mean colour {cell(_reach(figures['floor'], path), digits).value}")
    if FROZEN_FRAME in figures:
        beside.append(f"last frame {cell(_reach(figures[FROZEN_FRAME], path), digits).value}")
    return {"value": own.value, "interval": own.interval, "name": name, "beside": " · ".join(beside)}


def _difference(metrics: dict[str, Any], suite: str, name: str, digits: int) -> str:
    estimate = _reach(metrics, ("difference", suite, name))
    if estimate.get("mean") is None:
        return ""
    text = cell(estimate, digits)
    sign = "+" if estimate["mean"] >= 0 else ""
    return f" (difference {sign}{text.value} {text.interval})"


def bin_labels(figures: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Bins of gaps that hold a pair, and how many."""
    bins = figures["bins"]
    kept = [gap_label(*ends) for ends in GAP_BINS if bins[gap_label(*ends)]["score"]["count"]]
    return kept, [f"{bins[name]['score']['count']} pairs" for name in kept]


def _reach(figures: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    found: Any = figures
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
