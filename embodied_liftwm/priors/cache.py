"""Pseudo-observations on disk, beside the dataset they speak of.

    <dataset>/priors/<name>-<fingerprint>/          one prior, with these weights and settings
        prior.json                                  name, fingerprint, options, licence
        episode-00000048.safetensors                what it says of the episode with that dataset index

A file is written whole or not at all, and says which episode it is of: its index, how many frames it has, and a hash of what
the prior was shown. So a pass that was killed goes on, a dataset that has grown is continued, and an episode that is no longer
the same counts as not there. Everything is read through the `TrainingReader`: no truth can come here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from embodied_liftwm.config import FORMER_NAMES
from embodied_liftwm.data import TrainingReader
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import parse_json, read_json, remove_partials, write_bytes, write_text
from embodied_liftwm.folder_lock import held
from embodied_liftwm.priors.contract import Clip, PriorOptions, PseudoObservations
from embodied_liftwm.priors.packing import check_observations, pack, unpack
from embodied_liftwm.priors.registry import check_name

LAYOUT = 1
ABOUT = "prior.json"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
SHOWN = ("rgb", "intrinsics", "world_from_camera")
"""Arrays of an episode that a prior is shown."""


def clip_of(reader: TrainingReader, episode: int) -> Clip:
    """What a prior is shown of an episode: all frames and the believed cameras."""
    rgb, intrinsics, poses = (torch.from_numpy(np.array(reader.read(episode, name))) for name in SHOWN)
    return Clip(rgb.permute(0, 3, 1, 2).contiguous().float() / 255, intrinsics, poses)


class PriorCache:
    """Pseudo-observations of one prior over one dataset; episodes are counted as `TrainingReader` counts them.

    Example:
        >>> cache = complete_cache(Path("data/revisit-s"), "inhouse_depth")      # doctest: +SKIP
        >>> cache.read(0).depth.values.shape                                   # doctest: +SKIP
        torch.Size([97, 64, 64])
    """

    def __init__(self, folder: Path, reader: TrainingReader | None = None) -> None:
        """Open the cache in `<dataset>/priors/<name>-<fingerprint>`.

        Args:
            folder: that folder.
            reader: of the dataset, where one is open already.

        Raises:
            UserError: no cache there, or a damaged or foreign `prior.json`; no dataset around it.
        """
        self.folder = Path(folder)
        self.about = _read_about(self.folder)
        self._reader = reader or TrainingReader(self.folder.absolute().parents[1])
        self._identities: dict[int, dict[str, Any]] = {}

    def __contains__(self, episode: int) -> bool:
        """Whether there is a sound file of the episode as it is now."""
        try:
            return self._stored(self.path(episode))["episode"] == self._identity(episode)
        except UserError:
            return False

    def missing(self) -> list[int]:
        """Episodes of the dataset as it is now that are not in it."""
        return [episode for episode in range(len(self._reader)) if episode not in self]

    def read(self, episode: int) -> PseudoObservations:
        """What the prior says of an episode; float32 and int64 tensors on the CPU.

        Raises:
            UserError: there is no such episode, nothing of it yet, or a damaged file or one of another episode, named.
        """
        path = self.path(episode)
        stored = self._stored(path)
        if stored["episode"] != self._identity(episode):
            raise UserError(f"{path} is of another episode, or of this one before it changed: {self._remedy()}")
        try:
            return unpack(load_file(path), stored["notes"])
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise self._damaged(path, error) from None

    def write(self, episode: int, found: PseudoObservations) -> None:
        """Store what the prior says of an episode, over what was there.

        Raises:
            UserError: it breaks the contract; the disk is full or cannot be written, and what was there is kept.
        """
        frames = len(self._reader.read(episode, "rgb"))
        check_observations(f"prior {self.about['name']}, episode {episode}", found, frames, *self._reader.image_size)
        tensors, notes = pack(found)
        described = json.dumps({"layout": LAYOUT, "episode": self._identity(episode), "notes": notes}, sort_keys=True)
        write_bytes(self.path(episode), save(tensors, metadata={"liftwm": described}))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the cache for writing, and remove what killed writers left.

        Raises:
            UserError: another process holds it.
        """
        with held(self.folder, "data="):
            remove_partials(self.folder)
            yield

    def path(self, episode: int) -> Path:
        """The file of an episode, there or not. Raises UserError if the dataset has no such episode."""
        if not 0 <= episode < len(self._reader):
            raise UserError(f"no episode {episode} in {self._reader.path}: it holds {len(self._reader)}, counted from 0")
        return self.folder / f"episode-{self._reader.indices[episode]:08d}.safetensors"

    def _identity(self, episode: int) -> dict[str, Any]:
        """What ties a file to its episode; a change of anything that the prior is shown changes it."""
        if episode not in self._identities:
            digest = hashlib.sha256()
            for name in SHOWN:
                digest.update(np.ascontiguousarray(self._reader.read(episode, name)).data)
            self._identities[episode] = {
                "index": int(self._reader.indices[episode]),
                "frames": len(self._reader.read(episode, "rgb")),
                "sha256": digest.hexdigest(),
            }
        return self._identities[episode]

    def _stored(self, path: Path) -> dict[str, Any]:
        """What a file says of itself."""
        try:
            with safe_open(path, "pt") as file:
                stored = parse_json(file.metadata()["liftwm"], path)
            if stored["layout"] == LAYOUT and {"episode", "notes"} <= stored.keys():
                return stored
            error: Exception = ValueError(f"layout {stored['layout']}, this version reads {LAYOUT}")
        except FileNotFoundError:
            raise UserError(f"{path} is not there yet: {self._remedy()}") from None
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as found:
            error = found
        raise self._damaged(path, error)

    def _damaged(self, path: Path, error: Exception) -> UserError:
        return UserError(f"{path} is damaged or foreign ({error}): {self._remedy()}")

    def _remedy(self) -> str:
        return f"run {_command(self.about['name'], self._reader.path)}"


