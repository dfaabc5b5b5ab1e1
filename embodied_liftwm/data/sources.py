"""Which other frames of an episode can explain a frame: the sources of the multi-view term, chosen by believed poses alone."""

from __future__ import annotations

import numpy as np

BASELINE_M = (0.2, 0.9)
"""Between these distances two cameras see a room with parallax, and still see the same of it."""
MAX_TURN_RAD = 0.6
"""Largest angle between their optical axes, for the images to overlap."""


def choose_sources(rng: np.random.Generator, poses: np.ndarray, frame: int, count: int) -> np.ndarray:
    """Pick source frames for one frame.

    Args:
        rng: decides among the suitable.
        poses: believed world_from_camera of the whole episode. [F, 4, 4]
        frame: the frame to explain.
        count: how many sources.

    Returns:
        Frame numbers, none of them `frame` where the episode has others: those with a good baseline first, else the nearest
        in time. [count] int64
    """
    baseline = np.linalg.norm(poses[:, :3, 3] - poses[frame, :3, 3], axis=-1)
    turn = np.arccos(np.clip(poses[:, :3, 2] @ poses[frame, :3, 2], -1.0, 1.0))
    good = np.flatnonzero((baseline >= BASELINE_M[0]) & (baseline <= BASELINE_M[1]) & (turn <= MAX_TURN_RAD))
    good = good[good != frame]
    if len(good) >= count:
        return np.sort(rng.choice(good, size=count, replace=False))
    others = np.setdiff1d(np.arange(len(poses)), np.append(good, frame))
    nearest = others[np.argsort(np.abs(others - frame), kind="stable")]
    return np.resize(np.concatenate([good, nearest, [frame]]), count).astype(np.int64)
