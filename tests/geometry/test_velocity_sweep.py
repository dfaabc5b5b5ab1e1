"""Velocity sweep: what moves is explained best by its own velocity, what rests by rest, and wrong depth by its error."""

import math

import pytest
import torch

from embodied_liftwm.geometry.cameras import back_project, project, resize_intrinsics
from embodied_liftwm.geometry.matching.plane_sweep import Sweep, plane_sweep
from embodied_liftwm.geometry.matching.velocity_sweep import velocity_sweep
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera
from tests.sliding_box import FORWARD, RECENT, SIDEWAYS, STILL, STRIDE, TURNING, Seen, look

SPACING_M = 0.015
AXIS = SPACING_M * torch.arange(-4.0, 5.0)
VELOCITIES = torch.stack([*torch.meshgrid(AXIS, AXIS, indexing="ij"), torch.zeros(9, 9)], dim=-1).reshape(-1, 3)
REST = len(VELOCITIES) // 2
PAST = len(RECENT)


def sweep(seen: Seen, depth: torch.Tensor, velocities: torch.Tensor, errors: torch.Tensor | None = None) -> Sweep:
    """Under one group of all recent frames."""
    others = seen.other_rgb[:, :PAST], seen.other_poses[:, :PAST], seen.steps[:, :PAST]
    groups = torch.ones(1, 1, PAST, dtype=torch.bool)
    return velocity_sweep(seen.rgb, seen.camera, depth, *others, groups, velocities, STRIDE, errors)


@pytest.mark.parametrize("travel", [STILL, FORWARD, SIDEWAYS, TURNING])
@pytest.mark.parametrize("velocity", [(0.0, 0.045, 0.0), (0.03, -0.03, 0.0), (0.0, 0.025, 0.0)])
def test_the_best_velocity_is_the_true_one_on_the_box_and_rest_on_the_wall(velocity: tuple, travel: tuple):
    seen = look(velocity, travel)
    found = sweep(seen, seen.depth, VELOCITIES)
    best = VELOCITIES[found.cost[0, 0].argmin(0)]
    aside = (best - torch.tensor(velocity)).abs() <= SPACING_M + 1e-6
    assert float(aside[..., 1][seen.on_box].float().mean()) > 0.9
    assert float(aside.all(-1)[seen.on_box].float().mean()) > 0.5  # motion along the line of sight displaces little
    shown = seen.clear & found.known[0, 0, REST]
    assert float((best[shown] == 0).all(-1).float().mean()) > 0.9
    assert float(found.cost[0, 0, REST][seen.on_box].mean()) > 1.0


def test_rest_is_a_plane_and_a_wrong_depth_another_plane():
    seen = look(travel=FORWARD)
    planes = torch.tensor([1.5, 2.0])
    errors = torch.tensor([0.0, math.log(2.0 / 1.5)])
    found = sweep(seen, torch.full_like(seen.depth, 1.5), torch.zeros(2, 3), errors)
    groups = torch.ones(1, 1, PAST, dtype=torch.bool)
    others = seen.other_rgb[:, :PAST], seen.other_poses[:, :PAST]
    expected = plane_sweep(seen.rgb, seen.camera, *others, groups, planes, STRIDE)
    assert float((found.known == expected.known).float().mean()) > 0.999  # rounding decides on an image's very border
    assert float((found.cost - expected.cost).abs().mean()) < 1e-3


def test_cells_are_known_where_the_moved_point_falls_onto_the_source():
    seen = look(travel=TURNING)
    velocity, error = torch.tensor([0.05, -0.3, 0.1]), torch.tensor(-0.1)
    found = sweep(seen, seen.depth, velocity[None], error[None])
    intrinsics = resize_intrinsics(seen.camera.intrinsics, 1.0 / STRIDE)
    points = back_project(seen.depth * error.exp(), intrinsics, seen.camera.world_from_camera).reshape(1, -1, 3)
    known = torch.zeros(1, points.shape[1], dtype=torch.bool)
    for pose, step in zip(seen.other_poses[0, :PAST], seen.steps[0, :PAST], strict=True):
        pixels, depth = project(points + step * velocity, seen.camera.intrinsics, inverse_pose(pose)[None])
        known |= ((pixels >= 0) & (pixels <= seen.camera.width)).all(-1) & (depth > 0)
    assert 0.2 < float(known.float().mean()) < 0.9
    assert float((found.known.flatten() == known.flatten()).float().mean()) > 0.999


def test_a_wrong_depth_looks_like_motion_unless_it_is_tried():
    seen = look(travel=FORWARD)
    velocities, errors = torch.cat([VELOCITIES, torch.zeros(1, 3)]), torch.zeros(len(VELOCITIES) + 1)
    errors[-1] = -math.log(1.1)
    cost = sweep(seen, 1.1 * seen.depth, velocities, errors).cost[0, 0][:, seen.clear]
    assert float((cost[:-1].argmin(0) != REST).float().mean()) > 0.5
    assert float((cost[-1] - cost.amin(0)).mean()) < 0.03  # a velocity of 0.1 times the camera's is as good
    assert float((cost[REST] - cost[-1]).mean()) > 0.3


def test_the_kernel_and_torch_agree():
    seen = look(travel=TURNING)
    groups = torch.tensor([[[True, True, False], [False, True, True]]])
    errors = 0.1 * torch.linspace(-1.0, 1.0, len(VELOCITIES))

    def found(dtype: torch.dtype) -> Sweep:
        camera = Camera(seen.camera.intrinsics.to(dtype), seen.camera.world_from_camera.to(dtype), 64, 64)
        others = (x[:, :PAST].to(dtype) for x in (seen.other_rgb, seen.other_poses, seen.steps))
        tried = VELOCITIES.to(dtype), STRIDE, errors.to(dtype)
        return velocity_sweep(seen.rgb.to(dtype), camera, seen.depth.to(dtype), *others, groups, *tried)

    fast, slow = found(torch.float32), found(torch.float64)
    assert float((fast.known == slow.known).float().mean()) > 0.9999
    difference = (fast.cost.double() - slow.cost).abs()
    assert float(difference.quantile(0.999)) < 1e-3 and float(difference.mean()) < 1e-4
