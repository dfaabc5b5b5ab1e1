"""Batches are a pure function of (seed, step), and hold what their docstring says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.config import ModelConfig, TrainConfig
from embodied_liftwm.data import Batch, TrainingReader, sample_windows
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.sampling import RECENT, RECENT_JUDGES, choose_context, choose_recent, choose_targets

Build = Callable[..., Episode]
LENGTHS = (40, 3, 20, 60)
CONFIG = TrainConfig(batch_size=3, context=6, targets=4, span=24, seed=5)


@dataclasses.dataclass(frozen=True)
class WithMovers(ModelConfig):
    """A model to which things may move."""

    movers: int = 16


@pytest.fixture
def reader(make_dataset: Callable[..., Path]) -> TrainingReader:
    return TrainingReader(make_dataset(*LENGTHS))


def same(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_the_same_step_is_the_same_batch(reader: TrainingReader) -> None:
    again = TrainingReader(reader.path)
    for step in (0, 1, 1000):
        assert same(sample_windows(reader, CONFIG, step), sample_windows(again, CONFIG, step))


def test_another_step_or_seed_is_another_batch(reader: TrainingReader) -> None:
    batch = sample_windows(reader, CONFIG, 7)
    assert not same(batch, sample_windows(reader, CONFIG, 8))
    assert not same(batch, sample_windows(reader, dataclasses.replace(CONFIG, seed=6), 7))


@pytest.mark.parametrize("rows", [range(0, 1), range(1, 3), range(2, 3), range(0, 3)])
def test_some_rows_are_those_of_the_whole_batch(reader: TrainingReader, rows: range) -> None:
    for step in range(5):
        whole, some = sample_windows(reader, CONFIG, step), sample_windows(reader, CONFIG, step, rows)
        for name, array in vars(whole).items():
            assert np.array_equal(getattr(some, name), array[rows.start : rows.stop]), name


def test_shapes_and_dtypes(reader: TrainingReader) -> None:
    batch, b, k, v, p = sample_windows(reader, CONFIG, 0), 3, 6, 4, 12
    expected = {
        "rgb": ((b, k, 16, 16, 3), "u1"), "intrinsics": ((b, 3, 3), "f4"), "world_from_camera": ((b, k, 4, 4), "f4"),
        "goal": ((b, k, 9), "f4"), "context_index": ((b, k), "i8"), "context_action": ((b, k, 2), "f4"),
        "context_reward": ((b, k), "f4"), "context_terminated": ((b, k), "?"), "target_rgb": ((b, v, 16, 16, 3), "u1"),
        "target_world_from_camera": ((b, v, 4, 4), "f4"), "target_index": ((b, v), "i8"), "step_index": ((b, p), "i8"),
        "action": ((b, p, 2), "f4"), "pose_prev": ((b, p, 4, 4), "f4"),
        "pose_before": ((b, p, 4, 4), "f4"), "pose_after": ((b, p, 4, 4), "f4"),
        "episode": ((b,), "i8"), "noise_seed": ((b,), "i8"), "source_rgb": ((b, k + v, CONFIG.sources, 16, 16, 3), "u1"),
        "source_world_from_camera": ((b, k + v, CONFIG.sources, 4, 4), "f4"),
        "recent_rgb": ((b, k + v, 0, 16, 16, 3), "u1"), "recent_world_from_camera": ((b, k + v, 0, 4, 4), "f4"),
        "recent_steps": ((b, k + v, 0), "f4"),
    }  # fmt: skip
    assert {name: (array.shape, array.dtype) for name, array in vars(batch).items()} == {
        name: (shape, np.dtype(kind)) for name, (shape, kind) in expected.items()
    }


def test_contents_are_those_of_the_episode(reader: TrainingReader, make_episode: Build) -> None:
    for step in range(20):
        batch = sample_windows(reader, CONFIG, step)
        for row, number in enumerate(batch.episode):
            episode = make_episode(LENGTHS[number], int(number))
            context, target, t = batch.context_index[row], batch.target_index[row], batch.step_index[row]
            assert np.array_equal(batch.rgb[row], episode.rgb[context])
            assert np.array_equal(batch.target_rgb[row], episode.rgb[target])
            assert np.array_equal(batch.target_world_from_camera[row], episode.world_from_camera[target])
            assert np.array_equal(batch.pose_after[row], episode.world_from_camera[t + 1])
            assert np.array_equal(batch.action[row], episode.action[t])
            led_zero = [np.zeros(2, np.float32), *episode.action]
            assert np.array_equal(batch.context_action[row], np.array(led_zero)[context])
            assert np.array_equal(batch.context_reward[row], np.array([0, *episode.reward], np.float32)[context])
            assert np.array_equal(batch.context_terminated[row], np.array([False, *episode.terminated])[context])
            first = t == 0
            assert np.array_equal(batch.pose_prev[row][first], batch.pose_before[row][first])
            assert np.array_equal(batch.pose_prev[row][~first], episode.world_from_camera[t[~first] - 1])


def test_models_to_which_things_move_get_frames_of_fixed_distances(reader: TrainingReader, make_episode: Build) -> None:
    moving = dataclasses.replace(CONFIG, model=WithMovers())
    outside = 0
    for step in range(4):
        batch, without = sample_windows(reader, moving, step), sample_windows(reader, CONFIG, step)
        for name, array in vars(without).items():
            assert name.startswith("recent") or np.array_equal(getattr(batch, name), array), name
        for row, number in enumerate(batch.episode):
            episode = make_episode(LENGTHS[number], int(number))
            frames = np.concatenate([batch.context_index[row], batch.target_index[row]])
            for n, frame in enumerate(frames):
                for r, offset in enumerate(RECENT + RECENT_JUDGES):
                    inside = 0 <= frame + offset <= LENGTHS[number]
                    outside += not inside
                    other = frame + offset if inside else frame
                    assert batch.recent_steps[row, n, r] == (offset if inside else 0)
                    assert np.array_equal(batch.recent_rgb[row, n, r], episode.rgb[other])
                    assert np.array_equal(batch.recent_world_from_camera[row, n, r], episode.world_from_camera[other])
    assert outside > 0


def test_recent_frames_of_the_first_and_the_last() -> None:
    frames, steps = choose_recent(np.array([0, 4, 9]), 10, (-2, 1))
    assert frames.tolist() == [[0, 1], [2, 5], [7, 9]]
    assert steps.tolist() == [[0, 1], [-2, 1], [-2, 0]] and steps.dtype == np.float32


@pytest.mark.parametrize(("start", "stop", "count"), [(0, 48, 8), (5, 20, 6), (3, 12, 8), (0, 40, 2), (7, 60, 1), (0, 11, 12)])
def test_context_is_ordered_and_holds_neighbours(start: int, stop: int, count: int) -> None:
    for seed in range(200):
        frames = choose_context(np.random.default_rng(seed), start, stop, count)
        assert len(frames) == count
        assert frames[0] == start
        assert frames[-1] <= stop
        assert (np.diff(frames) > 0).all()
        if count >= 3:
            assert (np.diff(frames) == 1).any(), "no consecutive pair"
        if count >= 6 and stop - start >= 4 * count:
            assert frames[-1] - start >= 0.4 * (stop - start), "the span is not covered"


def test_context_of_an_episode_that_is_too_short() -> None:
    frames = choose_context(np.random.default_rng(0), 0, 3, 8)
    assert frames[0] == 0 and frames[-1] == 3 and len(frames) == 8 and (np.diff(frames) >= 0).all()


def test_targets_lie_before_among_and_after_and_are_not_observed() -> None:
    rng = np.random.default_rng(0)
    zones = np.zeros(3)
    for _ in range(400):
        context = choose_context(rng, 12, 60, 8)
        targets = choose_targets(rng, context, 0, 60, 4)
        assert len(set(targets.tolist())) == 4
        assert not set(targets.tolist()) & set(context.tolist())
        assert targets.min() >= 0 and targets.max() <= 60
        zones += [(targets < 12).sum(), ((targets > 12) & (targets < context[-1])).sum(), (targets > context[-1]).sum()]
    assert zones / zones.sum() == pytest.approx([0.15, 0.5, 0.35], abs=0.05)


def test_every_window_is_as_likely_as_another(reader: TrainingReader) -> None:
    counts = np.zeros(4)
    for step in range(400):
        np.add.at(counts, sample_windows(reader, CONFIG, step).episode, 1)
    windows = np.maximum(1, np.array(LENGTHS) - CONFIG.span + 1)
    assert counts / counts.sum() == pytest.approx(windows / windows.sum(), abs=0.04)
