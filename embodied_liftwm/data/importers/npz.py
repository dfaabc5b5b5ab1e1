"""Plain NPZ files of arrays, an episode each: SOURCE/*.npz, or one file. Keys and forms: docs/data_format.md.

Arrays by the names of ours are taken; others are left. Nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.gate import ARRAYS, TRUTH_ARRAYS
from embodied_liftwm.data.importers.arrays import build_episode, choose_frames
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError


def recognises(source: Path) -> bool:
    """Whether there are NPZ files."""
    return bool(npz_files(source))


def npz_files(source: Path) -> list[Path]:
    """A file itself, or those of a folder, in order of their names."""
    return [source] if source.suffix == ".npz" else sorted(source.glob("*.npz"))


def read_npz(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a file: those of these names that are there, or all.

    Raises:
        UserError: it is damaged, no NPZ file, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if names is None or name in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: cannot be read as NPZ ({reason})") from None


def open_source(source: Path, settings: Settings) -> Source:
    """All files of a folder.

    Raises:
        UserError: there is none.
    """
    files = npz_files(source)
    if not files:
        raise UserError(f"{source}: no NPZ file in it")
    return Source({"env": "NPZ", "source_format": "npz"}, [(path.stem, partial(_clip, path, settings)) for path in files])


def _clip(path: Path, settings: Settings) -> Episode:
    taken = (*ARRAYS, *(f"truth/{name}" for name in TRUTH_ARRAYS), settings.rgb, settings.pose)
    found = choose_frames(read_npz(path, taken), settings, str(path))
    return build_episode(found, settings.size, str(path), {"clip": path.stem})
