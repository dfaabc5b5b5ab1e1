"""What `liftwm bench memory` asks of a memory: take in a frame, make one, say what its store costs; and those of latents.

A generated frame is a read of what is remembered from the next camera of the tour, a decoding of that, and a write of what was
decoded, all of it, at the same depth for every memory that keeps one. The cloud and the caches are here, patches and raw frames
in `bench_memory_more`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from embodied_liftwm.bench.memory_room import Frame
from embodied_liftwm.bench.stopwatch import Stopwatch
from embodied_liftwm.memory.cloud.cloud import RgbCloud
from embodied_liftwm.memory.cloud.render import render_cloud
from embodied_liftwm.memory.latents.append import AppendCache
from embodied_liftwm.memory.latents.bounded import BoundedCache
from embodied_liftwm.memory.latents.cache import LARGEST_LATENT, CellFrame, LatentCache, cell_evidence
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.decoders.latents import LatentDecoder
from embodied_liftwm.world_model.decoders.surface import SplatDecoder
from embodied_liftwm.world_model.liftwm_cloud import CloudLiftWM, cells_of, filled
from embodied_liftwm.world_model.liftwm_latent import LatentLiftWM

RENDER, ENCODE, READ, DECODE, WRITE, ENCODE_MADE = STAGES = [
    "render", "encode again", "read", "decode", "write", "encode to write",
]  # fmt: skip
"""The first three are a read: of pixels the first two, of raw frames the second and third, of all else the third. The last is a
part of a write."""
DEPTH_SPREAD = 0.02
"""How sure all are of depth: standard deviation of its logarithm."""


class Told(NamedTuple):
    """What a read tells the decoder, on the grid of latents; of patches, which have their own decoder, on that of pixels."""

    latents: Tensor  # [1, D, h, w] times visibility
    visible: Tensor  # [1, h, w] in [0, 1]
    depths: Tensor  # [1, h, w] metres, times visibility


class Made(NamedTuple):
    """A generated frame."""

    rgb: Tensor  # [1, 3, H, W] in [0, 1]
    latents: Tensor | None  # [1, D, h, w] without holes, where the decoder has them


class Bytes(NamedTuple):
    """What a store costs, all of its tensors and nothing else of the model's state."""

    occupied: int  # of slots that hold something, and of what there is once a row
    allocated: int  # of all slots


class Memory(ABC):
    """One of the memories, and how it is used. A world is never changed: each call returns another."""

    decoder: LatentDecoder | SplatDecoder

    def __init__(self, name: str, stride: int, budget: int = 0) -> None:
        """`budget` is in bytes, 0 for a memory that grows."""
        self.name, self.budget, self.stride = name, budget, stride

    @property
    def walks_far(self) -> bool:
        """Whether it can be walked to the oldest age: to write into it costs the same at every one."""
        return bool(self.budget)

    @abstractmethod
    def empty(self) -> Any:
        """A world without anything in it."""

    @abstractmethod
    def observe(self, world: Any, frame: Frame, latents: Tensor) -> Any:
        """With a frame of the tour, whose latents the encoder found."""

    @abstractmethod
    def read(self, world: Any, camera: Camera, watch: Stopwatch) -> Told:
        """What the camera sees."""

    @abstractmethod
    def write(self, world: Any, made: Made, frame: Frame, watch: Stopwatch) -> Any:
        """With what was decoded, at the depth of `frame`."""

    @abstractmethod
    def bytes(self, world: Any) -> Bytes:
        """What the store costs."""

    def decode(self, told: Told, camera: Camera) -> Made:
        """What a read shows."""
        decoder = cast(LatentDecoder, self.decoder)
        grid = decoder.complete(*told, camera)
        return Made(decoder.paint(grid).rgb.clamp(0, 1), grid.latents)

    def coverage(self, told: Told) -> Tensor | None:
        """How much of each cell is shown, in [0, 1]; None of a memory that only training can tell to show nothing. [1, h, w]"""
        return told.visible

    def charged(self, world: Any) -> int:
        """The bytes that count: all of a budget, which is taken from the start; of what grows, what is occupied."""
        cost = self.bytes(world)
        return cost.allocated if self.budget else cost.occupied

    def generate(self, world: Any, frame: Frame, watch: Stopwatch) -> Told:
        """Make the frame that follows; returns what was read of it."""
        told = self.read(world, frame.camera, watch)
        with stage(watch, DECODE):
            made = self.decode(told, frame.camera)
        with stage(watch, WRITE):
            self.write(world, made, frame, watch)
        return told


