from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry import (
    back_project,
    camera_rays,
    depth_to_normals,
    inverse_pose,
    look_at,
    pixel_centres,
    project,
    resize_intrinsics,
)
from embodied_liftwm.geometry.cameras import inverse_intrinsics

K = torch.tensor([[38.0, 0.0, 31.5], [0.0, 40.0, 24.2], [0.0, 0.0, 1.0]], dtype=torch.float64).expand(2, 3, 3)


def poses(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    eye, target = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    return look_at(eye, target)


def depth_map(height: int = 6, width: int = 9) -> Tensor:
    return 1 + torch.rand(2, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_pixel_centres_are_half_integers_u_first() -> None:
    assert pixel_centres(2, 3).tolist() == [[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]], [[0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]]


def test_project_after_lift_is_identity() -> None:
    depth, pose = depth_map(), poses()
    points = back_project(depth, K, pose)
    pixels, z = project(points.reshape(2, -1, 3), K, inverse_pose(pose))
    torch.testing.assert_close(pixels.reshape(2, 6, 9, 2), pixel_centres(6, 9, dtype=torch.float64).expand(2, -1, -1, -1))
    torch.testing.assert_close(z.reshape(2, 6, 9), depth)


def test_the_principal_point_looks_along_z_and_depth_is_not_ray_length() -> None:
    intrinsics = torch.tensor([[[10.0, 0.0, 2.5], [0.0, 10.0, 1.5], [0.0, 0.0, 1.0]]])
    points = back_project(torch.full((1, 3, 5), 2.0), intrinsics, torch.eye(4)[None])
    torch.testing.assert_close(points[0, 1, 2], torch.tensor([0.0, 0.0, 2.0]))
    assert (points[..., 2] == 2).all()
    torch.testing.assert_close(points[0, 2, 4], torch.tensor([0.4, 0.2, 2.0]))  # right is +x, down is +y


def test_behind_the_camera_is_told_by_depth_and_finite() -> None:
    points = torch.tensor([[[0.1, 0.2, -1.0], [0.1, 0.2, 0.0]]], requires_grad=True)
    pixels, depth = project(points, K[:1].float(), torch.eye(4)[None])
    assert depth.tolist() == [[-1.0, 0.0]]
    pixels.sum().backward()
    assert pixels.isfinite().all() and points.grad is not None and points.grad.isfinite().all()


def test_resized_intrinsics_see_the_same_points() -> None:
    points = torch.tensor([[[0.2, -0.1, 2.0], [0.5, 0.3, 3.0]]], dtype=torch.float64)
    pixels, _ = project(points, K[:1], torch.eye(4, dtype=torch.float64)[None])
    halved, _ = project(points, resize_intrinsics(K[:1], 0.5), torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(halved, pixels / 2)
    stretched, _ = project(points, resize_intrinsics(K[:1], (2.0, 0.5)), torch.eye(4, dtype=torch.float64)[None])
    torch.testing.assert_close(stretched, pixels * torch.tensor([2.0, 0.5]))


def test_gradients() -> None:
    depth, pose = depth_map(2, 3).requires_grad_(), poses().requires_grad_()
    intrinsics = K.clone().requires_grad_()

    def there_and_away(depth: Tensor, intrinsics: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        points = back_project(depth, intrinsics, pose)
        return project(points.reshape(2, -1, 3) * 1.1, intrinsics, inverse_pose(pose))

    assert torch.autograd.gradcheck(there_and_away, (depth, intrinsics, pose))


def plane_depth(normal: Tensor, distance: float, height: int, width: int) -> Tensor:
    """Depth of the plane normal . p = -distance, 0 where the ray misses it. [1, H, W]"""
    depth = -distance / (camera_rays(K[:1], height, width) @ normal)
    return torch.where(depth > 0, depth, 0.0)


def test_normals_of_planes_are_exact_and_face_the_camera() -> None:
    for direction in ([0.0, 0.0, -1.0], [0.3, -0.2, -1.0], [0.0, -1.0, -0.3]):
        normal = torch.tensor(direction, dtype=torch.float64)
        normal = normal / normal.norm()
        depth = plane_depth(normal, 1.5, 48, 64)
        normals = depth_to_normals(depth, K[:1])
        has_normal = normals.norm(dim=1) > 0
        assert has_normal.sum() > 0.9 * (depth > 0).sum()
        assert (depth > 0)[has_normal].all()
        torch.testing.assert_close(normals.movedim(1, -1)[has_normal], normal.expand(int(has_normal.sum()), 3))


def test_normals_beside_holes() -> None:
    depth = plane_depth(torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64), 2.0, 5, 5)
    depth[0, 2, 2] = 0
    depth[0, :, 4] = 0
    depth.requires_grad_()
    normals = depth_to_normals(depth, K[:1])
    assert (normals[0, :, 2, 2] == 0).all() and (normals[0, :, :, 4] == 0).all()
    assert normals[0, :, 2, 1].tolist() == [0.0, 0.0, -1.0]
    (gradient,) = torch.autograd.grad(normals[:, 0].sum(), depth)
    assert gradient.isfinite().all() and (gradient != 0).any()


def test_normals_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda depth: depth_to_normals(depth, K), depth_map(3, 4).requires_grad_())


def test_the_inverse_of_intrinsics_is_that_of_any_matrix():
    wide, narrow = [[30.0, 0.5, 31.0], [0.0, 28.0, 33.0], [0.0, 0.0, 1.0]], [[64.0, 0, 32], [0, 64, 32], [0, 0, 1]]
    for dtype in (torch.float32, torch.float64):  # in numpy, and in torch
        intrinsics = torch.tensor([wide, narrow], dtype=dtype)
        torch.testing.assert_close(inverse_intrinsics(intrinsics), torch.linalg.inv(intrinsics))
