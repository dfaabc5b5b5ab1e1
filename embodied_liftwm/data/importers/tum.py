"""Pictures or a video, and a file of poses in TUM's format (Sturm et al. 2012, the RGB-D benchmark).

    SOURCE/*.png               or in SOURCE/rgb, SOURCE/images, SOURCE/frames; also .jpg; or SOURCE is an mp4
    SOURCE/groundtruth.txt     or poses=NAME: `timestamp tx ty tz qx qy qz qw` a line, world_from_camera; # begins a comment
    SOURCE/rgb.txt             optional: `timestamp filename` a line

As many pictures as poses belong together in order. Else each picture takes the pose nearest in time, within 0.02 s, and those
without one are left out; the time of a picture stands in rgb.txt or is its name. Intrinsics are given: intrinsics=fx,fy,cx,cy.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.arrays import build_episode, poses_of_quaternions
from embodied_liftwm.data.importers.frames import PICTURES, Size, fit, fit_intrinsics, pinhole, read_frames
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError

POSES = "groundtruth.txt"
FOLDERS = ("", "rgb", "images", "frames")
NEAR_S = 0.02
"""Between a picture and its pose: what the benchmark's own associate.py allows."""
ROW = "timestamp tx ty tz qx qy qz qw"


def recognises(source: Path) -> bool:
    """Whether it is a video, or a folder with poses of the format's own name."""
    return _is_video(source) or (source / POSES).is_file()


def _is_video(source: Path) -> bool:
    return source.is_file() and source.suffix.lower() == ".mp4"


def open_source(source: Path, settings: Settings) -> Source:
    """The one episode of a folder or a video.

    Raises:
        UserError: no intrinsics, poses or pictures.
    """
    if settings.intrinsics is None:
        raise UserError(f"{source}: the format has no intrinsics: give those of the frames as they are, intrinsics=fx,fy,cx,cy")
    folder = source.parent if _is_video(source) else source
    named = [folder / settings.poses, Path(settings.poses)] if settings.poses else [folder / POSES]
    poses = next((path for path in named if path.is_file()), None)
    if poses is None:
        raise UserError(f"{named[0]}: no such file of poses: name it, poses=FILE")
    read = partial(_clip, source, poses, pinhole(*settings.intrinsics), settings.size)
    return Source({"env": "TUM", "source_format": "tum"}, [(source.stem, read)])


def _clip(source: Path, poses: Path, k: np.ndarray, size: Size | None) -> Episode:
    times, found = read_poses(poses)
    left_out = 0
    if _is_video(source):
        rgb, has = _read_video(source, size)
        if len(rgb) != len(found):
            raise UserError(f"{source}: {len(rgb)} frames, and {poses} has {len(found)} poses: expected one each")
    else:
        files, taken = _pictures(source)
        if len(files) != len(found):
            nearest = _nearest(_times(files, taken), times)
            chosen = nearest >= 0
            left_out = int((~chosen).sum())
            files, found = [file for file, near in zip(files, chosen, strict=True) if near], found[nearest[chosen]]
        if len(files) < 2:
            found_near = f"{len(files)} of its pictures lie within {NEAR_S} s of a pose of {poses}"
            raise UserError(f"{source}: {found_near}, expected at least 2")
        rgb, has = read_frames(files, size)
    world_from_camera = poses_of_quaternions(found, str(poses))
    arrays = {"rgb": rgb, "intrinsics": fit_intrinsics(k, has, size), "world_from_camera": world_from_camera}
    return build_episode(arrays, None, str(poses), {"clip": source.stem, "frames_without_pose": left_out})


def read_poses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps [P] in seconds, and rows tx ty tz qx qy qz qw [P, 7], in order of time.

    Raises:
        UserError: a line that is not of the format, named by its number.
    """
    rows = np.array([numbers for _, numbers in _lines(path, 8, ROW)], np.float64).reshape(-1, 8)
    if not len(rows):
        raise UserError(f"{path}: no pose in it: expected {ROW} a line")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return rows[:, 0], rows[:, 1:]


def _lines(path: Path, numbers: int, row: str) -> list[tuple[list[str], list[float]]]:
    """Words and leading numbers of each line that is no comment."""
    found = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if len(words) < numbers:
                raise ValueError
            found.append((words, [float(word) for word in words[:numbers]]))
        except ValueError:
            raise UserError(f"{path}: line {number}: expected {row}, got {' '.join(words)[:40]!r}") from None
    return found


def _pictures(source: Path) -> tuple[list[Path], list[float | None]]:
    """Pictures in order, and when each was taken, where that is said: in rgb.txt, else by names that are numbers."""
    if (listing := source / "rgb.txt").is_file():
        lines = _lines(listing, 1, "timestamp filename")
        return [source / words[-1] for words, _ in lines], [numbers[0] for _, numbers in lines]
    for folder in FOLDERS:
        files = sorted(path for path in (source / folder).glob("*") if path.suffix in PICTURES)
        times = [_number(file.stem) for file in files]
        if files and None not in times:
            order = np.argsort(np.array(times, float), kind="stable")
            return [files[i] for i in order], [times[i] for i in order]
        if files:
            return files, times
    raise UserError(f"{source}: no pictures in it, or in {', '.join(FOLDERS[1:])} of it")


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _times(files: list[Path], taken: list[float | None]) -> np.ndarray:
    """When each picture was taken, seconds. [F]"""
    if None in taken:
        right = "expected as many pictures as poses, rgb.txt, or names that are timestamps"
        raise UserError(f"{files[taken.index(None)]}: it is not said when it was taken: {right}")
    return np.array(taken, np.float64)


def _nearest(wanted: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The entry of sorted `times` [P] nearest to each of `wanted` [F], -1 where none is near. [F] int"""
    after = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    pairs = np.stack([after - 1, np.minimum(after, len(times) - 1)])
    best = np.take_along_axis(pairs, np.abs(times[pairs] - wanted).argmin(0)[None], 0)[0]
    return np.where(np.abs(times[best] - wanted) <= NEAR_S, best, -1)


def _read_video(path: Path, size: Size | None) -> tuple[np.ndarray, Size]:
    import av

    try:
        with av.open(str(path)) as video:
            frames, has = [], (0, 0)
            for frame in video.decode(video=0):
                has = (frame.height, frame.width)
                frames.append(fit(Image.fromarray(frame.to_ndarray(format="rgb24")), size))
    except (av.FFmpegError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a video ({error})") from None
    if not frames:
        raise UserError(f"{path}: a video without frames")
    return np.stack(frames), has
