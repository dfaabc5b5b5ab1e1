"""Lift: primitives lie on the surface the depth map describes, as large as the cells that saw it."""

import math

import pytest
import torch

from embodied_liftwm.geometry.se3 import quat_to_matrix, so3_exp
from embodied_liftwm.memory.gaussians.lift import FOOTPRINT_SIGMA, MIN_COSINE, lift
from embodied_liftwm.protocols import Camera

SIZE, STRIDE, FOCAL = 32, 2, 20.0


def camera(pose: torch.Tensor | None = None) -> Camera:
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return Camera(intrinsics[None], (torch.eye(4) if pose is None else pose)[None], SIZE, SIZE)


def lift_plane(depth: torch.Tensor, at: Camera):
    grid = SIZE // STRIDE
    sure, opaque = torch.full((1, grid, grid), 0.1), torch.full((1, grid, grid), 0.9)
    return lift(depth[None], sure, torch.zeros(1, 4, grid, grid), opaque, torch.rand(1, 3, SIZE, SIZE), at, STRIDE)


def test_fronto_parallel_plane_becomes_discs_that_face_the_camera():
    grid = SIZE // STRIDE
    lifted = lift_plane(torch.full((grid, grid), 2.0), camera())
    assert lifted.means.shape == (1, grid * grid, 3)
    torch.testing.assert_close(lifted.means[..., 2], torch.full((1, grid * grid), 2.0))
    footprint = 2.0 * STRIDE / FOCAL
    torch.testing.assert_close(lifted.scales[..., 0], torch.full((1, grid * grid), FOOTPRINT_SIGMA * footprint))
    normals = quat_to_matrix(lifted.quats)[..., 2]
    torch.testing.assert_close(normals[..., 2].abs(), torch.ones(1, grid * grid), atol=1e-4, rtol=0)
    torch.testing.assert_close(lifted.evidence, torch.full((1, grid * grid), 1 / (footprint**2 + 0.2**2)))


def test_lifting_moves_with_the_camera():
    grid = SIZE // STRIDE
    pose = torch.eye(4)
    pose[:3, :3] = so3_exp(torch.tensor([0.2, -0.5, 0.1]))
    pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    depth = torch.rand(grid, grid) + 1.0
    here, there = lift_plane(depth, camera()), lift_plane(depth, camera(pose))
    torch.testing.assert_close(there.means, here.means @ pose[:3, :3].T + pose[:3, 3])


@pytest.mark.parametrize("tilt", [0.3, 0.8])
def test_a_tilted_plane_stretches_discs_along_its_slope(tilt: float):
    grid = SIZE // STRIDE
    normal = torch.tensor([0.0, math.sin(tilt), -math.cos(tilt)])
    v = (torch.arange(grid) + 0.5) * STRIDE
    rays_y = (v - SIZE / 2) / FOCAL
    depth = (2.0 * normal[2] / (rays_y * normal[1] + normal[2]))[:, None].expand(grid, grid)
    lifted = lift_plane(depth, camera())
    middle = (grid // 2) * grid + grid // 2
    found = quat_to_matrix(lifted.quats)[0, middle, :, 2]
    assert abs(float(found @ normal)) > 0.999
    sight = lifted.means[0, middle] / lifted.means[0, middle].norm()
    expected = 1.0 / max(abs(float(sight @ normal)), MIN_COSINE)
    assert float(lifted.scales[0, middle, 1] / lifted.scales[0, middle, 0]) == pytest.approx(expected, rel=1e-3)
