"""Run folders and weights on disk.

    RUN/config.yaml                         the resolved `TrainConfig`
    RUN/checkpoints/step-00000100/          written under another name and renamed: a checkpoint exists whole or not at all
        model.safetensors, model.json       weights; architecture and shapes
        optimizer.safetensors, state.json   what resuming needs
        SHA256SUMS                          of each, against which they are held when they are read
    RUN/metrics.csv, RUN/tensorboard/       logs

    embodied_liftwm/checkpoints/NAME/       a checkpoint that is shipped: model.*, SHA256SUMS, and its card, README.md

Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embodied_liftwm.config.model import flat, in_present_keys, read_model
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import check_sum, read_json, remove_folder, whole_folder, write_sums
from embodied_liftwm.plugins import call_function, is_function_name, require_methods
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.weights import load_weights, named_as_now, read_weights, save_tensors
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model

FORMAT = 1
KEPT = 2
"""Checkpoints kept per run: the newest, and one before it."""
SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints"
"""Checkpoints that come with the package, a folder of its name each."""


def save_checkpoint(run: Path, step: int, model: BaseWorldModel[Any], extra: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write a checkpoint whole unless that step has one, then drop the oldest.

    Args:
        run: the run folder.
        step: optimiser steps done. A step is a function of the run, so a second checkpoint of one would be the first again.
        model: whose weights.
        extra: tensors of the optimiser.
        state: JSON of the trainer.

    Raises:
        UserError: the disk is full or cannot be written; older checkpoints are kept.
    """
    described = {"format": FORMAT, "model": asdict(model.config), "shapes": asdict(model.shapes)}
    return write_checkpoint(run, step, model, json.dumps(described, indent=2) + "\n", extra, state)


