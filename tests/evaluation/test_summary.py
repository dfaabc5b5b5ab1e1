import dataclasses

import numpy as np
import pytest

from embodied_liftwm.evaluation.metrics.persistence import PersistenceRow
from embodied_liftwm.evaluation.navigation.arena import NavigationRow
from embodied_liftwm.evaluation.navigation.navigation import NavigationResult
from embodied_liftwm.evaluation.report.tables import VIEW_COLUMNS, cell, figure_table, headline
from embodied_liftwm.evaluation.summary import Rows, summarize

NAN = float("nan")


def pair(model, episode, gap, score, floor=0.1):
    return PersistenceRow(model, episode, 1, 0, gap, gap, gap, 50, score, 1.0, score, floor, 4, NAN)


def walk(agent, seed, success):
    return NavigationRow(agent, seed, seed, float(success), 0.5 * success, 0.5, 20, 4.0, 3.0, 0.0, 0)


ROWS = Rows(
    persistence=[
        *[pair("model", e, gap, score) for e, gap, score in ((0, 4, 1.0), (0, 20, 0.8), (1, 60, 0.6), (2, 11, 0.4))],
        *[pair("baseline", e, gap, score) for e, gap, score in ((0, 4, 0.5), (0, 20, 0.3), (1, 60, 0.1), (2, 11, -0.1))],
    ],
    navigation=NavigationResult(
        [walk("planner", s, s < 3) for s in range(4)] + [walk("random", s, s < 1) for s in range(4)],
        {"unsolvable by memory": [9]}, [], {"planner": 5.0},
    ),
)  # fmt: skip


def test_pairs_fall_into_their_bins():
    figures = summarize(ROWS, 100, 0)["persistence"]["model"]
    assert figures["all"]["score"]["mean"] == pytest.approx(0.7)
    assert figures["gap_11_up"]["score"]["mean"] == pytest.approx(0.6) and figures["gap_11_up"]["score"]["count"] == 3
    assert {name: f["score"]["count"] for name, f in figures["bins"].items()} == {
        "1-5": 1, "6-10": 0, "11-50": 2, "51-200": 1, "201-1000": 0
    }  # fmt: skip
    assert figures["bins"]["6-10"]["score"]["mean"] is None
    assert figures["all"]["entry_score"]["count"] == 0  # NaN rows are left out
    assert figures["all"]["floor"]["mean"] == pytest.approx(0.1)


def test_differences_are_paired():
    difference = summarize(ROWS, 100, 0)["difference"]
    everything = difference["persistence"]["all"]
    assert (everything["mean"], everything["low"], everything["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert difference["navigation"]["planner_minus_random"]["success"]["mean"] == pytest.approx(0.5)


def test_navigation_counts_what_was_removed():
    figures = summarize(ROWS, 100, 0)["navigation"]
    assert (figures["episodes"], figures["asked"], figures["removed"]) == (4, 5, {"unsolvable by memory": 1})
    success = figures["agents"]["planner"]["success"]
    assert success["mean"] == 0.75 and success["low"] == pytest.approx(0.3006, abs=1e-3)  # Wilson


def test_the_same_rows_give_the_same_figures():
    assert summarize(ROWS, 200, 4) == summarize(ROWS, 200, 4)


def test_flat_rows_name_their_suite():
    rows = ROWS.flat()
    assert [row["suite"] for row in rows].count("persistence") == 8 and rows[-1]["suite"] == "navigation"
    assert rows[0] == {"suite": "persistence", **dataclasses.asdict(ROWS.persistence[0])} or np.isnan(rows[0]["entry_score"])


def test_cells_and_the_best_of_a_column():
    assert cell({"mean": 0.256, "low": 0.1, "high": 0.4}, 2).value == "0.26"
    assert cell({"mean": 0.25, "low": 0.1, "high": 0.4}, 0, percent=True).interval == "[10 %, 40 %]"
    assert cell({"mean": None}, 2).value == "–"
    figures = {key: {"psnr_seen": {"mean": mean}} for key, mean in (("model", 20.0), ("baseline", 18.0), ("floor", 30.0))}
    table = figure_table(figures, {}, VIEW_COLUMNS[:1], ("model", "baseline"))
    assert [cells[0].best for _, _, cells in table.rows] == [True, False, False]  # a floor never wins
    tied = figure_table({"model": figures["model"], "baseline": figures["model"]}, {}, VIEW_COLUMNS[:1], ("model", "baseline"))
    assert not any(cells[0].best for _, _, cells in tied.rows)


def test_the_headline_sets_ours_beside_the_rest():
    cards = headline(summarize(ROWS, 100, 0))
    assert [card["value"] for card in cards] == ["0.60", "75 %"]
    assert "baseline 0.10 (difference +0.50" in cards[0]["beside"] and "another scene's state 0.10" in cards[0]["beside"]
    assert "random 25 %" in cards[1]["beside"]
