"""Keyframes: a bounded buffer that keeps frames with parallax and offers the best of them."""

import torch

from embodied_liftwm.geometry.se3 import so3_exp
from embodied_liftwm.geometry.view_selection import KEPT_VIEWS
from embodied_liftwm.memory.frames.keyframes import Keyframes
from embodied_liftwm.protocols import Camera


def pose(x: float = 0.0, yaw: float = 0.0) -> torch.Tensor:
    out = torch.eye(4)
    out[:3, :3] = so3_exp(torch.tensor([0.0, yaw, 0.0]))
    out[0, 3] = x
    return out[None]


def camera(x: float) -> Camera:
    return Camera(torch.tensor([[[5.0, 0.0, 4.0], [0.0, 5.0, 4.0], [0.0, 0.0, 1.0]]]), pose(x), 8, 8)


def frame(value: float) -> torch.Tensor:
    return torch.full((1, 3, 8, 8), value)


def test_a_camera_that_stands_still_fills_nothing():
    kept = Keyframes.empty(1, (8, 8), torch.zeros(()))
    for _ in range(3):
        kept = kept.add(frame(0.5), pose())
    assert int(kept.filled.sum()) == 1


def test_sources_have_parallax_and_overlap():
    kept = Keyframes.empty(1, (8, 8), torch.zeros(()))
    kept = kept.add(frame(0.2), pose(0.0)).add(frame(0.4), pose(0.0, yaw=2.0))
    kept = kept.add(frame(0.6), pose(0.45)).add(frame(0.8), pose(3.0))
    rgb, poses, usable = kept.sources(camera(0.9), 3)
    assert usable.tolist() == [[True, True, False]]  # neither the one that looks away nor the one far off
    assert abs(float(rgb[0, 0].mean()) - 0.6) < 1e-2  # 0.45 m aside is nearest to the best baseline
    assert float(poses[0, 0, 0, 3]) == float(torch.tensor(0.45))


def test_the_buffer_is_bounded_and_rows_are_apart():
    kept = Keyframes.empty(2, (8, 8), torch.zeros(()))
    for step in range(KEPT_VIEWS + 5):
        both = torch.cat([pose(0.5 * step), pose()])
        kept = kept.add(torch.cat([frame(0.1), frame(0.9)]), both)
    assert kept.filled.sum(1).tolist() == [KEPT_VIEWS, 1]
    assert float(kept.poses[0, 0, 0, 3]) == 0.5 * (KEPT_VIEWS + 4)


def test_one_row_may_move_while_another_stands_still():
    kept = Keyframes.empty(2, (8, 8), torch.zeros(())).add(torch.cat([frame(0.2), frame(0.4)]), torch.cat([pose(), pose()]))
    still = kept.add(torch.cat([frame(0.6), frame(0.8)]), torch.cat([pose(), pose(0.01)]))
    assert all(torch.equal(a, b) for a, b in zip(kept.named_tensors().values(), still.named_tensors().values(), strict=True))
    moved = kept.add(torch.cat([frame(0.6), frame(0.8)]), torch.cat([pose(), pose(0.3)]))
    assert moved.filled.sum(1).tolist() == [1, 2] and int(kept.filled.sum()) == 2
    assert moved.rgb[:, 0, 0, 0, 0].tolist() == [51, 204] and int(moved.rgb[1, 1, 0, 0, 0]) == 102
