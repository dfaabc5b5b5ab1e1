"""Epipolar geometry and warping between two cameras."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry import (
    back_project,
    backward_warp,
    fundamental_matrix,
    inverse_pose,
    look_at,
    pixel_centres,
    project,
    se3_exp,
    symmetric_epipolar_distance,
)
from embodied_liftwm.protocols import Camera

SIZE = 24
K = torch.tensor([[15.0, 0.0, SIZE / 2], [0.0, 15.0, SIZE / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)


def camera(pose: Tensor) -> Camera:
    return Camera(K.expand(len(pose), 3, 3), pose, SIZE, SIZE)


def two_cameras() -> tuple[Camera, Camera]:
    eyes = torch.tensor([[0.0, 0.0, 1.0], [0.4, 0.1, 1.2]], dtype=torch.float64)
    target = torch.tensor([[3.0, 0.2, 1.0]], dtype=torch.float64)
    return camera(look_at(eyes[:1], target)), camera(look_at(eyes[1:], target))


def correspondences() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in a, the same points' pixels in b, and F."""
    a, b = two_cameras()
    depth = 2 + torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = back_project(depth, a.intrinsics, a.world_from_camera).reshape(1, -1, 3)
    in_a, _ = project(points, a.intrinsics, inverse_pose(a.world_from_camera))
    in_b, _ = project(points, b.intrinsics, inverse_pose(b.world_from_camera))
    return in_a, in_b, fundamental_matrix(a, b)


def test_true_correspondences_have_no_epipolar_distance() -> None:
    assert symmetric_epipolar_distance(*correspondences()).max() < 1e-9


def test_epipolar_distance_is_in_pixels() -> None:
    """Sideways motion of parallel cameras: epipolar lines are rows, so a shift along v of 2 px is 2 px away, along u none."""
    moved = torch.eye(4, dtype=torch.float64)[None].clone()
    moved[0, 0, 3] = 0.5
    fundamental = fundamental_matrix(camera(torch.eye(4, dtype=torch.float64)[None]), camera(moved))
    pixels = torch.tensor([[[3.0, 4.0], [10.0, 20.0]]], dtype=torch.float64)
    shifted = pixels + torch.tensor([5.0, 2.0])
    torch.testing.assert_close(symmetric_epipolar_distance(pixels, shifted, fundamental), torch.full((1, 2), 2.0).double())


def test_epipolar_distance_is_symmetric() -> None:
    in_a, in_b, fundamental = correspondences()
    in_b = in_b + torch.tensor([1.0, -2.0])
    forward = symmetric_epipolar_distance(in_a, in_b, fundamental)
    torch.testing.assert_close(forward, symmetric_epipolar_distance(in_b, in_a, fundamental.mT))
    assert forward.max() > 0.5


def test_epipolar_distance_gradcheck() -> None:
    in_a, in_b, fundamental = correspondences()
    in_a, in_b = (in_a[:, :5] + 0.7).requires_grad_(), in_b[:, :5].detach().requires_grad_()
    assert torch.autograd.gradcheck(symmetric_epipolar_distance, (in_a, in_b, fundamental.requires_grad_()))


def ramp() -> Tensor:
    """An image that is linear in the pixel, so that bilinear samples are exact. [1, 2, H, W]"""
    return pixel_centres(SIZE, SIZE, dtype=torch.float64).movedim(-1, 0)[None]


def test_warp_onto_itself_is_identity() -> None:
    a, _ = two_cameras()
    image = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64)
    depth = 1 + torch.rand(1, SIZE, SIZE, dtype=torch.float64)
    warp = backward_warp(image, depth, a, a)
    torch.testing.assert_close(warp.source_depth, depth)
    torch.testing.assert_close(warp.image[..., 1:-1, 1:-1], image[..., 1:-1, 1:-1])
    assert warp.valid[:, 1:-1, 1:-1].all()


def test_warp_of_a_fronto_parallel_plane_is_exact() -> None:
    """The source stands 0.3 m to the right of the target: what the target sees at u, it sees at u - f * 0.3 / z."""
    target = camera(torch.eye(4, dtype=torch.float64)[None])
    moved = torch.eye(4, dtype=torch.float64)[None].clone()
    moved[0, 0, 3] = 0.3
    depth = torch.full((1, SIZE, SIZE), 2.0, dtype=torch.float64)
    disparity = 15 * 0.3 / 2
    warp = backward_warp(ramp(), depth, target, camera(moved))
    expected = ramp() - torch.tensor([disparity, 0.0], dtype=torch.float64)[None, :, None, None]
    assert torch.equal(warp.valid, expected[:, 0] >= 0)
    inner = expected[:, 0] >= 0.5
    torch.testing.assert_close(warp.image.movedim(1, -1)[inner], expected.movedim(1, -1)[inner])
    torch.testing.assert_close(warp.source_depth, depth)


def test_warp_finds_the_same_point_under_any_motion() -> None:
    """Sampling the source's pixel coordinates gives where each target point projects, a hole excepted."""
    target, source = two_cameras()
    depth = 2 + torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depth[0, 5, 7] = 0
    warp = backward_warp(ramp(), depth, target, source)
    inner = warp.valid & ((warp.source_pixels > 0.5) & (warp.source_pixels < SIZE - 0.5)).all(-1)
    assert inner.sum() > SIZE * SIZE / 2
    torch.testing.assert_close(warp.image.movedim(1, -1)[inner], warp.source_pixels[inner])
    assert not warp.valid[0, 5, 7] and (warp.image[0, :, 5, 7] == 0).all()
    points = back_project(depth, target.intrinsics, target.world_from_camera).reshape(1, -1, 3)
    pixels, _ = project(points, source.intrinsics, inverse_pose(source.world_from_camera))
    torch.testing.assert_close(warp.source_pixels.reshape(1, -1, 2), pixels)


def test_what_lies_behind_the_source_is_invalid() -> None:
    target = camera(torch.eye(4, dtype=torch.float64)[None])
    passed = torch.eye(4, dtype=torch.float64)[None].clone()
    passed[0, 2, 3] = 5.0
    warp = backward_warp(ramp(), torch.full((1, SIZE, SIZE), 2.0, dtype=torch.float64), target, camera(passed))
    assert not warp.valid.any()
    assert (warp.source_depth == -3).all()


def test_warp_gradcheck() -> None:
    target, source = two_cameras()
    depth = (2 + torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).requires_grad_()
    tangent = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    smooth = torch.sin(ramp() * 0.2)

    def warp(depth: Tensor, tangent: Tensor) -> Tensor:
        moved = Camera(source.intrinsics, source.world_from_camera @ se3_exp(tangent), SIZE, SIZE)
        # Bilinear sampling has kinks at pixel centres; a ramp has none.
        result = backward_warp(ramp(), depth, target, moved)
        return (result.image * smooth)[:, :, 8:12, 8:12]

    assert torch.autograd.gradcheck(lambda d: warp(d, tangent.detach()), depth[:, :, :].requires_grad_(), fast_mode=True)
    assert torch.autograd.gradcheck(lambda t: warp(depth.detach(), t), tangent)
