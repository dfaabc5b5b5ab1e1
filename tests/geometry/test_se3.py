from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry import (
    inverse_pose,
    look_at,
    matrix_to_quat,
    quat_to_matrix,
    relative_pose,
    se3_exp,
    se3_log,
    skew,
    so3_exp,
    so3_log,
    transform,
)
from embodied_liftwm.geometry.se3 import relative_twist


def tangents(count: int = 50, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_angle(angle: float, count: int = 20) -> Tensor:
    axis = torch.nn.functional.normalize(tangents(count)[:, 3:], dim=-1)
    return torch.cat([tangents(count)[:, :3], angle * axis], dim=-1)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.01, 0.49, 0.51, 1.0, 3.0, 3.1415])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_log_undoes_exp(angle: float, dtype: torch.dtype, tolerance: float) -> None:
    tangent = with_angle(angle).to(dtype)
    tolerance = tolerance if angle > 3 else min(tolerance, 1e-5)
    torch.testing.assert_close(se3_log(se3_exp(tangent)), tangent, atol=tolerance, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.3, 2.0])
def test_exp_is_the_matrix_exponential(angle: float) -> None:
    tangent = with_angle(angle)
    twist = torch.zeros(len(tangent), 4, 4, dtype=torch.float64)
    twist[:, :3, :3], twist[:, :3, 3] = skew(tangent[:, 3:]), tangent[:, :3]
    torch.testing.assert_close(se3_exp(tangent), torch.linalg.matrix_exp(twist), atol=1e-11, rtol=0)


def test_a_known_motion() -> None:
    """A quarter turn to the left about z while driving a unit arc along x."""
    quarter = torch.pi / 2
    pose = se3_exp(torch.tensor([quarter, 0.0, 0.0, 0.0, 0.0, quarter]))
    torch.testing.assert_close(pose[:3, 3], torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(pose[:3, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_gradients_are_right_and_finite_at_zero() -> None:
    zero = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(se3_exp, zero)
    assert torch.autograd.gradcheck(lambda tangent: se3_log(se3_exp(tangent)), zero)
    (gradient,) = torch.autograd.grad(se3_log(se3_exp(zero)).sum(), zero)
    torch.testing.assert_close(gradient, torch.ones_like(zero))
    assert torch.autograd.gradcheck(lambda tangent: se3_log(se3_exp(tangent)), tangents(5).requires_grad_())


def test_inverse_and_relative() -> None:
    a, b = se3_exp(tangents(4)), se3_exp(tangents(4, seed=1))
    torch.testing.assert_close(inverse_pose(a) @ a, torch.eye(4, dtype=torch.float64).expand(4, 4, 4))
    points = tangents(4, seed=2)[:, None, :3]
    torch.testing.assert_close(transform(a, transform(relative_pose(a, b), points)), transform(b, points))


def test_quaternions_are_wxyz() -> None:
    half = 0.5 * torch.tensor(0.7).double()
    about_z = torch.stack([half.cos(), torch.zeros_like(half), torch.zeros_like(half), half.sin()])
    torch.testing.assert_close(quat_to_matrix(about_z), so3_exp(torch.tensor([0.0, 0.0, 0.7], dtype=torch.float64)))


def test_quaternion_round_trip_everywhere() -> None:
    """Also at half turns, where w is 0 and each of x, y, z may lead."""
    half_turns = torch.cat([torch.zeros(3, 1), torch.eye(3)], dim=-1).double()
    quats = torch.cat([torch.nn.functional.normalize(torch.randn(200, 4, dtype=torch.float64), dim=-1), half_turns])
    rotation = quat_to_matrix(quats)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(203, 3, 3))
    back = matrix_to_quat(rotation)
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close((back * quats).sum(-1).abs(), torch.ones(203, dtype=torch.float64))


def test_quaternion_gradients() -> None:
    quats = torch.nn.functional.normalize(tangents(6)[:, :4], dim=-1).requires_grad_()
    assert torch.autograd.gradcheck(quat_to_matrix, quats)
    assert torch.autograd.gradcheck(lambda quat: matrix_to_quat(quat_to_matrix(quat)), quats)


def test_rotation_vector_at_a_half_turn() -> None:
    vector = torch.tensor([0.0, torch.pi - 1e-4, 0.0], dtype=torch.float64)
    torch.testing.assert_close(so3_log(so3_exp(vector)), vector)


def test_look_at_is_opencv_with_world_z_up() -> None:
    pose = look_at(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([3.0, 0.0, 1.0]))
    right, down, forward, centre = pose[:3].unbind(-1)
    assert forward.tolist() == [1.0, 0.0, 0.0]
    assert down.tolist() == [0.0, 0.0, -1.0]
    assert right.tolist() == [0.0, -1.0, 0.0]
    assert centre.tolist() == [1.0, 0.0, 1.0]
    assert torch.linalg.det(pose[:3, :3]).item() == 1.0


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.009, 0.011, 0.5, 2.0, 3.1])
def test_the_step_between_poses_is_the_twist_that_takes_one_to_the_other(angle: float) -> None:
    start, twist = se3_exp(tangents(20, seed=1)), with_angle(angle)
    end = start @ se3_exp(twist)
    compiled = relative_twist(start.float(), end.float())
    assert compiled.dtype == torch.float32
    torch.testing.assert_close(compiled.double(), twist, atol=1e-4 if angle > 3 else 5e-6, rtol=0)
    torch.testing.assert_close(relative_twist(start, end), twist, atol=1e-9, rtol=0)  # double precision is left to torch
