"""Where gains turn to losses, how right a teacher is, and what share a mean changes by: each computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from embodied_liftwm.evaluation.metrics.prior_quality import depth_quality, quality_estimate
from embodied_liftwm.evaluation.results_table import Judged, TableFigure, relative_changes
from embodied_liftwm.experiments.priors.doses import Dose, crossing, dose_figures, teacher_figures, turns_at
from embodied_liftwm.priors.contract import DepthMaps, PseudoObservations
from tests.evaluation.test_results_table import view
from tests.toy_room import episode


@pytest.mark.parametrize(
    ("gains", "turns"),
    [
        ([0.4, 0.2, -0.2, -1.0], 0.2),  # half way from 0.1 to 0.3
        ([0.3, 0.3, 0.1, -0.2], 0.3 + 0.6 / 3),
        ([0.1, 0.0, -0.5, 0.4], 0.1),
        ([-0.1, 0.2, 0.3, 0.4], 0.0),
        ([0.4, 0.3, 0.2, 0.1], math.nan),
        ([], math.nan),
    ],
)
def test_a_gain_turns_where_the_line_between_doses_crosses_zero(gains: list[float], turns: float) -> None:
    assert crossing([0.0, 0.1, 0.3, 0.9][: len(gains)], gains) == pytest.approx(turns, nan_ok=True)


def test_doses_begin_with_the_teacher_as_it_is_in_the_same_form() -> None:
    doses = {
        "a": Dose("clean", "weighted", 0.0),
        "b": Dose("clean", "unweighted", 0.0),
        "c": Dose("noise", "weighted", 0.4),
        "d": Dose("noise", "unweighted", 0.4),
        "e": Dose("pure_noise", "weighted", 1.0),
    }
    change = {"a": -8.0, "b": -2.0, "c": 8.0, "d": 6.0, "e": 0.5}
    given = [TableFigure(row, "pooled", "depth_rmse_seen_m_change", mean, mean, mean, 1, 1) for row, mean in change.items()]
    given += [TableFigure(row, "0", "depth_rmse_seen_m_change", 50.0, 1.0, 1.0, 1, 1) for row in change]
    figures = dose_figures([*given, TableFigure("glo", "pooled", "psnr_seen", 20.0, 19.0, 21.0, 1, 1)], doses)
    turns = {f.form: f.mean for f in figures if f.figure == "depth_rmse_seen_m_change_turns_at"}
    assert turns == pytest.approx({"weighted": 0.2, "unweighted": 0.1})  # less depth error is a gain
    assert turns["weighted"] == turns_at(figures, "noise", "weighted", "depth_rmse_seen_m_change")
    assert {f.kind for f in figures if f.figure.endswith("turns_at")} == {"noise"}
    assert math.isnan(turns_at(figures, "noise", "weighted", "psnr_seen")) and len(figures) == 10 + 4


def test_changes_are_of_means_over_the_same_views() -> None:
    def rows(values: list[float]) -> Judged:
        return Judged([view(i // 2, 50 + i % 2, value) for i, value in enumerate(values)], [])

    table = {
        "glo": {0: rows([10, 20, math.nan, 40]), 1: rows([10, 10, 10, 10])},
        "glo+mvs": {0: rows([5, 10, 99, 20]), 1: rows([20, 20, 20, 20])},
    }
    found = {f.seed: f for f in relative_changes(table, [("glo+mvs", "glo")], ["psnr"], 100)}
    assert found["0"].mean == pytest.approx(-50.0) and found["0"].count == 3 and found["1"].mean == pytest.approx(100.0)
    assert found["pooled"].mean == pytest.approx(100 * (115 / 110 - 1))
    assert found["0"].low == found["0"].high == pytest.approx(-50.0)
    assert {(f.row, f.figure) for f in found.values()} == {("glo+mvs - glo", "psnr_change")}


def test_a_teacher_is_as_right_as_its_depth_is_near_the_truth() -> None:
    rooms = [episode(index, 3, 16, True) for index in range(2)]

    def says(position: int) -> PseudoObservations:
        true = torch.from_numpy(rooms[position].truth.depth).float()
        values, sure = true * (1.05 if position == 0 else 0.8), torch.ones_like(true)
        sure[0] = 0.0
        return PseudoObservations(depth=DepthMaps(values, sure, torch.arange(len(true)), "metric"))

    found = depth_quality("two", says, rooms)
    assert [row.abs_rel for row in found] == pytest.approx([0.05, 0.2], rel=1e-4) and [row.within for row in found] == [
        1.0,
        0.0,
    ]
    assert [row.pixels for row in found] == [3 * 16 * 16] * 2 and found[0].coverage == pytest.approx(0.75)
    assert quality_estimate(found, "abs_rel", 50).mean == pytest.approx(np.mean([0.05, 0.2]), rel=1e-4)
    figures = {f.figure: f for f in teacher_figures("glo+two", found, 50)}
    assert figures["teacher_within"].mean == 0.5 and figures["teacher_abs_rel"].row == "glo+two"
    assert teacher_figures("glo+views", depth_quality("views", lambda _: PseudoObservations(), rooms), 50) == []