class LatentMemory(Memory):
    """Tokens; nothing but latents from one write to the next read."""

    def __init__(self, name: str, model: LatentLiftWM, budget: int) -> None:
        super().__init__(name, model.config.stride, budget)
        self._model, self.decoder = model, model.painter

    def empty(self) -> LatentCache:
        return self._model.empty_cache(1)

    def observe(self, world: LatentCache, frame: Frame, latents: Tensor) -> LatentCache:
        evidence = cell_evidence(frame.cell_depth, torch.full_like(frame.cell_depth, DEPTH_SPREAD), frame.camera, self.stride)
        if isinstance(world, BoundedCache):
            world = world.pass_time(torch.ones_like(world.clock))
        return world.write(CellFrame(frame.cell_depth, evidence, latents, frame.camera, self.stride))

    def read(self, world: LatentCache, camera: Camera, watch: Stopwatch) -> Told:
        with stage(watch, READ):
            read = world.read(camera, self.stride)
            return Told(read.latents * read.visible.unsqueeze(1), read.visible, read.depths * read.visible)

    def write(self, world: LatentCache, made: Made, frame: Frame, watch: Stopwatch) -> LatentCache:
        assert made.latents is not None
        return self.observe(world, frame, made.latents)

    def bytes(self, world: LatentCache) -> Bytes:
        tokens = world.tokens.named_tensors() if isinstance(world, BoundedCache) else _slots_of(cast(AppendCache, world))
        slot = sum(t.shape[2:].numel() * t.element_size() for t in tokens.values())
        free = int((~cast(Any, world).occupied).sum())
        return Bytes(world.nbytes() - free * slot, world.nbytes())


class CloudMemory(Memory):
    """Pixels: what is read of them is rendered, and encoded again."""

    def __init__(self, model: CloudLiftWM) -> None:
        super().__init__("rgb_cloud", model.config.stride)
        self._model, self.decoder = model, cast(LatentDecoder, model.decoder)

    def empty(self) -> RgbCloud:
        return RgbCloud.empty(1, self._model.config.voxel_m, next(self._model.parameters()).device)

    def observe(self, world: RgbCloud, frame: Frame, latents: Tensor) -> RgbCloud:
        return world.add(frame.depth, frame.rgb, frame.camera)

    def read(self, world: RgbCloud, camera: Camera, watch: Stopwatch) -> Told:
        with stage(watch, RENDER):
            view = render_cloud(world, camera)
            visible, depth = cells_of(view, self.stride)
        with stage(watch, ENCODE):
            latents = encoded(self._model, filled(view), camera)
            return Told(latents * visible.unsqueeze(1), visible, depth * visible)

    def write(self, world: RgbCloud, made: Made, frame: Frame, watch: Stopwatch) -> RgbCloud:
        return world.add(frame.depth, made.rgb, frame.camera)

    def bytes(self, world: RgbCloud) -> Bytes:
        return Bytes(world.bytes, world.nbytes())


def encoded(model: CloudLiftWM, rgb: Tensor, camera: Camera) -> Tensor:
    """The latents of a frame, by the encoder that all memories have. [1, D, h, w]"""
    latents = model.encoder(rgb, camera, None).latents + model.cells(rgb)
    return latents.clamp(-LARGEST_LATENT, LARGEST_LATENT)


def _slots_of(world: AppendCache) -> dict[str, Tensor]:
    return {"offsets": world.offsets, "latents": world.latents}


@contextmanager
def stage(watch: Stopwatch, name: str) -> Iterator[None]:
    """What is done in here is that stage."""
    watch.enter(name)
    try:
        yield
    finally:
        watch.leave()


def new_watch(device: str) -> Stopwatch:
    """A stopwatch of the stages that waits for what an accelerator still does."""
    wait: Callable[[], None] = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    return Stopwatch(STAGES, wait)
