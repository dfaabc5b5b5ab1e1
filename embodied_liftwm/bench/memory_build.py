"""The memories that `liftwm bench memory` compares, built alike: one encoder, and one decoder where they share one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch

from embodied_liftwm.bench.memory_more import ContextMemory, PatchMemory
from embodied_liftwm.bench.memory_parts import CloudMemory, LatentMemory, Memory
from embodied_liftwm.config import BenchConfig, ModelConfig
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.liftwm_cloud import CloudLiftWM
from embodied_liftwm.world_model.liftwm_latent import LatentLiftWM

CELLS_A_SIDE = 32
"""Of the grid of latents: stride 8 at 256 pixels, 4 at 128, 2 at 64."""


def build(config: BenchConfig, image_size: int) -> tuple[CloudLiftWM, list[Memory]]:
    """The model whose encoder all use, and the memories: the cloud, the cache that grows, a bounded one for each budget,
    patches, and raw frames.

    Raises:
        UserError: models of that size cannot be built, or a budget is less than one frame.
    """
    settings = replace(config.model, memory="rgb_cloud", stride=stride_of(image_size), movers=0, frame_moves_depth=False)
    torch.manual_seed(0)
    cloud = cast(CloudLiftWM, _built(config, settings, image_size))
    memories: list[Memory] = [CloudMemory(cloud)]
    for budget in (0, *config.memory_budgets):
        name = "latent_bounded" if budget else "latent_append"
        alike = replace(settings, memory=cast(Any, name), memory_bytes=budget or settings.memory_bytes)
        model = cast(LatentLiftWM, _built(config, alike, image_size))
        model.painter.load_state_dict(cloud.decoder.state_dict())
        memories.append(LatentMemory(name, model, budget))
    memories.append(PatchMemory(cast(LiftWM, _built(config, replace(settings, memory="patches"), image_size)), cloud))
    raw = cast(ContextWorldModel, _built(config, replace(settings, memory="context"), image_size))
    for part, shared in ((raw.encoder, cloud.encoder), (raw.cells, cloud.cells), (raw.decoder, cloud.decoder)):
        part.load_state_dict(shared.state_dict())
    memories.append(ContextMemory(raw))
    return cloud, memories


def stride_of(image_size: int) -> int:
    """Pixels a side of a cell: as many cells at every size, as far as strides allow."""
    return min(8, max(1, image_size // CELLS_A_SIDE))


def _built(config: BenchConfig, settings: ModelConfig, image_size: int) -> Any:
    return build_model(settings, ModelShapes((image_size, image_size), 2, 3)).to(config.device).eval()
