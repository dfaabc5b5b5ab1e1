"""Paths of a camera from where it starts, and which of their steps come back to where an earlier one was.

A named path lies in the plane that the starting camera's x and z axes span, so that it needs no notion of up; it is turned
and moved to any start. It goes from waypoint to waypoint in equal steps:

    yaw-ANGLE            turns right by so many degrees on the spot, and back
    out-and-back-METRES  straight ahead, and back the same way
    aba-METRES           ahead and to the right, turning left by 45 degrees, and back
    abca-METRES          by two places, and home from the second: a triangle
    loop-METRES          once around a circle of this radius, facing ahead; only its last step comes back

`out-METRES` is short for out-and-back; a number left out is 90 degrees or 0.5 m.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from embodied_liftwm.data.gate import pose_fault
from embodied_liftwm.data.importers.realestate import read_camera_file
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json

NAMES = ("yaw", "out-and-back", "out", "aba", "abca", "loop")
SUFFIXES = (".txt", ".npy", ".json")
EXACT_M, EXACT_RAD = 1e-4, 1e-4
"""Steps of a made path that are no further apart are at one place."""
RECORDED_M, RECORDED_RAD = 0.1, math.radians(5)
"""Of a recorded path, which never comes back exactly: half a step of our bodies, and a third of a turn."""


@dataclass(frozen=True)
class CameraPath:
    """Where a camera goes: poses, and what counts as coming back."""

    name: str
    poses: np.ndarray  # [T + 1, 4, 4] world_from_camera, the start first; float64
    near_m: float = EXACT_M
    near_rad: float = EXACT_RAD

    def __len__(self) -> int:
        """Number of steps, T: poses after the start."""
        return len(self.poses) - 1

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(step, earlier step): each step that comes back, with the first step that was at its place.

        A camera comes back when it is near the place and has been away from it in between; one that stays has not left.
        """
        return tuple(_revisits(self.metres_apart <= self.near_m, self.radians_apart <= self.near_rad))

    @cached_property
    def metres_apart(self) -> np.ndarray:
        """Distance between the positions of any two steps. [T + 1, T + 1]"""
        centres = self.poses[:, :3, 3]
        return np.linalg.norm(centres[:, None] - centres, axis=-1)

    @cached_property
    def radians_apart(self) -> np.ndarray:
        """Angle between the orientations of any two steps. [T + 1, T + 1]"""
        flat = self.poses[:, :3, :3]
        # the chord |Ra - Rb| = sqrt(8) sin(angle / 2) is exact near zero, where the arc cosine of the trace is not
        chord = np.linalg.norm((flat[:, None] - flat).reshape(len(flat), len(flat), 9), axis=-1)
        return 2 * np.arcsin(np.clip(chord / math.sqrt(8), 0, 1))

    @property
    def metres(self) -> np.ndarray:
        """Way travelled up to each step. [T + 1]"""
        return np.concatenate([[0.0], np.cumsum(np.diagonal(self.metres_apart, 1))])

    @property
    def degrees(self) -> np.ndarray:
        """Angle turned up to each step. [T + 1]"""
        return np.degrees(np.concatenate([[0.0], np.cumsum(np.diagonal(self.radians_apart, 1))]))

    def farthest(self) -> int:
        """The step farthest from the start, a radian counting as a metre."""
        return int(np.argmax(self.metres_apart[0] + self.radians_apart[0]))

    def back(self) -> int:
        """The last step that comes back to the start; the last step of a path that does not."""
        return max((step for step, place in self.pairs if place == 0), default=len(self))

    def starting_at(self, start: np.ndarray, metres_per_unit: float = 1.0) -> CameraPath:
        """The same way from another start.

        Args:
            start: world_from_camera. [4, 4]
            metres_per_unit: by which translations are multiplied.
        """
        relative = np.linalg.inv(self.poses[0]) @ self.poses
        relative[:, :3, 3] *= metres_per_unit
        return CameraPath(self.name, np.asarray(start, np.float64) @ relative, self.near_m, self.near_rad)


