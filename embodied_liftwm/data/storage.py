"""Datasets on disk that a kill at any moment cannot corrupt.

HDF5 killed in mid-write can lose the whole file, so no file here is ever modified in place: each is written under a temporary
name and moved over its final one. A finished episode is at once a file of its own; when all episodes of a shard are there they
are copied, still compressed, into one file and the pieces go. Readers see both, so a dataset is readable at every moment.

    dataset.json               env, options, seed, versions: what every episode shares; and which episodes there are
    shard-00003.h5             groups episode-00000048 ... episode-00000063
    episode-00000064.h5        a piece: the one group episode-00000064
    .cache/                    decoded copies made by readers; safe to delete
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from isal.isal_zlib import compress

from embodied_liftwm.config import present_words
from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.gate import ARRAYS, TRUTH_ARRAYS, TRUTH_PER_FRAME, layout_fault
from embodied_liftwm.data.hdf5 import has, open_array, open_file, open_group, parse_text, read_text, replacing_hdf5
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import read_json, write_text

FORMAT = 1
CHUNK_FRAMES = 8
"""Rows that are compressed together: what a reader of one frame must decode at most."""
SMALL_BYTES = 4096
"""Below a page of the disk nothing is gained by compression."""
INFO = "dataset.json"
CHECKSUM = "sha256"
_FILE = re.compile(r"(episode|shard)-\d+\.h5")
_GROUP = re.compile(r"episode-(\d{8})")


@dataclass(frozen=True)
class Outline:
    """What can be known of a stored episode at little cost."""

    shapes: dict[str, tuple[int, ...]]  # of the arrays but truth
    meta: dict[str, Any]
    truth: tuple[str, ...]  # arrays of truth that are known
    has_checksum: bool


def group_name(index: int) -> str:
    """Name of an episode's group, and of its piece file without suffix."""
    return f"episode-{index:08d}"


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.h5"


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write `dataset.json`, whole or not at all. The same info gives the same bytes."""
    write_text(folder / INFO, json.dumps(info, indent=2, sort_keys=True) + "\n")


def list_episodes(folder: Path, indices: Iterable[int]) -> None:
    """Have `dataset.json` list these episodes beside those it lists; the writer of a dataset calls this, one at a time."""
    info = read_info(folder)
    write_info(folder, info | {"episodes": _as_spans(set(indices).union(listed_episodes(info)))})


def listed_episodes(info: dict[str, Any]) -> set[int]:
    """Episodes that `dataset.json` lists: those which were there when their writer last said so. Datasets of old list none."""
    return {index for first, last in info.get("episodes", ()) for index in range(first, last + 1)}


def _as_spans(indices: set[int]) -> list[list[int]]:
    """First and last of each unbroken run of numbers."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return spans


def how_to_collect(folder: str | Path, split: str = "") -> str:
    """The command that makes a dataset, or goes on with one; `split` where it is not the default."""
    return f"`liftwm collect {f'split={split} ' if split else ''}out={folder}`"


def read_info(folder: Path, split: str = "") -> dict[str, Any]:
    """Read `dataset.json`.

    Args:
        folder: of the dataset.
        split: that it should be collected with, for what is said where there is none.

    Raises:
        UserError: no dataset there, or a file of another kind or a newer format.
    """
    path = folder / INFO
    try:
        info = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no dataset at {folder}: {INFO} is missing; make one with {how_to_collect(folder, split)}") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        found = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise UserError(f"{path}: format {found}, this version reads format {FORMAT}")
    for name in ("env_options", "versions"):
        if not isinstance(info.get(name, {}), dict):
            raise UserError(f"{path}: {name} is {info[name]!r}, expected an object: restore it")
    if not _are_spans(info.get("episodes", [])):
        raise UserError(f"{path}: episodes is no list of [first, last] numbers: restore it, or take it out")
    return present_words(info)


def _are_spans(value: Any) -> bool:
    pairs = isinstance(value, list) and all(isinstance(span, list) and len(span) == 2 for span in value)
    return pairs and all(type(i) is int and 0 <= i < 10**8 for span in value for i in span)


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
        for index in indices:
            open_group(file, group_name(index))
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
    _write_part(group, episode.arrays(), {"meta": episode.meta})
    if episode.truth is not None:
        texts = {"object_shape": list(episode.truth.object_shape), "scene": episode.truth.scene}
        _write_part(group.create_group("truth"), episode.truth_arrays(), texts)