def create_cache(reader: TrainingReader, name: str, fingerprint: str, options: PriorOptions, licence: str) -> PriorCache:
    """Open the cache of a prior over a dataset, made if there is none yet.

    Raises:
        UserError: a fingerprint that is none, a damaged `prior.json`, or a dataset folder that cannot be written.
    """
    if not FINGERPRINT.fullmatch(fingerprint):
        raise UserError(f"prior {name}: fingerprint {fingerprint!r}, expected 16 hex digits")
    folder = folder_of(reader.path, name, fingerprint)
    if not (folder / ABOUT).exists():
        about = {"layout": LAYOUT, "name": name, "fingerprint": fingerprint, "licence": licence, "options": asdict(options)}
        write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    return PriorCache(folder, reader)


def folder_of(dataset: Path, name: str, fingerprint: str) -> Path:
    """Where the cache of a prior with this fingerprint is, or would be."""
    found = [_home(dataset) / f"{stem}-{fingerprint}" for stem in _stems(name)]
    return next((folder for folder in found if folder.is_dir()), found[0])


def complete_cache(dataset: Path, name: str, reader: TrainingReader | None = None) -> PriorCache:
    """The cache of a prior that covers every episode of a dataset as it is now.

    Args:
        dataset: its folder.
        name: of the prior; or of one of its caches, `<name>-<fingerprint>`, where several are complete.
        reader: of the dataset, where one is open already.

    Raises:
        UserError: unknown prior, no dataset, no complete cache, or several of them; the line says what to do.
    """
    reader = reader or TrainingReader(dataset)
    prior, fingerprint = _split(name)
    check_name(prior)
    patterns = [f"{stem}-{fingerprint or '*'}/{ABOUT}" for stem in _stems(prior)]
    folders = sorted(path.parent for pattern in patterns for path in _home(reader.path).glob(pattern))
    caches = [PriorCache(folder, reader) for folder in folders if FINGERPRINT.fullmatch(folder.name.rpartition("-")[2])]
    lacking = {cache: len(cache.missing()) for cache in caches}
    complete = [cache for cache in caches if not lacking[cache]]
    if len(complete) > 1:
        names = ", ".join(f"{prior}-{cache.about['fingerprint']}" for cache in complete)
        raise UserError(f"several caches of prior {prior} cover {dataset}: name one of {names}")
    if not complete:
        most = max((len(reader) - count for count in lacking.values()), default=0)
        covered = f"covers {most} of the {len(reader)} episodes of {dataset}" if caches else f"has not observed {dataset}"
        raise UserError(f"prior {name} {covered}: run {_command(prior, dataset)}")
    return complete[0]


def _command(name: str, dataset: Path) -> str:
    return f"`liftwm priors run name={name} data={dataset}`"


def _home(dataset: Path) -> Path:
    return dataset / "priors"


def _stems(name: str) -> list[str]:
    """What may name the prior in a folder's name: its own name first, then what it was called before."""
    return [name.replace(":", "."), *(old for old, new in FORMER_NAMES.items() if new == name)]


def _split(name: str) -> tuple[str, str]:
    """A prior's name, and the fingerprint behind it; empty where there is none."""
    prior, _, last = name.rpartition("-")
    return (prior, last) if prior and FINGERPRINT.fullmatch(last) else (name, "")


def _read_about(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        about = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no pseudo-observations at {folder}: {ABOUT} is missing; `liftwm priors run` makes them") from None
    except UserError as error:
        raise UserError(f"{error}, or remove {folder}, and run `liftwm priors run` again") from None
    if not isinstance(about, dict) or about.get("layout") != LAYOUT or not {"name", "fingerprint"} <= about.keys():
        raise UserError(f"{path} is no description of pseudo-observations of layout {LAYOUT}: remove {folder}")
    return about | {"name": FORMER_NAMES.get(about["name"], about["name"])}
