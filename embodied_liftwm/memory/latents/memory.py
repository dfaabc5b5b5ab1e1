"""Caches of latents as memories: no pixel of the past is shown or encoded again (Mirage, arXiv:2606.09828).

Reading, completing what was not seen, and writing that back all happen on the grid of latents; pixels are painted for whoever
wants to look. Latents are not random: they are all that is kept of a frame, and a KL to what is expected weighs each by what it
is worth to a single view: all but the coarsest fade (2 dB after ten steps of training).
"""

from __future__ import annotations

import math
from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.memory.contract import Bytes, Grid, Lifted, Memory, MemoryModule, Points, Read
from embodied_liftwm.memory.latents.append import AppendCache
from embodied_liftwm.memory.latents.bounded import BoundedCache, slots_for
from embodied_liftwm.memory.latents.cache import LARGEST_LATENT, CacheRead, CellFrame, LatentCache, cell_evidence
from embodied_liftwm.protocols import Camera

C = TypeVar("C", bound=LatentCache)


class _CacheMemory(MemoryModule, Memory[C], Generic[C]):
    """What both policies do."""

    reads: Grid = "cells"

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.latent_dim, self.stride = config.latent_dim, config.stride
        self.cells = math.prod(image_size) // config.stride**2

    def write(self, world: C, lifted: Lifted, camera: Camera) -> C:
        """Raises UserError for a frame that cannot be placed."""
        latents = lifted.latents.clamp(-LARGEST_LATENT, LARGEST_LATENT)
        evidence = cell_evidence(lifted.depth, lifted.spread, camera, self.stride)
        observed: float | Tensor = 1.0
        if lifted.imagined is not None:
            observed = 1.0 - F.avg_pool2d(lifted.imagined.to(latents).unsqueeze(1), self.stride).squeeze(1)
        return world.write(CellFrame(lifted.depth, evidence, latents, camera, self.stride, observed))

    def read(self, world: C, cameras: Camera) -> Read:
        return _read(world.read(cameras, self.stride))

    def read_at(self, world: C, cameras: Camera, steps: Tensor) -> Read:
        return _read(world.read(cameras, self.stride, steps))

    def points(self, world: C) -> Points:
        places, weights, latents = (t.unsqueeze(2) for t in (world.points(), world.weights(), world.values()))
        return Points(places, weights, weights, latents)


class AppendMemory(_CacheMemory[AppendCache]):
    """Nothing is forgotten, and every frame makes the next a little slower."""

    def empty(self, batch_size: int) -> AppendCache:
        return AppendCache.empty(batch_size, self.latent_dim, self.like)

    def empty_to_train(self, batch_size: int, frames: int) -> AppendCache:
        return AppendCache.empty(batch_size, self.latent_dim, self.like, frames * self.cells, compact=False)

    def nbytes(self, world: AppendCache) -> Bytes:
        return Bytes.of(world, world.occupied, grows=True)


class BoundedMemory(_CacheMemory[BoundedCache]):
    """A step costs the same however long the episode is."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        """Raises UserError where the budget is too small for one frame."""
        super().__init__(config, image_size)
        self.resize(config.latent_bounded.bytes)

    def resize(self, size: int) -> None:
        """Let the cache of an episode take so many bytes. Raises UserError where that is too little for one frame."""
        self.slots = slots_for(size, self.latent_dim, self.cells)

    def empty(self, batch_size: int) -> BoundedCache:
        return BoundedCache.empty(batch_size, self.slots, self.latent_dim, self.like)

    def empty_to_train(self, batch_size: int, frames: int) -> BoundedCache:
        slots = min(self.slots, frames * self.cells)
        return BoundedCache.empty(batch_size, slots, self.latent_dim, self.like, compact=False)

    def advance(self, world: BoundedCache, steps: Tensor) -> BoundedCache:
        return world.pass_time(steps)

    def nbytes(self, world: BoundedCache) -> Bytes:
        return Bytes.of(world, world.occupied, world.tokens)


def _read(found: CacheRead) -> Read:
    visible = found.visible
    return Read(found.latents * visible.unsqueeze(1), visible, found.depths * visible, observed=found.observed)
