"""Sources of a frame: first such as are remembered, then any; never one without parallax but the frame itself."""

import numpy as np

from embodied_liftwm.data.sources import choose_sources
from embodied_liftwm.geometry.view_selection import KEPT_VIEWS
from tests.toy_room import intrinsics, pose

FRAMES = np.array([0, 5, 60, 79])


def poses() -> np.ndarray:
    """A walk to and fro, looking about."""
    steps = np.arange(80)
    return np.stack([pose(1.2 * np.sin(0.15 * k), 0.8 * np.cos(0.11 * k), 0.5 * np.sin(0.2 * k)) for k in steps])


def chosen(seed: int, remembered: int, count: int) -> np.ndarray:
    return choose_sources(np.random.default_rng(seed), poses(), intrinsics(32), (32, 32), FRAMES, remembered, count)


def test_the_first_are_remembered_ones():
    for seed in range(5):
        found = chosen(seed, 4, 10)
        assert found.shape == (4, 10) and found.dtype == np.int64
        assert (found[0, :4] == 0).all(), "before the first frame there is none, so that it stands for itself"
        age = FRAMES[1:, None] - found[1:, :4]
        assert ((age >= 0) & (age <= KEPT_VIEWS)).all()
        assert (found[2:, 4:] != FRAMES[2:, None]).all() and (found[0, 4:] > 0).all()


def test_no_source_comes_twice_and_all_have_parallax():
    walk = poses()
    for frame, row in zip(FRAMES, chosen(0, 4, 10), strict=True):
        others = row[row != frame]
        assert len(set(others.tolist())) == len(others)
        distance = np.linalg.norm(walk[others, :3, 3] - walk[frame, :3, 3], axis=-1)
        assert ((distance > 0.08) & (distance < 1.5)).all()


def test_draws_differ_and_repeat():
    assert (chosen(0, 4, 10) == chosen(0, 4, 10)).all()
    assert (chosen(0, 4, 10) != chosen(1, 4, 10)).any()


def test_a_camera_that_only_turns_has_no_sources():
    turning = np.stack([pose(0.0, 0.0, 0.1 * k) for k in range(12)])
    found = choose_sources(np.random.default_rng(0), turning, intrinsics(32), (32, 32), np.array([3, 7]), 2, 4)
    assert (found == np.array([[3], [7]])).all()
