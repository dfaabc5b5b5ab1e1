"""`liftwm reproduce demo`: several demos with different training seeds, pooled, with bootstrap intervals over scenes.

    liftwm demo
    liftwm demo out=runs/demo-1 train.seed=1 agent.seed=1
    liftwm demo out=runs/demo-2 train.seed=2 agent.seed=2
    liftwm reproduce demo

    RESULTS/demo.csv    a row a figure, seed by seed and pooled

All demos see the same scenes, so intervals are over scenes (95 %), and the seeds' own figures stand beside them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embodied_liftwm.config import ReproduceDemoConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.report.tables import Cell, Table
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.statistics import bootstrap_mean
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.terminal import plain_console

FIGURES = (
    ("PSNR, seen pixels (dB)", "views", "psnr_seen", 0),
    ("PSNR, all pixels (dB)", "views", "psnr", 0),
    ("SSIM, seen pixels", "views", "ssim_seen", 0),
    ("depth RMSE, seen pixels (m)", "views", "depth_rmse_seen_m", 0),
    ("AbsRel, seen pixels", "views", "abs_rel_seen", 0),
    ("persistence", "persistence", "score", 0),
    ("persistence, gaps of 11 and more", "persistence", "score", 11),
    ("success", "navigation", "success", 0),
    ("SPL", "navigation", "spl", 0),
)
"""Title, suite and column of rows.csv, and the shortest gap that counts."""


@dataclass(frozen=True)
class DemoFigure:
    """A mean of a model or agent with its 95 % interval over scenes."""

    run: str  # or "pooled"
    figure: str
    who: str
    mean: float
    low: float
    high: float
    rows: int
    scenes: int


def run(config: ReproduceDemoConfig) -> int:
    """Pool the demos, and show the table."""
    console, rows = plain_console(), {Path(folder).name: _read(Path(folder)) for folder in config.runs}
    everything = {"pooled": [row for found in rows.values() for row in found]} | rows
    found = [figure for name, own in everything.items() for figure in figures(name, own, config.bootstrap)]
    write_rows(Path(config.results) / "demo.csv", found)
    table = []
    for f in (f for f in found if f.run == "pooled"):
        seeds = [
            f"{other.mean:.2f}" for other in found if other.run != "pooled" and (other.figure, other.who) == (f.figure, f.who)
        ]
        table.append(
            (f.who, f"{f.figure}: {f.who}", [Cell(f"{f.mean:.2f}", f"[{f.low:.2f}, {f.high:.2f}]"), Cell(", ".join(seeds))])
        )
    print_table(console, "demos", Table(["pooled [95 % over scenes]", "seed by seed"], table))
    return 0


def figures(run: str, rows: list[dict[str, str]], resamples: int) -> Iterator[DemoFigure]:
    """Every figure of every model or agent, with its interval over scenes."""
    for title, suite, column, gap in FIGURES:
        own = [row for row in rows if row["suite"] == suite and (not gap or int(row["gap"]) >= gap)]
        key, scene = ("agent", "seed") if suite == "navigation" else ("model", "episode")
        for who in dict.fromkeys(row[key] for row in own):
            mine = [row for row in own if row[key] == who]
            values = [float(row[column] or math.nan) for row in mine]
            e = bootstrap_mean(values, [row[scene] for row in mine], resamples)
            yield DemoFigure(run, title, who, e.mean, e.low, e.high, e.count, e.clusters)


def _read(run: Path) -> list[dict[str, str]]:
    path = run / "rows.csv"
    if not path.exists():
        raise UserError(f"no rows at {path}: run `liftwm demo out={run}` first")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
