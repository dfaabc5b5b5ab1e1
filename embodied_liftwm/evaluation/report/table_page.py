"""The page of the results table: tables, persistence by gap, the budget curve and a strip of pictures; self-contained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.report import charts, tables
from embodied_liftwm.evaluation.report.charts import Series
from embodied_liftwm.evaluation.report.page import strip_grid, template
from embodied_liftwm.evaluation.results_table import (
    GEOMETRY_COLUMNS,
    IMAGE_COLUMNS,
    LABELS,
    PERSISTENCE_COLUMNS,
    POOLED,
    TableFigure,
    persistence_figure,
    pooled,
)
from embodied_liftwm.evaluation.summary import gap_label
from embodied_liftwm.evaluation.views.budget_curve import BudgetFigure
from embodied_liftwm.evaluation.views.strips import Strip
from embodied_liftwm.files import write_text

COLOURS = {
    "none": "var(--grid)",
    "recurrent": "var(--shuffled)",
    "2d_only": "var(--baseline)",
    "mv": "#5aa7a7",
    "epipolar": "#c9a227",
    "depth_normal": "#b86b8b",
    "glo": "var(--model)",
    "oracle": "var(--oracle)",
}
RANKED = tuple(row for row in LABELS if row != "oracle")
"""Rows among which the best figure is marked."""
PARTS = {
    "images": IMAGE_COLUMNS,
    "geometry": GEOMETRY_COLUMNS,
    "calibration": tables.CALIBRATION_COLUMNS,
    "persistence": PERSISTENCE_COLUMNS,
}
BUDGET_COLUMNS = (
    tables.Column("PSNR, seen px (dB)", ("psnr_seen",), 2, "higher"),
    tables.Column("depth RMSE, seen px (m)", ("depth_rmse_seen_m",), 3, "lower"),
    tables.Column("epipolar (px)", ("epipolar_px",), 2, "lower"),
    tables.Column("persistence", ("persistence",), 3, "higher"),
    tables.Column("state (KiB)", ("state_kib",), 1),
    tables.Column("observe (ms)", ("observe_ms",), 1),
    tables.Column("render (ms)", ("render_ms",), 1),
)


@dataclass(frozen=True)
class TablePage:
    """Everything the page is made of."""

    figures: list[TableFigure]
    curve: list[BudgetFigure]
    strip: Strip | None
    headline: list[str]
    about: dict[str, Any]
    config_yaml: str
    versions: list[str]


def write_page(path: Path, page: TablePage) -> Path:
    """Write the page, whole or not at all."""
    shown = {name: part_table(page.figures, name) for name in PARTS}
    if page.curve:
        shown["budget"] = budget_table(page.curve)
    text = template("table.html").render(
        about=page.about,
        headline=page.headline,
        tables=shown,
        persistence_chart=_persistence_chart(page.figures),
        budget_charts=_budget_charts(page.curve),
        strip=strip_grid(page.strip, LABELS) if page.strip else None,
        agent_colours=COLOURS,
        versions=page.versions,
        config_yaml=page.config_yaml,
    )
    write_text(path, text)
    return path


def part_table(figures: Sequence[TableFigure], part: str) -> tables.Table:
    """One of `PARTS`, seeds pooled: the rows of the table, then the paired differences."""
    by_row = pooled(figures)
    kept = {row: by_row[row] for row in [*(row for row in LABELS if row in by_row), *(row for row in by_row if " - " in row)]}
    columns = tuple(c for c in PARTS[part] if any(c.path[0] in found for found in kept.values()))
    names = LABELS | {
        row: " − ".join(LABELS[end].partition(" (")[0] for end in row.split(" - ")) for row in kept if " - " in row
    }
    return tables.figure_table(kept, names, columns, RANKED)


def budget_table(curve: Sequence[BudgetFigure]) -> tables.Table:
    """One row a budget, seeds pooled."""
    found = budget_figures(curve)
    for figures in found.values():
        size = figures["state_bytes"]
        figures["state_kib"] = size | {"mean": size["mean"] / 1024}
    rows = {str(budget): figures for budget, figures in found.items()}
    return tables.figure_table(rows, {name: f"N = {name}" for name in rows}, BUDGET_COLUMNS, ())


def budget_figures(curve: Sequence[BudgetFigure]) -> dict[int, dict[str, dict[str, Any]]]:
    """Budget -> figure -> its estimate over all seeds."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for f in curve:
        if f.seed == POOLED:
            ends = {end: value if np.isfinite(value) else None for end, value in (("low", f.low), ("high", f.high))}
            found.setdefault(f.budget, {})[f.figure] = asdict(f) | ends
    return found


def _persistence_chart(figures: Sequence[TableFigure]) -> Markup:
    by_row = pooled(figures)
    bins = [ends for ends in GAP_BINS if any(persistence_figure(*ends) in found for found in by_row.values())]
    lines = [
        Series.of(LABELS[row], COLOURS[row], [by_row[row].get(persistence_figure(*ends), {}) for ends in bins])
        for row in LABELS
        if row in by_row
    ]
    return Markup(charts.category_chart([gap_label(*ends) for ends in bins], lines, "persistence score", 1.0))


def _budget_charts(curve: Sequence[BudgetFigure]) -> list[Markup]:
    found = budget_figures(curve)
    made = []
    for figure, label in (
        ("psnr_seen", "PSNR, seen px (dB)"),
        ("depth_rmse_seen_m", "depth RMSE, seen px (m)"),
        ("persistence", "score"),
    ):
        own = [figures.get(figure, {}) for figures in found.values()]
        highest = max((e["high"] or e["mean"] for e in own if e.get("mean") is not None), default=0.0)
        line, top = Series.of("", COLOURS["glo"], own), 1.0 if figure == "persistence" else 1.1 * highest or 1.0
        made.append(Markup(charts.category_chart([str(b) for b in found], [line], label, top)))
    return made
