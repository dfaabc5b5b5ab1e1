"""From judged rows to the table: means by hand, seeds pooled, differences paired, and the budget curve."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pytest

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import CostRow
from embodied_liftwm.evaluation.metrics.persistence import PersistenceRow
from embodied_liftwm.evaluation.results_table import Judged, judge, pooled, table_figures
from embodied_liftwm.evaluation.views.budget_curve import at_budget, curve_figures, measure_costs
from embodied_liftwm.evaluation.views.novel import ViewRow
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from tests.scoring import evaluate_persistence, evaluate_views


def view(episode: int, frame: int, psnr: float) -> ViewRow:
    numbers = {f.name: 0.5 for f in fields(ViewRow)} | {"psnr": psnr}
    numbers |= {"bin_pixels": (100.0,) * 10, "bin_predicted": (50.0,) * 10, "bin_seen": (5 * psnr,) * 10}
    return ViewRow(**numbers | {"model": "m", "episode": episode, "frame": frame})


def back(episode: int, gap: int, score: float) -> PersistenceRow:
    numbers = {f.name: 0 for f in fields(PersistenceRow)} | {"score": score, "floor": 0.1, "gap": gap}
    return PersistenceRow(**numbers | {"model": "m", "episode": episode, "frame": 30})


def judged(psnr: list[float], scores: list[float]) -> Judged:
    """Two episodes of two views each; an object back after 3 steps and one after 20."""
    views = [view(i // 2, 50 + i % 2, value) for i, value in enumerate(psnr)]
    return Judged(views, [back(0, 3, scores[0]), back(1, 20, scores[1])])


@pytest.fixture
def figures():
    table = {
        "2d_only": {0: judged([10, 12, 14, 16], [0.0, 0.2]), 1: judged([11, 13, 15, 17], [0.2, 0.0])},
        "glo": {0: judged([13, 15, 20, 22], [0.5, 0.7]), 1: judged([15, 17, 20, 22], [0.7, 0.9])},
    }
    return {(f.row, f.seed, f.figure): f for f in table_figures(table, 200)}


def test_means_are_those_of_a_seed_and_of_all_seeds(figures):
    assert figures["2d_only", "0", "psnr"].mean == 13.0 and figures["2d_only", "1", "psnr"].mean == 14.0
    whole = figures["2d_only", "pooled", "psnr"]
    assert (whole.mean, whole.count, whole.episodes) == (13.5, 8, 2)
    assert whole.low == 11.5 and whole.high == 15.5  # an episode drawn twice: the mean of its rows, both seeds
    assert figures["glo", "pooled", "persistence"].mean == pytest.approx(0.7)
    assert figures["glo", "pooled", "persistence_1-5"].mean == pytest.approx(0.6)
    assert figures["glo", "1", "persistence_11-50"].mean == pytest.approx(0.9)
    assert figures["glo", "pooled", "persistence_floor"].mean == pytest.approx(0.1)
    assert not any(figure == "persistence_6-10" for _, _, figure in figures)  # nothing came back after 6 to 10 steps


def test_differences_are_paired_view_by_view(figures):
    gain = figures["glo - 2d_only", "0", "psnr"]
    assert gain.mean == 4.5 and (gain.low, gain.high) == (3.0, 6.0)  # +3 in one episode, +6 in the other
    assert figures["glo - 2d_only", "pooled", "psnr"].mean == pytest.approx((3 + 6 + 4 + 5) / 4)
    assert figures["glo - 2d_only", "pooled", "persistence"].mean == pytest.approx(0.6)
    assert ("oracle - glo", "pooled", "psnr") not in figures


def test_calibration_is_of_pooled_bins_and_no_difference_is_made_of_it(figures):
    ece = {key[:2]: f for key, f in figures.items() if key[2] == "seen_ece"}
    assert set(ece) == {(row, seed) for row in ("2d_only", "glo") for seed in ("pooled", "0", "1")}
    assert ece["2d_only", "0"].mean == pytest.approx(0.15)  # 0.65 seen of what was given 0.5
    assert ece["2d_only", "pooled"].mean == pytest.approx(0.175)
    assert ece["2d_only", "pooled"].low == pytest.approx(0.075) and ece["2d_only", "pooled"].count == 8


def test_rows_of_other_views_are_not_compared():
    other = judged([1, 2, 3, 4], [0.0, 0.0])
    other.views[0] = view(0, 49, 1.0)
    with pytest.raises(AssertionError, match="other|different"):
        table_figures({"2d_only": {0: judged([1, 2, 3, 4], [0, 0])}, "glo": {0: other}}, 10)


def test_pooled_figures_by_row(figures):
    found = pooled(list(figures.values()))
    assert found["glo"]["psnr"]["mean"] == 18.0 and found["glo"]["psnr"]["clusters"] == 2
    assert list(found) == ["2d_only", "glo", "glo - 2d_only"]


def test_judging_is_what_the_protocols_give_each_by_itself(episodes, cloud):
    found = judge(cloud, "cloud", "here", episodes, 20, 3, "cpu")
    alone = evaluate_views([CheckedModel(cloud, "cloud")], episodes, 20, 3)
    np.testing.assert_equal([asdict(row) for row in found.views], [asdict(row) for row in alone])  # NaN equals NaN
    assert found.persistence == evaluate_persistence([CheckedModel(cloud, "cloud")], episodes)


def test_the_curve_has_a_budgets_figures_and_costs():
    by_budget = {64: {0: judged([10, 12, 14, 16], [0.0, 0.2])}, 512: {0: judged([13, 15, 20, 22], [0.5, 0.7])}}
    costs = [
        CostRow(str(b), t, ms + t, ms if t == 0 else float("nan"), b * 10)
        for b, ms in ((64, 1.0), (512, 2.0))
        for t in range(3)
    ]
    found = {(f.budget, f.seed, f.figure): f for f in curve_figures(by_budget, costs, 50)}
    assert found[64, "pooled", "psnr"].mean == 13.0 and found[512, "0", "persistence"].mean == pytest.approx(0.6)
    assert found[64, "pooled", "observe_ms"].mean == 2.0 and found[512, "pooled", "render_ms"].mean == 2.0
    assert found[512, "pooled", "state_bytes"].mean == 5120.0


def test_a_smaller_budget_is_a_smaller_state_of_the_same_weights(episodes, tools):
    config, shapes = ModelConfig(latent_dim=4, width=8), ModelShapes(tools.SIZE, 2, 9)
    model = build_model(config, shapes).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert at_budget(model, 64) is model and model.config.size == 64 and model.config.width == 8
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    costs = measure_costs({64: model, 256: at_budget(build_model(config, shapes).eval(), 256)}, episodes[0], "cpu")
    sizes = {row.model: row.state_bytes for row in costs}
    assert 0 < sizes["64"] < sizes["256"] and len(costs) == 2 * len(episodes[0].rgb)
