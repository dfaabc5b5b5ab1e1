"""Epipolar attention: its geometry against projected points, and what may and may not be attended to."""

from __future__ import annotations

import math

import pytest
import torch

from embodied_liftwm.geometry.cameras import back_project, project
from embodied_liftwm.geometry.se3 import inverse_pose, se3_exp
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.layers.epipolar_attention import EpipolarAttention, pair_geometry

RANGE = (0.25, 10.0)
SIDE = 16


def camera(twist: list[float], side: int, dtype: torch.dtype = torch.float64) -> Camera:
    intrinsics = torch.tensor([[[0.7 * side, 0, side / 2], [0, 0.7 * side, side / 2], [0, 0, 1]]], dtype=dtype)
    return Camera(intrinsics, se3_exp(torch.tensor([twist], dtype=dtype)), side, side)


def test_pairs_that_see_one_point_lie_on_the_line_and_triangulate_its_depth():
    torch.manual_seed(0)
    frame, source = camera([0, 0, 0, 0, 0, 0], SIDE), camera([0.5, 0.1, -0.1, 0.05, -0.2, 0.1], SIDE)
    depth = 1.5 + 2 * torch.rand(1, SIDE, SIDE, dtype=torch.float64)
    points = back_project(depth, frame.intrinsics, frame.world_from_camera).flatten(1, 2)
    landed, ahead = project(points, source.intrinsics, inverse_pose(source.world_from_camera))
    column, row = landed[0].floor().long().unbind(-1)
    inside = (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE) & (ahead[0] > 0)
    assert int(inside.sum()) > 80
    pairs = pair_geometry(frame, source, RANGE)
    patch, pixel = torch.arange(SIDE * SIDE)[inside], (row * SIDE + column)[inside]
    assert float(pairs.distance[0, patch, pixel].max()) < 0.75  # the pixel's centre is so far from where the point landed
    assert bool(pairs.ahead[0, patch, pixel].all())
    error = (pairs.log_depth[0, patch, pixel] - depth.flatten()[inside].log()).abs()
    assert float(error.median()) < 0.12  # half a pixel of disparity
    assert float(pairs.distance.median()) > 2.0  # most pairs are far from any line


def test_a_point_behind_either_camera_is_no_pair():
    frame, source = camera([0, 0, 0, 0, 0, 0], 4), camera([0, 0, 0, 0, math.pi, 0], 4)
    source = Camera(source.intrinsics, source.world_from_camera + 0.0, 4, 4)
    source.world_from_camera[:, 2, 3] = -1.0  # back to back: no point lies before both
    assert not bool(pair_geometry(frame, source, RANGE).ahead.any())


def attention(dtype: torch.dtype = torch.float64) -> EpipolarAttention:
    torch.manual_seed(1)
    layer = EpipolarAttention(8, 5, patch=4, depth_range=RANGE, heads=2).to(dtype)
    torch.nn.init.normal_(layer.out.weight)
    return layer


def inputs(side: int = 16) -> tuple[torch.Tensor, Camera, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    poses = torch.cat([camera(t, side).world_from_camera for t in ([0.4, 0, 0, 0, 0, 0], [0.1, 0.3, 0.2, 0, 0.2, 0])])
    rgb = torch.rand(1, 3, side, side, dtype=torch.float64)
    return rgb, camera([0] * 6, side), torch.rand(1, 2, 3, side, side, dtype=torch.float64), poses[None]


def test_only_usable_sources_are_read_and_none_is_an_answer():
    layer, (rgb, frame, source_rgb, poses) = attention(), inputs()
    first = torch.tensor([[True, False]])
    changed = source_rgb.clone()
    changed[:, 1] = 0.3
    out = layer(rgb, frame, source_rgb, poses, first)
    assert out.shape == (1, 5, 4, 4)
    torch.testing.assert_close(layer(rgb, frame, changed, poses, first), out)
    changed[:, 0] = 0.3
    assert not torch.allclose(layer(rgb, frame, changed, poses, first), out)
    silent = layer(rgb, frame, source_rgb, poses, torch.zeros(1, 2, dtype=torch.bool))
    torch.testing.assert_close(silent, layer.out.bias.view(1, 5, 1, 1).expand_as(silent))


def test_sources_have_no_order():
    layer, (rgb, frame, source_rgb, poses) = attention(), inputs()
    both = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(
        layer(rgb, frame, source_rgb.flip(1), poses.flip(1), both), layer(rgb, frame, source_rgb, poses, both)
    )


def test_a_narrow_line_reads_nothing_beside_it():
    """A change in the source far from the epipolar line of a patch does not reach that patch."""
    layer, (rgb, frame, source_rgb, poses) = attention(), inputs(32)
    with torch.no_grad():
        layer.log_width.fill_(math.log(0.1))
        layer.embed[2].weight[..., [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0.0  # features of one patch alone
    sideways = poses[:, :1].clone()
    sideways[:] = camera([0.4, 0, 0, 0, 0, 0], 32).world_from_camera  # lines are rows
    usable = torch.ones(1, 1, dtype=torch.bool)
    changed = source_rgb[:, :1].clone()
    changed[..., 8:12, :] = 0.5  # the third row of patches
    difference = layer(rgb, frame, changed, sideways, usable) - layer(rgb, frame, source_rgb[:, :1], sideways, usable)
    rows = difference.detach().abs().amax((0, 1, 3))
    assert float(rows[2]) > 1e-4
    assert float(torch.cat([rows[:2], rows[3:]]).max()) < 1e-12


@pytest.mark.parametrize("name", ["query.weight", "value.weight", "log_width", "nothing", "out.bias"])
def test_gradients_are_those_of_differences(name: str):
    layer, (rgb, frame, source_rgb, poses) = attention(), inputs(8)
    usable = torch.ones(1, 2, dtype=torch.bool)

    def call(parameter: torch.Tensor) -> torch.Tensor:
        replaced = {name: parameter}
        return torch.func.functional_call(layer, replaced, (rgb, frame, source_rgb, poses, usable))

    start = dict(layer.named_parameters())[name].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (start,), atol=1e-6)


def test_gradients_reach_the_pixels():
    layer, (rgb, frame, source_rgb, poses) = attention(), inputs(8)
    usable = torch.ones(1, 2, dtype=torch.bool)

    def call(rgb: torch.Tensor, source_rgb: torch.Tensor) -> torch.Tensor:
        return layer(rgb, frame, source_rgb, poses, usable)

    assert torch.autograd.gradcheck(call, (rgb.requires_grad_(), source_rgb.requires_grad_()), atol=1e-6)