def write_checkpoint(
    run: Path, step: int, network: nn.Module, described: str, extra: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """`save_checkpoint` of any network; `described` is the text of its model.json."""
    final = path_of(run, step)
    if final.is_dir():
        return final
    with whole_folder(final) as partial:
        save_tensors(partial / "model.safetensors", network.state_dict())
        save_tensors(partial / "optimizer.safetensors", extra)
        (partial / "model.json").write_text(described)
        (partial / "state.json").write_text(json.dumps({"step": step} | state, indent=2) + "\n")
        write_sums(partial)
    for old in checkpoints(run)[:-KEPT]:
        remove_folder(old)
    return final


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The inverse of `path_of`."""
    return int(checkpoint.name.removeprefix("step-"))


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first. Half-written ones of a killed process do not count."""
    return sorted((run / "checkpoints").glob("step-*"))


def read_resume(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's tensors and the trainer's state (with its `step` and `seconds`) of a checkpoint.

    Raises:
        UserError: one of them, or the weights, is damaged or missing; says how the run goes on.
    """
    try:
        read_weights(checkpoint / "model.safetensors")
        tensors, state = read_weights(checkpoint / "optimizer.safetensors"), read_json(checkpoint / "state.json")
        check_sum(checkpoint / "state.json")
        resumed = state | {"step": int(state["step"]), "seconds": float(state["seconds"])}
        if resumed["step"] != step_of(checkpoint) or not 0.0 <= resumed["seconds"] < math.inf:
            raise ValueError(f"state.json has step={state['step']}, seconds={state['seconds']}")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"state.json lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{checkpoint} is damaged ({reason}): remove it, and the run goes on from the one before") from None
    return tensors, resumed


def begin_with(model: nn.Module, name_or_path: str) -> None:
    """Take over the weights of a checkpoint of the same architecture, or of one that this has grown from.

    Tensors that it lacks stay as they are. Of one that has grown along some axes, the old part comes first: what new inputs
    count is zero, and new outputs stay as they are. Of the inner channels of a U-Net that has become narrower, which mean
    nothing by themselves, the first are taken. What another body does, and what a task with other goals gives, is left out:
    it is learned anew.

    Raises:
        UserError: no checkpoint there, or one of another architecture; the tensor is named.
    """
    folder = _checkpoint_folder(Path(name_or_path))
    described = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
    described = described if isinstance(described, dict) else {}
    anew = _learned_anew(model, described.get("shapes"))
    other = f"another architecture{_differing(model, described.get('model'))}"
    path = folder / "model.safetensors"
    stored, wanted = named_as_now(model, read_weights(path)), model.state_dict()
    for name, old in stored.items():
        if name.startswith(anew):
            continue
        new = wanted.get(name)
        if new is None:
            raise UserError(f"{path} has an extra tensor {name!r}: these are weights of {other}")
        shrunk = old.dim() == new.dim() and any(a > b for a, b in zip(old.shape, new.shape, strict=True))
        if old.dim() != new.dim() or (shrunk and ".trunk." not in name):
            got, expected = list(old.shape), list(new.shape)
            raise UserError(f"{path}: tensor {name!r} has shape {got}, expected {expected} or less: {other}")
        if new.dim() > 1:
            new[: len(old)] = 0.0
        common = tuple(slice(min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
        new[common] = old[common]


def _differing(model: nn.Module, then: Any) -> str:
    """In what a model's settings differ from those of a checkpoint's model.json, for the end of a line."""
    now = getattr(model, "config", None)
    if now is None or not isinstance(then, dict):
        return ""
    mine, theirs = flat(asdict(now)), flat(in_present_keys(then))
    other = [f"model.{key}={value}" for key, value in theirs.items() if key in mine and mine[key] != value]
    return f"; it has {', '.join(other)}" if other else ""


def _learned_anew(model: nn.Module, then: Any) -> tuple[str, ...]:
    """Beginnings of the names of weights that learned other actions or goals, by their model.json, than the model has."""
    now: Any = getattr(model, "shapes", None)
    parts = {"action_dim": "ego_motion.", "goal_dim": "heads."} if isinstance(then, dict) else {}
    return tuple(part for key, part in parts.items() if now is not None and then.get(key) != getattr(now, key))


def load_model(name_or_path: str, device: str = "cpu") -> WorldModel[Any]:
    """A world model from a run or checkpoint folder, `my_package:make_model`, or by its name. See `embodied_liftwm.load`."""
    path = Path(name_or_path)
    if not path.exists() and is_function_name(name_or_path):
        return _load_foreign(name_or_path)
    folder = _checkpoint_folder(path)
    try:
        described = read_json(folder / "model.json")
        config, shapes = read_model(described["model"]), ModelShapes(**described["shapes"])
        model = build_model(config, shapes)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{folder / 'model.json'} does not describe a model of this version: {error}") from None
    load_weights(model, folder / "model.safetensors")
    check_sum(folder / "model.json")
    return model.to(device).eval().requires_grad_(False)


def _checkpoint_folder(path: Path) -> Path:
    if (path / "model.safetensors").is_file():
        return path
    found = checkpoints(path)
    if found:
        return found[-1]
    if not path.exists():
        if str(path) in shipped():
            return SHIPPED / path
        names = f"shipped are {', '.join(shipped())}" if shipped() else "none is shipped"
        raise UserError(
            f"no model at {path}: train one with `liftwm train run={path}`, or name it as my_package:make_model; {names}"
        )
    raise UserError(f"{path} holds no checkpoint: expected {path}/checkpoints/step-*/model.safetensors")


def shipped() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model.safetensors"))


def export(run: str | Path, folder: str | Path, card: str) -> Path:
    """Copy the newest weights of a run, without what only resuming needs, into a folder that `embodied_liftwm.load` takes.

        export("runs/base", "embodied_liftwm/checkpoints/base", Path("card.md").read_text())

    makes the shipped checkpoint `base`.

    Args:
        run: a run folder, or a checkpoint.
        folder: is made, whole or not at all.
        card: README.md of the checkpoint: its data, seeds, figures with their commands, and limits.

    Raises:
        UserError: no checkpoint there, weights that do not load, an empty card, or `folder` is there already.
    """
    source, folder = _checkpoint_folder(Path(run)), Path(folder)
    load_model(str(source))
    check_card(folder, card)
    with whole_folder(folder) as partial:
        for name in ("model.safetensors", "model.json"):
            shutil.copyfile(source / name, partial / name)
        (partial / "README.md").write_text(card.rstrip() + "\n")
        write_sums(partial)
    return folder


def check_card(folder: Path, card: str) -> None:
    """Raises UserError where weights would be exported without a card, or over something."""
    if not card.strip():
        raise UserError(f"{folder}: what is exported needs a card: its data, seeds, figures and limits")
    if folder.exists():
        raise UserError(f"{folder} is there already: remove it first, or choose another folder")


def _load_foreign(name: str) -> WorldModel[Any]:
    """Call `make_model` of `my_package:make_model`, and check that what it returns has the protocol's methods."""
    model: WorldModel[Any] = call_function(name, f"model={name}")
    needed = ("initial_state", "observe", "imagine", "render", "surprise", "summarize", "ego_camera")
    require_methods(model, f"model={name}", needed, "embodied_liftwm.protocols.WorldModel")
    return model


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).contiguous() for index, slot in state.items() for name, value in slot.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`.

    Raises:
        UserError: tensors of another training; the first that does not fit is named.
    """
    slots: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, tensor in tensors.items():
        number, _, field = name.partition(".")
        index = int(number) if number.isdecimal() and len(number) < 10 else len(parameters)
        if index >= len(parameters) or tensor.shape not in ((), parameters[index].shape):
            raise UserError(f"the optimiser's tensor {name!r}, {list(tensor.shape)}, fits no parameter: remove the checkpoint")
        like = parameters[index]
        slots.setdefault(index, {})[field] = (
            torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        )  # in the parameter's own order of memory
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
