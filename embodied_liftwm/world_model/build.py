"""From a config and a dataset's shapes to a model. A new memory is registered here and in `ModelConfig.memory`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.baselines.recurrent import RecurrentWorldModel
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.liftwm_cloud import CloudLiftWM
from embodied_liftwm.world_model.liftwm_gaussians import GaussianLiftWM
from embodied_liftwm.world_model.liftwm_latent import AppendLiftWM, BoundedLiftWM

MODELS: dict[str, Callable[[ModelConfig, ModelShapes], BaseWorldModel[Any]]] = {
    "patches": LiftWM,
    "gaussians": GaussianLiftWM,
    "latent_append": AppendLiftWM,
    "latent_bounded": BoundedLiftWM,
    "recurrent": RecurrentWorldModel,
    "rgb_cloud": CloudLiftWM,
    "context": ContextWorldModel,
}


SIDE_PX = 16
"""The sides of frames are multiples of it: two cells of the largest stride."""


def build_model(config: ModelConfig, shapes: ModelShapes) -> BaseWorldModel[Any]:
    """Make an untrained model. Raises UserError for frames whose sides are no multiples of `SIDE_PX`."""
    if any(side % SIDE_PX or side < SIDE_PX for side in shapes.image_size):
        near = " x ".join(str(max(1, round(side / SIDE_PX)) * SIDE_PX) for side in shapes.image_size)
        size = " x ".join(map(str, shapes.image_size))
        raise UserError(f"frames of {size} pixels: models take sides that are multiples of {SIDE_PX}; the nearest are {near}")
    # Convolutions on a CPU are a tenth to a fifth faster in this order of memory, alone and in batches, with gradients too.
    return MODELS[config.memory](config, shapes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
