"""nerfstudio's `transforms.json` and the pictures it names (its page "data conventions"; also instant-ngp's and NeRF's own).

    SOURCE/transforms.json, or one in each folder of SOURCE: an episode each
    fl_x fl_y cx cy            pixels, or camera_angle_x in radians; at the top or in each frame
    frames                     file_path, and transform_matrix: camera to world, OpenGL axes (x right, y up, z backward)

Frames come in the order of their file names, as there. Actions are the camera's own motion. Units are those of the file.
`depth_file_path` of all frames, in millimetres, becomes truth, where frames are not resized.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.arrays import as_intrinsics, build_episode
from embodied_liftwm.data.importers.frames import Size, fit_intrinsics, read_frames
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json

FILE = "transforms.json"
OURS = "liftwm"
"""Key of what our own exports say beside the format: `dataset` and `meta`."""
OPENGL = np.array([1.0, -1, -1, 1])
"""Signs of the columns of a pose with OpenCV axes in one with OpenGL's, and back."""
PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
UNDISTORTED = "expected a camera without distortion; undistort the pictures first"
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def recognises(source: Path) -> bool:
    """Whether there is a `transforms.json`."""
    return bool(_files(source))


def _files(source: Path) -> list[Path]:
    if source.suffix == ".json":
        return [source] if source.is_file() else []
    return [source / FILE] if (source / FILE).is_file() else sorted(source.glob(f"*/{FILE}"))


def open_source(source: Path, settings: Settings) -> Source:
    """All `transforms.json` of a folder.

    Raises:
        UserError: there is none, or the first cannot be read.
    """
    files = _files(source)
    if not files:
        raise UserError(f"{source}: no {FILE} in it, or in a folder of it")
    said = _read(files[0]).get(OURS, {}).get("dataset", {})
    clips = [(path.parent.name if path.name == FILE else path.stem, partial(_clip, path, settings.size)) for path in files]
    return Source({"env": "nerfstudio", "source_format": "nerfstudio", **said}, clips)


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{path}: not nerfstudio's format: expected frames, a list of objects")
    for number, frame in enumerate(frames):
        if not isinstance(frame.get("file_path"), str):
            raise UserError(f"{path}: frame {number}: no file_path")
        if np.shape(frame.get("transform_matrix")) != (4, 4):
            raise UserError(f"{path}: frame {number}: transform_matrix: expected 4 x 4 numbers")
    return found


def _clip(path: Path, size: Size | None) -> Episode:
    said = _read(path)
    frames = sorted(said["frames"], key=lambda frame: frame["file_path"])
    if (model := said.get("camera_model", PINHOLE[0])) not in PINHOLE:
        raise UserError(f"{path}: camera_model is {model}: {UNDISTORTED}")
    for frame in (said, *frames):
        if bent := [key for key in DISTORTION if frame.get(key)]:
            raise UserError(f"{path}: {frame.get('file_path', '')} {bent[0]} is {frame[bent[0]]}: {UNDISTORTED}")
    rgb, has = read_frames([_picture(path, frame["file_path"]) for frame in frames], size)
    k = as_intrinsics([_intrinsics(f"{path}: {frame['file_path']}", said | frame, has) for frame in frames], str(path))
    found = {
        "rgb": rgb,
        "intrinsics": fit_intrinsics(k, has, size),
        "world_from_camera": np.array([frame["transform_matrix"] for frame in frames], np.float64) * OPENGL,
    }
    if size is None and all("depth_file_path" in frame for frame in frames):
        found["truth/depth"] = np.stack([_depth(path.parent / str(frame["depth_file_path"])) for frame in frames])
    return build_episode(found, None, str(path), said.get(OURS, {}).get("meta", {"clip": path.parent.name}))


def _depth(path: Path) -> np.ndarray:
    """Metres, of a picture of millimetres."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture, np.float64) / 1000
    except Exception as error:  # each decoder has its own for a damaged file
        raise UserError(f"{path}: cannot be read as a picture of depth ({type(error).__name__})") from None


def _picture(path: Path, name: str) -> Path:
    found = path.parent / name
    return found if found.suffix else found.with_suffix(".png")  # NeRF's own files leave it out


def _intrinsics(where: str, said: dict[str, Any], has: Size) -> tuple[float, float, float, float]:
    """fx fy cx cy of a frame, pixels of the picture as it is."""

    def number(key: str, default: float) -> float:
        try:
            return float(said.get(key, default))
        except (TypeError, ValueError):
            raise UserError(f"{where}: {key} is {said[key]!r}, expected a number") from None

    height, width = has
    if (told := (number("h", height), number("w", width))) != has:
        raise UserError(f"{where} is {height} x {width}, and h x w in the file {told[0]:g} x {told[1]:g}")
    if "fl_x" not in said and "camera_angle_x" not in said:
        raise UserError(f"{where}: no focal length: expected fl_x, in pixels, or camera_angle_x, in radians")
    angle = math.tan(number("camera_angle_x", 0) / 2)
    fx = number("fl_x", width / 2 / angle if angle else math.inf)
    return fx, number("fl_y", fx), number("cx", width / 2), number("cy", height / 2)
