"""The gate of a model's public calls: one look at what a caller hands over, before anything is touched.

Numbers of a whole frame are judged by their least and greatest, those of cameras, goals and actions one by one; on a GPU all
of them come over in one transfer. `evaluation.checked` looks at the other side: what models return.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.pose_faults import EXACT, Fault, pose_faults
from embodied_liftwm.protocols import Camera, Observation

BRIGHTEST = 1.001
"""A pixel's largest number, rounding allowed for."""
STEEPEST = 20.0
"""Slope of a ray against the optical axis beyond which no pinhole sees: a field of view of 174 degrees."""
LONGEST_FOCAL_PX = 1e6
LARGEST_ACTION = 1e4
LARGEST_PX = 4096
"""A side of a picture."""
RIGID = 2e-2
"""How much R R' may differ from the identity: poses that were multiplied for a whole episode are still let in."""
SKEW = 1e-2
"""And how much of that may be anything but scale."""


def check_observation(observation: Observation, rows: int, size: tuple[int, int], action: int, goal: int, like: Tensor) -> None:
    """Raise UserError unless a model of frames of `size` (height, width) can take an observation.

    Args:
        observation: what the caller hands over.
        rows: batch size of the state.
        size: height and width of the model's frames, pixels.
        action, goal: how many numbers each has.
        like: a weight of the model: its dtype and device are wanted.
    """
    if not isinstance(observation, Observation):
        raise UserError(f"observation is a {type(observation).__name__}: expected a protocols.Observation")
    _check_rgb(observation.rgb, rows, size, like)
    camera, first = observation.camera, observation.is_first
    _check_form(camera, rows, like, "observation.camera")
    if (camera.height, camera.width) != size:
        raise UserError(f"observation.camera is of {camera.height} x {camera.width} pixels, its rgb of {size[0]} x {size[1]}")
    acted = not isinstance(observation.action, Tensor) or observation.action.shape[1:] != (0,)
    _check_tensor("observation.action", observation.action, (rows, action if acted else 0), "[B, A]", like)
    if observation.goal is not None:
        _check_tensor("observation.goal", observation.goal, (rows, goal), "[B, G]", like)
    if not isinstance(first, Tensor) or first.dtype != torch.bool or tuple(first.shape) != (rows,):
        raise UserError(f"observation.is_first is {_shown(first)}: expected bool [{rows}]")
    ends = torch.stack(observation.rgb.detach().aminmax())
    told = [ends, camera.intrinsics, camera.world_from_camera, observation.action]
    told += [] if observation.goal is None else [observation.goal]
    (low, high), *others = _numbers(*told)
    _check_range(float(low), float(high))
    _check_camera(others[0], others[1], camera, "observation.camera")
    _check_centre(others[0], camera)
    _check_action(others[2], "observation.action")
    if observation.goal is not None and not np.isfinite(others[3]).all():
        raise UserError(f"observation.goal is not finite: {others[3].tolist()}")


def check_camera(camera: Camera, rows: int, like: Tensor, size: tuple[int, int] | None = None) -> None:
    """Raise UserError unless `camera` can be rendered, one a row of the state, and is of `size` where that is given."""
    if not isinstance(camera, Camera):
        raise UserError(f"camera is a {type(camera).__name__}: expected a protocols.Camera")
    _check_form(camera, rows, like, "camera")
    if size is not None and (camera.height, camera.width) != size:
        raise UserError(f"camera is of {camera.height} x {camera.width} pixels: expected {size[0]} x {size[1]}")
    intrinsics, poses = _numbers(camera.intrinsics, camera.world_from_camera)
    _check_camera(intrinsics, poses, camera, "camera")


def check_action(action: Tensor, rows: int, dim: int, like: Tensor) -> None:
    """Raise UserError unless `action` is one of `dim` numbers a row of the state."""
    _check_tensor("action", action, (rows, dim), "[B, A]", like)
    _check_action(_numbers(action)[0], "action")


