"""What wrong poses do to a teacher's depth: it is that of a camera elsewhere, taken for the one that is believed.

A point X of the believed camera's frame is at R(s w) X + s t in that of the camera that was meant. Translation t and rotation
vector w are normal, alike in all directions, with root mean squares of the dose in metres and `TURN_PER_M` times it in radians;
s is the strength at the pixel, 1 for a rigid error.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import camera_rays, resize_intrinsics
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import so3_exp

TURN_PER_M = 0.5
"""Radians by which a camera is turned for each metre by which it is displaced."""
FINER = 2
"""Points a side of a pixel that are moved, so that nearer surfaces have no cracks."""
ONE_SURFACE = 1.1
"""Depths of neighbours within this factor are of one surface, between which is interpolated."""
LEAST_COSINE = 0.05
"""Between a normal and the line of sight."""
LEAST_DEPTH_M = 0.01
"""What is nearer counts as behind the camera: divisions stay finite."""


class PoseErrors(NamedTuple):
    """One a frame."""

    translation: Tensor  # [K, 3] metres
    rotation: Tensor  # [K, 3] rotation vector, radians


class Moved(NamedTuple):
    """Depth as the other cameras have it."""

    depth: Tensor  # [K, H, W] metres, 1 where they see nothing
    source: Tensor  # [K, H, W] int64: the pixel, row by row, of the believed camera that it comes from; -1 for none
    rotation: Tensor  # [K, H, W, 3] by which each pixel of the believed camera was turned

    def turned(self, normals: Tensor) -> Tensor:
        """Normals [K, 3, H, W] of the believed camera's pixels, in the frame of the other one."""
        return torch.einsum("khwij,kjhw->kihw", so3_exp(self.rotation), normals)


def pose_errors(rng: np.random.Generator, frames: int, dose: float) -> PoseErrors:
    """Errors of root mean square `dose` metres, and `TURN_PER_M` times that in radians."""
    drawn = torch.from_numpy(rng.standard_normal((2, frames, 3)).astype(np.float32)) * (dose / math.sqrt(3.0))
    return PoseErrors(drawn[0], TURN_PER_M * drawn[1])


def moved_depth(depth: Tensor, said: Tensor, errors: PoseErrors, strength: Tensor, intrinsics: Tensor) -> Moved:
    """Depth maps warped forward into the other cameras; the nearest surface of a pixel stays.

    Args:
        depth: [K, H, W] metres.
        said: which pixels are warped. [K, H, W] bool
        errors: of each frame.
        strength: share of them at each pixel. [K, H, W]
        intrinsics: [3, 3] pixels.
    """
    parts = [_warp(*frame, intrinsics) for frame in zip(depth, said, *errors, strength, strict=True)]
    found, source = (torch.stack(part) for part in zip(*parts, strict=True))
    return Moved(found, source, strength[..., None] * errors.rotation[:, None, None])


def depth_deviation(depth: Tensor, dose: Tensor, intrinsics: Tensor) -> Tensor:
    """Standard deviation of log-depth that such errors cause, to first order, on the plane of a pixel's neighbours. [K, H, W]

    A plane n X = c has depth c / (n r) along a ray r. A translation t takes log-depth by n t / c, and a rotation vector w by
    w (r x n) / (n r); both are normal.

    Args:
        depth: [K, H, W] metres.
        dose: root mean square of the error at each pixel, metres. [K, H, W]
        intrinsics: [3, 3] pixels.
    """
    views = intrinsics.expand(len(depth), 3, 3)
    normal = depth_to_normals(depth, views).movedim(1, -1)
    frontal = normal.new_tensor([0.0, 0.0, -1.0])
    normal = torch.where(normal.abs().sum(-1, keepdim=True) > 0, normal, frontal)
    rays = camera_rays(views, *depth.shape[-2:])
    along = (normal * rays).sum(-1).abs().clamp_min(LEAST_COSINE)
    across = torch.linalg.cross(rays, normal).norm(dim=-1)
    by_distance = 1.0 / (along * depth.clamp_min(LEAST_DEPTH_M))
    return dose / math.sqrt(3.0) * torch.sqrt(by_distance.square() + (TURN_PER_M * across / along).square())


def normal_deviation(dose: Tensor) -> Tensor:
    """Standard deviation of each tangent component of a normal, radians; shapes are kept."""
    return TURN_PER_M * dose / math.sqrt(3.0)


def _warp(
    depth: Tensor, said: Tensor, translation: Tensor, rotation: Tensor, strength: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor]:
    """One frame: depth [H, W] in the other camera, and from which pixel it comes [H, W]."""
    height, width = depth.shape
    fine, views = _finer(depth, said), resize_intrinsics(intrinsics, float(FINER))
    pixel = _repeated(torch.arange(height * width).view(height, width)).flatten()
    share = _repeated(strength).flatten()[:, None]
    points = (camera_rays(views[None], *fine.shape)[0] * fine[..., None]).flatten(0, 1)
    points = (so3_exp(share * rotation) @ points[..., None]).squeeze(-1) + share * translation
    z = points[:, 2]
    column, row = ((points @ intrinsics.T)[:, :2] / z.clamp_min(LEAST_DEPTH_M)[:, None]).floor().unbind(-1)
    kept = (z > LEAST_DEPTH_M) & (column >= 0) & (column < width) & (row >= 0) & (row < height) & said.flatten()[pixel]
    target, z, pixel = (row * width + column)[kept].long(), z[kept], pixel[kept]
    nearest = torch.full((height * width,), torch.inf).scatter_reduce(0, target, z, "amin")
    first = z == nearest[target]
    source = torch.full((height * width,), -1).scatter_reduce(0, target[first], pixel[first], "amax")
    return torch.where(source >= 0, nearest, 1.0).view(height, width), source.view(height, width)


def _repeated(image: Tensor) -> Tensor:
    return image.repeat_interleave(FINER, 0).repeat_interleave(FINER, 1)


def _finer(depth: Tensor, said: Tensor) -> Tensor:
    """Depth at the finer pixels; inverse depth is interpolated, exact on planes, where neighbours are of one surface."""
    inverse = torch.where(said, 1.0 / depth.clamp_min(LEAST_DEPTH_M), 0.0)[None, None]
    padded = F.pad(inverse, (1, 1, 1, 1), mode="replicate")
    most, least = F.max_pool2d(padded, 3, 1)[0, 0], -F.max_pool2d(-padded, 3, 1)[0, 0]
    smooth = _repeated(most <= ONE_SURFACE * least)
    between = F.interpolate(inverse, scale_factor=FINER, mode="bilinear", align_corners=False)[0, 0]
    return 1.0 / torch.where(smooth, between, _repeated(inverse[0, 0])).clamp_min(1e-6)
