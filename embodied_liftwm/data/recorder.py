"""From what an environment gives, frame by frame, to an `Episode`: for collection and for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.gate import TRUTH_PER_FRAME, describe
from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import COLOUR, instruction_of

_STEPS: dict[str, tuple[tuple[int, ...], type]] = {
    "action": ((-1,), np.float32), "reward": ((), np.float32), "terminated": ((), np.bool_), "truncated": ((), np.bool_),
}  # fmt: skip
"""What a step holds: shape and dtype of each."""
_TRUTH: dict[str, tuple[tuple[int, ...] | None, type]] = {
    "depth": (None, np.float16), "segmentation": (None, np.uint16), "world_from_camera": ((4, 4), np.float32),
    "object_pose": ((-1, 7), np.float32), "visible_pixels": ((-1,), np.int32),
}  # fmt: skip
"""What a frame's truth may hold; `Episode.validate` knows the shape of pictures."""
_TOLD: dict[str, tuple[type, str]] = {"success": (bool, "true or false"), "shortest_path_m": (float, "metres")}
"""What `info` may tell, and what it has to be."""


class Recorder:
    """Frames and steps of a running episode, each held against those before it, in arrays that `finish` trims."""

    def __init__(self, env: Any, steps: int = 64) -> None:
        """
        Args:
            env: what is recorded; its `scene`, where it has one, is described in the truth of what `finish` gives.
            steps: for so many there is room; more make room.
        """
        self._env, self._steps = env, steps
        self._arrays: dict[str, np.ndarray] = {}
        self._intrinsics: np.ndarray | None = None
        self._infos: list[dict[str, Any]] = []
        self._truth = False
        self.frames = 0

    def add(self, obs: Any, info: dict[str, Any], *step: Any) -> None:
        """Add a frame as `liftwm_envs.contract` has it, and the step that led to it: action [A], reward, terminated, truncated.

        Raises:
            UserError: what no episode can hold, or what is unlike the frames before.
        """
        self._put("rgb", self.frames, obs["rgb"])
        self._put("world_from_camera", self.frames, self._numbers("world_from_camera", obs["world_from_camera"], (4, 4)))
        goal = obs.get("goal", ())
        goal = instruction_of(goal, COLOUR) if np.ndim(goal) == 3 else goal
        self._put("goal", self.frames, self._numbers("goal", goal, (-1,)))
        self._add_truth(info.get("truth"))
        for (name, (shape, dtype)), value in zip(_STEPS.items(), step, strict=False):
            self._put(name, self.frames - 1, self._numbers(name, value, shape, dtype))
        self._check_intrinsics(self._numbers("intrinsics", obs["intrinsics"], (3, 3)))
        self._infos.append(self._told(info))
        self.frames += 1

    def _add_truth(self, truth: Any) -> None:
        if (truth is not None) != self._truth and self.frames:
            raise UserError(f"truth: frame {self.frames} {'lacks it' if self._truth else 'has it'}, unlike those before it")
        self._truth = truth is not None
        if truth is None:
            return
        if not isinstance(truth, Mapping) or not truth or not set(truth) <= set(TRUTH_PER_FRAME):
            got = ", ".join(map(str, truth)) or "nothing" if isinstance(truth, Mapping) else type(truth).__name__
            raise UserError(f"truth: frame {self.frames}: expected some of {', '.join(TRUTH_PER_FRAME)}, got {got}")
        for name in TRUTH_PER_FRAME:
            if (name in truth) != (f"truth/{name}" in self._arrays) and self.frames:
                how = "has it" if name in truth else "lacks it"
                raise UserError(f"truth/{name}: frame {self.frames} {how}, unlike those before it")
            if name in truth:
                shape, dtype = _TRUTH[name]
                self._put(f"truth/{name}", self.frames, self._numbers(f"truth/{name}", truth[name], shape, dtype))

    def _numbers(self, name: str, value: Any, shape: tuple[int, ...] | None, dtype: type = np.float32) -> np.ndarray:
        """As an array; what is beyond float32 becomes infinite, and `Episode.validate` will find it."""
        try:
            if np.iscomplexobj(value) or isinstance(value, str) or (dtype is np.bool_ and value not in (0, 1)):
                raise TypeError
            cast = dtype is np.uint16 and getattr(value, "dtype", None) != dtype and np.size(value) > 0
            if cast and not (np.min(value) >= 0 and np.max(value) < 2**16):
                raise OverflowError
            with np.errstate(over="ignore"):
                return np.asarray(value, dtype).reshape(np.shape(value) if shape is None else shape)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor that needs its gradient
            got = describe(value) if isinstance(value, np.ndarray) else " ".join(f"'{value}'".split())[:60]
            wanted = "a number" if shape == () else "numbers" if shape in (None, (-1,)) else f"{list(shape or ())} numbers"
            wanted = {np.bool_: "true or false", np.uint16: "whole numbers from 0 to 65535"}.get(dtype, wanted)
            raise UserError(f"{name}: frame {self.frames} holds {got}, expected {wanted}") from None

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        """What `info` tells of how it goes."""
        found: dict[str, Any] = {"call": isinstance(info.get("phase"), str) and info["phase"] == "call"}
        for key, (kind, expected) in _TOLD.items():
            if (value := info.get(key)) is None:
                continue
            try:
                if isinstance(value, str):
                    raise TypeError
                found[key] = kind(value)
            except (TypeError, ValueError):
                got = " ".join(f"{value!r}".split())[:60]
                raise UserError(f"info: {key} of frame {self.frames} is {got}, expected {expected}") from None
        return found

    def _check_intrinsics(self, intrinsics: np.ndarray) -> None:
        if self._intrinsics is None:
            self._intrinsics, self._intrinsics_bytes = intrinsics.copy(), intrinsics.tobytes()
        elif intrinsics.tobytes() != self._intrinsics_bytes:
            raise UserError(f"intrinsics: changed at frame {self.frames}, expected one camera of fixed focal length")

    def _put(self, name: str, row: int, value: np.ndarray) -> None:
        rows = self._arrays.get(name)
        if rows is None:
            rows = self._arrays[name] = np.empty((self._steps + 1, *value.shape), value.dtype)
        if row >= len(rows):
            rows = self._arrays[name] = np.concatenate([rows, np.empty_like(rows)])
        if value.shape != rows.shape[1:] or value.dtype != rows.dtype:
            what, before = "step" if name in _STEPS else "frame", f"{list(rows.shape[1:])} {rows.dtype}"
            raise UserError(f"{name}: {what} {row} holds {describe(value)}, expected {before} as before")
        rows[row] = value

    def finish(self, meta: dict[str, Any]) -> Episode:
        """The episode so far; its meta is `meta` and what happened: return, frames, success, call_frame, shortest_path_m."""
        assert self._intrinsics is not None
        steps = self.frames - 1
        rows = {name: array[: steps if name in _STEPS else self.frames]
                for name, array in self._arrays.items() if not name.startswith("truth/")}  # fmt: skip
        meta |= {"return": float(rows["reward"].sum(dtype=np.float64)), "frames": self.frames, **_outcome(self._infos)}
        return Episode(**rows, intrinsics=self._intrinsics, meta=meta, truth=self._finish_truth() if self._truth else None)

    def _finish_truth(self) -> Truth:
        arrays = {name[6:]: rows[: self.frames] for name, rows in self._arrays.items() if name.startswith("truth/")}
        shown = self._env if hasattr(self._env, "scene") else self._env.unwrapped
        scene: dict[str, Any] = getattr(getattr(shown, "scene", None), "describe", dict)()
        objects = scene.get("objects") or [{"id": i} for i in _ids_in(arrays)]
        if "segmentation" in arrays and "visible_pixels" not in arrays:
            arrays["visible_pixels"] = _count_pixels(arrays["segmentation"], [o["id"] for o in objects])
        return Truth(
            **arrays,
            object_id=np.array([o["id"] for o in objects], np.int32).reshape(-1),
            object_colour=np.array([o.get("colour", (0, 0, 0)) for o in objects], np.float32).reshape(-1, 3),
            object_shape=tuple(o.get("shape", "") for o in objects),
            scene=scene,
        )


def _ids_in(arrays: Mapping[str, np.ndarray]) -> list[int]:
    """Ids of objects that nobody describes: numbered from 1 where their poses are told, else those that can be seen."""
    if "object_pose" in arrays:
        return list(range(1, arrays["object_pose"].shape[1] + 1))
    return [i for i in np.unique(arrays.get("segmentation", 0)).tolist() if i]


def _count_pixels(segmentation: np.ndarray, ids: list[int]) -> np.ndarray:
    """Pixels of each object in each frame. [F, O] int32"""
    counts = [(segmentation == i).sum((1, 2), dtype=np.int32) for i in ids]
    return np.stack(counts, axis=1) if counts else np.zeros((len(segmentation), 0), np.int32)


def _outcome(infos: list[dict[str, Any]]) -> dict[str, Any]:
    """Success, the first frame after the goal was called, and the shortest path from there; None where there is none."""
    called = next((frame for frame, info in enumerate(infos) if info["call"]), None)
    path = None if called is None else infos[called].get("shortest_path_m")
    return {
        "success": infos[-1].get("success"),
        "call_frame": called,
        "shortest_path_m": None if path is None or not np.isfinite(path) else path,
    }
