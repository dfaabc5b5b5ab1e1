"""`liftwm reproduce expectation`: violation of expectation and hidden changes on development scenes.

RESULTS/expectation_dev.csv, expectation_dev_hidden_changes.csv    every row; the latter where the task has such changes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig, ReproduceExpectationConfig
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, contestant
from embodied_liftwm.evaluation.permanence import expectation, hidden_changes
from embodied_liftwm.evaluation.permanence.watching import watch
from embodied_liftwm.evaluation.report.tables import Table, cell
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.terminal import plain_console


def run(config: ReproduceExpectationConfig) -> int:
    """Let each model watch, and the first of them left with nothing but its last frame; show the figures."""
    torch.set_num_threads(1)  # with more, rounding differs, and by it what a small budget merges
    seeds = [EVAL_SEED_OFFSET + k for k in range(config.scenes)]
    models = [contestant(source, source, "cpu") for source in config.models]
    models.append(contestant(LAST_FRAME, config.models[0], "cpu"))
    for suite, name in ((expectation.SUITE, ""), (hidden_changes.SUITE, "_hidden_changes")):
        if config.task.partition("-")[0] in suite.tasks:
            rows = watch({suite.name: suite.question}, models, config.task, seeds, EvaluateConfig())[suite.name]
            write_rows(Path(config.results) / f"expectation_dev{name}.csv", rows)
            found = [
                (path, path, [cell(dict(e), 3), cell({"mean": e["count"]}, 0)])
                for path, e in _leaves(suite.summarize(rows, config.bootstrap, 0))
            ]
            print_table(plain_console(), suite.name, Table(["mean", "of"], found))
    return 0


def _leaves(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every estimate, under its path."""
    for name, inner in figures.items():
        if "mean" in inner:
            yield f"{path}{name}", inner
        else:
            yield from _leaves(inner, f"{path}{name} / ")
