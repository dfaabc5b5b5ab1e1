"""What the agent believes of its own motion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
        noisy[:3, :3] = _rotation(gains[3] * _rotation_vector(motion[:3, :3]))
        self._true, self._believed = true, self._believed @ noisy
        return self._believed


def _inverse(pose: NDArray) -> NDArray:
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse


def _rotation_vector(rotation: NDArray) -> NDArray:
    """Axis times angle, for angles well below pi (one step's motion). [3]"""
    twice_sine = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    norm = float(np.linalg.norm(twice_sine))
    if norm < 1e-12:
        return np.zeros(3)
    return twice_sine / norm * np.arctan2(norm, np.trace(rotation) - 1)


def _rotation(vector: NDArray) -> NDArray:
    """Rodrigues' formula. [3] -> [3, 3]"""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
