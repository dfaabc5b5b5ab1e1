"""The README's table: several demos with different training seeds, pooled, with bootstrap intervals over scenes.

    liftwm demo
    liftwm demo out=runs/demo-1 train.seed=1 agent.seed=1
    liftwm demo out=runs/demo-2 train.seed=2 agent.seed=2
    python benchmarks/demo_table.py results/demo.csv runs/demo runs/demo-1 runs/demo-2

Writes one row per figure, seed by seed and pooled, and prints the table in Markdown. All demos see the same scenes, so
intervals are over scenes (95 %), and the seeds' own figures stand beside them.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.statistics import Estimate, bootstrap_mean
from embodied_liftwm.files import whole_file

Row = dict[str, str]
FIGURES: list[tuple[str, str, str, Callable[[Row], bool]]] = [
    ("PSNR, seen pixels (dB)", "views", "psnr_seen", lambda row: True),
    ("PSNR, all pixels (dB)", "views", "psnr", lambda row: True),
    ("SSIM, seen pixels", "views", "ssim_seen", lambda row: True),
    ("depth RMSE, seen pixels (m)", "views", "depth_rmse_seen_m", lambda row: True),
    ("AbsRel, seen pixels", "views", "abs_rel_seen", lambda row: True),
    ("persistence", "persistence", "score", lambda row: True),
    ("persistence, gaps of 11 and more", "persistence", "score", lambda row: int(row["gap"]) >= 11),
    ("success", "navigation", "success", lambda row: True),
    ("SPL", "navigation", "spl", lambda row: True),
]


def main(words: list[str]) -> None:
    """`OUT.csv RUN [RUN ...]`"""
    if len(words) < 2:
        raise SystemExit("usage: python benchmarks/demo_table.py OUT.csv RUN [RUN ...]")
    out, runs = Path(words[0]), [Path(word) for word in words[1:]]
    rows = {run.name: _read(run) for run in runs}
    pooled = [row for found in rows.values() for row in found]
    table = [("pooled", *entry) for entry in figures(pooled)]
    table += [(name, *entry) for name, found in rows.items() for entry in figures(found)]
    with whole_file(out) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "figure", "who", "mean", "low", "high", "rows", "scenes"])
        for run, figure, who, e in table:
            writer.writerow([run, figure, who, f"{e.mean:.4f}", f"{e.low:.4f}", f"{e.high:.4f}", e.count, e.clusters])
    _print(table)


def figures(rows: list[Row]) -> Iterable[tuple[str, str, Estimate]]:
    """Every figure of every model or agent, with its interval over scenes."""
    for title, suite, column, keep in FIGURES:
        own = [row for row in rows if row["suite"] == suite and keep(row)]
        key, scene = ("agent", "seed") if suite == "navigation" else ("model", "episode")
        for who in dict.fromkeys(row[key] for row in own):
            mine = [row for row in own if row[key] == who]
            values = [float(row[column] or math.nan) for row in mine]
            yield title, who, bootstrap_mean(values, [row[scene] for row in mine])


def _read(run: Path) -> list[Row]:
    path = run / "rows.csv"
    if not path.exists():
        raise UserError(f"no rows at {path}: run `liftwm demo out={run}` first")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _print(table: list[tuple[str, str, str, Estimate]]) -> None:
    print("| figure | who | pooled [95 % over scenes] | seed by seed |\n|---|---|---|---|")
    for run, figure, who, estimate in table:
        if run == "pooled":
            seeds = [f"{e.mean:.2f}" for r, f, w, e in table if r != "pooled" and (f, w) == (figure, who)]
            pooled = f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
            print(f"| {figure} | {who} | {pooled} | {', '.join(seeds)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
