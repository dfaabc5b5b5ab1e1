"""What the agent believes of its own motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


class Odometry:
    """Integrates the true motion between frames with proportional noise; exact where the noise is 0.

    The first believed pose is the true one. After that each true relative motion, seen from the camera, is taken with its three
    translations and its rotation angle each multiplied by 1 + noise * N(0, 1), so a resting agent does not drift.
    """

    def __init__(self, first: NDArray, noise: float, rng: np.random.Generator) -> None:
        self._true = self._believed = first
        self._noise, self._rng = noise, rng

    def update(self, true: NDArray) -> NDArray[np.float64]:
        """The believed `world_from_camera` [4, 4] after the camera moved to `true` [4, 4]."""
        if self._noise == 0:
            return true
        motion = _inverse(self._true) @ true
        gains = 1 + self._noise * self._rng.standard_normal(4)
        noisy = np.eye(4)
        noisy[:3, 3] = motion[:3, 3] * gains[:3]
        noisy[:3, :3] = Rotation.from_rotvec(gains[3] * Rotation.from_matrix(motion[:3, :3]).as_rotvec()).as_matrix()
        self._true, self._believed = true, self._believed @ noisy
        return self._believed


def _inverse(pose: NDArray) -> NDArray:
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse
