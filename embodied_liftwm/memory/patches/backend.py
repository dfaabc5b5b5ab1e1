"""When compiled kernels write and read patch maps, and what their callers share.

The torch code of `patch_frame`, `patch_integrate` and `patch_read` is the reference, and runs wherever a gradient or an
accelerator is wanted; its no-gradient parts are compiled in training too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.protocols import Camera

__all__ = ["arrays", "as_scalars", "compilable", "matrices_of", "ranges"]

R = TypeVar("R", bound=NamedTuple)


def ranges(count: int, least: int = 1) -> list[tuple[int, int]]:
    """[0, count) in two parts a thread of torch, of `least` or more each: first and end. Results do not depend on it.

    For one thread, and where there is too little to share, it is one part: a helper's waking costs some 0.1 ms.
    """
    threads = torch.get_num_threads()
    parts = min(2 * threads if threads > 1 else 1, max(count // least, 1), count)
    edges = [count * k // max(parts, 1) for k in range(parts + 1)]
    return list(pairwise(edges))


def as_scalars(rules: R, dtype: np.dtype) -> R:
    """Floats as scalars of `dtype`, integers as they are."""
    return type(rules)(*(dtype.type(value) if isinstance(value, float) else value for value in rules))


def viewmats_of(poses: np.ndarray) -> np.ndarray:
    """Inverses of poses [B, 4, 4], as `se3.inverse_pose` has them but for the last row. [B, 3, 4]"""
    turned = poses[:, :3, :3].transpose(0, 2, 1)
    return np.concatenate([turned, -(turned @ poses[:, :3, 3:])], axis=2)


def matrices_of(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Poses of cameras [B, 4, 4], and what takes world points to their homogeneous pixels. [B, 3, 4]"""
    intrinsics, poses = arrays(camera.intrinsics, camera.world_from_camera)
    return poses, intrinsics @ viewmats_of(poses)
