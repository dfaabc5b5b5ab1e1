"""What tests of adapters to other people's worlds share: frames warped into each other by depth and pose."""

from __future__ import annotations

from typing import Any

import numpy as np

from liftwm_envs.cameras import back_project

Frame = tuple[dict[str, np.ndarray], dict[str, Any]]
"""An observation and its info, with truth."""


def walk(env: Any, seed: int, actions: list[Any]) -> list[Frame]:
    """Frames of an episode: of the reset, and after each action."""
    frames = [env.reset(seed=seed)]
    for action in actions:
        observation, _, _, _, info = env.step(action)
        frames.append((observation, info))
    return frames


def warp_errors(first: Frame, second: Frame) -> tuple[float, float, float]:
    """What pixels of one frame, lifted by its depth and pose, look like in another that sees them.

    Returns:
        Share of the first frame's pixels found in the second; median difference of depth, relative; median difference of
        colour, of 255.
    """
    intrinsics = first[0]["intrinsics"].reshape(3, 3).astype(float)
    here, there = (frame[0]["world_from_camera"].reshape(4, 4).astype(float) for frame in (first, second))
    depth, other = (frame[1]["truth"]["depth"].astype(float) for frame in (first, second))
    points = (back_project(depth, intrinsics, here) - there[:3, 3]) @ there[:3, :3]
    z = np.maximum(points[..., 2], 1e-3)
    u, v = (np.floor(intrinsics[k, k] * points[..., k] / z + intrinsics[k, 2]).astype(int) for k in (0, 1))
    inside = (depth > 0) & (points[..., 2] > 1e-3) & (u >= 0) & (u < depth.shape[1]) & (v >= 0) & (v < depth.shape[0])
    u, v = np.clip(u, 0, depth.shape[1] - 1), np.clip(v, 0, depth.shape[0] - 1)
    apart = np.abs(other[v, u] - z) / z
    colours = np.abs(first[0]["rgb"].astype(float) - second[0]["rgb"][v, u]).mean(-1)
    found = inside & (other[v, u] > 0) & (apart < 0.1)
    return float(found.mean()), float(np.median(apart[found])), float(np.median(colours[found]))
