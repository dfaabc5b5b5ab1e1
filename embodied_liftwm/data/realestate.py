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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from embodied_liftwm.data.episode import Episode, pose_problem
from embodied_liftwm.data.storage import FORMAT, INFO, read_info, scan, write_episode, write_info
from embodied_liftwm.errors import UserError

COLUMNS = 19
PICTURES = (".png", ".jpg", ".jpeg")
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
        url, *lines = path.read_text().strip().splitlines()
    except OSError:
        raise UserError(f"{path}: no such camera file") from None
    except ValueError:
        raise UserError(f"{path}: not a camera file of RealEstate10K: expected a URL and one line a frame") from None
    if not lines:
        raise UserError(f"{path}: not a camera file of RealEstate10K: no line of numbers after the first")
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=2)]
    numbers = np.array([row[1] for row in rows])
    camera_from_world = np.tile(np.eye(4), (len(rows), 1, 1))
    camera_from_world[:, :3] = numbers[:, 6:].reshape(-1, 3, 4)
    problem = pose_problem(camera_from_world)
    if problem:
        raise UserError(f"{path}: the world-to-camera matrix {problem}")
    return CameraFile(url.strip(), tuple(row[0] for row in rows), numbers[:, :4], np.linalg.inv(camera_from_world))


def _row(path: Path, number: int, line: str) -> tuple[str, list[float]]:
    words = line.split()
    try:
        if len(words) != COLUMNS or not words[0].isdigit():
            raise ValueError
        return words[0], [float(word) for word in words[1:]]
    except ValueError:
        raise UserError(
            f"{path}: line {number}: expected a timestamp, fx fy cx cy, two zeros and 12 numbers, got {line[:40]!r}"
        ) from None


def square_intrinsics(normalised: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Intrinsics of the central square of a picture, resized.

    Args:
        normalised: fx fy cx cy as shares of width and height. [4]
        width: of the picture, pixels.
        height: of the picture, pixels.
        size: pixels a side of the result.

    Returns:
        Pixels. [3, 3] float32
    """
    fx, fy, cx, cy = normalised * [width, height, width, height]
    side = min(width, height)
    scale = size / side
    left, top = (width - side) // 2, (height - side) // 2
    return np.array([[fx * scale, 0, (cx - left) * scale], [0, fy * scale, (cy - top) * scale], [0, 0, 1]], np.float32)


def read_square(path: Path, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture's central square, resized, and the width and height it had.

    Returns:
        [size, size, 3] uint8, and (width, height).

    Raises:
        UserError: no such picture, or a file that is none.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            square = picture.convert("RGB").crop((left, top, left + side, top + side))
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({str(error).splitlines()[0]})") from None
    if side != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square, np.uint8).copy(), (width, height)


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


def read_clip(path: str | Path, size: int, frames: Sequence[int] | None = None) -> Episode:
    """A clip, or chosen frames of it, as an episode without truth.

    Actions are the camera's own motion: the twist (units of the clip, radians) from each frame to the next, [T, 6].

    Args:
        path: KEY.txt; the frames lie in the folder KEY beside it.
        size: pixels a side of the frames.
        frames: their numbers, in order; all by default.

    Raises:
        UserError: a file of another format, frames that are missing, or a camera that zooms.
    """
    path = Path(path)
    cameras = read_camera_file(path)
    chosen = list(range(len(cameras.timestamps)) if frames is None else frames)
    if len(chosen) < 2 or min(chosen) < 0 or max(chosen) >= len(cameras.timestamps):
        raise UserError(
            f"{path}: asked for frames {chosen}: it has 0 to {len(cameras.timestamps) - 1}, and an episode at least 2"
        )
    pictures = [read_square(file, size) for file in frame_files(cameras, path.with_suffix(""), chosen)]
    if len({shape for _, shape in pictures}) > 1:
        raise UserError(f"{path.with_suffix('')}: pictures of different sizes: {sorted({shape for _, shape in pictures})}")
    if np.ptp(cameras.intrinsics[chosen], axis=0).max() > SAME_INTRINSICS:
        raise UserError(f"{path}: the intrinsics change within the clip: an episode has one camera")
    poses = cameras.world_from_camera[chosen].astype(np.float32)
    return _episode(
        np.stack([rgb for rgb, _ in pictures]),
        square_intrinsics(cameras.intrinsics[chosen[0]], *pictures[0][1], size),
        poses,
        {"env": "RealEstate10K", "clip": path.stem, "url": cameras.url, "frames": chosen},
    )


def _episode(rgb: np.ndarray, intrinsics: np.ndarray, poses: np.ndarray, meta: dict[str, Any]) -> Episode:
    import torch  # late: who only reads episodes does without

    from embodied_liftwm.geometry.se3 import relative_twist

    exact = torch.from_numpy(poses).double()
    steps = len(poses) - 1
    return Episode(
        rgb=rgb,
        action=relative_twist(exact[:-1], exact[1:]).numpy().astype(np.float32),
        reward=np.zeros(steps, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        intrinsics=intrinsics,
        world_from_camera=poses,
        goal=np.zeros((steps + 1, 0), np.float32),
        meta=meta,
    ).validate(str(meta["clip"]))


def import_clips(
    source: str | Path, out: str | Path, size: int, tell: Callable[[int, int], object] = lambda done, total: None
) -> tuple[int, list[str]]:
    """Bring all clips of a folder into a dataset; what is there already is not done again.

    Args:
        source: folder of the layout above.
        out: dataset folder.
        size: pixels a side of the frames.
        tell: called before each clip with its number, from 1, and how many there are.

    Returns:
        How many episodes the dataset holds, and why a clip was left out, a line each.

    Raises:
        UserError: no clip, or a dataset of something else in `out`.
    """
    source, out = Path(source), Path(out)
    clips = sorted(source.glob("*.txt"))
    if not clips:
        raise UserError(f"{source}: no camera file of RealEstate10K (KEY.txt) in it")
    info = {"format": FORMAT, "env": "RealEstate10K", "image_size": size, "clips": [clip.stem for clip in clips]}
    if (out / INFO).exists() and read_info(out) != info:
        raise UserError(f"{out} holds another dataset: choose another out=")
    write_info(out, info)
    there, left_out = set(scan(out)), []
    for index, clip in enumerate(clips):
        tell(index + 1, len(clips))
        if index in there:
            continue
        try:
            write_episode(out, index, read_clip(clip, size))
        except UserError as problem:
            left_out.append(str(problem))
    held = len(scan(out))
    if not held:
        raise UserError(f"{source}: no whole clip in it: {left_out[0]}")
    return held, left_out
