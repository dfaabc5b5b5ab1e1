"""The budget curve: what the same weights remember, and what that costs, when the state may keep N primitives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import CostRow, measure_cost
from embodied_liftwm.evaluation.results_table import Judged, table_figures

CURVE_FIGURES = ("psnr", "psnr_seen", "depth_rmse_seen_m", "depth_rmse_seen_rel", "epipolar_px", "persistence")


@dataclass(frozen=True)
class BudgetFigure:
    """A mean with its 95 % interval over episodes; costs have none."""

    budget: int
    seed: str  # of one training, or "pooled"
    figure: str  # of CURVE_FIGURES, or state_bytes, observe_ms, render_ms
    mean: float
    low: float
    high: float
    count: int
    episodes: int


def at_budget(model: Any, budget: int) -> Any:
    """Let a model keep so many primitives, or bytes, as its memory counts; its weights do not depend on it. The same object."""
    model.resize(budget)
    return model


def measure_costs(models: Mapping[int, Any], episode: Episode, device: str) -> list[CostRow]:
    """Every call of one episode at each budget, one after another; `CostRow.model` is the budget."""
    return measure_cost([CheckedModel(model, str(budget)) for budget, model in models.items()], episode, device)


def curve_figures(judged: Mapping[int, Mapping[int, Judged]], costs: Sequence[CostRow], resamples: int) -> list[BudgetFigure]:
    """Figures and costs of each budget.

    Args:
        judged: budget -> training seed -> rows.
        costs: of `measure_costs`.
        resamples: behind each interval.
    """
    table = {str(budget): by_seed for budget, by_seed in sorted(judged.items())}
    found = [
        BudgetFigure(int(f.row), f.seed, f.figure, f.mean, f.low, f.high, f.count, f.episodes)
        for f in table_figures(table, resamples)
        if f.figure in CURVE_FIGURES
    ]
    for budget in sorted(judged):
        own = [row for row in costs if row.model == str(budget)]
        medians = {
            "state_bytes": float(own[-1].state_bytes),
            "observe_ms": float(np.median([row.observe_ms for row in own])),
            "render_ms": float(np.nanmedian([row.render_ms for row in own])),
        }
        nan = float("nan")
        found += [BudgetFigure(budget, "pooled", name, value, nan, nan, len(own), 1) for name, value in medians.items()]
    return found
