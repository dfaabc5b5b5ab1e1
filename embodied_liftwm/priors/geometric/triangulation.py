"""Points from pixels that two known cameras match (Hartley and Zisserman, Multiple View Geometry, ch. 11 and 12)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import project, transform
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera


class Triangulated(NamedTuple):
    """Points of M matches of each of B pairs of cameras; what is said of a point behind a camera means nothing."""

    points: Tensor  # [B, M, 3] metres, world frame
    depth: Tensor  # [B, M, 2] metres, z-depth in the first and in the second camera, signed
    error_px: Tensor  # [B, M] root mean square over both images of the distance from pixel to reprojection
    angle: Tensor  # [B, M] radians between the rays that meet there


def sampson_distance(pixels: Tensor, fundamental: Tensor) -> Tensor:
    """Distance, to first order, to the nearest pair of pixels that the cameras allow (eq. 11.9).

    Args:
        pixels: (u, v) in the first and the second image. [B, M, 2, 2]
        fundamental: F with second^T F first = 0. [B, 3, 3]

    Returns:
        Pixels, at least 0. [B, M]
    """
    first, second = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1).unbind(2)
    in_second, in_first = first @ fundamental.mT, second @ fundamental
    slope = in_second[..., :2].square().sum(-1) + in_first[..., :2].square().sum(-1)
    return (second * in_second).sum(-1).abs() / slope.clamp_min(torch.finfo(slope.dtype).tiny).sqrt()


def triangulate(pixels: Tensor, first: Camera, second: Camera) -> Triangulated:
    """Triangulate matches: linearly, and one Gauss-Newton step down the reprojection error.

    Args:
        pixels: (u, v) in the first and the second image, float64: in float32 rays that are nearly parallel are. [B, M, 2, 2]
        first: B cameras.
        second: theirs.
    """
    views = [inverse_pose(camera.world_from_camera) for camera in (first, second)]
    points = _linear(pixels, [camera.intrinsics @ view[:, :3] for camera, view in zip((first, second), views, strict=True)])
    points = _refine(points, pixels, (first, second), views)
    residual = _residual(points, pixels, (first, second), views)
    depth = torch.stack([transform(view, points)[..., 2] for view in views], dim=-1)
    rays = [points - camera.world_from_camera[:, None, :3, 3] for camera in (first, second)]
    sine, cosine = torch.linalg.cross(*rays).norm(dim=-1), (rays[0] * rays[1]).sum(-1)
    return Triangulated(points, depth, residual.square().sum(-1).mul(0.5).sqrt(), torch.atan2(sine, cosine))


def _linear(pixels: Tensor, projections: list[Tensor]) -> Tensor:
    """The point [B, M, 3] of least algebraic error, of two equations a view; inhomogeneous, since points are near."""
    rows = []
    for view, projection in enumerate(projections):
        first, second, third = projection.unsqueeze(1).unbind(2)  # [B, 1, 4]
        u, v = pixels[:, :, view].unsqueeze(-1).unbind(2)
        rows += [u * third - first, v * third - second]
    system = torch.stack(rows, dim=2)
    system = system / system[..., :3].norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return _least_squares(system[..., :3], -system[..., 3])


def _refine(points: Tensor, pixels: Tensor, cameras: tuple[Camera, Camera], views: list[Tensor]) -> Tensor:
    """One step of Gauss and Newton; a step longer than the point's distance is not taken."""
    jacobian = torch.cat([_jacobian(points, camera, view) for camera, view in zip(cameras, views, strict=True)], dim=2)
    step = _least_squares(jacobian, -_residual(points, pixels, cameras, views))
    distance = (points - cameras[0].world_from_camera[:, None, :3, 3]).norm(dim=-1, keepdim=True)
    return torch.where(step.norm(dim=-1, keepdim=True) < distance, points + step, points)


def _residual(points: Tensor, pixels: Tensor, cameras: tuple[Camera, Camera], views: list[Tensor]) -> Tensor:
    """Reprojections less pixels, both images. [B, M, 4]"""
    seen = [project(points, camera.intrinsics, view)[0] for camera, view in zip(cameras, views, strict=True)]
    return torch.cat(seen, dim=-1) - pixels.flatten(2)


def _jacobian(points: Tensor, camera: Camera, view: Tensor) -> Tensor:
    """Of the projection: d(u, v) / d(point). [B, M, 2, 3]"""
    homogeneous = transform(view, points) @ camera.intrinsics.mT
    turn = (camera.intrinsics @ view[:, :3, :3]).unsqueeze(1)
    depth = homogeneous[..., 2:].unsqueeze(-1).clamp_min(1e-3)
    return (turn[:, :, :2] - homogeneous[..., :2, None] / depth * turn[:, :, 2:]) / depth


def _least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """x [B, M, 3] of least |matrix x - right|, matrix [B, M, R, 3]; regular even where rays are parallel."""
    gram = matrix.mT @ matrix
    scale = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp_min(1e-12)
    ridge = 1e-9 * scale * torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve(gram + ridge, (matrix.mT @ right.unsqueeze(-1))).squeeze(-1)
