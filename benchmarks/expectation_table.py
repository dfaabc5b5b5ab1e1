"""Violation of expectation and hidden changes on development scenes: nothing frozen is touched.

    python benchmarks/expectation_table.py results/expectation_dev Revisit-S 14 base

Watches so many scenes (seeds from 2^30 on), with each model and with the first of them left with nothing but its last frame;
writes OUT.csv and, where the task has them, OUT_hidden_changes.csv, and prints the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, contestant
from embodied_liftwm.evaluation.permanence import expectation, hidden_changes
from embodied_liftwm.evaluation.permanence.watching import watch
from embodied_liftwm.evaluation.rows import write_rows

RESAMPLES = 1000


def main(words: list[str]) -> None:
    """`OUT TASK SCENES MODEL [MODEL ...]`"""
    if len(words) < 4 or not words[2].isdigit():
        raise SystemExit("usage: python benchmarks/expectation_table.py OUT TASK SCENES MODEL [MODEL ...]")
    out, task, sources = words[0], words[1], words[3:]
    torch.set_num_threads(1)  # with more, rounding differs, and by it what a small budget merges
    seeds = [EVAL_SEED_OFFSET + k for k in range(int(words[2]))]
    models = [contestant(source, source, "cpu") for source in sources] + [contestant(LAST_FRAME, sources[0], "cpu")]
    for suite, name in ((expectation.SUITE, ".csv"), (hidden_changes.SUITE, "_hidden_changes.csv")):
        if task.partition("-")[0] in suite.tasks:
            rows = watch({suite.name: suite.question}, models, task, seeds, EvaluateConfig())[suite.name]
            write_rows(Path(out + name), rows)
            _print(suite.summarize(rows, RESAMPLES, 0))


def _print(figures: Mapping[str, Any], *path: str) -> None:
    """Every estimate, a line each."""
    if "mean" in figures:
        mean, low, high = (float("nan") if figures[end] is None else figures[end] for end in ("mean", "low", "high"))
        print(f"{' / '.join(path):50} {mean:.3f} [{low:.3f}, {high:.3f}] of {figures['count']}")
        return
    for name, inner in figures.items():
        _print(inner, *path, name)


if __name__ == "__main__":
    main(sys.argv[1:])
