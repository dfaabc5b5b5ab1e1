"""Figures of a checkpoint's card: a trained model on the reported scenes, at every budget, beside its ceiling.

    liftwm collect split=eval seed=1048576 episodes=24 out=data/report-eval
    python benchmarks/checkpoint_table.py results/base.csv base data/report-eval

Writes a row per figure of the model as it is, of its architecture with initial weights (`untrained`), of the one that is told
the true depth (`oracle`), of the one that forgets all but the last frame (`none`), and of the model at other budgets; prints
the table in Markdown. Nothing is chosen on these scenes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import embodied_liftwm
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.results_table import Judged, TableFigure, judge, table_figures
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.views.bounds import LastFrame, untrained, with_true_depth
from embodied_liftwm.evaluation.views.budget_curve import at_budget

CONTEXT, VIEWS, RESAMPLES = 48, 8, 1000
BUDGETS = (64, 128, 256, 1024)
SHOWN = (
    "psnr_seen", "psnr", "ssim_seen", "depth_rmse_seen_m", "depth_rmse_seen_rel", "abs_rel_seen", "epipolar_px",
    "normal_deg_seen", "seen_share", "seen_predicted", "seen_brier", "seen_ece", "persistence", "persistence_floor",
)  # fmt: skip


def main(words: list[str]) -> None:
    """`OUT.csv MODEL DATA`"""
    if len(words) != 3:
        raise SystemExit("usage: python benchmarks/checkpoint_table.py OUT.csv MODEL DATA")
    out, name, episodes = Path(words[0]), words[1], list(EvaluationReader(words[2]))
    torch.set_num_threads(1)  # with more, rounding differs, and by it what a small budget merges
    judged: dict[str, dict[int, Judged]] = {}
    for row, make in _rows(episodes).items():
        judged[row] = {0: judge(make(embodied_liftwm.load(name)), row, row, episodes, CONTEXT, VIEWS, "cpu")}
        print(f"{row}: judged", flush=True)
    figures = table_figures(judged, RESAMPLES)
    write_rows(out, figures)
    _print([figure for figure in figures if figure.seed == "pooled"])


def _rows(episodes: list[Episode]) -> dict[str, Callable[[Any], Any]]:
    """How each row is made of the loaded model."""
    rows: dict[str, Callable[[Any], Any]] = {
        "model": lambda model: model,
        "untrained": untrained,
        "oracle": lambda model: with_true_depth(model, episodes),
        "none": LastFrame,
    }
    return rows | {f"N = {budget}": lambda model, budget=budget: at_budget(model, budget) for budget in BUDGETS}  # type: ignore[misc]


def _print(figures: list[TableFigure]) -> None:
    rows = list(dict.fromkeys(figure.row for figure in figures if " - " not in figure.row))
    found = {(figure.row, figure.figure): figure for figure in figures}
    print("| | " + " | ".join(rows) + " |\n|" + "---|" * (len(rows) + 1))
    for name in SHOWN:
        cells = (found.get((row, name)) for row in rows)
        print(f"| {name} | " + " | ".join(f"{c.mean:.3f} [{c.low:.3f}, {c.high:.3f}]" if c else "" for c in cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
