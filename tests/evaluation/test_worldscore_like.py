"""Flow that is known, and scores at both ends of their range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.evaluation.metrics.flow import dense_flow, lands_inside, round_trip
from embodied_liftwm.evaluation.metrics.worldscore_like import flow_consistency, reprojection_consistency, score
from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.protocols import Camera
from tests import toy_room

SIZE = 48


def painted(places: Tensor) -> Tensor:
    """A smooth texture of many waves at any places [H, W, 2]. [1, 3, H, W]"""
    generator = torch.Generator().manual_seed(0)
    waves = torch.rand(8, 3, 2, generator=generator) - 0.5
    phases = 6.28 * torch.rand(8, 3, generator=generator)
    colour = 0.5 + 0.45 * torch.sin(torch.einsum("hwk,ick->hwic", places, waves) + phases).mean(2)
    return colour.permute(2, 0, 1)[None]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3), (3.3, -2.1), (-8.6, 5.2)])
def test_a_known_shift_is_found(shift: tuple[float, float]) -> None:
    places, moved = pixel_centres(SIZE, SIZE), torch.tensor(shift)
    flow = dense_flow(painted(places), painted(places - moved))
    true = moved.view(1, 2, 1, 1).expand(1, 2, SIZE, SIZE)
    error = (flow - true).norm(dim=1)[lands_inside(true)]
    assert float(error.median()) < 0.1 and float(error.mean()) < 0.35


def test_a_known_rotation_and_zoom_is_found() -> None:
    places = pixel_centres(SIZE, SIZE)
    middle, matrix = SIZE / 2, 1.06 * torch.tensor([[np.cos(0.08), -np.sin(0.08)], [np.sin(0.08), np.cos(0.08)]]).float()
    flow = dense_flow(painted(places), painted((places - middle) @ torch.linalg.inv(matrix).T + middle))
    true = ((places - middle) @ matrix.T + middle - places).permute(2, 0, 1)[None]
    error = (flow - true).norm(dim=1)[lands_inside(true)]
    assert float(error.median()) < 0.15 and float(error.mean()) < 0.6  # at the border new texture comes in


def test_the_round_trip_of_opposite_flows_is_zero() -> None:
    flow = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    assert round_trip(flow, -flow).abs().max() == 0
    assert torch.allclose(round_trip(flow, flow), torch.full((1, 8, 8), 5.0))


def test_scores_have_the_published_form() -> None:
    assert (
        score(0.0, 1.192) == 1.0 and score(0.596, 1.192) == 0.5 and score(9.0, 1.192) == 0.0 and score(float("nan"), 1.0) == 0.0
    )


def room(frames: int = 5) -> tuple[Tensor, Camera]:
    poses = np.stack([toy_room.pose(-0.6 + 0.08 * k, 0.04 * k, 0.03 * k) for k in range(frames)])
    rgb = np.stack([toy_room.render(pose, SIZE, 3)[0] for pose in poses])
    intrinsics = torch.from_numpy(toy_room.intrinsics(SIZE)).expand(frames, 3, 3)
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 255, Camera(intrinsics, torch.from_numpy(poses), SIZE, SIZE)


def test_still_frames_are_perfect_and_noise_is_nothing() -> None:
    frames, cameras = room()
    still, stands = frames[:1].expand(5, -1, -1, -1), cameras.index([0] * 5)
    assert flow_consistency(still).score == pytest.approx(1.0, abs=1e-4)
    assert reprojection_consistency(still, stands).score == pytest.approx(1.0, abs=1e-3)
    noise = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert flow_consistency(noise).score < 0.1 and reprojection_consistency(noise, cameras).score < 0.1
    blank = torch.full((5, 3, SIZE, SIZE), 0.5)
    assert flow_consistency(blank).score == 1.0  # as published, and said
    assert reprojection_consistency(blank, cameras).score == 0.0  # nothing to match


def test_true_frames_agree_with_their_cameras_and_with_no_others() -> None:
    frames, cameras = room()
    right = reprojection_consistency(frames, cameras)
    assert right.error_px < 0.6 and right.score > 0.4 and right.share > 0.3
    assert reprojection_consistency(frames, cameras.index([0] * 5)).error_px > 2 * right.error_px  # they never moved
    assert reprojection_consistency(frames, cameras.index([4, 3, 2, 1, 0])).error_px > 2 * right.error_px
    shaken = frames + 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(2))
    assert flow_consistency(shaken.clamp(0, 1)).error_px > flow_consistency(frames).error_px


def test_the_unit_of_length_does_not_matter() -> None:
    frames, cameras = room(3)
    poses = cameras.world_from_camera.clone()
    poses[:, :3, 3] *= 7.0
    scaled = Camera(cameras.intrinsics, poses, SIZE, SIZE)
    assert reprojection_consistency(frames, scaled).error_px == pytest.approx(
        reprojection_consistency(frames, cameras).error_px, rel=1e-3
    )