def named_path(name: str, steps: int) -> CameraPath:
    """A path by its name, from the identity pose.

    Args:
        name: as at the top of this module.
        steps: from one waypoint to the next; a circle has four times as many.

    Raises:
        UserError: no such path; the nearest one is named.
    """
    match = re.fullmatch(rf"({'|'.join(sorted(NAMES, key=len, reverse=True))})(?:-(\d+(?:\.\d+)?))?", name)
    amount = float(match[2]) if match and match[2] else None
    if match is None:
        raise UserError(f"path={name}: {_nearest(name)}")
    if amount == 0:
        raise UserError(f"path={name}: the number must be above 0")
    if steps < 1:
        raise UserError(f"steps={steps}: must be at least 1")
    kind = "out-and-back" if match[1] == "out" else match[1]
    if kind == "yaw" and (amount or 0) > 360:
        raise UserError(f"path={name}: turns by at most 360 degrees")
    if kind == "loop":
        return CameraPath(name, _circle(0.5 if amount is None else amount, 4 * steps))
    return CameraPath(name, _through(_waypoints(kind, amount), steps))


def _nearest(name: str) -> str:
    examples = ("yaw-90", "yaw-45", "yaw-180", "out-and-back-1", "out-1", "aba-0.5", "abca-0.5", "loop-0.5", "recorded", *NAMES)
    close = difflib.get_close_matches(name, examples, 1, 0.5)
    if close and close[0] != name:
        return f"no such path, did you mean '{close[0]}'?"
    return f"expected one of {', '.join(f'{known}-NUMBER' for known in NAMES)}, recorded, or a file {' | '.join(SUFFIXES)}"


def _waypoints(kind: str, amount: float | None) -> np.ndarray:
    """Metres to the right, metres ahead, radians to the right. [K, 3]"""
    if kind == "yaw":
        away = [[0.0, 0.0, math.radians(90 if amount is None else amount)]]
    else:
        metres = 0.5 if amount is None else amount
        away = {
            "out-and-back": [[0.0, metres, 0.0]],
            "aba": [[metres / 2, metres, -math.pi / 4]],
            "abca": [[metres / 2, metres, -math.pi / 4], [-metres / 2, metres, math.pi / 4]],
        }[kind]
    return np.array([[0.0] * 3, *away, [0.0] * 3])


def _through(waypoints: np.ndarray, steps: int) -> np.ndarray:
    """Poses from waypoint to waypoint in equal steps. [(K - 1) * steps + 1, 4, 4]"""
    shares = np.arange(1, steps + 1)[:, None] / steps
    legs = [a + shares * (b - a) for a, b in zip(waypoints, waypoints[1:], strict=False)]
    return _planar(np.concatenate([waypoints[:1], *legs]))


def _circle(radius: float, steps: int) -> np.ndarray:
    """Poses around a circle whose middle lies to the right, facing along it."""
    angle = np.linspace(0, 2 * math.pi, steps + 1)
    return _planar(np.stack([radius * (1 - np.cos(angle)), radius * np.sin(angle), angle], -1))


def _planar(places: np.ndarray) -> np.ndarray:
    """Poses [T, 4, 4] of (metres right, metres ahead, radians right) [T, 3] in the frame of an OpenCV camera, y down."""
    right, ahead, turn = places.T
    poses = np.tile(np.eye(4), (len(places), 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(turn)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(turn), -np.sin(turn)
    poses[:, 0, 3], poses[:, 2, 3] = right, ahead
    return poses


def _revisits(near_m: np.ndarray, near_rad: np.ndarray) -> list[tuple[int, int]]:
    near, found = near_m & near_rad, []
    for step in range(1, len(near)):
        earlier = np.flatnonzero(near[step, :step])
        if len(earlier) and not near[earlier[0], earlier[0] : step].all():
            found.append((step, int(earlier[0])))
    return found


def read_path(path: str | Path) -> CameraPath:
    """A path from a file: RealEstate10K's camera text (.txt), or world_from_camera [T, 4, 4] (.npy, nested lists in .json).

    Raises:
        UserError: no such file, of another kind or shape, or poses that are no rigid motions.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"path={path}: expected a file {' | '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"path={path}: no such file")
    poses = read_camera_file(path).world_from_camera if path.suffix == ".txt" else _stored_poses(path)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) < 2:
        raise UserError(f"{path}: expected poses [T, 4, 4] with T >= 2, got {list(poses.shape)}")
    if fault := pose_fault(poses):
        raise UserError(f"{path}: world_from_camera: {fault}")
    return recorded_path(path.stem, poses)


def _stored_poses(path: Path) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_json(path)
        return np.asarray(stored, np.float64)
    except UserError:
        raise
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as poses [T, 4, 4] ({reason})") from None


def recorded_path(name: str, poses: np.ndarray) -> CameraPath:
    """A path that a camera really went: it comes back when it is within 0.1 m and 5 degrees. Poses [T + 1, 4, 4]."""
    return CameraPath(name, np.asarray(poses, np.float64), RECORDED_M, RECORDED_RAD)
