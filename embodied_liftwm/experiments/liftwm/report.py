"""Tables, figures and page of `liftwm reproduce liftwm`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.evaluation.report import pictures, tables
from embodied_liftwm.evaluation.report.page import strip_sheet
from embodied_liftwm.evaluation.report.table_page import TablePage, budget_figures, budget_table, part_table, write_page
from embodied_liftwm.evaluation.results_table import TableFigure, persistence_figure, pooled
from embodied_liftwm.evaluation.views.budget_curve import BudgetFigure
from embodied_liftwm.evaluation.views.strips import Strip
from embodied_liftwm.files import whole_file, write_bytes
from embodied_liftwm.run_folder import versions
from embodied_liftwm.terminal import plain_console

PANELS = {
    "psnr_seen": "PSNR, seen pixels (dB)",
    "depth_rmse_seen_m": "depth RMSE, seen pixels (m)",
    "persistence": "persistence",
    "observe_ms": "ms per observe",
}
COLOUR = "#2b6cb0"
WIDE = 132
"""Columns of a terminal from which tables have intervals."""
TITLES = {
    "images": "novel views",
    "geometry": "depth and normals of novel views",
    "calibration": "calibration of seen",
    "persistence": "persistence, by steps since last seen",
}


def write(
    config: ReproduceConfig,
    folder: Path,
    results: Path,
    figures: list[TableFigure],
    curve: list[BudgetFigure],
    strip: Strip | None,
) -> Path:
    """Write the curve, the strip and the page; returns the page."""
    if curve:
        draw(curve, results / "liftwm_budget.svg")
    if strip:
        write_bytes(results / "liftwm_strip.png", pictures.png(strip_sheet(strip, geometry=True)))
    page = TablePage(figures, curve, strip, headline(figures, curve), about(config), settings_yaml(config), versions())
    return write_page(folder / "index.html", page)


def about(config: ReproduceConfig) -> dict[str, Any]:
    """What a page says of the experiment before its figures."""
    return {
        "env": config.collect.env,
        "training": config.collect.episodes,
        "episodes": config.eval_episodes,
        "steps": config.train.steps,
        "seeds": config.seeds,
        "context": config.context,
        "bootstrap": config.bootstrap,
    }


def settings_yaml(config: ReproduceConfig) -> str:
    """All settings, for the page."""
    return yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False)


def print_tables(console: Console, figures: Sequence[TableFigure], curve: Sequence[BudgetFigure]) -> None:
    """The table in three parts, and the budget curve; with intervals where there is room for them."""
    rows = [f for f in figures if " - " not in f.row]  # differences are on the page and in the CSV
    parts = [(f"{title}, seeds pooled", part_table(rows, part)) for part, title in TITLES.items()]
    for title, body in parts + ([("+GLO at other budgets", budget_table(curve))] if curve else []):
        print_table(console, title, body)


def print_table(console: Console, title: str, body: tables.Table) -> None:
    """One table of figures, with intervals where there is room for them."""
    if not console.is_terminal:
        console = plain_console(width=WIDE)
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *body.titles):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for _, label, cells in body.rows:
        under = [(f"\n{cell.interval}" if console.width >= WIDE else "", "dim") for cell in cells]
        table.add_row(label, *[Text.assemble(cell.value, interval) for cell, interval in zip(cells, under, strict=True)])
    console.print(table)


def headline(figures: Sequence[TableFigure], curve: Sequence[BudgetFigure]) -> list[str]:
    """What the table says, in a line for each claim that it can decide."""
    found, rows = [], pooled(figures)

    def mean(row: str, figure: str) -> float:
        return float(rows.get(row, {}).get(figure, {"mean": float("nan")})["mean"])

    if "glo - 2d_only" in rows:
        for figure, name in (("psnr", "PSNR"), ("psnr_seen", "PSNR on seen pixels")):
            gain = tables.cell(rows["glo - 2d_only"][figure], 2)
            found.append(f"{name}, +GLO over 2D only: {gain.value} dB {gain.interval}, to {mean('glo', figure):.2f} dB")
        for figure, name, unit in (
            ("depth_rmse_rel", "depth RMSE over the median depth", ""),
            ("epipolar_px", "epipolar error", " px"),
        ):
            before, after = mean("2d_only", figure), mean("glo", figure)
            found.append(f"{name}, +GLO over 2D only: {100 * (after / before - 1):+.0f} %, {before:.3f} -> {after:.3f}{unit}")
    if "oracle - glo" in rows:
        gap = mean("oracle - glo", "psnr_seen"), mean("oracle - glo", persistence_figure())
        found.append(f"the oracle is {gap[0]:.2f} dB on seen pixels and {gap[1]:.3f} of persistence above +GLO")
    scores = {budget: own["persistence"]["mean"] for budget, own in budget_figures(curve).items() if "persistence" in own}
    if {128, 512} <= scores.keys():
        found.append(f"persistence at 128 -> 512 primitives: {scores[128]:.3f} -> {scores[512]:.3f}")
    return found


def draw(curve: Sequence[BudgetFigure], path: Path) -> None:
    """The budget curve as SVG, pooled over seeds, with intervals where there are any."""
    found = budget_figures(curve)
    sheet = Figure(figsize=(12.0, 3.0), layout="constrained")
    for axes, (figure, label) in zip(sheet.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        own = [(budget, figures[figure]) for budget, figures in found.items() if figure in figures]
        budgets, means = [budget for budget, _ in own], [estimate["mean"] for _, estimate in own]
        ends = [[e["mean"] if e[end] is None else e[end] for _, e in own] for end in ("low", "high")]
        axes.plot(budgets, means, "o-", color=COLOUR)
        axes.fill_between(budgets, *ends, color=COLOUR, alpha=0.2, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(budgets, [str(budget) for budget in budgets], rotation=45)
        axes.set_xlabel("primitives in the state")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0 if figure != "psnr_seen" else None)
    with matplotlib.rc_context({"svg.hashsalt": "budget"}), whole_file(path) as partial:
        sheet.savefig(partial, format="svg", metadata={"Date": None})
