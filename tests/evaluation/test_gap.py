"""Displaced views: which they are, what they tell apart that views of the context do not, and figures at equal 2D loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.experiments.gap.views import (
    GLO,
    TWO_D,
    GapRow,
    displaced_frames,
    equal_loss,
    figures,
    first_reach,
    gap_row,
    judge,
)

CONTEXT = 24


@pytest.fixture(scope="module")
def turning(tools):
    """Two rooms: a turn on the spot, then looks around from 0.5 m and from 1 m away."""
    yaws = np.linspace(0.0, 2 * np.pi, CONTEXT, endpoint=False)
    context = [tools.pose_at(yaw) for yaw in yaws]
    away = [tools.pose_at(yaw, (x, 0.0)) for x in (0.5, 1.0) for yaw in yaws[::3]]
    return [tools.make_episode(world, context + away) for world in tools.WORLDS]


@pytest.fixture(scope="module")
def flat(turning, cloud):
    """The cloud model, except that it takes every pixel to be 2 m away."""
    model = type(cloud)(turning)
    model.depths = {frame: np.full_like(depth, 2.0) for frame, depth in model.depths.items()}
    return model


def mean(rows, model: str, column: str, displaced: bool) -> float:
    own = [row for row in rows if row.model == model and (row.frame >= CONTEXT) == displaced]
    return float(np.nanmean([getattr(row, column) for row in own]))


def test_displaced_frames_are_those_at_the_distance_from_the_nearest_context_camera():
    x = [0.0, 0.2, 0.4, 0.5, 0.8, 0.9, 1.0, 1.2, 0.6]
    positions = np.array([[value, 1.0, 0.5] for value in x])
    assert displaced_frames(positions, 3, 0.5, 10) == [4, 5, 6]
    assert displaced_frames(positions, 3, 0.5, 2) == [4, 6]
    assert displaced_frames(positions, 3, 3.0, 2) == []


def test_a_wrong_depth_shows_in_displaced_views_alone(turning, flat, cloud):
    rows = []
    for name, model in (("true", type(cloud)(turning)), ("flat", flat)):
        rows += judge(CheckedModel(model, name), turning, CONTEXT, 0.5, 6)
    assert {row.frame for row in rows} == {3, 7, 11, 15, 19, 23, 24, 25, 27, 28, 29, 31}
    on_the_spot = mean(rows, "true", "psnr", False) - mean(rows, "flat", "psnr", False)
    moved = mean(rows, "true", "psnr_seen", True) - mean(rows, "flat", "psnr_seen", True)
    assert on_the_spot < 0.5 and moved > 1.0  # views of the context do not tell the wrong depth from the right one
    assert mean(rows, "flat", "abs_rel_seen", True) > 3 * mean(rows, "true", "abs_rel_seen", True)


def test_episodes_without_a_displaced_view_are_refused(turning, flat):
    with pytest.raises(UserError, match=r"no frame is 0\.25 m from an episode's first 24: raise collect\.steps"):
        judge(CheckedModel(flat, "flat"), turning, CONTEXT, 0.25, 6)


def test_a_level_is_reached_between_two_times():
    assert first_reach([1.0, 3.0, 4.0], 2.5) == [(0, 0.25), (1, 0.75)]
    assert first_reach([1.0, 3.0, 2.0, 4.0], 3.0) == [(1, 1.0)]
    assert first_reach([1.0, 3.0], 0.5) == [(0, 1.0)]
    assert first_reach([1.0, 3.0], 5.0) == [(1, 1.0)]


def training(model: str, context: list[float], displaced: list[float], seed: int = 0, support_m: float = 0.3) -> list[GapRow]:
    """Two episodes with one view of each kind, judged at equal intervals; the second episode is 1 dB better."""
    rows = []
    for i, pair in enumerate(zip(context, displaced, strict=True)):
        for kind, psnr in zip(("context", "displaced"), pair, strict=True):
            for episode in (0, 1):
                share = (i + 1) / len(context)
                row = GapRow(support_m, model, seed, share, kind, episode, 5, psnr + episode, psnr + episode, 0.5, 0.1)
                rows.append(replace(row, abs_rel_seen=0.1 * (i + 1)))
    return rows


def test_rows_at_equal_loss_are_taken_where_the_better_model_passed_the_worse():
    two_d = training(TWO_D, [14.0, 18.0, 20.0], [10.0, 11.0, 13.0])
    glo = training(GLO, [12.0, 19.0], [12.0, 15.0])
    first, second = equal_loss(two_d, glo)
    assert [row.psnr for row in first] == pytest.approx([19.0, 12.0, 20.0, 13.0])  # half way from 18 to 20
    assert [row.psnr for row in second] == pytest.approx([19.0, 15.0, 20.0, 16.0])
    assert [row.abs_rel_seen for row in first] == pytest.approx([0.25] * 4)
    assert [(row.kind, row.episode) for row in first] == [(row.kind, row.episode) for row in second]


def test_figures_are_paired_and_pooled_over_seeds():
    rows = []
    for seed, gain in ((0, 2.0), (1, 4.0)):
        rows += training(TWO_D, [14.0, 20.0], [10.0, 12.0], seed) + training(GLO, [14.0, 20.0], [10.0, 12.0 + gain], seed)
    found = {(f.loss, f.seed, f.model, f.figure): f for f in figures(rows, 50)}
    for loss in ("equal", "final"):
        gains = [found[loss, seed, f"{GLO} - {TWO_D}", "psnr_seen"] for seed in ("0", "1", "pooled")]
        assert [gain.mean for gain in gains] == pytest.approx([2.0, 4.0, 3.0])
        assert [(gain.rows, gain.episodes) for gain in gains] == [(2, 2), (2, 2), (4, 2)]
        assert found[loss, "pooled", TWO_D, "psnr_context"].mean == pytest.approx(20.5)
    assert found["final", "0", TWO_D, "psnr_seen"].low < found["final", "0", TWO_D, "psnr_seen"].high


def test_rows_are_read_as_they_were_written(tmp_path: Path, turning, cloud):
    views = judge(CheckedModel(type(cloud)(turning), GLO), turning, CONTEXT, 0.5, 2)
    rows = [gap_row(view, 0.3, 1, 0.85, CONTEXT) for view in views]
    assert {row.kind for row in rows} == {"context", "displaced"}
    write_rows(tmp_path / "rows.csv", rows)
    for wrote, read in zip(rows, read_rows(tmp_path / "rows.csv", GapRow), strict=True):
        assert (wrote.model, wrote.seed, wrote.kind, wrote.frame) == (read.model, read.seed, read.kind, read.frame)
        assert (read.psnr, read.share) == pytest.approx((wrote.psnr, wrote.share), rel=1e-5)
    (tmp_path / "rows.csv").write_text("support_m,model\n0.3,glo\n")
    with pytest.raises(UserError, match=r"rows\.csv is damaged"):
        read_rows(tmp_path / "rows.csv", GapRow)
