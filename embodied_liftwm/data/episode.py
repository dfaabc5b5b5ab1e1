"""One episode in memory: what the agent saw and did, and, apart from it, what was true.

An episode has `T` actions and `T + 1` frames: frame `t` is what the agent saw when it chose action `t`; frame `T` is the last.
`truth` is what only the simulator knows. It is for evaluation alone; `TrainingReader` never returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embodied_liftwm.data.gate import (
    ARRAYS,
    ROWS,
    TRUTH_ARRAYS,
    TRUTH_PER_FRAME,
    depth_fault,
    ending_fault,
    intrinsics_fault,
    layout_fault,
    number_fault,
    pose_fault,
)
from embodied_liftwm.errors import UserError


def _unknown() -> np.ndarray:
    return np.zeros((0, 0, 0))


@dataclass(frozen=True)
class Truth:
    """The hidden state of an episode: exact, and for evaluation alone. What is not known has no frames; `has` says so."""

    depth: np.ndarray = field(default_factory=_unknown)  # [T+1, H, W] float16 z-depth, metres, 0 where invalid
    segmentation: np.ndarray = field(default_factory=_unknown)  # [T+1, H, W] uint16 object ids, 0 for structure
    world_from_camera: np.ndarray = field(default_factory=_unknown)  # [T+1, 4, 4] float32 exact OpenCV pose
    object_id: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))  # [O] int32, the ids of `segmentation`
    object_colour: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.float32))  # [O, 3] float32 in [0, 1]
    object_pose: np.ndarray = field(default_factory=_unknown)  # [T+1, O, 7] float32 xyz metres, quaternion wxyz, world frame
    visible_pixels: np.ndarray = field(default_factory=_unknown)  # [T+1, O] int32
    object_shape: tuple[str, ...] = ()  # [O]
    scene: dict[str, Any] = field(default_factory=dict)  # the environment's own description: walls, rooms, objects

    def has(self, *names: str) -> bool:
        """Whether these arrays are known, all of them. An episode has frames, so that what has none is not."""
        return all(len(getattr(self, name)) > 0 for name in names if name in TRUTH_PER_FRAME)


@dataclass(frozen=True)
class Episode:
    """What the agent saw, believed and did. `validate` says whether it is sound."""

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
        """Every array of `truth` that is known, by its name on disk; empty without truth."""
        truth = self.truth
        return {} if truth is None else {name: getattr(truth, name) for name in TRUTH_ARRAYS if truth.has(name)}

    def validate(self, name: str = "episode") -> Episode:
        """Return self if it is sound: the one gate for whatever is written, imported, read or trained on.

        Raises:
            UserError: names the array and the frame or step, with what was found and what would be right.
        """
        if fault := self._fault():
            raise UserError(f"{name}: {fault}")
        return self

    def _fault(self) -> str:
        """The first thing that is wrong; "" where nothing is."""
        truth = self.truth_arrays()
        if fault := layout_fault(self.arrays(), truth):
            return fault
        named = self.arrays() | {f"truth/{key}": array for key, array in truth.items()}
        shapes = ARRAYS | {f"truth/{key}": entry for key, entry in TRUTH_ARRAYS.items()}
        for key, array in named.items():
            row = ROWS.get(shapes[key][0][0], "")
            if key.endswith("world_from_camera"):
                fault = pose_fault(array)
            elif key == "intrinsics":
                fault = intrinsics_fault(array, *self.image_size)
            elif key == "truth/depth":
                fault = depth_fault(array)
            else:
                fault = number_fault(array, row) if array.dtype == np.float32 else ""
            if fault:
                return f"{key}: {fault}"
        if fault := ending_fault(self.terminated | self.truncated):
            return f"{'terminated' if self.terminated[:-1].any() else 'truncated'}: {fault}"
        return self._meta_fault()

    def _meta_fault(self) -> str:
        if not isinstance(self.meta, dict):
            return f"meta: expected a JSON object, got {type(self.meta).__name__}"
        seed = self.meta.get("seed", 0)
        if not isinstance(seed, int):
            return f"meta: seed is {seed!r}, expected a whole number"
        shapes = () if self.truth is None else self.truth.object_shape
        if self.truth is not None and len(shapes) != len(self.truth.object_id):
            return f"truth/object_shape: {len(shapes)} shapes for {len(self.truth.object_id)} objects, expected one each"
        return ""
