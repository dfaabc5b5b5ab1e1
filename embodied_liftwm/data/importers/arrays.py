"""Arrays of any origin, by the names of docs/data_format.md, as an episode: what is not given gets a meaning of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.gate import ARRAYS, TRUTH_ARRAYS, describe, pose_fault
from embodied_liftwm.data.importers.frames import Size, fit, fit_intrinsics, pinhole
from embodied_liftwm.data.importers.source import Settings
from embodied_liftwm.errors import UserError

SAME_INTRINSICS = 1e-4
"""Largest change of a focal length or principal point within an episode, as a share of itself: an episode has one camera."""
_POSES = "[F, 4, 4], [F, 16] row by row, or [F, 7] tx ty tz qx qy qz qw"
_INTRINSICS = "[3, 3], 9 numbers row by row, or 4 numbers fx fy cx cy, once or a frame each"
NEEDED = {
    "rgb": "[F, H, W, 3] uint8; another name: rgb=KEY",
    "intrinsics": f"{_INTRINSICS}; or intrinsics=fx,fy,cx,cy",
    "world_from_camera": f"{_POSES}; another name: pose=KEY",
}
_PIXELS = ("depth", "segmentation", "visible_pixels")
_STEPS = ("action", "reward", "terminated", "truncated")
_UNIT = 1e-2
"""Largest deviation of a quaternion's length from 1 that is rounding: some files have two digits."""


def choose_frames(arrays: Mapping[str, Any], settings: Settings, where: str) -> dict[str, Any]:
    """Arrays, with the frames, poses and intrinsics that the user names, or the only ones there are, by our names.

    Raises:
        UserError: no array of a name that is given.
    """
    found = dict(arrays)
    for option, key, name in (("rgb", settings.rgb, "rgb"), ("pose", settings.pose, "world_from_camera")):
        if key and key not in arrays:
            raise UserError(f"{where}: no {key}: expected {option}= one of {', '.join(filter(None, arrays))}")
        found[name] = arrays[key] if key else arrays.get(name)
    if found["rgb"] is None:
        pictures = [
            key for key, rows in arrays.items() if getattr(rows, "dtype", None) == np.uint8 and np.shape(rows)[3:] == (3,)
        ]
        found["rgb"] = arrays[pictures[0]] if len(pictures) == 1 else None
    if settings.intrinsics:
        found["intrinsics"] = settings.intrinsics
    return {name: rows for name, rows in found.items() if rows is not None}


def build_episode(
    arrays: Mapping[str, Any], size: Size | None, where: str, meta: dict[str, Any], truth: Mapping[str, Any] | None = None
) -> Episode:
    """An episode, checked by the one gate.

    Args:
        arrays: rgb [F, H, W, 3] uint8, intrinsics and world_from_camera in one of the forms above. Optional: action [T, A]
            (else the camera's own motion, a twist in the world's unit and radians, [T, 6]), reward [T] (else 0), terminated
            and truncated [T] (else the last step is truncated), goal [F, G] (else G = 0), and truth/NAME.
        size: height and width of the frames; None as they are.
        where: file and place in it, for messages.
        meta: what is known of the episode.
        truth: more arrays of truth, object_shape and scene, as JSON holds them.

    Raises:
        UserError: what is missing, or what the gate finds.
    """
    for name, expected in NEEDED.items():
        if name not in arrays:
            raise UserError(f"{where}: {name}: there is none, expected {expected}")
    rgb = np.asarray(arrays["rgb"])
    if rgb.ndim != 4 or rgb.shape[3] != 3 or rgb.dtype != np.uint8 or len(rgb) < 2:
        raise UserError(f"{where}: rgb: expected [F, H, W, 3] uint8 of at least 2 frames, got {describe(rgb)}")
    poses = as_poses(arrays["world_from_camera"], where).astype(np.float32)
    if fault := pose_fault(poses):
        raise UserError(f"{where}: world_from_camera: {fault}")
    has = (rgb.shape[1], rgb.shape[2])
    kept = size in (None, has)
    steps: dict[str, Any] = _steps_of(arrays, poses, len(rgb) - 1)
    return Episode(
        **steps,
        rgb=rgb if kept else np.stack([fit(Image.fromarray(frame), size) for frame in rgb]),
        intrinsics=fit_intrinsics(as_intrinsics(arrays["intrinsics"], where), has, size),
        world_from_camera=poses,
        goal=np.asarray(arrays.get("goal", np.zeros((len(rgb), 0))), np.float32),
        meta=meta,
        truth=_truth_of(arrays, truth or {}, kept),
    ).validate(where)


