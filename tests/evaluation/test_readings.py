"""The three readings: what is hidden, what the probe and the picture find, and what follows from who found it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions
from embodied_liftwm.evaluation.navigation.guided import Guide, Guided
from embodied_liftwm.evaluation.permanence.suites import Chart, Table
from embodied_liftwm.evaluation.readings.figures import show, summarize
from embodied_liftwm.evaluation.readings.outcomes import (
    NOT_READABLE,
    NOT_STORED,
    NOT_USED,
    REACHED,
    USED,
    ActRow,
    ProbeRow,
    RenderRow,
    VerdictRow,
    outcome_of,
    verdict_rows,
)
from embodied_liftwm.evaluation.readings.probe import Asked, distance_m, fit
from embodied_liftwm.evaluation.readings.questions import gap_at, looks, questions
from embodied_liftwm.evaluation.readings.reader import judge_view
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.protocols import View

SEED = EVAL_SEED_OFFSET + 4321


@pytest.fixture(scope="module")
def guided() -> Guided:
    guide = Guide("Revisit-S", EnvOptions(image_size=32))
    recorded = guide.record(SEED)
    guide.close()
    return recorded


@pytest.fixture(scope="module")
def screened() -> Guided:
    guide = Guide("Occlusion-S", EnvOptions(image_size=32))
    recorded = guide.record(SEED)
    guide.close()
    return recorded


def test_gaps_by_hand():
    pixels = np.array([0, 9, 3, 2, 0, 0, 5])
    assert [gap_at(pixels, t) for t in range(7)] == [0, 0, 0, 1, 2, 3, 0]
    assert gap_at(np.array([0, 7, 0]), 2) == 0  # never in view: nothing to remember


def test_questions_ask_for_true_places(guided):
    truth, asked = guided.episode.truth, questions(guided)
    assert {q.frame for q in asked} <= {round(s * guided.call) for s in (0.5, 0.75, 1.0)}
    (called,) = [q for q in asked if q.called]
    assert called.object_id == guided.goal_object and called.frame == guided.call
    assert np.allclose(called.query, guided.episode.goal[guided.call])  # it is asked as the task asks
    for q in asked:
        pose, column = truth.world_from_camera[q.frame], q.object_id - 1
        assert truth.visible_pixels[q.frame - q.gap, column] >= 3 and truth.visible_pixels[q.frame, column] < 3
        ahead, left = pose[:2, 2] / np.linalg.norm(pose[:2, 2]), -pose[:2, 0]  # camera x points right
        offset = truth.object_pose[q.frame, column, :2] - pose[:2, 3]
        assert q.place == pytest.approx([offset @ ahead, offset @ left], abs=1e-4)


def test_what_comes_back_is_looked_for_where_the_oracle_sees_it(guided):
    (called,) = [shown for shown in looks(guided) if shown.called]
    pixels = guided.episode.truth.visible_pixels[:, called.object_id - 1]
    assert called.kind == "return" and called.frame > guided.call and pixels[called.frame] == called.pixels >= 8
    assert called.gap == called.frame - np.flatnonzero(pixels[: guided.call + 1] >= 3)[-1]


def test_what_a_screen_hides_is_looked_for_in_the_view_that_showed_it_unless_the_screen_was_seen(screened):
    truth, column = screened.episode.truth, screened.goal_object - 1
    assert truth.visible_pixels[screened.call :, column].max() == 0
    best = int(truth.visible_pixels[: screened.call, column].argmax())
    blank = dataclasses.replace(truth, depth=truth.depth.copy())
    blank.depth[best + 1 :] = 0  # nothing was seen after: nothing covers it
    unseen = dataclasses.replace(screened, episode=dataclasses.replace(screened.episode, truth=blank))
    (shown,) = looks(unseen)
    assert shown.kind == "earlier view" and shown.frame == best and shown.called
    covered = dataclasses.replace(truth, depth=truth.depth.copy())
    later = next(t for t in range(best + 1, screened.call + 1) if truth.visible_pixels[t, column] < 3)
    covered.world_from_camera[later] = truth.world_from_camera[best]
    covered.depth[later] = np.maximum(truth.depth[best] - 0.5, 0.05)  # half a metre before it, from the same place
    hidden = dataclasses.replace(screened, episode=dataclasses.replace(screened.episode, truth=covered))
    assert looks(hidden) == []


def test_a_picture_is_judged_by_hand(guided):
    (shown,) = [shown for shown in looks(guided) if shown.called]
    batch = EpisodeBatch([guided.episode], [0])
    true = batch.true([(0, shown.frame)])
    seen = torch.ones_like(true.depth)
    perfect = judge_view(View(true.rgb, true.depth, seen), batch, shown)
    assert perfect.score == perfect.colour_share == perfect.depth_share == 1.0 and perfect.place_error_m < 0.5
    far = judge_view(View(true.rgb, true.depth + 2.0, seen), batch, shown)
    assert far.score == far.depth_share == 0.0 and far.colour_share == 1.0 and far.place_error_m > 1.5
    blank = judge_view(View(torch.full_like(true.rgb, 0.5), true.depth, seen), batch, shown)
    assert blank.place_error_m == math.inf and blank.score == 0.0


def test_what_a_cup_hides_is_asked_of_the_probe_where_its_cup_took_it_and_of_no_picture():
    guide = Guide("ShellGame-S", EnvOptions(image_size=32))
    recorded = guide.record(SEED)
    guide.close()
    truth, column = recorded.episode.truth, recorded.goal_object - 1
    (called,) = [q for q in questions(recorded) if q.called]
    pose, best = truth.world_from_camera[recorded.call], int(truth.visible_pixels[: recorded.call, column].argmax())
    here = truth.object_pose[recorded.call, column, :2]
    assert np.linalg.norm(called.place) == pytest.approx(np.linalg.norm(here - pose[:2, 3]), abs=1e-4)
    assert not [shown for shown in looks(recorded) if shown.called]
    still = dataclasses.replace(truth, object_pose=truth.object_pose.copy(), depth=truth.depth.copy())
    still.object_pose[:, column] = truth.object_pose[best, column]  # as if it had come back to where it was seen,
    still.depth[best + 1 :] = 0  # and its cup had never been looked at: a picture of it would still be wrong
    back = dataclasses.replace(recorded, episode=dataclasses.replace(recorded.episode, truth=still))
    assert not [shown for shown in looks(back) if shown.called]
    bare = dataclasses.replace(still, scene={**truth.scene, "shows": []})
    uncovered = dataclasses.replace(back, episode=dataclasses.replace(back.episode, truth=bare))
    assert [shown.kind for shown in looks(uncovered) if shown.called] == ["earlier view"]


def test_of_several_targets_the_one_that_was_asked_about_counts():
    rows = [
        dataclasses.replace(row, success=0.0, called_reached=1.0) if isinstance(row, ActRow) else row
        for row in rows_of("model", [0.5, 1.5], [1, 1])
    ]
    verdicts = verdict_rows(rows)
    assert [row.outcome for row in verdicts] == [USED, REACHED]
    found = summarize(rows + verdicts, 20, 0)
    acted = next(item for item in show(found) if item.title.startswith("Act"))
    assert [found["act"]["model"][name]["mean"] for name in ("success", "called_reached")] == [0.0, 1.0]
    assert acted.columns[1].path == ("called_reached",)


def questions_of(rng: np.random.Generator, episodes: int, told: bool) -> Asked:
    """Features that hold the place, mixed, or noise alone."""
    place = rng.uniform(-3, 3, (8 * episodes, 2)).astype(np.float32)
    mixing = np.random.default_rng(1).normal(size=(2, 12))
    features = place @ mixing if told else rng.normal(size=(len(place), 12))
    return Asked(features.astype(np.float32), place, np.repeat(np.arange(episodes), 8))


def test_a_probe_reads_what_is_there_and_no_more():
    rng = np.random.default_rng(0)
    for told in (True, False):
        probe, test = fit(questions_of(rng, 40, told)), questions_of(rng, 20, told)
        error = distance_m(probe(test.features), test.place).mean()
        baseline = distance_m(np.broadcast_to(probe.baseline, test.place.shape), test.place).mean()
        assert error < 0.25 * baseline if told else 0.85 * baseline < error < 1.3 * baseline
    taught = questions_of(rng, 40, True)
    assert np.array_equal(fit(taught, 3)(taught.features), fit(taught, 3)(taught.features))


@pytest.mark.parametrize(
    ("probe", "render", "success", "outcome"),
    [
        (True, True, True, USED), (True, False, True, USED), (False, True, True, USED), (False, False, True, REACHED),
        (False, False, False, NOT_STORED), (True, False, False, NOT_READABLE), (False, True, False, NOT_READABLE),
        (True, True, False, NOT_USED), (True, None, False, NOT_USED), (False, None, False, NOT_STORED),
        (False, None, True, REACHED),
    ],
)  # fmt: skip
def test_where_it_fails(probe, render, success, outcome):
    assert outcome_of(probe, render, success) == outcome


def rows_of(model: str, errors: list[float], successes: list[float]) -> list:
    found = []
    for i, (error, success) in enumerate(zip(errors, successes, strict=True)):
        head = model, "Revisit-S", i, 100 + i
        found += [
            ProbeRow(*head, "probe", 1, 1, 60, 20, error, 2.0),
            ProbeRow(*head, "probe", 2, 0, 30, 3, 2 * error, 2.0),
            RenderRow(*head, "render", 1, 1, 66, 26, "return", 30, 0.5, 0.6, 0.7, error),
            ActRow(*head, "act", success, success, success, success, 9, 2.0, 2.0, 1 - success, 0),
        ]
    return found


def test_figures_by_hand():
    rows = rows_of("model", [0.5, 1.5, 0.5, math.nan], [1, 0, 0, 1]) + rows_of("last_frame", [3.0] * 4, [0, 0, 0, 1])
    rows += [dataclasses.replace(row, model="random", success=0.0) for row in rows[:16] if isinstance(row, ActRow)]
    verdicts = verdict_rows(rows)
    assert [row.outcome for row in verdicts] == [USED, NOT_STORED, NOT_USED, REACHED, *[NOT_STORED] * 3, REACHED]
    found = summarize(rows + verdicts, 50, 0)
    assert found["fails"]["model"][USED]["mean"] == 0.25 and set(found["fails"]) == {"model", "last_frame"}
    assert found["act"]["model"]["success"]["mean"] == 0.5 and found["act"]["random"]["success"]["mean"] == 0.0
    probe = found["probe"]["model"]
    assert probe["called"]["error_m"]["mean"] == pytest.approx(2.5 / 3) and probe["called"]["found"]["mean"] == 0.5
    assert probe["bins"]["1-5"]["error_m"]["mean"] == pytest.approx(5 / 3) and probe["bins"]["11-50"]["error_m"]["count"] == 3
    assert found["render"]["model"]["found"]["mean"] == pytest.approx(2 / 3)
    difference = found["difference"]["model - last_frame"]
    assert difference["success"]["mean"] == 0.25 and difference["probe_error_m"]["count"] == 6
    assert found["difference"]["model - random"]["success"]["mean"] == 0.5 and "kinds" not in found
    shown = show(found)
    assert [type(item) for item in shown].count(Chart) == 2 and shown[0].title == "Where it fails"
    assert all(isinstance(item, Table | Chart) and item.title for item in shown)


def test_several_seeds_of_one_kind_are_pooled():
    rows = [
        row for i, s in enumerate(([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0])) for row in rows_of(f"model#{i + 1}", [1.0] * 4, s)
    ]
    kinds = summarize(rows + verdict_rows(rows), 50, 0)["kinds"]
    success = kinds["model"]["success"]  # of 0.25, 0.5, 0.75 a quarter of a value beyond the middle counts on each side
    assert success["mean"] == pytest.approx((0.25 * 0.25 + 0.5 + 0.25 * 0.75) / 1.5) and success["low"] < 0.5 < success["high"]
    assert isinstance(verdict_rows(rows)[0], VerdictRow)
