"""One episode in memory: what the agent saw and did, and, apart from it, what was true.

An episode has `T` actions and `T + 1` frames: frame `t` is what the agent saw when it chose action `t`; frame `T` is the last.
`truth` is what only the simulator knows. It is for evaluation alone; `TrainingReader` never returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embodied_liftwm.errors import UserError

# Name -> (shape, dtype). T actions, F = T + 1 frames, H W image, A action, G goal, O objects; G and O may be 0.
ARRAYS: dict[str, tuple[str, str]] = {
    "rgb": ("F H W 3", "uint8"),
    "action": ("T A", "float32"),
    "reward": ("T", "float32"),
    "terminated": ("T", "bool"),
    "truncated": ("T", "bool"),
    "intrinsics": ("3 3", "float32"),
    "world_from_camera": ("F 4 4", "float32"),
    "goal": ("F G", "float32"),
}
TRUTH_ARRAYS: dict[str, tuple[str, str]] = {
    "depth": ("F H W", "float16"),
    "segmentation": ("F H W", "uint16"),
    "world_from_camera": ("F 4 4", "float32"),
    "object_id": ("O", "int32"),
    "object_colour": ("O 3", "float32"),
    "object_pose": ("F O 7", "float32"),
    "visible_pixels": ("F O", "int32"),
}


@dataclass(frozen=True)
class Truth:
    """The hidden state of an episode: exact, and for evaluation alone."""

    depth: np.ndarray  # [T+1, H, W] float16 z-depth, metres, 0 where invalid
    segmentation: np.ndarray  # [T+1, H, W] uint16 object ids, 0 for structure
    world_from_camera: np.ndarray  # [T+1, 4, 4] float32 exact OpenCV pose
    object_id: np.ndarray  # [O] int32, the ids of `segmentation`
    object_colour: np.ndarray  # [O, 3] float32 in [0, 1]
    object_pose: np.ndarray  # [T+1, O, 7] float32 xyz metres, quaternion wxyz, world frame
    visible_pixels: np.ndarray  # [T+1, O] int32
    object_shape: tuple[str, ...] = ()  # [O]
    scene: dict[str, Any] = field(default_factory=dict)  # the environment's own description: walls, rooms, objects


@dataclass(frozen=True)
class Episode:
    """What the agent saw, believed and did. `validate` checks every shape and dtype."""

    rgb: np.ndarray  # [T+1, H, W, 3] uint8
    action: np.ndarray  # [T, A] float32; discrete actions are one-hot
    reward: np.ndarray  # [T] float32
    terminated: np.ndarray  # [T] bool
    truncated: np.ndarray  # [T] bool
    intrinsics: np.ndarray  # [3, 3] float32 pixels
    world_from_camera: np.ndarray  # [T+1, 4, 4] float32 OpenCV pose the agent believes
    goal: np.ndarray  # [T+1, G] float32; G = 0 where the task has no instruction
    meta: dict[str, Any] = field(default_factory=dict)  # JSON: env, options, seed, policy, success, versions
    truth: Truth | None = None

    def __len__(self) -> int:
        """Number of actions, T."""
        return len(self.action)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames, pixels."""
        return self.rgb.shape[1], self.rgb.shape[2]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array but truth, by its name on disk."""
        return {name: getattr(self, name) for name in ARRAYS}

    def truth_arrays(self) -> dict[str, np.ndarray]:
        """Every array of `truth`, by its name on disk; empty without truth."""
        return {} if self.truth is None else {name: getattr(self.truth, name) for name in TRUTH_ARRAYS}

    def validate(self, name: str = "episode") -> Episode:
        """Return self if every shape and dtype agrees with the tables above.

        Raises:
            UserError: names the array, with what was expected and what was found.
        """
        sizes: dict[str, int] = {"3": 3, "4": 4, "7": 7}
        for key, (shape, dtype) in ARRAYS.items():
            _check(f"{name}: {key}", getattr(self, key), shape, dtype, sizes)
        for key, array in self.truth_arrays().items():
            _check(f"{name}: truth/{key}", array, *TRUTH_ARRAYS[key], sizes)
        if len(self) < 1 or sizes["F"] != len(self) + 1:
            raise UserError(f"{name}: {sizes['F']} frames for {len(self)} actions, expected one frame more than actions (>= 1)")
        if self.truth is not None and len(self.truth.object_shape) != sizes["O"]:
            raise UserError(f"{name}: {len(self.truth.object_shape)} object shapes for {sizes['O']} objects")
        return self


def _check(name: str, array: np.ndarray, shape: str, dtype: str, sizes: dict[str, int]) -> None:
    """Check one array, and bind axis letters to the sizes first seen."""
    axes = shape.split()
    fits = array.ndim == len(axes) and all(
        sizes.setdefault(axis, size) == size for axis, size in zip(axes, array.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(dtype):
        expected = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
        raise UserError(f"{name}: expected [{expected}] {dtype}, got {list(array.shape)} {array.dtype}")


def pose_problem(poses: np.ndarray, tolerance: float = 1e-3) -> str:
    """Say what is wrong with poses, or return "".

    Args:
        poses: rigid transforms. [..., 4, 4] float32
        tolerance: largest deviation of R R^T from the identity.
    """
    if not np.isfinite(poses).all():
        return "holds NaN or infinity"
    rotation = poses[..., :3, :3].astype(np.float64)
    error = np.abs(rotation @ np.swapaxes(rotation, -1, -2) - np.eye(3)).max(initial=0.0)
    if error > tolerance:
        return f"rotations are not orthonormal (off by {error:.2g})"
    if (np.linalg.det(rotation) < 0).any():
        return "rotations are mirrored (determinant -1)"
    if not np.array_equal(poses[..., 3, :], np.broadcast_to([0, 0, 0, 1], poses[..., 3, :].shape)):
        return "last rows are not 0 0 0 1"
    return ""
