"""Cameras: intrinsics, and the one conversion from MuJoCo's camera frame to OpenCV's.

A MuJoCo (OpenGL) camera looks along -z with y up; an OpenCV camera looks along +z with y down. Poses everywhere else in the
project are OpenCV `world_from_camera`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.errors import EnvError

FOVY_DEG = 80.0
SMALLEST_PX, LARGEST_PX = 16, 2048
"""Sides of frames."""


def world_from_opencv(xpos: ArrayLike, xmat: ArrayLike) -> NDArray[np.float64]:
    """OpenCV camera pose from MuJoCo's `cam_xpos` [3] and `cam_xmat` [9]: flips the y and z axes of the camera. [4, 4]"""
    x, y, z = np.asarray(xpos, float).tolist()
    a, b, c, d, e, f, g, h, i = np.asarray(xmat, float).ravel().tolist()
    return np.array([[a, -b, -c, x], [d, -e, -f, y], [g, -h, -i, z], [0.0, 0.0, 0.0, 1.0]])  # plain floats: once a frame


def size_of(image_size: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of frames in pixels: of one number for square ones, of two, or of text such as "48x64".

    Raises:
        EnvError: it is none of these, or a side is out of bounds.
    """
    given = image_size.split("x") if isinstance(image_size, str) else np.atleast_1d(np.asarray(image_size)).tolist()
    sides = [int(side) if str(side).isdecimal() else 0 for side in given]
    if len(sides) not in (1, 2) or not all(SMALLEST_PX <= side <= LARGEST_PX for side in sides):
        raise EnvError(
            f"image_size={image_size!r}: expected pixels a side, or (height, width), in [{SMALLEST_PX}, {LARGEST_PX}]"
        )
    return sides[0], sides[-1]


def intrinsics_from_fovy(height: int, width: int, fovy_deg: float = FOVY_DEG) -> NDArray[np.float32]:
    """Pinhole matrix in pixels of a camera with square pixels, whose pixel centres lie at half-integers. [3, 3]"""
    focal = 0.5 * height / math.tan(0.5 * math.radians(fovy_deg))
    return np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]], np.float32)


def back_project(depth: NDArray, intrinsics: NDArray, world_from_camera: NDArray) -> NDArray[np.float64]:
    """World points [H, W, 3] of a z-depth map [H, W] in metres, with intrinsics [3, 3] and pose [4, 4]; the camera where 0."""
    height, width = depth.shape
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([(u - intrinsics[0, 2]) / intrinsics[0, 0], (v - intrinsics[1, 2]) / intrinsics[1, 1], np.ones_like(u)], -1)
    points = rays * depth[..., None].astype(np.float64)
    return points @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]


def yaw_of(world_from_camera: NDArray) -> float:
    """Heading of the camera's viewing direction in the floor plane, radians, counter-clockwise from world x."""
    return math.atan2(world_from_camera[1, 2], world_from_camera[0, 2])
