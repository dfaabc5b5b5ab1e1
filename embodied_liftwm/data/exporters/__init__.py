"""Datasets of ours in formats of others: one file a format, and the table of them.

An exporter is a module with one function, `write(out: Path, export: Export) -> None`, which fills a new folder. Truth leaves
only where it is asked for: else the episodes that an exporter is given have none. docs/data_format.md describes the formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import read_episode, read_info, scan
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import whole_folder

__all__ = ["FORMATS", "Export", "export_dataset"]

FORMATS = {
    "minari": "Minari, HDF5, lossless",
    "lerobot": "LeRobot v3.0, frames as PNG",
    "nerfstudio": "transforms.json and PNG frames, a folder an episode",
}


TRUTH_ROWS = ("depth", "segmentation", "world_from_camera")
"""Of truth, what has the same shape in all episodes of a dataset: the rest is JSON."""


@dataclass(frozen=True)
class Export:
    """What is written."""

    name: str  # of the dataset: that of the folder which comes to be
    info: dict[str, Any]  # what all episodes share, of dataset.json
    episodes: Iterator[Episode]


def export_dataset(
    source: str | Path,
    out: str | Path,
    format: str,
    truth: bool = False,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> int:
    """Write all episodes of a dataset into a new folder, which appears when it is whole.

    Args:
        source: dataset folder.
        out: folder to make.
        format: one of `FORMATS`.
        truth: whether truth goes with them, where the format has a place for it.
        tell: called after each episode with how many are done and how many there are.

    Returns:
        How many episodes there are.

    Raises:
        UserError: no dataset, no episode in it, or `out` is there already.
    """
    source, out = Path(source), Path(out)
    info, files = read_info(source), scan(source)
    if not files:
        raise UserError(f"the dataset at {source} holds no episode yet")
    if out.exists():
        raise UserError(f"{out} is there already: choose another out=, or remove it")

    def episodes() -> Iterator[Episode]:
        for done, (index, path) in enumerate(files.items(), 1):
            yield read_episode(path, index, truth)
            tell(done, len(files))

    with whole_folder(out) as partial:
        shared = {key: value for key, value in info.items() if key not in ("episodes", "format", "clips", "import_options")}
        module = importlib.import_module(f"{__name__}.{format}")
        module.write(partial, Export(out.name, shared, episodes()))
    return len(files)


def words_of(episode: Episode) -> dict[str, Any]:
    """What an episode says as JSON: `meta`, and of truth, where it has any, the scene and the objects, whose number differs."""
    found: dict[str, Any] = {"meta": episode.meta}
    if episode.truth is not None:
        rows = {name: array.tolist() for name, array in episode.truth_arrays().items() if name not in TRUTH_ROWS}
        found["truth"] = rows | {"object_shape": list(episode.truth.object_shape), "scene": episode.truth.scene}
    return found
