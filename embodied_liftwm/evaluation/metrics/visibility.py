"""Which pixels of a frame other frames have seen, by true depth and true poses."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project, project

SEEN_RELATIVE, SEEN_ABSOLUTE_M = 0.05, 0.05
"""A point was seen if its depth in another frame agrees with that frame's depth within 5 % plus 5 cm."""


class TrueGeometry(Protocol):
    """The part of an episode's truth that visibility needs."""

    @property
    def depth(self) -> np.ndarray:
        """[F, H, W] metres, 0 where invalid."""
        ...

    @property
    def world_from_camera(self) -> np.ndarray:
        """[F, 4, 4] exact poses."""
        ...


class Visibility(NamedTuple):
    """Where the points of a target frame lie in F other frames."""

    pixels: Tensor  # [F, H * W, 2] (u, v); meaningless where the point is not visible
    visible: Tensor  # [F, H * W] bool: in view, and nothing before it


def visible_in(truth: TrueGeometry, intrinsics: np.ndarray, target: int, frames: slice) -> Visibility:
    """Follow the true points of a target frame into other frames.

    Args:
        truth: of the episode.
        intrinsics: pixels. [3, 3]
        target: the frame asked about; its pixels in row-major order.
        frames: the others.
    """
    K = torch.from_numpy(intrinsics)[None].float()
    poses = torch.from_numpy(truth.world_from_camera).float()
    depth = torch.from_numpy(truth.depth[target].astype(np.float32))
    points = back_project(depth[None], K, poses[target : target + 1]).reshape(1, -1, 3)
    others = torch.from_numpy(truth.depth[frames].astype(np.float32))
    viewmats = torch.linalg.inv(poses[frames])
    count = len(others)
    uv, z = project(points.expand(count, -1, -1), K.expand(count, -1, -1), viewmats)
    height, width = depth.shape
    u, v = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 1e-3) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth.flatten() > 0)
    there = others.flatten(1).gather(1, v.clamp(0, height - 1) * width + u.clamp(0, width - 1))
    agrees = (there > 0) & ((z - there).abs() <= SEEN_RELATIVE * there + SEEN_ABSOLUTE_M)
    return Visibility(uv, inside & agrees)


def seen_mask(truth: TrueGeometry, intrinsics: np.ndarray, target: int, context: int) -> Tensor:
    """Which pixels of a target frame some context frame has seen.

    Args:
        truth: of the episode.
        intrinsics: pixels. [3, 3]
        target: the frame asked about.
        context: frames 0 to context - 1 were observed.

    Returns:
        bool [H, W]; false where the true depth is invalid.
    """
    visible = visible_in(truth, intrinsics, target, slice(0, context)).visible
    return visible.any(0).view(truth.depth.shape[1:])
