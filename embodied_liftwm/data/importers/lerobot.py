"""LeRobot's datasets, format v3.0: SOURCE holds meta/info.json. Read with pyarrow, videos with PyAV; LeRobot is not needed.

A row is a frame with the action taken there; the action of an episode's last row leads to no frame, and is left out. The
camera: `observation.world_from_camera`, or pose=FEATURE; `observation.intrinsics`, or intrinsics=fx,fy,cx,cy. Frames: the one
feature that is an image or a video, or rgb=FEATURE. Also read: `next.reward`, `next.terminated`, `next.truncated`,
`observation.goal`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.arrays import build_episode
from embodied_liftwm.data.importers.frames import fit
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import parse_json, read_json

INFO, EPISODES, LIFTWM = "meta/info.json", "meta/episodes", "meta/liftwm.json"
OURS = "liftwm"
"""Column of what our own exports say of each episode in words."""
CAMERA = "observation.images.camera"
KEYS = {
    "rgb": CAMERA, "world_from_camera": "observation.world_from_camera", "intrinsics": "observation.intrinsics",
    "goal": "observation.goal", "action": "action", "reward": "next.reward", "terminated": "next.terminated",
    "truncated": "next.truncated",
}  # fmt: skip
"""Names of ours -> features of our exports."""
_STEPS = ("action", "reward", "terminated", "truncated")


@dataclass(frozen=True)
class _Dataset:
    folder: Path
    info: dict[str, Any]
    camera: str  # feature of the frames
    keys: dict[str, str]  # name of ours -> feature, of those that are there
    settings: Settings


def library() -> tuple[Any, Any]:
    """pyarrow, and its Parquet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("pyarrow is not here: install the extra `data` of embodied-liftwm") from None
    return pyarrow, pyarrow.parquet


def recognises(source: Path) -> bool:
    """Whether there is a `meta/info.json`."""
    return (source / INFO).is_file()


def open_source(source: Path, settings: Settings) -> Source:
    """All episodes of a dataset.

    Raises:
        UserError: another version of the format, or features that are not there.
    """
    if not recognises(source):
        raise UserError(f"{source}: no {INFO} in it")
    info = read_json(source / INFO)
    if not isinstance(info, dict) or not str(info.get("codebase_version")).startswith("v3.") or "features" not in info:
        found = info.get("codebase_version") if isinstance(info, dict) else type(info).__name__
        raise UserError(f"{source / INFO}: format {found}, expected LeRobot's v3.0: convert it with LeRobot's own script")
    features = info["features"]
    pictures = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    camera = settings.rgb or (pictures[0] if len(pictures) == 1 else "")
    if camera not in pictures:
        named = f"no image or video feature {camera}" if camera else f"{len(pictures)} features are images or videos"
        raise UserError(f"{source}: {named}: expected rgb= one of {', '.join(pictures) or 'none: it has no frames'}")
    keys = {name: key for name, key in KEYS.items() if key in features and name != "rgb"}
    if settings.pose:
        if settings.pose not in features:
            raise UserError(f"{source}: no feature {settings.pose}: expected pose= one of {', '.join(features)}")
        keys["world_from_camera"] = settings.pose
    keys |= {name.replace(".", "/"): name for name in features if name.startswith("truth.")}
    dataset = _Dataset(source, info, camera, keys, settings)
    outlines = _outlines(source)
    clips = [(f"episode_{outline['episode_index']}", partial(_clip, dataset, outline)) for outline in outlines]
    said = read_json(source / LIFTWM) if (source / LIFTWM).is_file() else {}
    return Source({"env": str(info.get("robot_type")), "source_format": "lerobot", **said}, clips)


def _outlines(source: Path) -> list[dict[str, Any]]:
    """What is said of each episode, but for its statistics."""
    found = []
    for path in sorted((source / EPISODES).glob("*/*.parquet")):
        table = _read(path)
        found += table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
    if not found:
        raise UserError(f"{source / EPISODES}: no episode in it")
    return sorted(found, key=lambda outline: outline["episode_index"])


def _read(path: Path, **options: Any) -> Any:
    try:
        return library()[1].read_table(path, **options)
    except Exception as error:  # pyarrow's own kinds, and those of the disk
        raise UserError(f"{path}: cannot be read as Parquet ({(str(error).splitlines() or [''])[0]})") from None


def _clip(dataset: _Dataset, outline: dict[str, Any]) -> Episode:
    index, settings = outline["episode_index"], dataset.settings
    path = dataset.folder / _named(dataset.info["data_path"], outline, "data")
    where = f"{path}: episode {index}"
    video = dataset.info["features"][dataset.camera]["dtype"] == "video"
    names = [*dataset.keys.values(), *([] if video else [dataset.camera])]
    table = _read(path, columns=["frame_index", *names], filters=[("episode_index", "==", index)]).sort_by("frame_index")
    arrays: dict[str, Any] = {name: _array(table[key], dataset, key) for name, key in dataset.keys.items()}
    arrays |= {name: arrays[name][:-1] for name in _STEPS if name in arrays}
    if settings.intrinsics:
        arrays["intrinsics"] = settings.intrinsics
    arrays["rgb"] = _video(dataset, outline) if video else _pictures(table[dataset.camera], where)
    words = parse_json(outline[OURS], where) if OURS in outline else {"meta": {"episode": index, "task": outline.get("tasks")}}
    return build_episode(arrays, settings.size, where, **words)


def _named(pattern: str, outline: dict[str, Any], part: str, **words: str) -> str:
    place = {f"{unit}_index": outline[f"{part}/{unit}_index"] for unit in ("chunk", "file")}
    return pattern.format(**place, **words)


def _array(column: Any, dataset: _Dataset, key: str) -> np.ndarray:
    """A column of lists as an array [F, ...]; single numbers as [F]."""
    shape = tuple(dataset.info["features"][key]["shape"])
    values = column.combine_chunks()
    while hasattr(values, "flatten") and values.type.num_fields:
        values = values.flatten()
    found = values.to_numpy(zero_copy_only=False)
    return found if shape == (1,) and key != KEYS["action"] else found.reshape(len(column), *shape)


def _pictures(column: Any, where: str) -> np.ndarray:
    frames = []
    for frame, entry in enumerate(column.to_pylist()):
        try:
            with Image.open(io.BytesIO(entry["bytes"])) as picture:
                frames.append(np.asarray(picture.convert("RGB")))
        except Exception as error:  # each decoder has its own for damaged bytes
            raise UserError(f"{where}: frame {frame} cannot be read as a picture ({type(error).__name__})") from None
    return np.stack(frames)


def _video(dataset: _Dataset, outline: dict[str, Any]) -> np.ndarray:
    """The frames of an episode, from the file that it shares with others."""
    import av

    part = f"videos/{dataset.camera}"
    path = dataset.folder / _named(dataset.info["video_path"], outline, part, video_key=dataset.camera)
    first, fps, count = outline[f"{part}/from_timestamp"], dataset.info["fps"], outline["length"]
    frames: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            video.seek(int(first / stream.time_base), stream=stream)  # to the key frame before it
            for frame in video.decode(stream):
                number = round((frame.time - first) * fps)
                if 0 <= number < count:
                    frames[number] = fit(Image.fromarray(frame.to_ndarray(format="rgb24")), None)
                if number >= count - 1:
                    break
    except (av.FFmpegError, IndexError, OSError) as error:
        raise UserError(f"{path}: cannot be read as a video ({error})") from None
    if missing := set(range(count)) - set(frames):
        raise UserError(f"{path}: episode {outline['episode_index']} has no frame {min(missing)} in it")
    return np.stack([frames[number] for number in range(count)])
