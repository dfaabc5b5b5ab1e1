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

TRUNCATION = 0.05
"""Colour differences count up to this one: what is hidden in a source is no worse than what merely differs."""
UNKNOWN = 0.025
"""What counts where a plane leaves the source's image: neither a match nor a mismatch."""


class Sweep(NamedTuple):
    """Matching costs of every plane, source by source."""

    cost: Tensor  # [B, S, P, h, w] mean absolute colour difference, truncated; UNKNOWN where not known
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
    cost = torch.where(known, (sampled - target).abs().mean(1).clamp_max(TRUNCATION), UNKNOWN)
    return Sweep(cost.unflatten(0, (count, sources)), known.unflatten(0, (count, sources)))


def window_cost(cost: Tensor, cells: int) -> Tensor:
    """Mean of costs [B, P, h, w] over windows of `cells` x `cells`: one cell alone looks like too many others."""
    return F.avg_pool2d(cost, cells, stride=1, padding=cells // 2, count_include_pad=False)


def mean_cost(sweep: Sweep, usable: Tensor, cells: int = 5) -> Tensor:
    """Average over the usable sources [B, S] bool and a window, less the mean over planes; 0 without sources. [B, P, h, w]"""
    weight = usable.to(sweep.cost)[..., None, None, None]
    cost = (sweep.cost * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    cost = window_cost(cost, cells)
    return cost - cost.mean(1, keepdim=True)


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
