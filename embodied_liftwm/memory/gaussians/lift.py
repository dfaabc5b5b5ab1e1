"""Lift: one frame's depth, latents and colours become Gaussian primitives in the world frame.

Each cell of the encoder's grid yields one primitive: a disc on the surface that the depth map describes, as large as the
cell's footprint there (the pinhole model: a cell of s pixels at depth z covers s z / f metres), tilted by the local slope.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project, resize_intrinsics
from embodied_liftwm.geometry.se3 import matrix_to_quat
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.protocols import Camera

FOOTPRINT_SIGMA = 0.5
"""Standard deviation of a primitive in units of its cell's footprint: neighbours overlap without blurring."""
THICKNESS = 0.25
"""Standard deviation along the normal, relative to that along the surface."""
DOUBTFUL_SPREAD = 0.3
"""A cell whose log-depth is less sure than this has nothing to write: it would hang somewhere along its ray."""
MIN_COSINE = 0.3
"""A surface seen at a grazing angle is stretched at most 1 / MIN_COSINE times: slopes there are unreliable."""


def lift(
    depth: Tensor, spread: Tensor, latents: Tensor, opacities: Tensor, rgb: Tensor, camera: Camera, stride: int
) -> GaussianMap:
    """Make one primitive per cell.

    Args:
        depth: z-depth at cell centres in metres. [B, h, w]
        spread: standard deviation of the log-depth. [B, h, w]
        latents: what the encoder has to say of each cell. [B, D, h, w]
        opacities: in (0, 1). [B, h, w]
        rgb: the frame in [0, 1]. [B, 3, H, W] with H = h * stride
        camera: the camera that saw it.
        stride: pixels a side of a cell.

    Returns:
        A map of h * w primitives in row-major order of the cells; empty where depth is too doubtful.
    """
    intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / stride)
    points = back_project(depth, intrinsics, camera.world_from_camera)
    footprint = depth / intrinsics[:, None, None, 0, 0]
    rotation, stretch = _surface_frames(points, camera)
    sigma = FOOTPRINT_SIGMA * footprint.flatten(1)
    scales = torch.stack([sigma, sigma * stretch.flatten(1), sigma * THICKNESS], dim=-1)
    certainty = 1.0 / (footprint.square() + (depth * spread).square())
    return GaussianMap(
        means=points.flatten(1, 2),
        quats=matrix_to_quat(rotation).flatten(1, 2),
        scales=scales,
        opacities=opacities.flatten(1),
        rgb=F.avg_pool2d(rgb, stride).flatten(2).transpose(1, 2),
        latents=latents.flatten(2).transpose(1, 2),
        evidence=torch.where(spread < DOUBTFUL_SPREAD, certainty, 0.0).detach().flatten(1),
    )


@torch.no_grad()
def _surface_frames(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Local surface frame and foreshortening at each cell, as constants: slopes of a learned depth make poor gradients.

    Args:
        points: world points on the grid. [B, h, w, 3]

    Returns:
        Rotations whose columns are the two tangents and the normal [B, h, w, 3, 3], the second tangent pointing down the
        slope; and the stretch along it, 1 / cos(angle between normal and line of sight). [B, h, w]
    """
    padded = F.pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
    across = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]).permute(0, 2, 3, 1)
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]).permute(0, 2, 3, 1)
    sight = F.normalize(points - camera.world_from_camera[:, None, None, :3, 3], dim=-1)
    normal = F.normalize(torch.linalg.cross(across, down), dim=-1)
    cosine = (normal * sight).sum(-1, keepdim=True).abs()
    normal = torch.where(cosine > MIN_COSINE, normal, sight)
    cosine = (normal * sight).sum(-1, keepdim=True).abs().clamp_min(MIN_COSINE)
    slope = sight - (sight * normal).sum(-1, keepdim=True) * normal
    camera_down = camera.world_from_camera[:, None, None, :3, 1].expand_as(slope)
    flat = slope.norm(dim=-1, keepdim=True) < 1e-3
    slope = torch.where(flat, camera_down - (camera_down * normal).sum(-1, keepdim=True) * normal, slope)
    second = F.normalize(slope, dim=-1)
    first = torch.linalg.cross(second, normal)
    return torch.stack([first, second, normal], dim=-1), 1.0 / cosine.squeeze(-1)
