"""Checkpoints of the Hugging Face libraries: whether package and weights are here, where they lie, and what they hash to.

A checkpoint is named by a folder, or by a hub id that is looked up in the local cache of `huggingface_hub`. Nothing is ever
downloaded: fetching gigabytes under somebody's licence is a decision of the user, who is told the one command that does it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.weights import read_tensors

Files = Sequence[tuple[str, ...]]
"""What a checkpoint must hold: for each file the names that it may have, relative to the checkpoint's folder."""

MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of the weights of a model of transformers."""
DIFFUSION_MODEL = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""Names of the weights of a model of diffusers."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HASHED = {".json", ".txt", ".safetensors", ".bin", ".model"}


def part(folder: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a file inside one of the folders that a pipeline of diffusers consists of."""
    return tuple(f"{folder}/{name}" for name in names)


def what_is_missing(packages: Sequence[str], weights: str, files: Files) -> str:
    """One line that says what to install or where to put which files; "" where all is here. Looks, and loads nothing."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        return f"it needs {' and '.join(absent)}: pip install 'embodied-liftwm[priors]'"
    folder = _find(weights, files)
    if folder is None and _HUB_ID.fullmatch(weights):
        return (
            f"the weights {weights} are not on this machine: where there is a network, run `hf download {weights}`; "
            "or put its files into a folder and set weights=FOLDER"
        )
    if folder is None:
        return f"weights={weights}: there is no such folder, nor is this a hub id such as owner/name"
    lacks = [names[0] for names in files if _first(folder, names) is None]
    return f"weights={weights}: {folder} lacks {', '.join(lacks)}" if lacks else ""


def find_folder(packages: Sequence[str], weights: str, files: Files) -> Path:
    """The folder of a checkpoint.

    Raises:
        UserError: `what_is_missing`.
    """
    lacks = what_is_missing(packages, weights, files)
    folder = _find(weights, files) if not lacks else None
    if folder is None:
        raise UserError(lacks)
    return folder


def _find(weights: str, files: Files) -> Path | None:
    """The folder that `weights` names, or that holds the first file found of a hub id's newest cached snapshot."""
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(weights):
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in (name for names in files for name in names):
        found = try_to_load_from_cache(weights, name)
        if isinstance(found, str):
            return Path(found.removesuffix(name))
    return None


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors by name of a model of diffusers whose class is not in it; a .bin is read as tensors, never unpickled.

    Raises:
        UserError: the file is damaged, or holds other things than tensors.
    """
    path = _first(folder, DIFFUSION_MODEL)
    assert path is not None, folder
    if path.suffix != ".bin":
        return read_tensors(path)
    try:
        tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive leads to
        raise UserError(f"{path} is not a readable file of tensors: {' '.join(str(error).split())[:200]}") from None
    return tensors


def quiet() -> None:
    """No progress bars of the libraries over the one that shows the pass over a dataset."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def fingerprint(name: str, folder: Path, *settings: Any) -> str:
    """16 hex digits of a model's name, the contents of its checkpoint and its settings: those that change what it says."""
    digest = hashlib.sha256(repr((name, settings)).encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _HASHED and path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