def _numbers(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as arrays; from another device in one transfer."""
    given = [t.detach() for t in tensors]
    if given[0].device.type == "cpu":
        return [t.numpy() for t in given]
    flat = torch.cat([t.reshape(-1) for t in given]).cpu().numpy()
    parts = np.split(flat, np.cumsum([t.numel() for t in given])[:-1])
    return [part.reshape(t.shape) for part, t in zip(parts, given, strict=True)]


def _shown(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _check_tensor(name: str, value: object, shape: tuple[int, ...], axes: str, like: Tensor) -> None:
    """Shape, dtype and device."""
    dtype = str(like.dtype).removeprefix("torch.")
    expected = f"expected {dtype} {list(shape)}, axes {axes}"
    if not isinstance(value, Tensor):
        raise UserError(f"{name} is {_shown(value)}: {expected}; torch.as_tensor makes one")
    if tuple(value.shape) != shape:
        batch = len(shape) == value.dim() and tuple(value.shape[1:]) == shape[1:]
        why = f"; the state has {shape[0]} rows" if batch else "; the batch axis is missing" if value.shape == shape[1:] else ""
        raise UserError(f"{name} is {_shown(value)}: {expected}{why}")
    if value.dtype != like.dtype:
        raise UserError(f"{name} is {_shown(value)}: {expected}")
    if value.layout != torch.strided:
        raise UserError(f"{name} is sparse: expected a plain tensor, to_dense() makes one")
    if value.device != like.device:
        raise UserError(f"{name} is on {value.device}, the model on {like.device}: move one of them with .to()")


def _check_rgb(rgb: object, rows: int, size: tuple[int, int], like: Tensor) -> None:
    height, width = size
    if isinstance(rgb, Tensor):
        shape, hint = tuple(rgb.shape), ""
        if shape in ((rows, height, width, 3), (height, width, 3)):
            hint = "colours come before rows: permute(0, 3, 1, 2)"
        elif shape == (rows, 3, width, height) and height != width:
            hint = "height comes before width"
        elif rgb.dtype == torch.uint8:
            hint = "frames of bytes are to be divided: rgb.float() / 255"
        if hint:
            raise UserError(f"observation.rgb is {_shown(rgb)}: expected float32 {[rows, 3, height, width]} in [0, 1]; {hint}")
    _check_tensor("observation.rgb", rgb, (rows, 3, height, width), "[B, 3, H, W]", like)


def _check_range(low: float, high: float) -> None:
    """Of the least and the greatest number of a frame, NaN where any is."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError("observation.rgb has pixels that are not finite: expected colours in [0, 1]")
    if low < 1.0 - BRIGHTEST or high > BRIGHTEST:
        hint = "; frames of 0 to 255 are to be divided by 255" if low >= 0 and 2.0 < high <= 255.0 else ""
        raise UserError(f"observation.rgb goes from {low:g} to {high:g}: expected colours in [0, 1]{hint}")


def _check_form(camera: object, rows: int, like: Tensor, name: str) -> None:
    if not isinstance(camera, Camera):
        raise UserError(f"{name} is a {type(camera).__name__}: expected a protocols.Camera")
    _check_tensor(f"{name}.intrinsics", camera.intrinsics, (rows, 3, 3), "[B, 3, 3]", like)
    _check_tensor(f"{name}.world_from_camera", camera.world_from_camera, (rows, 4, 4), "[B, 4, 4]", like)
    for side in ("height", "width"):
        value = getattr(camera, side)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= LARGEST_PX:
            raise UserError(f"{name}.{side} is {value!r}: expected whole pixels, 1 to {LARGEST_PX}")


def _check_camera(intrinsics: np.ndarray, poses: np.ndarray, camera: Camera, name: str) -> None:
    """Name the first row whose intrinsics [B, 3, 3] or pose [B, 4, 4] are none."""
    with np.errstate(all="ignore"):
        faults = {"intrinsics": _faults_of_intrinsics(intrinsics, camera.height, camera.width)}
        faults["world_from_camera"] = pose_faults(poses, RIGID, SKEW)
    for part, found in faults.items():
        for rows, say in found:
            if rows.any():
                row = int(rows.argmax())
                raise UserError(f"{name}.{part} of row {row} {say(row)}")


def _check_centre(intrinsics: np.ndarray, camera: Camera) -> None:
    """Of what a frame was taken with; what is rendered may be a part of a larger picture."""
    centre = intrinsics[:, :2, 2]
    outside = ((centre < 0.0) | (centre > (camera.width, camera.height))).any(1)
    if outside.any():
        row = int(outside.argmax())
        found = f"({centre[row, 0]:g}, {centre[row, 1]:g})"
        size = f"{camera.height} x {camera.width} pixels"
        raise UserError(
            f"observation.camera.intrinsics of row {row} have the principal point {found}, outside of {size}: "
            "are they those of a frame of another size?"
        )


def _faults_of_intrinsics(k: np.ndarray, height: int, width: int) -> list[Fault]:
    """What may be wrong with pinhole matrices in pixels, and in which."""
    focal, centre, sides = k[:, (0, 1), (0, 1)], k[:, :2, 2], np.array((width, height))
    bottom = np.abs(k[:, 2] - (0.0, 0.0, 1.0)).max(1) > EXACT
    slope = np.maximum(np.abs(centre), np.abs(sides - centre)) / focal
    small = (focal < 0.1 * sides).all(1) & ((centre >= 0.0) & (centre <= 1.0)).all(1)

    def seen(row: int) -> str:
        (fx, fy), (cx, cy) = focal[row].tolist(), centre[row].tolist()
        return f"focal lengths {fx:g} and {fy:g}, principal point ({cx:g}, {cy:g}), {height} x {width} pixels"

    return [
        (~np.isfinite(k).all((1, 2)), lambda row: f"are not finite: {k[row].tolist()}"),
        (bottom & ~centre.any(1), lambda row: "are transposed: the principal point belongs into the last column"),
        (bottom | (np.abs(k[:, 1, 0]) > EXACT), lambda row: f"are no (fx, s, cx), (0, fy, cy), (0, 0, 1): {k[row].tolist()}"),
        (~((focal > 0.0) & (focal <= LONGEST_FOCAL_PX)).all(1), lambda row: (
            f"have a focal length out of (0, {LONGEST_FOCAL_PX:g}] pixels: {seen(row)}")),
        (small & (min(height, width) > 8), lambda row: (
            f"are normalised: expected pixels, the first row times {width} and the second times {height}")),
        (~(slope <= STEEPEST).all(1) | ~(np.abs(k[:, 0, 1]) <= focal[:, 0]), lambda row: (
            f"see pixels at more than 87 degrees from the axis: {seen(row)}")),
    ]  # fmt: skip


def _check_action(action: np.ndarray, name: str) -> None:
    wrong = ~(np.abs(action) <= LARGEST_ACTION).all(1)  # also for NaN
    if wrong.any():
        row = int(wrong.argmax())
        expected = f"expected finite numbers of {LARGEST_ACTION:g} at most"
        raise UserError(f"{name} of row {row} is {action[row].tolist()}: {expected}")
