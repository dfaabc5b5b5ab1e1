"""The calibration of `seen`: against sums by hand, against a forecaster that is calibrated by construction, and end to end."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.calibration import bin_sums, brier, calibration_error, reliability
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import bootstrap_mean, bootstrap_sums
from embodied_liftwm.evaluation.summary import Rows, summarize
from embodied_liftwm.evaluation.views.mean_colour import mean_colour_of
from embodied_liftwm.evaluation.views.novel import ViewRow
from tests.scoring import evaluate_views, seen_mask


@dataclass
class Row:
    """The bins of a view."""

    episode: int
    bin_pixels: tuple[float, ...]
    bin_predicted: tuple[float, ...]
    bin_seen: tuple[float, ...]


def rows_of(probability: torch.Tensor, happened: torch.Tensor, episodes: list[int]) -> list[Row]:
    sums = bin_sums(probability, happened, torch.ones_like(happened))
    return [Row(e, *(tuple(s[i].tolist()) for s in sums)) for i, e in enumerate(episodes)]


def by_loop(probability: np.ndarray, happened: np.ndarray) -> float:
    """Expected calibration error, pixel by pixel."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, y in zip(probability.tolist(), happened.tolist(), strict=True):
        bins.setdefault(min(int(p * 10), 9), []).append((p, y))
    gaps = [len(b) * abs(np.mean([p for p, _ in b]) - np.mean([y for _, y in b])) for b in bins.values()]
    return sum(gaps) / len(probability)


def test_brier_by_hand():
    probability, happened = torch.tensor([[[1.0, 0.5, 0.2, 0.0]]]), torch.tensor([[[True, True, False, True]]])
    every = torch.ones_like(happened)
    assert brier(probability, happened, every).item() == pytest.approx((0 + 0.25 + 0.04 + 1) / 4)
    assert brier(probability, happened, torch.tensor([[[True, True, True, False]]])).item() == pytest.approx(0.29 / 3)
    assert brier(probability, happened, ~every).isnan().all()


def test_bins_take_their_lower_edge_and_the_last_one_takes_certainty():
    probability = torch.tensor([[[0.0, 0.25, 0.5, 0.99, 1.0, 1.0]]])  # a model may be off [0, 1] by rounding alone
    happened = torch.tensor([[[False, True, False, True, True, False]]])
    mask = torch.tensor([[[True, True, True, True, True, False]]])
    sums = bin_sums(probability, happened, mask)
    assert sums.pixels[0].tolist() == [1, 0, 1, 0, 0, 1, 0, 0, 0, 2]
    assert sums.happened[0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert sums.predicted[0, 9].item() == pytest.approx(1.99)


def test_the_error_is_that_of_a_loop_over_pooled_pixels():
    random = torch.Generator().manual_seed(0)
    probability = torch.rand(5, 6, 7, generator=random)
    happened = torch.rand(5, 6, 7, generator=random) < probability**2
    estimate = calibration_error(rows_of(probability, happened, [0, 0, 1, 1, 2]), 200)
    assert estimate.mean == pytest.approx(by_loop(probability.flatten().numpy(), happened.flatten().numpy()), abs=1e-6)
    assert (estimate.count, estimate.clusters) == (5, 3) and estimate.low < estimate.mean < estimate.high


def test_what_cancels_over_views_is_no_error():
    probability = torch.full((2, 4, 4), 0.5)
    happened = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]).bool()  # right half of the time, in views of its own
    rows = rows_of(probability, happened, [0, 1])
    assert calibration_error(rows).mean == 0.0
    assert [calibration_error([row]).mean for row in rows] == [0.5, 0.5]


def test_a_calibrated_forecast_lies_on_the_diagonal():
    random = torch.Generator().manual_seed(1)
    probability = torch.rand(40, 32, 32, generator=random)
    happened = torch.rand(40, 32, 32, generator=random) < probability
    rows = rows_of(probability, happened, list(range(40)))
    assert calibration_error(rows, 50).mean < 0.01
    bins = reliability(rows, 50)
    assert [b.seen.mean for b in bins] == pytest.approx([b.predicted for b in bins], abs=0.03)
    assert sum(b.share for b in bins) == pytest.approx(1.0) and all(b.seen.low < b.seen.high for b in bins)
    assert brier(probability, happened, torch.ones_like(happened)).mean().item() == pytest.approx(
        1 / 6, abs=5e-3
    )  # E[p (1 - p)]


