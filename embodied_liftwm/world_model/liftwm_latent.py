"""World models that remember with a cache of latents (`memory.latent_cache`): no pixel of the past is shown or encoded again.

The same encoder as every model of ours, with the cell's pixels as cosine waves added to its latents (`cell_codec`), so that
they carry colour. Reading, completing what was not seen, and writing that back all happen on the grid of latents; pixels are
painted for whoever wants to look. Latents of other memories can be read alike: `memory.latent_read.read_latents` takes any
points, such as the means of a `GaussianMap` with its opacities as weights, or the texels of a `PatchMap`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.memory.frames.keyframes import Keyframes
from embodied_liftwm.memory.latents.append import AppendCache
from embodied_liftwm.memory.latents.bounded import BoundedCache, slots_for
from embodied_liftwm.memory.latents.cache import LARGEST_LATENT, CacheRead, CellFrame, LatentCache, cell_evidence
from embodied_liftwm.protocols import Camera, Observation, View
from embodied_liftwm.world_model.base import ModelShapes, Rendering
from embodied_liftwm.world_model.decoders.cell_codec import CellEncoder
from embodied_liftwm.world_model.decoders.latents import KNOWN_FROM, Completed, LatentDecoder
from embodied_liftwm.world_model.depth_belief import Matches
from embodied_liftwm.world_model.encoder import Encoder, Encoding, Sources
from embodied_liftwm.world_model.generation import shown
from embodied_liftwm.world_model.liftwm import LiftWM, LiftWMState
from embodied_liftwm.world_model.summary import Surface

IMAGINED_SPREAD = 0.25
"""Spread of a log-depth that was imagined: what is seen later soon outweighs it."""


class CodedEncoder(Encoder):
    """`Encoder` whose latents begin as the cells' colours."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__(config, image_size)
        self.colours = CellEncoder(config.latent_dim, config.stride)

    def forward(self, rgb: Tensor, camera: Camera, matches: Matches | None, sources: Sources | None = None) -> Encoding:
        encoding = super().forward(rgb, camera, matches, sources)
        latents = encoding.latents + self.colours(rgb)
        return encoding._replace(latents=latents.clamp(-LARGEST_LATENT, LARGEST_LATENT))


@dataclass(frozen=True)
class AppendState(LiftWMState):
    """A state whose cache grows: two of them are brought to one size before their rows are mixed."""

    def where(self, mask: Tensor, other: Self) -> Self:
        mine, theirs = cast(AppendCache, self.world), cast(AppendCache, other.world)
        capacity = max(mine.capacity, theirs.capacity)
        larger = replace(self, world=mine.with_capacity(capacity))
        return super(AppendState, larger).where(mask, replace(other, world=theirs.with_capacity(capacity)))