def _truth_of(arrays: Mapping[str, Any], words: Mapping[str, Any], kept: bool) -> Truth | None:
    """What is known of it; what is true of each pixel is left out where frames are resized."""
    rows: dict[str, Any] = {}
    for name, (axes, dtype) in TRUTH_ARRAYS.items():
        found = arrays.get(f"truth/{name}", words.get(name))
        if found is not None and (kept or name not in _PIXELS):
            rows[name] = np.asarray(found, dtype)
            if not rows[name].size:  # of no object, JSON does not hold the shape
                rows[name] = rows[name].reshape([{"F": len(found), "3": 3, "7": 7}.get(axis, 0) for axis in axes.split()])
    if not rows and not words:
        return None
    shapes = words.get("object_shape", [""] * len(rows.get("object_id", ())))
    return Truth(**rows, object_shape=tuple(shapes), scene=words.get("scene", {}))


def _steps_of(arrays: Mapping[str, Any], poses: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """Action, reward, terminated and truncated, as given or by their meaning where they are not."""
    last = np.arange(steps) == steps - 1
    given: dict[str, Any] = {"reward": np.zeros(steps), "terminated": ~last & last, **arrays}
    given.setdefault("truncated", last & ~np.asarray(given["terminated"], bool) if len(given["terminated"]) == steps else last)
    action = np.asarray(given["action"]) if "action" in given else camera_motion(poses)
    given["action"] = action[:, None] if action.ndim == 1 else action
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the gate finds
        return {name: np.asarray(given[name]).astype(ARRAYS[name][1]) for name in _STEPS}


def camera_motion(poses: np.ndarray) -> np.ndarray:
    """The twist from each pose [F, 4, 4] to the next: translation in the world's unit, rotation in radians. [T, 6] float32"""
    import torch  # late: who only reads episodes does without

    from embodied_liftwm.geometry.se3 import relative_twist

    exact = torch.from_numpy(poses).double()
    return relative_twist(exact[:-1], exact[1:]).numpy().astype(np.float32)


def as_poses(value: Any, where: str) -> np.ndarray:
    """Poses [F, 4, 4] float64 from any of the forms above.

    Raises:
        UserError: another form, or a quaternion that is not of length 1.
    """
    found = _numbers(value, f"{where}: world_from_camera", _POSES)
    if found.ndim == 3 and found.shape[1:] == (4, 4):
        return found
    if found.ndim != 2 or found.shape[1] not in (7, 16):
        raise UserError(f"{where}: world_from_camera: expected {_POSES}, got {list(found.shape)}")
    return found.reshape(-1, 4, 4) if found.shape[1] == 16 else poses_of_quaternions(found, where)


def poses_of_quaternions(rows: np.ndarray, where: str) -> np.ndarray:
    """Poses [F, 4, 4] float64 of rows tx ty tz qx qy qz qw [F, 7]; the gate refuses what is not finite."""
    from scipy.spatial.transform import Rotation

    length = np.linalg.norm(rows[:, 3:], axis=1)
    if (wrong := np.abs(length - 1) > _UNIT).any():
        frame = int(np.argmax(wrong))
        place = f"{where}: world_from_camera: frame {frame}"
        raise UserError(f"{place}: the quaternion has length {length[frame]:.3g}, expected 1")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    finite = np.isfinite(rows).all(1)
    poses[finite, :3, :3] = Rotation.from_quat(rows[finite, 3:]).as_matrix()
    poses[:, :3, 3] = rows[:, :3]
    poses[~finite, 0, 0] = np.nan
    return poses


def as_intrinsics(value: Any, where: str) -> np.ndarray:
    """Intrinsics [3, 3] float64 from any of the forms above.

    Raises:
        UserError: another form, or a camera that zooms.
    """
    found = _numbers(value, f"{where}: intrinsics", _INTRINSICS)
    rows = found.reshape(-1, 3, 3) if found.shape[-2:] == (3, 3) else found.reshape(-1, found.shape[-1] if found.ndim else 1)
    if found.size == 0 or (rows.ndim == 2 and rows.shape[1] not in (4, 9)):
        raise UserError(f"{where}: intrinsics: expected {_INTRINSICS}, got {list(found.shape)}")
    changed = ~(np.abs(rows - rows[0]) <= SAME_INTRINSICS * np.abs(rows[0])).reshape(len(rows), -1).all(1)
    if np.isfinite(rows[0]).all() and changed.any():
        right = "expected one camera of fixed focal length"
        raise UserError(f"{where}: intrinsics: changed at frame {int(np.argmax(changed))}, {right}")
    return pinhole(*rows[0]) if rows[0].size == 4 else rows[0].reshape(3, 3)


def _numbers(value: Any, where: str, expected: str) -> np.ndarray:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{where}: expected {expected}, got {describe(value)}") from None
