"""Epipolar error on a textured wall that two cameras face from aside of each other, where everything is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied_liftwm.evaluation.metrics.correspondence import (
    LEAST_POINTS,
    WINDOW_REACH,
    Reference,
    epipolar_error,
    find_reference,
)
from embodied_liftwm.evaluation.metrics.visibility import Visibility
from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.protocols import Camera

SIZE, FOCAL, DEPTH_M, ASIDE_M = 48, 48.0, 2.4, 0.2
SHIFT = 4  # FOCAL * ASIDE_M / DEPTH_M pixels, to the left in the second picture: its camera stands to the right


def wall(columns: int) -> Tensor:
    """A texture. [3, SIZE, columns]"""
    noise = torch.rand(1, 3, SIZE, columns, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0]


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """What the two cameras see. [2, 3, H, W]"""
    texture = wall(SIZE + SHIFT)
    return torch.stack([texture[..., :SIZE], texture[..., SHIFT:]])


def cameras(aside_m: float) -> Camera:
    K = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1, 0, 3] = aside_m
    return Camera(K.expand(2, 3, 3), poses, SIZE, SIZE)


def sight() -> Visibility:
    """Where the first camera's points lie in both pictures."""
    own = pixel_centres(SIZE, SIZE).reshape(-1, 2)
    there = own - torch.tensor([float(SHIFT), 0.0])
    return Visibility(torch.stack([own, there]), torch.stack([torch.ones(len(own), dtype=torch.bool), there[:, 0] > 0]))


@pytest.fixture(scope="module")
def reference(frames: Tensor) -> Reference:
    found = find_reference(frames, cameras(ASIDE_M), 0, sight(), torch.ones(SIZE, SIZE, dtype=torch.bool))
    assert found is not None
    return found


def test_points_are_those_that_the_matcher_finds_in_true_frames(frames: Tensor, reference: Reference):
    assert reference.frame == 1 and len(reference.points) > 400
    columns, rows = reference.points % SIZE, reference.points // SIZE
    assert columns.min() >= SHIFT + 3 and columns.max() < SIZE - 3 and rows.min() >= 3 and rows.max() < SIZE - 3
    assert torch.equal(reference.partners[:, 0], columns + 0.5 - SHIFT) and torch.equal(reference.partners[:, 1], rows + 0.5)
    assert reference.floor_px < 0.1


def test_a_perfect_rendering_is_on_the_lines_and_a_shifted_one_is_off_by_the_shift(frames: Tensor, reference: Reference):
    assert epipolar_error(frames[0], frames[1], reference) == pytest.approx(reference.floor_px)
    for shift in (1, 2, 4):
        moved = frames[0].roll(shift, dims=1)  # down; the lines run along the rows
        assert epipolar_error(moved, frames[1], reference) == pytest.approx(shift, abs=0.15)
        along = frames[0].roll(shift, dims=2)
        assert epipolar_error(along, frames[1], reference) < 0.3  # what slides along its line agrees with the cameras


def test_a_rendering_without_texture_scores_as_a_draw_from_the_window(frames: Tensor, reference: Reference):
    expected = []
    for row in (reference.points // SIZE).tolist():
        rows = range(max(row - WINDOW_REACH, 0), min(row + WINDOW_REACH, SIZE - 1) + 1)
        expected.append(sum(abs(other - row) for other in rows) / len(rows))
    grey = torch.full_like(frames[0], 0.5)
    assert epipolar_error(grey, frames[1], reference) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    noise = torch.rand(frames[0].shape, generator=torch.Generator().manual_seed(1))
    assert epipolar_error(noise, frames[1], reference) == pytest.approx(sum(expected) / len(expected), rel=0.15)


def test_there_is_no_figure_without_parallax_texture_or_memory(frames: Tensor):
    everything = torch.ones(SIZE, SIZE, dtype=torch.bool)
    assert find_reference(frames, cameras(0.0), 0, sight(), everything) is None
    assert find_reference(frames, cameras(1.0), 0, sight(), everything) is None  # too far aside
    assert find_reference(torch.full_like(frames, 0.5), cameras(ASIDE_M), 0, sight(), everything) is None
    few = torch.zeros_like(everything)
    few[20, 10 : 10 + LEAST_POINTS - 1] = True
    assert find_reference(frames, cameras(ASIDE_M), 0, sight(), few) is None
    other = torch.rand(frames[1].shape, generator=torch.Generator().manual_seed(1))
    strangers = torch.stack([frames[0], other])  # points that are right by chance are too few
    assert find_reference(strangers, cameras(ASIDE_M), 0, sight(), everything) is None
