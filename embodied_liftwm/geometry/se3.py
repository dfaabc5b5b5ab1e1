"""Rigid motions: poses, the exponential map of SE(3), quaternions (wxyz).

A tangent is (v, w): translation part in metres, then rotation vector in radians. Both maps have finite gradients at zero.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.compiled import arrays, compilable

_SMALL_SQUARED_ANGLE = 0.25
"""Below this the series are used. Large, because the closed forms cancel: in float32 they lose 1 % at an angle of 0.01."""


def make_pose(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble [..., 4, 4] from rotation [..., 3, 3] and translation [..., 3]."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def inverse_pose(pose: Tensor) -> Tensor:
    """Inverse of a rigid transform [..., 4, 4], by transposition."""
    rotation = pose[..., :3, :3].mT
    return make_pose(rotation, -(rotation @ pose[..., :3, 3:]).squeeze(-1))


def viewmats_array(poses: np.ndarray) -> np.ndarray:
    """`inverse_pose` of arrays [B, 4, 4], but for the last row: a fraction of the time for a single camera. [B, 3, 4]"""
    turned = poses[:, :3, :3].transpose(0, 2, 1)
    return np.concatenate([turned, -(turned @ poses[:, :3, 3:])], axis=2)


def relative_pose(world_from_a: Tensor, world_from_b: Tensor) -> Tensor:
    """`a_from_b`: takes points of camera b to camera a. [..., 4, 4]"""
    return inverse_pose(world_from_a) @ world_from_b


def skew(vector: Tensor) -> Tensor:
    """The matrix [..., 3, 3] with skew(a) @ b = a x b."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def _sine_coefficients(squared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin t / t, (1 - cos t) / t^2, (t - sin t) / t^3 as functions of t^2. Each [...]"""
    small = squared < _SMALL_SQUARED_ANGLE
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    first = torch.where(small, _taylor(squared, 1), angle.sin() / angle)
    second = torch.where(small, _taylor(squared, 2), (1 - angle.cos()) / safe)
    third = torch.where(small, _taylor(squared, 3), (angle - angle.sin()) / (angle * safe))
    return first, second, third


def _taylor(squared: Tensor, order: int) -> Tensor:
    """sum_k (-t^2)^k / (2k + order)!, to 1e-12 for t^2 < 0.25."""
    total = torch.zeros_like(squared)
    for k in reversed(range(6)):
        total = total * -squared + 1 / math.factorial(2 * k + order)
    return total


def so3_exp(rotation_vector: Tensor) -> Tensor:
    """Rotation matrix [..., 3, 3] of a rotation vector [..., 3] in radians (Rodrigues)."""
    first, second, _ = _sine_coefficients(rotation_vector.square().sum(-1))
    cross = skew(rotation_vector)
    identity = torch.eye(3, dtype=cross.dtype, device=cross.device)
    return identity + first[..., None, None] * cross + second[..., None, None] * (cross @ cross)


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vector [..., 3] in radians, of length at most pi, of a rotation matrix [..., 3, 3]."""
    quat = matrix_to_quat(rotation)
    real, imaginary = quat[..., 0], quat[..., 1:]
    squared = imaginary.square().sum(-1)
    small = squared < 1e-6
    length = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # asin(x) / x = 1 + x^2 / 6 + 3 x^4 / 40; atan2 is accurate everywhere else.
    factor = torch.where(small, 1 + squared / 6 + 0.075 * squared**2, torch.atan2(length, real) / length)
    return 2 * factor[..., None] * imaginary


def se3_exp(tangent: Tensor) -> Tensor:
    """Pose [..., 4, 4] of a tangent (v, w) [..., 6]: moving with constant body twist for unit time."""
    velocity, rotation_vector = tangent.split(3, dim=-1)
    _, second, third = _sine_coefficients(rotation_vector.square().sum(-1))
    cross = skew(rotation_vector)
    identity = torch.eye(3, dtype=cross.dtype, device=cross.device)
    jacobian = identity + second[..., None, None] * cross + third[..., None, None] * (cross @ cross)
    return make_pose(so3_exp(rotation_vector), (jacobian @ velocity[..., None]).squeeze(-1))


def se3_log(pose: Tensor) -> Tensor:
    """Tangent (v, w) [..., 6] of a pose [..., 4, 4]; the inverse of `se3_exp` for angles below pi."""
    rotation_vector = so3_log(pose[..., :3, :3])
    squared = rotation_vector.square().sum(-1)
    small = squared < _SMALL_SQUARED_ANGLE
    safe = torch.where(small, torch.ones_like(squared), squared)
    half = 0.5 * safe.sqrt()
    # (1 - (t / 2) cot(t / 2)) / t^2, the second-order coefficient of the inverse left Jacobian.
    series = 1 / 12 + squared * (1 / 720 + squared * (1 / 30240 + squared * (1 / 1209600 + squared / 47900160)))
    quadratic = torch.where(small, series, (1 - half / half.tan()) / safe)
    cross = skew(rotation_vector)
    identity = torch.eye(3, dtype=cross.dtype, device=cross.device)
    inverse_jacobian = identity - 0.5 * cross + quadratic[..., None, None] * (cross @ cross)
    return torch.cat([(inverse_jacobian @ pose[..., :3, 3:]).squeeze(-1), rotation_vector], dim=-1)


def relative_twist(world_from_a: Tensor, world_from_b: Tensor) -> Tensor:
    """Tangent (v, w) of `relative_pose`, poses [B, 4, 4] each: what moves camera a to where b is. [B, 6]"""
    if compilable(world_from_a, world_from_b):
        from embodied_liftwm.geometry.se3_kernels import relative_twists

        twists = torch.empty_like(world_from_b[:, :2, :3].flatten(1))
        relative_twists(*arrays(world_from_a, world_from_b, twists))
        return twists
    return se3_log(relative_pose(world_from_a, world_from_b))


def quat_to_matrix(quat: Tensor) -> Tensor:
    """Rotation matrix [..., 3, 3] of a quaternion wxyz [..., 4], normalised first; the zero quaternion gives identity."""
    w, x, y, z = F.normalize(quat, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quat(rotation: Tensor) -> Tensor:
    """Unit quaternion wxyz [..., 4] with w >= 0 of a rotation matrix [..., 3, 3].

    Row i of `candidates` is 4 q_i q, so the row of the largest diagonal is far from zero and its direction is q.
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation.flatten(-2).unbind(-1)
    x, y, z = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m10 + m01, m02 + m20, m21 + m12
    candidates = torch.stack(
        [
            1 + m00 + m11 + m22, x, y, z,
            x, 1 + m00 - m11 - m22, xy, xz,
            y, xy, 1 - m00 + m11 - m22, yz,
            z, xz, yz, 1 - m00 - m11 + m22,
        ],
        dim=-1,
    ).unflatten(-1, (4, 4))  # fmt: skip
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quat = F.normalize(chosen, dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def look_at(eye: Tensor, target: Tensor, up: Tensor | None = None) -> Tensor:
    """Pose of a camera at `eye` that looks at `target`.

    Args:
        eye: camera centre in metres. [..., 3]
        target: point in the image's centre. [..., 3]
        up: world direction that points up in the image; world z by default. Must not be parallel to the line of sight. [..., 3]

    Returns:
        `world_from_camera`, OpenCV (x right, y down, z forward). [..., 4, 4]
    """
    up = eye.new_tensor([0.0, 0.0, 1.0]) if up is None else up
    forward = F.normalize(target - eye, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    return make_pose(torch.stack([right, down, forward], dim=-1), eye)
