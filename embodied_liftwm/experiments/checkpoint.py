"""`liftwm reproduce checkpoint`: figures of a trained model's card; nothing is chosen on these scenes.

RESULTS/base.csv    a row per figure of the model as it is, of what learns nothing, of the one that is told the true depth
                    (`oracle`), of the one that forgets all but the last frame (`none`), and of the model at other budgets
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import embodied_liftwm
from embodied_liftwm.config import ReproduceCheckpointConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.results_table import Judged, judge, table_figures
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.views.bounds import LastFrame, with_true_depth
from embodied_liftwm.experiments.engine import HONEST, Make, as_it_is, at, honest_rows
from embodied_liftwm.experiments.liftwm import table_sections
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.terminal import plain_console


def run(config: ReproduceCheckpointConfig) -> int:
    """Judge every row and show the table."""
    console, episodes, device = plain_console(), list(EvaluationReader(config.data)), config.device
    torch.set_num_threads(1)  # with more, rounding differs, and by it what a small budget merges
    first = embodied_liftwm.load(config.model, device)
    honest = honest_rows(first.config, 0, device)  # type: ignore[attr-defined]
    rows: dict[str, Make] = {"model": as_it_is} | honest
    rows |= {"oracle": with_true_depth, "none": lambda model, _: LastFrame(model)}
    rows |= {f"N = {budget}": partial(at, budget) for budget in config.budgets}
    judged: dict[str, dict[int, Judged]] = {}
    for row, make in rows.items():
        model = make(embodied_liftwm.load(config.model, device), episodes)
        judged[row] = {0: judge(model, row, row, episodes, config.context, config.views_per_episode, device)}
        console.print(f"{row}: judged")
    figures = table_figures(judged, config.bootstrap, [("model", row) for row in honest])
    path = Path(config.results) / f"{Path(config.model).name}.csv"
    write_rows(path, figures)
    for section in table_sections(figures, lambda row: HONEST.get(row, row), list(rows)):
        if section.table is not None:
            print_table(console, section.title, section.table)
    console.print(f"rows: {path}")
    return 0
