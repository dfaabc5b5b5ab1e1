"""Where the code and the weights of DUSt3R and MASt3R are, and how they are opened. Nothing is downloaded, nothing unpickled.

The code is a clone of the public repository, with its submodules, or an installed package that carries it. The weights are a
folder in the layout of the Hugging Face hub (config.json, model.safetensors), or a hub id whose snapshot is in the local cache.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors import hub
from embodied_liftwm.priors.contract import PriorOptions

WEIGHTS = "model.safetensors"
FILES = (("config.json",), (WEIGHTS,))
NEEDED = ("huggingface_hub",)
"""Packages of our own extra that the models' code imports; of further ones it needs einops."""


@dataclass(frozen=True)
class StereoModel:
    """One of the public models."""

    name: str  # of its package in its repository, and of the repository
    class_name: str
    weights: str  # hub id of its public weights
    installed: tuple[tuple[str, ...], ...]  # modules to import, in order, of packages that carry it; the class is in the last


DUST3R = StereoModel(
    "dust3r",
    "AsymmetricCroCo3DStereo",
    "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt",
    (("mast3r.utils.path_to_dust3r", "dust3r.model"), ("beartype", "mini_dust3r.model")),  # starst3r; mini-dust3r
)
MAST3R = StereoModel(
    "mast3r",
    "AsymmetricMASt3R",
    "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
    (("mast3r.model",),),
)


def what_is_missing(model: StereoModel, options: PriorOptions) -> str:
    """One line that says what this machine lacks and what to do, "" where it is ready."""
    weights = hub.what_is_missing(NEEDED, options.weights or model.weights, FILES)
    return _missing_code(model, options.code) or weights or _missing_device(options.device)


def _missing_code(model: StereoModel, code: str) -> str:
    clone = f"git clone --recursive https://github.com/naver/{model.name} and set code= to that folder"
    if find_spec("einops") is None:
        return "its code needs einops: pip install einops"
    if not code:
        found = any(all(find_spec(m.split(".")[0]) for m in modules) for modules in model.installed)
        return "" if found else f"its code is not installed: pip install --no-deps starst3r, or {clone}"
    folder = Path(code).expanduser()
    if not (folder / model.name / "model.py").is_file():
        return f"code={code} is no clone of its repository, which holds {model.name}/model.py: {clone}"
    inside = folder if model.name == "dust3r" else folder / "dust3r"
    if not (inside / "dust3r/model.py").is_file() or not (inside / "croco/models/croco.py").is_file():
        return f"code={code} lacks its submodules: run git submodule update --init --recursive there"
    return ""


def _missing_device(device: str) -> str:
    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"device={device}: torch sees no CUDA device here; set device=cpu"
    return ""


def fingerprint(model: StereoModel, options: PriorOptions, *settings: object) -> str:
    """Hash of the model's name, its checkpoint and our settings. 16 hex digits"""
    return hub.fingerprint(model.name, _folder(model, options), *settings)


def _folder(model: StereoModel, options: PriorOptions) -> Path:
    return hub.find_folder(NEEDED, options.weights or model.weights, FILES)


def open_model(model: StereoModel, options: PriorOptions) -> nn.Module:
    """Load the real model with its real class, for inference.

    Raises:
        UserError: its code cannot be imported, or the folder holds another model's weights.
    """
    folder = _folder(model, options)
    network = _load(import_class(model, options.code), folder)
    unfilled = _unfilled(network, folder / WEIGHTS)
    if unfilled:
        raise UserError(f"weights={folder}: not of {model.class_name}: {len(unfilled)} tensors are missing, as {unfilled[0]}")
    return network.eval().requires_grad_(False).to(options.device)


def _load(model_class: Any, folder: Path) -> nn.Module:
    try:
        # What is trained with landscape images alone is used with any, as the models' own loaders of .pth files do.
        with redirect_stdout(io.StringIO()):
            return model_class.from_pretrained(str(folder), landscape_only=False, patch_embed_cls="PatchEmbedDust3R")
    except Exception as error:  # the code of others raises all kinds
        reason = (str(error).splitlines() or [""])[0]
        line = f"weights={folder}: cannot be opened as {model_class.__name__}: {type(error).__name__}: {reason}"
        raise UserError(line) from error


def _unfilled(network: nn.Module, file: Path) -> list[str]:
    """Tensors of the model neither in the file nor sharing memory with one that is: the models' own loader lets them pass."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        names = set(stored.keys())
    tensors = network.state_dict()
    filled = {tensors[name].data_ptr() for name in names & set(tensors)}
    return [name for name, tensor in tensors.items() if name not in names and tensor.data_ptr() not in filled]


def import_class(model: StereoModel, code: str) -> Any:
    """The model's class, from the clone in `code`, else from what is installed.

    Raises:
        UserError: an import fails; the reason is named.
    """
    choices = ((f"{model.name}.model",),) if code else model.installed
    for modules in choices:
        if not code and not all(find_spec(module.split(".")[0]) for module in modules):
            continue
        return getattr(_import(modules, code), model.class_name)
    raise UserError(f"prior {model.name}: {_missing_code(model, code)}")


def _import(modules: tuple[str, ...], code: str) -> Any:
    try:
        with _searching(code), redirect_stdout(io.StringIO()):
            return [importlib.import_module(module) for module in modules][-1]
    except ImportError as error:
        where = code or modules[-1].split(".")[0]
        raise UserError(f"{where}: {modules[-1]} cannot be imported: {error}") from error


@contextmanager
def _searching(code: str) -> Iterator[None]:
    """Search `code` for modules first. The models' repositories add folders of their own; all go at the end."""
    before = list(sys.path)
    if code:
        sys.path.insert(0, str(Path(code).expanduser().absolute()))
    try:
        yield
    finally:
        sys.path[:] = before