def test_an_overconfident_forecast_is_off_by_what_it_adds():
    random = torch.Generator().manual_seed(2)
    true = 0.5 * torch.rand(20, 32, 32, generator=random)
    rows = rows_of(true + 0.3, torch.rand(20, 32, 32, generator=random) < true, list(range(20)))
    assert calibration_error(rows, 50).mean == pytest.approx(0.3, abs=0.01)
    assert all(b.predicted > b.seen.mean for b in reliability(rows, 50))


def test_a_view_without_true_depth_has_no_figure():
    nothing = (0.0,) * 10
    empty = Row(0, nothing, nothing, nothing)
    assert np.isnan(calibration_error([empty]).mean) and calibration_error([empty]).as_dict()["mean"] is None
    assert calibration_error([]).count == 0 and reliability([empty]) == []
    (row,) = rows_of(torch.full((1, 2, 2), 0.25), torch.ones(1, 2, 2, dtype=torch.bool), [1])
    assert calibration_error([empty, row]).mean == 0.75 and calibration_error([empty, row]).clusters == 1


def test_a_mean_is_a_ratio_of_sums():
    values, episodes = np.random.default_rng(0).random(30), [i // 5 for i in range(30)]
    ratio = bootstrap_sums(np.stack([2 * values, np.full(30, 2.0)]), episodes, lambda s: s[0] / s[1], 100, 3)
    mean = bootstrap_mean(values, episodes, 100, 3)
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((mean.mean, mean.low, mean.high))


def test_models_are_judged_by_what_they_claim(episodes, clairvoyant, cloud):
    models = {"sure": clairvoyant, "cloud": cloud, "floor": mean_colour_of(episodes)}
    rows = evaluate_views([CheckedModel(m, name) for name, m in models.items()], episodes, context=10, views_per_episode=5)
    masks = [seen_mask(episodes[r.episode].truth, episodes[r.episode].intrinsics, r.frame, 10).numpy() for r in rows]
    for row, mask in zip(rows, masks, strict=True):
        assert row.bin_pixels == pytest.approx((*row.bin_pixels[:1], *(0.0,) * 8, 1024 - row.bin_pixels[0]))
        if row.model == "sure":  # it claims all, and is wrong where nothing was seen
            assert row.bin_seen[9] == mask.sum() and row.seen_brier == pytest.approx(1 - mask.mean(), abs=1e-6)
        if row.model == "floor":
            assert row.seen_predicted == 0.0 and row.seen_brier == pytest.approx(mask.mean(), abs=1e-6)
    figures = summarize(Rows(views=rows), 50, 0)["views"]
    unseen = 1 - np.mean([mask.mean() for mask, row in zip(masks, rows, strict=True) if row.model == "sure"])
    assert figures["sure"]["seen_ece"]["mean"] == pytest.approx(unseen, abs=1e-6)
    assert figures["cloud"]["seen_ece"]["mean"] < min(unseen, figures["floor"]["seen_ece"]["mean"])
    assert len(figures["cloud"]["reliability"]) == 2


def test_rows_keep_their_bins_in_a_file(episodes, cloud, tmp_path):
    rows = evaluate_views([CheckedModel(cloud, "cloud")], episodes, 20, 2)
    rows[0] = replace(rows[0], bin_predicted=(0.125,) * 10)
    write_rows(tmp_path / "views.csv", rows)
    again = read_rows(tmp_path / "views.csv", ViewRow)
    assert [row.bin_pixels for row in again] == [row.bin_pixels for row in rows] and again[0].bin_predicted == (0.125,) * 10
    assert calibration_error(again, 50).mean == pytest.approx(calibration_error(rows, 50).mean, abs=1e-5)
    with (tmp_path / "views.csv").open() as file:
        assert next(csv.DictReader(file))["bin_predicted"].split() == ["0.125"] * 10
    assert Rows(views=rows).flat()[0]["bin_predicted"] == " ".join(["0.125"] * 10)
