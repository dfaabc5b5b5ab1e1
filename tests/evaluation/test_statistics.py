import numpy as np
import pytest
from scipy.stats import binomtest

from embodied_liftwm.evaluation.statistics import (
    bootstrap_iqm,
    bootstrap_mean,
    interquartile_mean,
    paired_difference,
    wilson_interval,
)


def test_bootstrap_is_seeded_and_brackets_the_mean():
    values = np.random.default_rng(0).normal(5.0, 1.0, 200)
    first, second = (bootstrap_mean(values, range(200), 2000, seed=3) for _ in range(2))
    assert first == second != bootstrap_mean(values, range(200), 2000, seed=4)
    assert first.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(200)
    assert first.low == pytest.approx(values.mean() - half, abs=0.03)
    assert first.high == pytest.approx(values.mean() + half, abs=0.03)


def test_rows_of_one_episode_do_not_count_as_independent():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 50)
    clustered = bootstrap_mean(values, np.repeat(range(4), 50))
    independent = bootstrap_mean(values, range(200))
    assert clustered.high - clustered.low > 4 * (independent.high - independent.low)
    assert (clustered.count, clustered.clusters) == (200, 4)


def test_bootstrap_weighs_rows_not_episodes():
    assert bootstrap_mean([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]).mean == 0.75


def test_bootstrap_leaves_nan_out():
    estimate = bootstrap_mean([1.0, np.nan, 3.0], ["a", "b", "c"])
    assert (estimate.mean, estimate.count, estimate.clusters) == (2.0, 2, 2)
    nothing = bootstrap_mean([np.nan], ["a"])
    assert np.isnan(nothing.mean) and nothing.count == 0
    assert nothing.as_dict()["mean"] is None


def test_one_episode_gives_no_interval():
    estimate = bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert estimate.mean == 1.5 and np.isnan(estimate.low) and np.isnan(estimate.high)


def test_pairing_removes_what_episodes_share():
    noise = np.random.default_rng(1).normal(0, 10, 30)
    difference = paired_difference(noise + 1.0, noise, range(30))
    assert difference.mean == pytest.approx(1.0) and difference.high - difference.low < 1e-9


def test_wilson_is_that_of_scipy():
    theirs = binomtest(7, 9).proportion_ci(method="wilson")
    ours = wilson_interval(7, 9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand():
    half = wilson_interval(5, 10)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    none = wilson_interval(0, 10)
    assert none.low == 0.0 and none.high == pytest.approx(0.2775, abs=1e-4)
    assert np.isnan(wilson_interval(0, 0).mean)


def test_interquartile_mean_trims_a_quarter_each_side():
    assert interquartile_mean([0, 1, 3, 100]) == 2.0
    assert interquartile_mean([0.0, 1.0, 5.0]) == pytest.approx((0.25 * 0 + 1 + 0.25 * 5) / 1.5)
    assert interquartile_mean([4.0]) == 4.0
    assert np.isnan(interquartile_mean([np.nan]))


def test_the_interquartile_mean_over_seeds_by_hand():
    scores = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    found = bootstrap_iqm(scores, 200)
    assert found.mean == 0.5 and found.low < 0.5 < found.high and (found.count, found.clusters) == (16, 4)
    same = bootstrap_iqm(np.tile([[0.3, 0.3]], (3, 1)), 50)
    assert same.low == same.mean == same.high == pytest.approx(0.3)
    assert bootstrap_iqm(np.array([[1.0, np.nan], [0.0, 5.0]]), 50).mean == 0.5  # episodes that one seed lacks are left out
    assert bootstrap_iqm(scores, 50, 1) == bootstrap_iqm(scores, 50, 1)
