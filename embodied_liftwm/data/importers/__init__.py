"""Data of others as datasets of ours: one file a format, the table of them, and the loop that all share.

An importer is a module with two functions:

    recognises(source: Path) -> bool                          whether a folder or file looks like its format
    open_source(source: Path, settings: Settings) -> Source   what is in it; raises UserError

The formats are described in docs/data_format.md.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.data.storage import (
    FORMAT,
    INFO,
    list_episodes,
    listed_episodes,
    read_episode,
    read_info,
    scan,
    write_episode,
    write_info,
)
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import remove_partials
from embodied_liftwm.folder_lock import held

__all__ = ["FORMATS", "Settings", "Source", "find_format", "import_dataset"]


@dataclass(frozen=True)
class Format:
    """A format that can be imported."""

    what: str  # it is, in words
    options: tuple[str, ...] = ()  # of `Settings` that it takes, beside `size`


FORMATS = {
    "nerfstudio": Format("transforms.json and its pictures"),
    "tum": Format("pictures or an mp4, and poses in TUM's format", ("poses", "intrinsics")),
    "lerobot": Format("LeRobot v3.0", ("intrinsics", "rgb", "pose")),
    "minari": Format("Minari", ("intrinsics", "rgb", "pose")),
    "memory_maze": Format("Memory Maze's trajectories, NPZ"),
    "npz": Format("NPZ files of arrays", ("intrinsics", "rgb", "pose")),
    "realestate": Format("RealEstate10K's camera files and frames"),
}
"""In the order in which they are looked for."""


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def find_format(source: Path) -> str:
    """The format that a source looks like.

    Raises:
        UserError: none.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    found = next((name for name in FORMATS if _module(name).recognises(source)), None)
    if found is None:
        known = "; ".join(f"{name}: {format.what}" for name, format in FORMATS.items())
        raise UserError(f"{source}: of no format that can be imported ({known})")
    return found


def import_dataset(
    source: str | Path,
    out: str | Path,
    format: str,
    settings: Settings,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[int, list[str]]:
    """Bring all episodes of a source into a dataset; what is there already is not done again.

    Args:
        source: folder or file.
        out: dataset folder.
        format: one of `FORMATS`.
        settings: what the user says of it.
        tell: called after each episode with how many are done and how many there are.

    Returns:
        How many episodes the dataset holds, and why others were left out, a line each.

    Raises:
        UserError: nothing that can be read, or a dataset of something else in `out`.
    """
    source, out = Path(source), Path(out)
    with _one_line(f"{source}: not as format={format} says"):
        opened = _module(format).open_source(source, settings)
    info = _info(opened, settings)
    left_out = []
    with held(out):
        remove_partials(out)
        _begin(out, info)
        there = scan(out)
        first = next((_shared(read_episode(path, index, False).arrays()) for index, path in there.items()), None)
        for index, (name, read) in enumerate(opened.clips):
            try:
                if index not in there:
                    with _one_line(f"{source}: {name}: not as format={format} says"):
                        episode = read()
                    first = first or _shared(episode.arrays())
                    _check_alike(_shared(episode.arrays()), first, f"{source}: {name}")
                    write_episode(out, index, episode)
            except UserError as problem:
                left_out.append(str(problem))
            tell(index + 1, len(opened.clips))
        episodes = scan(out)
        if not episodes:
            raise UserError(f"{source}: no whole episode in it: {left_out[0]}")
        list_episodes(out, episodes)
    return len(episodes), left_out


def _shared(arrays: Mapping[str, Any]) -> dict[str, list[int]]:
    """What all episodes of a dataset have in common: the shape of a row of these arrays."""
    return {name: list(arrays[name].shape[1:]) for name in ("rgb", "action", "goal")}


def _check_alike(found: dict[str, list[int]], first: dict[str, list[int]], where: str) -> None:
    for name in found:
        if found[name] != first[name]:
            remedy = "; size= makes them alike" if name == "rgb" else ""
            raise UserError(f"{where}: {name}: {found[name]} a row, expected {first[name]} as in the others{remedy}")


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Files of others may break any rule: what no check foresaw is one line, too."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{where} ({type(error).__name__}: {reason})") from error


def _info(opened: Source, settings: Settings) -> dict[str, Any]:
    """What dataset.json says: the source's own words, and how it was imported."""
    info = {**opened.info, "format": FORMAT, "clips": [name for name, _ in opened.clips]}
    if settings.size is not None:
        height, width = settings.size
        info["image_size"] = height if height == width else [height, width]
    told = {key: value for key, value in asdict(settings).items() if value and key != "size"}
    return info | ({"import_options": json.loads(json.dumps(told))} if told else {})


def _begin(out: Path, info: dict[str, Any]) -> None:
    if not (out / INFO).exists() or not (scan(out) or listed_episodes(read_info(out))):  # all of an earlier try was left out
        write_info(out, info)
    elif {key: value for key, value in read_info(out).items() if key != "episodes"} != info:
        raise UserError(f"{out} holds another dataset, or one imported with other options: choose another out=")