class LatentLiftWM(LiftWM):
    """`LiftWM` whose map is a `LatentCache`; a subclass says which."""

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes)
        self.encoder = CodedEncoder(config, shapes.image_size)
        del self.decoder, self.fusion  # of splatted pixels and of texels
        self.painter = LatentDecoder(config, shapes.image_size)
        self.cells = math.prod(self.image_size) // config.stride**2

    def initial_state(self, batch_size: int) -> LiftWMState:
        return self._state(batch_size, self.empty_cache(batch_size))

    def training_state(self, batch_size: int, frames: int) -> LiftWMState:
        return self._state(batch_size, self.empty_cache(batch_size, frames))

    @abstractmethod
    def empty_cache(self, batch_size: int, frames: int = 0) -> LatentCache:
        """A cache without tokens; to train with, in full precision and with room for `frames` frames, if that is not 0."""

    def _state(self, batch_size: int, world: LatentCache) -> LiftWMState:
        return LiftWMState(self.blank_ego(batch_size), world, Keyframes.empty(batch_size, self.image_size, self._like))

    @property
    def _like(self) -> Tensor:
        return next(self.parameters()).detach()

    def write_world(self, world: Any, encoding: Encoding, observation: Observation) -> LatentCache:
        camera, stride = observation.camera, self.config.stride
        evidence = cell_evidence(encoding.depth, encoding.spread, camera, stride)
        return cast(LatentCache, world).write(CellFrame(encoding.depth, evidence, encoding.latents, camera, stride))

    def decode(self, state: LiftWMState, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        read = self.read(state, cameras, steps)
        decoded = self.painter.paint(self._complete(read, cameras))
        assert decoded.seen is not None
        return Rendering(decoded, decoded.seen, read.latents * read.visible.unsqueeze(1))

    def read(self, state: LiftWMState, cameras: Camera, steps: Tensor | None = None) -> CacheRead:
        """What V cameras a row see of the cache, on their grids of cells."""
        return cast(LatentCache, state.world).read(cameras, self.config.stride, steps)

    def _complete(self, read: CacheRead, cameras: Camera) -> Completed:
        premultiplied = read.latents * read.visible.unsqueeze(1)
        return self.painter.complete(premultiplied, read.visible, read.depths * read.visible, cameras, read.observed)

    def latent_prior(self, state: LiftWMState, camera: Camera) -> None:  # type: ignore[override]
        """None: latents are not random. They are all that is kept of a frame, and a KL to what is expected weighs each by what
        it is worth to a single view: all but the coarsest fade (2 dB after ten steps of training)."""
        return None

    def generate(self, state: LiftWMState, camera: Camera) -> tuple[LiftWMState, View]:
        """The next frame of a video that nobody films: what `camera` sees after a step, imagined where it is unknown.

        What is imagined is written into the cache as latents, and stays, as imagined: `View.seen` does not take it for
        something that was observed. What was read is not written again. The picture is for the viewer alone: nothing is
        encoded.

        Returns:
            The state after the step, with its ego camera at `camera`, and the view as it was before the step was believed.
        """
        self.check_next(state, camera)
        state = self.pass_time(state, torch.ones_like(camera.intrinsics[:, 0, 0]))
        read = self.read(state, camera)
        grid = self._complete(read, camera)
        stride = self.config.stride
        evidence = cell_evidence(grid.depth, torch.full_like(grid.depth, IMAGINED_SPREAD), camera, stride)
        evidence = torch.where(read.visible < KNOWN_FROM, evidence, 0.0)  # what was read is there already
        imagined = CellFrame(grid.depth, evidence, grid.latents, camera, stride, observed=0.0)
        world = cast(LatentCache, state.world).write(imagined)
        decoded = self.painter.paint(grid)
        assert decoded.seen is not None
        view = View(decoded.rgb.clamp(0, 1), decoded.depth, decoded.seen, latent=grid.latents)
        step = shown(view, camera, self.shapes.action_dim)
        return replace(state, world=world, ego=self.move_ego(state.ego, step)), view

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        world = cast(LatentCache, state.world)
        weights = world.weights()[0]
        kept = weights > 0
        return world.points()[0, kept], self._colours(world.values()[0, kept]), weights[kept]

    def surface(self, world: Any) -> Surface:
        colours = self._colours(world.values())
        return Surface(*(values.unsqueeze(2) for values in (world.points(), colours, world.weights())))

    def _colours(self, latents: Tensor) -> Tensor:
        """Mean colours of what latents [..., D] stand for, in [0, 1]. [..., 3]"""
        return self.painter.colours.colours(latents).clamp(0, 1)


class AppendLiftWM(LatentLiftWM):
    """Nothing is forgotten, and every frame makes the next a little slower."""

    def empty_cache(self, batch_size: int, frames: int = 0) -> LatentCache:
        return AppendCache.empty(batch_size, self.config.latent_dim, self._like, frames * self.cells, compact=not frames)

    def _state(self, batch_size: int, world: LatentCache) -> LiftWMState:
        return AppendState(**vars(super()._state(batch_size, world)))

    def write(self, state: LiftWMState, encoding: Encoding, observation: Observation) -> LiftWMState:
        return AppendState(**vars(super().write(state, encoding, observation)))


class BoundedLiftWM(LatentLiftWM):
    """A step costs the same however long the episode is."""

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        """Raises UserError where the budget is too small for one frame."""
        super().__init__(config, shapes)
        self.slots = slots_for(config.memory_bytes, config.latent_dim, self.cells)

    def with_bytes(self, memory_bytes: int) -> Self:
        """Let the cache of an episode take so much; weights do not depend on it. The same object.

        Raises:
            UserError: too little for one frame.
        """
        self.slots = slots_for(memory_bytes, self.config.latent_dim, self.cells)
        self.config = replace(self.config, memory_bytes=memory_bytes)
        return self

    def empty_cache(self, batch_size: int, frames: int = 0) -> LatentCache:
        slots = min(self.slots, frames * self.cells) if frames else self.slots
        return BoundedCache.empty(batch_size, slots, self.config.latent_dim, self._like, compact=not frames)

    def pass_time(self, state: LiftWMState, steps: Tensor) -> LiftWMState:
        return replace(state, world=cast(BoundedCache, state.world).pass_time(steps))
