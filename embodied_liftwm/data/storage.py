"""Datasets on disk that a kill at any moment cannot corrupt.

HDF5 killed in mid-write can lose the whole file, so no file here is ever modified in place: each is written under a temporary
name and moved over its final one. A finished episode is at once a file of its own; when all episodes of a shard are there they
are copied, still compressed, into one file and the pieces go. Readers see both, so a dataset is readable at every moment.

    dataset.json               env, options, seed, versions: what every episode shares
    shard-00003.h5             groups episode-00000048 ... episode-00000063
    episode-00000064.h5        a piece: the one group episode-00000064
    .cache/                    decoded copies made by readers; safe to delete
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from isal.isal_zlib import compress

from embodied_liftwm.data.episode import ARRAYS, TRUTH_ARRAYS, Episode, Truth
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import write_bytes, write_text

FORMAT = 1
CHUNK_FRAMES = 8
SMALL_BYTES = 4096
INFO = "dataset.json"
_FILE = re.compile(r"(episode|shard)-\d+\.h5")
_GROUP = re.compile(r"episode-(\d{8})")


def group_name(index: int) -> str:
    """Name of an episode's group, and of its piece file without suffix."""
    return f"episode-{index:08d}"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.h5"


@contextmanager
def replacing_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, which is written over `path` if the block succeeds.

    HDF5 itself must not meet a full disk: it prints pages of errors and may crash the process. Plain bytes cannot.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver="latest") as file:
        yield file
    write_bytes(path, image.getbuffer())


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `dataset.json`, whole or not at all. The same info gives the same bytes."""
    write_text(folder / INFO, json.dumps(info, indent=2, sort_keys=True) + "\n")


def read_info(folder: Path) -> dict[str, Any]:
    """Read `dataset.json`.

    Raises:
        UserError: no dataset there, or a file of another kind or a newer format.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no dataset at {folder}: {INFO} is missing; make one with `liftwm collect out={folder}`") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or collect the dataset again") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise UserError(f"{path}: format {found}, this version reads format {FORMAT}")
    return info


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        UserError: names the file when it is truncated, foreign or damaged.
        FileNotFoundError: it is gone, as pieces are once they are packed.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        if not path.exists():  # HDF5 has other words for a file that goes while it is being opened
            raise FileNotFoundError(path) from error
        reason = str(error).splitlines()[0].strip("'\"")
        raise UserError(f"{path} is truncated or not an episode file ({reason}): delete it and collect again") from error


def data_files(folder: Path) -> list[Path]:
    """Shards and pieces in a dataset folder, shards first, in order of name."""
    return sorted((p for p in folder.iterdir() if _FILE.fullmatch(p.name)), key=lambda p: (p.name[0] != "s", p.name))


def scan(folder: Path) -> dict[int, Path]:
    """Find every finished episode: index -> file, in order of index. A packed copy comes before a piece."""
    for _ in range(20):
        try:
            return _scan(folder)
        except FileNotFoundError:  # a collector packed a piece between our listing and our opening
            time.sleep(0.05)
    return _scan(folder)


def _scan(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in data_files(folder):
        for index in episode_indices(path):
            found.setdefault(index, path)
    return dict(sorted(found.items()))


def episode_indices(path: Path) -> list[int]:
    """Indices of the episodes in a file.

    Raises:
        UserError: it is truncated, foreign, or holds none.
    """
    with open_file(path) as file:
        indices = [int(match[1]) for name in file if (match := _GROUP.fullmatch(name))]
    if not indices:
        raise UserError(f"{path} is truncated or not an episode file (no episode in it): delete it and collect again")
    return indices


def write_episode(folder: Path, index: int, episode: Episode) -> Path:
    """Write one episode as a piece, whole or not at all.

    Raises:
        UserError: the episode is not valid, the disk is full, or the folder cannot be written.
    """
    episode.validate(group_name(index))
    path = folder / f"{group_name(index)}.h5"
    with replacing_hdf5(path) as file:
        _write_group(file.create_group(group_name(index)), episode)
    return path


def _write_group(group: h5py.Group, episode: Episode) -> None:
    for name, array in episode.arrays().items():
        _write_array(group, name, array)
    _write_text(group, "meta", episode.meta)
    if episode.truth is not None:
        truth = group.create_group("truth")
        for name, array in episode.truth_arrays().items():
            _write_array(truth, name, array)
        _write_text(truth, "object_shape", list(episode.truth.object_shape))
        _write_text(truth, "scene", episode.truth.scene)


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Store small arrays as they are, large ones in deflated chunks of `CHUNK_FRAMES` rows.

    Chunks are compressed here and handed over: ISA-L is five times as fast as the zlib inside HDF5, and its output is the
    same format, so that any HDF5 reads it. The low-level calls cost a fifth of `create_dataset`.
    """
    kind, space = h5py.h5t.py_create(array.dtype, logical=True), h5py.h5s.create_simple(array.shape)
    rows = np.ascontiguousarray(array)
    if rows.nbytes < SMALL_BYTES or len(rows) < CHUNK_FRAMES:
        h5py.h5d.create(group.id, name.encode(), kind, space).write(h5py.h5s.ALL, h5py.h5s.ALL, rows)
        return
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((CHUNK_FRAMES, *rows.shape[1:]))
    layout.set_deflate(1)
    target = h5py.h5d.create(group.id, name.encode(), kind, space, layout)
    for first in range(0, len(rows), CHUNK_FRAMES):
        chunk = rows[first : first + CHUNK_FRAMES]
        if len(chunk) < CHUNK_FRAMES:  # HDF5 stores whole chunks
            chunk = np.concatenate([chunk, np.zeros((CHUNK_FRAMES - len(chunk), *rows.shape[1:]), rows.dtype)])
        target.write_direct_chunk((first, *[0] * (rows.ndim - 1)), compress(chunk.data, 1))


def _write_text(group: h5py.Group, name: str, value: Any) -> None:
    group[name] = json.dumps(value, sort_keys=True)


def read_arrays(group: h5py.Group) -> dict[str, np.ndarray]:
    """What the agent saw, believed and did; never truth."""
    return {name: group[name][()] for name in ARRAYS}


def read_episode(path: Path, index: int) -> Episode:
    """Read one whole episode, truth included.

    Raises:
        UserError: the file is truncated or foreign, or arrays do not fit together.
    """
    with open_file(path) as file:
        group = file[group_name(index)]
        truth = _read_truth(group["truth"]) if "truth" in group else None
        episode = Episode(**read_arrays(group), meta=json.loads(group["meta"][()]), truth=truth)
    return episode.validate(f"{path}: {group_name(index)}")


def _read_truth(group: h5py.Group) -> Truth:
    shapes = tuple(json.loads(group["object_shape"][()]))
    arrays = {name: group[name][()] for name in TRUTH_ARRAYS}
    return Truth(**arrays, object_shape=shapes, scene=json.loads(group["scene"][()]))


def pack_shard(folder: Path, shard: int, indices: list[int]) -> None:
    """Copy episodes, still compressed, into one shard file, then remove their pieces.

    Args:
        indices: every episode the shard shall hold, each in the shard as it was or in a piece.
    """
    path = folder / shard_name(shard)
    pieces = {index: folder / f"{group_name(index)}.h5" for index in indices}
    packed = set(episode_indices(path)) if path.exists() else set()
    if not packed.issuperset(indices):
        with replacing_hdf5(path) as target:
            for index in sorted(packed.union(indices)):
                with open_file(path if index in packed else pieces[index]) as source:
                    source.copy(group_name(index), target)
    for piece in pieces.values():
        piece.unlink(missing_ok=True)
