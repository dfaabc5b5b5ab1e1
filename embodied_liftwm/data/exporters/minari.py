"""Minari's own format, written by Minari: HDF5, frames as they are (`jpeg_encoding=False`), so that all comes back bit for bit.

    observations    rgb, world_from_camera, intrinsics, and goal where there is one: T + 1 rows each
    actions, rewards, terminations, truncations
    infos           liftwm: JSON, meta and what truth says of objects; truth: arrays of T + 1 rows, where it was asked for

`MINARI_DATASETS_PATH=PARENT` and `minari.load_dataset("NAME-v0")` open what was written to PARENT/NAME-v0.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.exporters import TRUTH_ROWS, Export, words_of
from embodied_liftwm.data.importers.minari import OURS, library
from embodied_liftwm.errors import UserError

NAME = re.compile(r"[-_\w]+-v\d+")
AUTHOR = "embodied_liftwm"


def write(out: Path, export: Export) -> None:
    """Write all episodes.

    Raises:
        UserError: Minari is not installed, or would not find a dataset of this name.
    """
    minari = library()
    if not NAME.fullmatch(export.name):
        raise UserError(f"out={export.name}: Minari asks for a name with a version, as in {export.name.strip('.')}-v0")
    first = next(export.episodes)
    seen = observations(first)
    kinds: dict[str, spaces.Space] = {name: _box(rows) for name, rows in seen.items()}
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(out.resolve())  # relative ones it joins twice
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an e-mail address and other things that are not given
            minari.create_dataset_from_buffers(
                dataset_id=export.name,
                buffer=_buffers(first, export.episodes),
                observation_space=spaces.Dict(kinds),
                action_space=_box(first.action),
                algorithm_name=str(export.info.get("policy")),
                author=AUTHOR,
                description=json.dumps({OURS: export.info}),
                data_format="hdf5",
                jpeg_encoding=False,
            )
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before
    for part in (out / export.name).iterdir():
        part.rename(out / part.name)
    (out / export.name).rmdir()


def observations(episode: Episode) -> dict[str, np.ndarray]:
    """What is seen at each frame, [T + 1, ...] by name."""
    found = {name: getattr(episode, name) for name in ("rgb", "world_from_camera", "goal")}
    found["intrinsics"] = np.tile(episode.intrinsics, (len(episode) + 1, 1, 1))
    return {name: rows for name, rows in found.items() if rows.size}


def _box(rows: np.ndarray) -> spaces.Box:
    if rows.dtype == np.uint8:
        return spaces.Box(0, 255, rows.shape[1:], np.uint8)
    return spaces.Box(-np.inf, np.inf, rows.shape[1:], np.float32)


def _buffers(first: Episode, others: Iterator[Episode]) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    for index, episode in enumerate(chain([first], others)):
        infos: dict[str, Any] = {OURS: [json.dumps(words_of(episode))]}
        truth = {name: rows for name, rows in episode.truth_arrays().items() if name in TRUTH_ROWS}
        yield EpisodeBuffer(
            id=index,
            seed=episode.meta.get("seed"),
            observations=observations(episode),
            actions=episode.action,
            rewards=episode.reward,
            terminations=episode.terminated,
            truncations=episode.truncated,
            infos=infos | ({"truth": truth} if truth else {}),
        )
