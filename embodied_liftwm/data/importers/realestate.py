"""RealEstate10K: camera text files and the frames beside them, as cameras and episodes of ours.

    CLIPS/KEY.txt              the URL of the video, then one line a frame:
                               timestamp (microseconds), fx fy cx cy (shares of the picture's width and height), two zeros,
                               and the 3 x 4 world-to-camera matrix row by row (OpenCV axes)
    CLIPS/KEY/TIMESTAMP.png    the frame, also .jpg

(Zhou et al. 2018, arXiv:1805.09817.) Translations are in the units of the clip's own reconstruction, not in metres.
Frames are cropped to their central square and resized; intrinsics follow. Pixel centres of the format lie at half-integers,
as ours do: a principal point of 0.5 is the middle of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.gate import pose_fault
from embodied_liftwm.data.importers.arrays import build_episode
from embodied_liftwm.data.importers.frames import PICTURES, Size, fit_intrinsics, pinhole, read_frames
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError

COLUMNS = 19
ROW = "a timestamp, fx fy cx cy, two zeros and 12 numbers"
LARGEST_SHARE = 16.0
"""Of fx fy cx cy: a focal length of 16 widths sees four degrees, and 16 pixels are none."""
SAME_INTRINSICS = 1e-4
"""Largest change of fx fy cx cy within a clip: an episode has one camera."""


@dataclass(frozen=True)
class CameraFile:
    """What a camera text file says."""

    url: str
    timestamps: tuple[str, ...]  # [F] as written: the names of the frames
    intrinsics: np.ndarray  # [F, 4] fx fy cx cy, shares of width and height; float64
    world_from_camera: np.ndarray  # [F, 4, 4] OpenCV, in units of the clip; float64


def read_camera_file(path: str | Path) -> CameraFile:
    """Read a camera text file; its world-to-camera matrices are inverted.

    Raises:
        UserError: no such file, or a line that is not of the format, named by its number.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark
    except OSError:
        raise UserError(f"{path}: no such camera file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a camera file of RealEstate10K: expected a URL and one line a frame") from None
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    url = ""
    if lines and not lines[0][1][0].isdecimal():  # else the line of the URL is missing or empty, and all are frames
        (number, words), *lines = lines
        if len(words) != 1 or "/" not in words[0]:
            raise UserError(f"{path}: line {number} is no URL: expected one, or a frame: {ROW}")
        url = words[0]
    if not lines:
        raise UserError(f"{path}: not a camera file of RealEstate10K: no line of numbers after the first")
    rows = [_row(path, number, words) for number, words in lines]
    timestamps, numbers = tuple(row[0] for row in rows), np.array([row[1] for row in rows])
    if len(set(timestamps)) < len(timestamps):
        twice = max(timestamps, key=timestamps.count)
        raise UserError(f"{path}: timestamp {twice} stands in several lines: expected each frame once")
    rotation, translation = np.split(numbers[:, 6:].reshape(-1, 3, 4), [3], axis=2)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = np.swapaxes(rotation, 1, 2)  # the inverse of a rigid motion, which it is checked to be
    with np.errstate(all="ignore"):
        poses[:, :3, 3:] = -np.swapaxes(rotation, 1, 2) @ translation
    if fault := pose_fault(poses):
        raise UserError(f"{path}: world_from_camera: {fault}")
    return CameraFile(url, timestamps, numbers[:, :4], poses)


def _row(path: Path, number: int, words: list[str]) -> tuple[str, list[float]]:
    try:
        if len(words) != COLUMNS or not words[0].isdecimal() or any("_" in word for word in words):  # float takes 0_8 for 8
            raise ValueError
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        raise UserError(f"{path}: line {number}: expected {ROW}, got {' '.join(words)[:40]!r}") from None
    shares = " ".join(words[1:5])
    if max(map(abs, numbers[:4])) > LARGEST_SHARE:
        right = "expected shares of the picture's width and height"
        raise UserError(f"{path}: line {number}: fx fy cx cy = {shares} are pixels: {right}")
    if any(numbers[4:6]):
        raise UserError(f"{path}: line {number}: distortion {' '.join(words[5:7])}: expected two zeros, a camera without any")
    return words[0], numbers


def frame_files(cameras: CameraFile, folder: Path, frames: Sequence[int]) -> list[Path]:
    """The pictures of chosen frames.

    Raises:
        UserError: frames without a picture, counted, the first one named.
    """
    found = [next((p for s in PICTURES if (p := folder / f"{cameras.timestamps[f]}{s}").is_file()), None) for f in frames]
    missing = [cameras.timestamps[f] for f, path in zip(frames, found, strict=True) if path is None]
    if missing:
        raise UserError(f"{folder}: {len(missing)} of {len(found)} frames have no picture, the first is {missing[0]}.png")
    return [path for path in found if path is not None]


def read_clip(path: str | Path, size: int | Size | None, frames: Sequence[int] | None = None) -> Episode:
    """A clip, or chosen frames of it, as an episode without truth.

    Actions are the camera's own motion: the twist (units of the clip, radians) from each frame to the next, [T, 6].

    Args:
        path: KEY.txt; the frames lie in the folder KEY beside it.
        size: pixels a side of the frames, or their height and width; None as they are.
        frames: their numbers, in order; all by default.

    Raises:
        UserError: a file of another format, frames that are missing, or a camera that zooms.
    """
    path, size = Path(path), (size, size) if isinstance(size, int) else size
    cameras = read_camera_file(path)
    chosen = list(range(len(cameras.timestamps)) if frames is None else frames)
    if len(chosen) < 2 or min(chosen) < 0 or max(chosen) >= len(cameras.timestamps):
        raise UserError(
            f"{path}: asked for frames {chosen}: it has 0 to {len(cameras.timestamps) - 1}, and an episode at least 2"
        )
    rgb, has = read_frames(frame_files(cameras, path.with_suffix(""), chosen), size)
    first = cameras.intrinsics[chosen[0]]
    changed = ~(np.abs(cameras.intrinsics[chosen] - first).max(1) <= SAME_INTRINSICS)
    if np.isfinite(first).all() and changed.any():
        frame = chosen[int(np.argmax(changed))]
        raise UserError(f"{path}: intrinsics: changed at frame {frame}, expected one camera of fixed focal length")
    found = {
        "rgb": rgb,
        "intrinsics": fit_intrinsics(pinhole(*first * [has[1], has[0], has[1], has[0]]), has, size),
        "world_from_camera": cameras.world_from_camera[chosen],
    }
    meta = {"env": "RealEstate10K", "clip": path.stem, "url": cameras.url, "frames": chosen}
    return build_episode(found, None, str(path), meta)


def recognises(source: Path) -> bool:
    """Whether a folder holds camera files, or at least text files that may be."""
    return any(source.glob("*.txt"))


def open_source(source: Path, settings: Settings) -> Source:
    """All clips of a folder of the layout above.

    Raises:
        UserError: no clip.
    """
    clips = sorted(source.glob("*.txt"))
    if not clips:
        raise UserError(f"{source}: no camera file of RealEstate10K (KEY.txt) in it")
    return Source({"env": "RealEstate10K"}, [(clip.stem, partial(read_clip, clip, settings.size)) for clip in clips])
