"""Plane sweep: how badly each depth hypothesis explains a frame from other frames with known cameras.

For every pixel and every plane the source is sampled where the pixel would fall if its surface lay on that plane
(Collins 1996, "A space-sweep approach to true multi-image matching"). No parameter is learned and no gradient is kept:
images and poses are data. Under pure rotation all planes explain equally well, and the cost says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.geometry.warp import sample_pixels
from embodied_liftwm.protocols import Camera


@torch.no_grad()
def plane_sweep(
    rgb: Tensor, camera: Camera, source_rgb: Tensor, source_poses: Tensor, usable: Tensor, planes: Tensor, stride: int
) -> Tensor:
    """Matching cost of fronto-parallel planes.

    Args:
        rgb: the frames to explain. [B, 3, H, W]
        camera: their cameras; the sources share the intrinsics.
        source_rgb: other frames. [B, S, 3, H, W]
        source_poses: their world_from_camera. [B, S, 4, 4]
        usable: which sources to use. [B, S] bool
        planes: z-depths to try, metres. [P]
        stride: pixels a side of a cell.

    Returns:
        Mean absolute colour difference, blurred over 3 x 3 cells, less its mean over the planes: 0 where nothing is known.
        [B, P, H / stride, W / stride]
    """
    height, width = rgb.shape[-2:]
    total = rgb.new_zeros(len(rgb), len(planes), height, width)
    count = torch.zeros_like(total)
    for s in range(source_rgb.shape[1]):
        pixels, valid = _hypotheses(camera, source_poses[:, s], planes)
        sampled = sample_pixels(source_rgb[:, s], pixels.flatten(1, 2)).unflatten(2, (len(planes), height))
        difference = (sampled - rgb.unsqueeze(2)).abs().mean(1)
        valid = valid & usable[:, s, None, None, None]
        total += torch.where(valid, difference, 0.0)
        count += valid
    known = count > 0
    cost = total / count.clamp_min(1.0)
    mean = (cost * known).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    cost = torch.where(known, cost - mean, 0.0)
    return F.avg_pool2d(F.avg_pool2d(cost, stride), 3, stride=1, padding=1, count_include_pad=False)


def _hypotheses(camera: Camera, source_pose: Tensor, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel falls in the source under each plane: pixels [B, P, H, W, 2] and validity [B, P, H, W].

    With x = K_s (R K^-1 u z + t), dividing by z: the image of u is K_s R K^-1 u + K_s t / z, up to scale.
    """
    source_from_target = inverse_pose(source_pose) @ camera.world_from_camera
    turn = camera.intrinsics @ source_from_target[:, :3, :3] @ torch.linalg.inv(camera.intrinsics)
    shift = (camera.intrinsics @ source_from_target[:, :3, 3:]).squeeze(-1)
    centres = pixel_centres(camera.height, camera.width).to(turn)
    homogeneous = torch.cat([centres, torch.ones_like(centres[..., :1])], dim=-1)
    rotated = torch.einsum("bij,hwj->bhwi", turn, homogeneous)
    image = rotated[:, None] + shift[:, None, None, None] / planes[None, :, None, None, None]
    pixels = image[..., :2] / image[..., 2:].clamp_min(1e-3)
    extent = pixels.new_tensor([camera.width, camera.height])
    return pixels, ((pixels >= 0) & (pixels <= extent)).all(-1) & (image[..., 2] > 1e-2)
