"""From a config and a dataset's shapes to a model: here alone a name becomes a memory, in one line, and gets its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.cloud.memory import CloudMemory
from embodied_liftwm.memory.contract import Memory
from embodied_liftwm.memory.gaussians.memory import GaussianMemory
from embodied_liftwm.memory.latents.memory import AppendMemory, BoundedMemory
from embodied_liftwm.memory.moving import MovingMemory
from embodied_liftwm.memory.patches.memory import PatchMemory
from embodied_liftwm.plugins import call_function, is_function_name, require_methods
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.baselines.recurrent import RecurrentWorldModel
from embodied_liftwm.world_model.decoders.latents import LatentDecoder
from embodied_liftwm.world_model.decoders.surface import SplatDecoder
from embodied_liftwm.world_model.encoder import CodedEncoder, Encoder
from embodied_liftwm.world_model.liftwm import LiftWM, Networks

ON_PIXELS, ON_CELLS = Networks(Encoder, SplatDecoder), Networks(CodedEncoder, LatentDecoder)
NETWORKS = {"pixels": ON_PIXELS, "cells": ON_CELLS, "picture": ON_CELLS}
"""By what a memory is read as: `Memory.reads`."""
MakeMemory = Callable[[ModelConfig, ModelShapes], Memory[Any]]
MEMORIES: dict[str, tuple[MakeMemory, Networks]] = {
    "patches": (lambda config, shapes: _with_movers(PatchMemory(config), config), ON_PIXELS),
    "gaussians": (lambda config, shapes: GaussianMemory(config, shapes.image_size), ON_PIXELS),
    "latent_append": (lambda config, shapes: AppendMemory(config, shapes.image_size), ON_CELLS),
    "latent_bounded": (lambda config, shapes: BoundedMemory(config, shapes.image_size), ON_CELLS),
    "rgb_cloud": (lambda config, shapes: CloudMemory(config), ON_CELLS),
}
BASELINES: dict[str, Callable[[ModelConfig, ModelShapes], BaseWorldModel[Any]]] = {
    "recurrent": RecurrentWorldModel,
    "context": ContextWorldModel,
}

SIDE_PX = 16
"""The sides of frames are multiples of it: two cells of the largest stride."""


def build_model(config: ModelConfig, shapes: ModelShapes) -> BaseWorldModel[Any]:
    """Make an untrained model.

    Raises:
        UserError: frames whose sides are no multiples of `SIDE_PX`; a budget of less than one frame; or a memory of the user's
            that is none.
    """
    if any(side % SIDE_PX or side < SIDE_PX for side in shapes.image_size):
        near = " x ".join(str(max(1, round(side / SIDE_PX)) * SIDE_PX) for side in shapes.image_size)
        size = " x ".join(map(str, shapes.image_size))
        raise UserError(f"frames of {size} pixels: models take sides that are multiples of {SIDE_PX}; the nearest are {near}")
    # Convolutions on a CPU are a tenth to a fifth faster in this order of memory, alone and in batches, with gradients too.
    return _model(config, shapes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _model(config: ModelConfig, shapes: ModelShapes) -> BaseWorldModel[Any]:
    if config.memory in BASELINES:
        return BASELINES[config.memory](config, shapes)
    if is_function_name(config.memory):
        own = users_memory(config, shapes)
        return LiftWM(config, shapes, NETWORKS[own.reads], lambda: own)
    make, networks = MEMORIES[config.memory]
    return LiftWM(config, shapes, networks, lambda: make(config, shapes))


def users_memory(config: ModelConfig, shapes: ModelShapes) -> Memory[Any]:
    """The memory behind `model.memory=my_package:MyMemory`, called with the model's config and shapes.

    Raises:
        UserError: it cannot be made, or lacks what `memory.contract.Memory` asks for.
    """
    label, contract = f"model.memory={config.memory}", "embodied_liftwm.memory.contract.Memory"
    made: Memory[Any] = call_function(config.memory, label, config, shapes)
    needed = "empty", "write", "read", "points", "nbytes", "advance", "read_at", "empty_to_train", "resize"
    require_methods(made, label, needed, contract)
    reads = getattr(made, "reads", None)
    if reads not in NETWORKS:
        raise UserError(f"{label}: reads is {reads!r}, expected one of {', '.join(NETWORKS)}: see {contract}")
    return made


def _with_movers(still: Memory[Any], config: ModelConfig) -> Memory[Any]:
    return MovingMemory(still, config.movers, config.latent_dim, config.stride) if config.movers else still
