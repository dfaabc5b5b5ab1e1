"""Decoded copies of a dataset, memory-mapped, for random access at memory speed.

Only what `ARRAYS` names is decoded, so truth is not in the cache, and a reader of the cache cannot reach it. A cache is a
folder named after the files it was made from; it appears whole, and several processes may build it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from embodied_liftwm.data.gate import ARRAYS
from embodied_liftwm.data.splits import seed_of
from embodied_liftwm.data.storage import data_files, group_name, how_to_collect, read_episode, read_outline, scan
from embodied_liftwm.errors import UserError

LAYOUT = 2
PER_EPISODE = ("intrinsics",)


class DecodedCache:
    """Memory-mapped arrays of all episodes, end to end.

    Attributes:
        arrays: name -> array with the episodes' rows one after the other; `intrinsics` is [E, 3, 3].
        lengths: actions per episode. [E] int64
        indices: dataset index per episode. [E] int64
        seeds: of each episode's scene, -1 where it says none. [E] int64
    """

    def __init__(self, dataset: Path) -> None:
        folder = self._locate(dataset)
        # as plain arrays: every slice of an `np.memmap` costs several microseconds more
        self.arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ARRAYS}
        self.lengths: np.ndarray = np.load(folder / "lengths.npy")
        self.indices: np.ndarray = np.load(folder / "indices.npy")
        self.seeds: np.ndarray = np.load(folder / "seeds.npy")
        self._first_step = np.concatenate([[0], np.cumsum(self.lengths)])

    def rows(self, name: str, episode: int) -> np.ndarray:
        """One episode's rows of an array, as a view of the map."""
        if name in PER_EPISODE:
            return self.arrays[name][episode]
        first, last = self._first_step[episode], self._first_step[episode + 1]
        if ARRAYS[name][0].startswith("F"):  # one frame more than steps per episode before this one
            first, last = first + episode, last + episode + 1
        return self.arrays[name][first:last]

    def _locate(self, dataset: Path) -> Path:
        for _ in range(5):
            key = cache_key(dataset)
            folder = dataset / ".cache" / key
            try:
                if not folder.is_dir():
                    build(dataset, folder)
                    _remove_others(folder)
                np.load(folder / "lengths.npy")
                return folder
            except FileNotFoundError:  # the dataset changed, or another process removed this cache as outdated
                time.sleep(0.05)
            except OSError as error:
                return self._temporary(dataset, key, error)
        raise UserError(f"{dataset} keeps changing while it is read: wait until its collection has finished")

    def _temporary(self, dataset: Path, key: str, error: OSError) -> Path:
        reason = error.strerror or error
        print(f"warning: no cache in {dataset} ({reason}): decoding to a temporary folder instead", file=sys.stderr)
        root = Path(tempfile.mkdtemp(prefix="liftwm-cache-"))
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        try:
            build(dataset, root / key)
        except OSError as second:
            raise UserError(f"cannot decode {dataset} to {root}: {second.strerror or second}; free some space") from second
        return root / key


def cache_key(dataset: Path) -> str:
    """A name that changes whenever a file of the dataset does."""
    stats = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in data_files(dataset)]
    return hashlib.sha256(json.dumps([LAYOUT, stats]).encode()).hexdigest()[:16]


def build(dataset: Path, folder: Path) -> None:
    """Decode every episode of a dataset into `folder`, which appears whole."""
    files = scan(dataset)
    if not files:
        raise UserError(f"the dataset at {dataset} holds no episode yet: run {how_to_collect(dataset)}")
    folder.parent.mkdir(exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _decode(files, partial)
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode(files: dict[int, Path], folder: Path) -> None:
    outlines = [read_outline(path, index) for index, path in files.items()]
    shapes, targets = [outline.shapes for outline in outlines], dict[str, Any]()
    for name in ARRAYS:
        rows = len(shapes) if name in PER_EPISODE else sum(shape[name][0] for shape in shapes)
        tail = shapes[0][name] if name in PER_EPISODE else shapes[0][name][1:]
        targets[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", ARRAYS[name][1], (rows, *tail))
    ends = dict.fromkeys(ARRAYS, 0)
    for index, path in files.items():
        for name, array in read_episode(path, index, truth=False).arrays().items():
            _place(targets[name], array[None] if name in PER_EPISODE else array, ends, name, f"{path}: {group_name(index)}")
    for target in targets.values():
        target.flush()
    np.save(folder / "lengths.npy", np.array([shape["action"][0] for shape in shapes], np.int64))
    np.save(folder / "indices.npy", np.array(list(files), np.int64))
    np.save(folder / "seeds.npy", np.array([seed_of(outline.meta) for outline in outlines], np.int64))


def _place(target: np.ndarray, array: np.ndarray, ends: dict[str, int], name: str, where: str) -> None:
    if array.shape[1:] != target.shape[1:] or array.dtype != target.dtype:
        expected = f"{list(target.shape[1:])} {target.dtype}"
        raise UserError(f"{where}: {name} is {list(array.shape[1:])} {array.dtype}, in other episodes it is {expected}")
    target[ends[name] : ends[name] + len(array)] = array
    ends[name] += len(array)


def _remove_others(folder: Path) -> None:
    """Remove caches of the dataset as it was; processes that have them open keep them until they end."""
    for other in folder.parent.iterdir():
        if other != folder and (not other.name.startswith(".building-") or time.time() - other.stat().st_mtime > 3600):
            shutil.rmtree(other, ignore_errors=True)
