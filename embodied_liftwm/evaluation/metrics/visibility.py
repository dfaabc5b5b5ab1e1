"""Which pixels of a frame other frames have seen, by true depth and true poses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project, project

SEEN_RELATIVE, SEEN_ABSOLUTE_M = 0.05, 0.05
"""A point was seen if its depth in another frame agrees with that frame's depth within 5 % plus 5 cm."""


class Visibility(NamedTuple):
    """Where the points of a target frame lie in F other frames."""

    pixels: Tensor  # [F, H * W, 2] (u, v); meaningless where the point is not visible
    visible: Tensor  # [F, H * W] bool: in view, and nothing before it


def visible_in(depth: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray, target: int, frames: slice) -> Visibility:
    """Follow the true points of a target frame into other frames.

    Args:
        depth: true depth of the episode, 0 where invalid. [F, H, W] metres
        poses: exact world_from_camera. [F, 4, 4]
        intrinsics: pixels. [3, 3]
        target: the frame asked about; its pixels in row-major order.
        frames: the others.
    """
    K, cameras = torch.from_numpy(intrinsics)[None].float(), torch.from_numpy(poses).float()
    own = torch.from_numpy(depth[target].astype(np.float32))[None]
    points = back_project(own, K, cameras[target : target + 1]).reshape(1, -1, 3)
    others = torch.from_numpy(depth[frames].astype(np.float32))
    viewmats = torch.linalg.inv(cameras[frames])
    count = len(others)
    uv, z = project(points.expand(count, -1, -1), K.expand(count, -1, -1), viewmats)
    height, width = depth.shape[1:]
    u, v = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 1e-3) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (own.flatten() > 0)
    there = others.flatten(1).gather(1, v.clamp(0, height - 1) * width + u.clamp(0, width - 1))
    agrees = (there > 0) & ((z - there).abs() <= SEEN_RELATIVE * there + SEEN_ABSOLUTE_M)
    return Visibility(uv, inside & agrees)
