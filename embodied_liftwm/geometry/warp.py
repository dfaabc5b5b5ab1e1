"""Backward warping: what one camera saw, brought to the pixels of another through depth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import SMALLEST_DEPTH_M, back_project, project
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera


class Warp(NamedTuple):
    """A source image seen at the target's pixels."""

    image: Tensor  # [B, C, H, W] bilinear samples of the source, 0 where invalid
    valid: Tensor  # [B, H, W] bool: depth is valid and the point falls on the source image; occlusion is not judged
    source_depth: Tensor  # [B, H, W] metres: z-depth of the target's points in the source camera, for visibility tests
    source_pixels: Tensor  # [B, H, W, 2] pixels (u, v) in the source image


def sample_pixels(image: Tensor, pixels: Tensor) -> Tensor:
    """Bilinear samples at pixel coordinates with centres at half-integers; the border repeats.

    Args:
        image: [B, C, H, W]
        pixels: (u, v). [B, h, w, 2]

    Returns:
        [B, C, h, w]
    """
    height, width = image.shape[-2:]
    grid = pixels * pixels.new_tensor([2.0 / width, 2.0 / height]) - 1.0
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def backward_warp(source_rgb: Tensor, target_depth: Tensor, target_camera: Camera, source_camera: Camera) -> Warp:
    """Lift the target's pixels by their depth, project them into the source and fetch what is there.

    Differentiable in the image, the depth and both cameras.

    Args:
        source_rgb: any channels. [B, C, Hs, Ws]
        target_depth: z-depth in metres, 0 where invalid. [B, H, W]
        target_camera: of the depth map's size.
        source_camera: of the source image's size.
    """
    batch, height, width = target_depth.shape
    points = back_project(target_depth, target_camera.intrinsics, target_camera.world_from_camera)
    source_from_world = inverse_pose(source_camera.world_from_camera)
    pixels, depth = project(points.reshape(batch, -1, 3), source_camera.intrinsics, source_from_world)
    pixels, depth = pixels.reshape(batch, height, width, 2), depth.reshape(batch, height, width)
    extent = pixels.new_tensor([source_rgb.shape[-1], source_rgb.shape[-2]])
    inside = ((pixels >= 0) & (pixels <= extent)).all(-1)
    valid = inside & (depth > SMALLEST_DEPTH_M) & (target_depth > 0)
    image = sample_pixels(source_rgb, pixels)
    return Warp(torch.where(valid[:, None], image, torch.zeros_like(image)), valid, depth, pixels)
