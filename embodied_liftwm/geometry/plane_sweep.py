"""Plane sweep: how badly each depth hypothesis explains a frame from other frames with known cameras.

For every pixel and every plane the source is sampled where the pixel would fall if its surface lay on that plane
(Collins 1996, "A space-sweep approach to true multi-image matching"). No parameter is learned and no gradient is kept:
images and poses are data. Under pure rotation all planes explain equally well, and the cost says so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.geometry.warp import sample_pixels
from embodied_liftwm.protocols import Camera


class Sweep(NamedTuple):
    """Matching costs of every plane, source by source."""

    cost: Tensor  # [B, S, P, h, w] mean absolute colour difference in [0, 1], 0 where not known
    known: Tensor  # [B, S, P, h, w] bool: the cell falls onto the source image under this plane


@torch.no_grad()
def plane_sweep(rgb: Tensor, camera: Camera, source_rgb: Tensor, source_poses: Tensor, planes: Tensor, stride: int) -> Sweep:
    """Match frames against their sources under fronto-parallel planes, cell by cell.

    A cell's colour is its mean, which is what bilinear sampling returns at the centre of 2 x 2 pixels: sources are sampled at
    full resolution, so that a fraction of a pixel of disparity counts.

    Args:
        rgb: the frames to explain. [B, 3, H, W]
        camera: their cameras; the sources share the intrinsics.
        source_rgb: other frames. [B, S, 3, H, W]
        source_poses: their world_from_camera. [B, S, 4, 4]
        planes: z-depths to try, metres. [P]
        stride: pixels a side of a cell.
    """
    rgb = F.avg_pool2d(rgb, stride)
    count, sources = len(rgb), source_rgb.shape[1]
    height = rgb.shape[-2]
    cameras = camera.map(lambda t: t.repeat_interleave(sources, dim=0))
    pixels, known = _hypotheses(cameras, source_poses.flatten(0, 1), planes, stride)
    sampled = sample_pixels(source_rgb.flatten(0, 1), pixels.flatten(1, 2)).unflatten(2, (len(planes), height))
    target = rgb.unsqueeze(2).repeat_interleave(sources, dim=0)
    difference = torch.where(known, (sampled - target).abs().mean(1), 0.0)
    blurred = F.avg_pool2d(difference, 3, stride=1, padding=1) / F.avg_pool2d(known.to(rgb), 3, stride=1, padding=1).clamp_min(0.1)
    cost = torch.where(known, 0.5 * (difference + blurred), 0.0)
    return Sweep(cost.unflatten(0, (count, sources)), known.unflatten(0, (count, sources)))


def mean_cost(sweep: Sweep, usable: Tensor) -> Tensor:
    """Average over the usable sources [B, S] bool, less the mean over planes: 0 where nothing is known. [B, P, h, w]"""
    known = sweep.known & usable[..., None, None, None]
    count = known.sum(1)
    cost = (sweep.cost * known).sum(1) / count.clamp_min(1)
    any_known = count > 0
    mean = (cost * any_known).sum(1, keepdim=True) / any_known.sum(1, keepdim=True).clamp_min(1)
    return torch.where(any_known, cost - mean, 0.0)


def _hypotheses(camera: Camera, source_pose: Tensor, planes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Where the centre of each cell falls in the source under each plane: pixels [B, P, h, w, 2], validity [B, P, h, w].

    With x = K_s (R K^-1 u z + t), dividing by z: the image of u is K_s R K^-1 u + K_s t / z, up to scale.
    """
    source_from_target = inverse_pose(source_pose) @ camera.world_from_camera
    turn = camera.intrinsics @ source_from_target[:, :3, :3] @ torch.linalg.inv(camera.intrinsics)
    shift = (camera.intrinsics @ source_from_target[:, :3, 3:]).squeeze(-1)
    centres = stride * pixel_centres(camera.height // stride, camera.width // stride).to(turn)
    homogeneous = torch.cat([centres, torch.ones_like(centres[..., :1])], dim=-1)
    rotated = torch.einsum("bij,hwj->bhwi", turn, homogeneous)
    image = rotated[:, None] + shift[:, None, None, None] / planes[None, :, None, None, None]
    pixels = image[..., :2] / image[..., 2:].clamp_min(1e-3)
    extent = pixels.new_tensor([camera.width, camera.height])
    return pixels, ((pixels >= 0) & (pixels <= extent)).all(-1) & (image[..., 2] > 1e-2)