def _write_part(group: h5py.Group, arrays: dict[str, np.ndarray], texts: dict[str, Any]) -> None:
    """Arrays and JSON texts, with their checksum: truth has one of its own, so that it can be taken away."""
    encoded = {name: json.dumps(value, sort_keys=True) for name, value in texts.items()}
    for name, array in arrays.items():
        _write_array(group, name, array)
    for name, text in encoded.items():
        group[name] = text
    group.attrs[CHECKSUM] = checksum(arrays, {name: text.encode() for name, text in encoded.items()})


def checksum(arrays: Mapping[str, np.ndarray], texts: Mapping[str, bytes]) -> str:
    """sha256 of arrays and texts, with their names, shapes and dtypes."""
    found = hashlib.sha256()
    for name, array in arrays.items():
        found.update(f"{name} {list(array.shape)} {array.dtype.name};".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    for name, text in texts.items():
        found.update(f"{name} {len(text)};".encode() + text)
    return found.hexdigest()


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


def read_episode(path: Path, index: int, truth: bool = True) -> Episode:
    """Read one whole episode, and hold it against its checksum.

    Args:
        path: shard or piece.
        index: of the episode in the dataset.
        truth: whether to read its truth too, where it has one.

    Raises:
        UserError: the file is truncated, foreign or was changed, or `Episode.validate` finds a fault.
    """
    where = f"{path}: {group_name(index)}"
    with open_file(path) as file:
        group = open_group(file, group_name(index))
        hidden = open_group(group, "truth") if truth and has(group, "truth") else None
        stored = _opened(group, ARRAYS)
        stored_truth = {} if hidden is None else _opened(hidden, known_truth(hidden))
        if fault := layout_fault(stored, stored_truth):  # before anything is read, or room made for it
            raise UserError(f"{where}: {fault}")
        arrays, (meta,) = _read_part(group, stored, "meta")
        found = _read_truth(hidden, stored_truth) if hidden is not None else None
    return Episode(**arrays, meta=meta, truth=found).validate(where)


def _read_truth(group: h5py.Group, stored: dict[str, h5py.Dataset]) -> Truth:
    arrays, (shapes, scene) = _read_part(group, stored, "object_shape", "scene")
    return Truth(**arrays, object_shape=tuple(shapes), scene=scene)


def known_truth(group: h5py.Group) -> tuple[str, ...]:
    """Arrays of truth that a group `truth` holds: what nobody knew is not there."""
    return tuple(name for name in TRUTH_ARRAYS if name not in TRUTH_PER_FRAME or has(group, name))


def _opened(group: h5py.Group, names: Iterable[str]) -> dict[str, h5py.Dataset]:
    return {name: open_array(group, name) for name in names}


def _read_part(group: h5py.Group, stored: dict[str, h5py.Dataset], *texts: str) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Arrays and JSON texts of a group whose layout is right."""
    arrays, encoded = {name: array[()] for name, array in stored.items()}, {name: read_text(group, name) for name in texts}
    wanted = group.attrs.get(CHECKSUM)
    if wanted is not None and wanted != checksum(arrays, encoded):
        where = f"{group.file.filename}: {group.name.strip('/')}"
        raise UserError(f"{where} is not as it was written (its checksum differs): delete it and collect again")
    return arrays, [parse_text(group, name, text) for name, text in encoded.items()]


def read_outline(path: Path, index: int) -> Outline:
    """What an episode says of itself, without decoding its frames.

    Raises:
        UserError: the file is truncated or foreign.
    """
    with open_file(path) as file:
        group = open_group(file, group_name(index))
        stored = _opened(group, ARRAYS)
        if fault := layout_fault(stored, {}):
            raise UserError(f"{path}: {group_name(index)}: {fault}")
        meta = parse_text(group, "meta", read_text(group, "meta"))
        if not isinstance(meta, dict):
            raise UserError(f"{path}: {group_name(index)}: meta: expected a JSON object, got {type(meta).__name__}")
        shapes = {name: array.shape for name, array in stored.items()}
        truth = known_truth(open_group(group, "truth")) if has(group, "truth") else ()
        return Outline(shapes, meta, truth, CHECKSUM in group.attrs)


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
                    source.copy(open_group(source, group_name(index)), target, group_name(index))
    for piece in pieces.values():
        piece.unlink(missing_ok=True)
