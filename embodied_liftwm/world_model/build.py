"""From a config and a dataset's shapes to a model. A new memory is registered here and in `ModelConfig.memory`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.context import ContextWorldModel
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.liftwm_cloud import CloudLiftWM
from embodied_liftwm.world_model.liftwm_gaussians import GaussianLiftWM
from embodied_liftwm.world_model.liftwm_latent import AppendLiftWM, BoundedLiftWM
from embodied_liftwm.world_model.recurrent import RecurrentWorldModel

MODELS: dict[str, Callable[[ModelConfig, ModelShapes], BaseWorldModel[Any]]] = {
    "patches": LiftWM,
    "gaussians": GaussianLiftWM,
    "latent_append": AppendLiftWM,
    "latent_bounded": BoundedLiftWM,
    "recurrent": RecurrentWorldModel,
    "rgb_cloud": CloudLiftWM,
    "context": ContextWorldModel,
}


def build_model(config: ModelConfig, shapes: ModelShapes) -> BaseWorldModel[Any]:
    """Make an untrained model. Raises UserError where the image cannot be divided into cells."""
    if shapes.image_size % 16 or shapes.image_size & (shapes.image_size - 1):
        raise UserError(f"image size {shapes.image_size}: models take square frames of a power of two, 32 pixels or more")
    # Convolutions on a CPU are a tenth to a fifth faster in this order of memory, alone and in batches, with gradients too.
    return MODELS[config.memory](config, shapes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
