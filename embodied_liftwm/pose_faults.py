"""What may be wrong with camera poses, in files and in what callers hand to a model: one set of rules, one set of words."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

FARTHEST_M = 1e5
"""From the origin of the world: beyond it float32 no longer tells centimetres."""
EXACT = 1e-4
"""How much a number that is to be 0 or 1 may differ from it."""
WORDS = "expected rotations of determinant 1, a translation in the last column and a last row of 0 0 0 1"

Fault = tuple[np.ndarray, Callable[[int], str]]
"""Which rows have it [B], and what to say of one."""


def pose_faults(poses: np.ndarray, rigid: float, skew: float = math.inf, last_row: float = EXACT) -> list[Fault]:
    """What may be wrong with poses, in the order to name it, and with which.

    Args:
        poses: [B, 4, 4]
        rigid: how much R R' may be off the identity.
        skew: how much it may be once its scale is divided out.
        last_row: how much the last row may be off 0 0 0 1.
    """
    turn, place = poses[:, :3, :3].astype(np.float64), poses[:, :3, 3]
    with np.errstate(all="ignore"):
        bottom = np.abs(poses[:, 3] - (0.0, 0.0, 0.0, 1.0)).max(1) > last_row
        gram = turn @ turn.swapaxes(1, 2)
        scale = np.trace(gram, axis1=1, axis2=2) / 3.0
        off, uneven = (np.abs(g - np.eye(3)).max((1, 2)) for g in (gram, gram / scale[:, None, None]))
        mirrored, away = np.linalg.det(turn) < 0.0, np.abs(place).max(1)
    skewed = ~(off <= rigid) | ~(uneven <= skew)
    scaled = ~(np.abs(np.sqrt(scale) - 1.0) <= rigid / 2) & (uneven <= rigid)
    return [
        (~np.isfinite(poses).all((1, 2)), lambda row: "is not finite"),
        (bottom & ~place.any(1) & poses[:, 3, :3].any(1), lambda row: f"is transposed: {WORDS}"),
        (bottom, lambda row: f"has a last row of {listed(poses[row, 3])}: {WORDS}"),
        (scaled, lambda row: f"has a rotation that is scaled by {scale[row] ** 0.5:.3g}: {WORDS}"),
        (skewed, lambda row: f"has a rotation that is not orthonormal (off by {off[row]:.2g}): {WORDS}"),
        (mirrored, lambda row: f"is mirrored (determinant -1): {WORDS}"),
        (away > FARTHEST_M, lambda row: f"lies {away[row]:.3g} m from the origin: expected {FARTHEST_M:g} m at most"),
    ]


def listed(numbers: np.ndarray | list[float]) -> str:
    """Numbers as a message lists them."""
    return " ".join(f"{number:.4g}" for number in numbers)
