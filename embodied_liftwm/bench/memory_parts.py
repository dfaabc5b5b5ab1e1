"""The memories that `liftwm bench memory` compares, and the stages of a generated frame: read, decode, write.

They are the objects that train and serve, of models that are built alike: one encoder finds the latents of every frame, and all
but patches, whose decoder works on splatted pixels, are decoded by one. A generated frame is a read of what is remembered from
the next camera of the tour, a decoding of that, and a write of what was decoded, all of it, at the same depth for every memory
that keeps one. Raw frames are no memory of the contract, which reads what it wrote: what a view shows of them is attended to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.bench.memory_room import Frame
from embodied_liftwm.bench.stopwatch import Stopwatch
from embodied_liftwm.config import BenchConfig, ModelConfig
from embodied_liftwm.memory.contract import Bytes, Lifted, Read
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.baselines.context_attention import FrameFeatures
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.decoders.latents import LatentDecoder, cells_of_camera
from embodied_liftwm.world_model.decoders.picture import encoded_again
from embodied_liftwm.world_model.encoder import Encoder
from embodied_liftwm.world_model.liftwm import LiftWM

RENDER, ENCODE, READ, DECODE, WRITE, ENCODE_MADE = STAGES = [
    "render", "encode again", "read", "decode", "write", "encode to write",
]  # fmt: skip
"""The first three are a read: of pictures the first two, of raw frames the second and third, of all else the third. The last is
a part of a write: what was made without latents has none until it is encoded again, for memories that keep them."""
DEPTH_SPREAD = 0.02
"""How sure all are of depth: standard deviation of its logarithm."""
CELLS_A_SIDE = 32
"""Of the grid of latents: stride 8 at 256 pixels, 4 at 128, 2 at 64."""


class Made(NamedTuple):
    """A generated frame."""

    rgb: Tensor  # [1, 3, H, W] in [0, 1]
    latents: Tensor | None  # [1, D, h, w] without holes, where the decoder has them


class Kept:
    """One of the memories, and how a model uses it. A world is never changed: each call returns another."""

    def __init__(self, name: str, model: LiftWM[Any], encoder: Encoder) -> None:
        """`encoder` finds the latents of pictures."""
        self.name, self.model, self.stride = name, model, model.config.stride
        self._memory, self._encoder = model.memory, encoder
        empty = self.bytes(self.empty())
        self.budget = 0 if empty.grows else empty.allocated

    @property
    def decoder(self) -> Any:
        """What paints what is read."""
        return self.model.decoder

    @property
    def walks_far(self) -> bool:
        """Whether it can be walked to the oldest age: to write into it costs the same at every one."""
        return bool(self.budget)

    def empty(self) -> Any:
        """A world without anything in it."""
        return self._memory.empty(1)

    def bytes(self, world: Any) -> Bytes:
        """What it costs."""
        return self._memory.nbytes(world)

    def observe(self, world: Any, frame: Frame, latents: Tensor) -> Any:
        """With a frame of the tour, whose latents the encoder found."""
        now = self._memory.advance(world, torch.ones_like(frame.depth[:, 0, 0]))
        return self._memory.write(now, _lifted(frame, frame.rgb, latents), frame.camera)

    def read(self, world: Any, camera: Camera, watch: Stopwatch) -> Read:
        """What the camera sees."""
        picture = self._memory.reads == "picture"
        with stage(watch, RENDER if picture else READ):
            read = self._memory.read(world, camera)
        if not picture:
            return read
        with stage(watch, ENCODE):
            return encoded_again(read, camera, self._encoder)

    def decode(self, read: Read, camera: Camera) -> Made:
        """What a read shows."""
        if not isinstance(self.decoder, LatentDecoder):
            return Made(self.decoder(read, camera).rgb.clamp(0, 1), None)
        grid = self.decoder.complete(read, camera)
        return Made(self.decoder.paint(grid).rgb.clamp(0, 1), grid.latents)

    def write(self, world: Any, made: Made, frame: Frame, watch: Stopwatch) -> Any:
        """With what was decoded, at the depth of `frame`."""
        latents = made.latents
        if latents is None:
            with stage(watch, ENCODE_MADE):
                latents = encoded(self._encoder, made.rgb, frame.camera)
        return self._memory.write(world, _lifted(frame, made.rgb, latents), frame.camera)

    def coverage(self, read: Read) -> Tensor | None:
        """How much of each cell is shown, in [0, 1]; None of a memory that only training can tell to show nothing. [1, h, w]"""
        whole = self.stride if self._memory.reads == "pixels" else 1
        return F.avg_pool2d(read.visible.unsqueeze(1), whole).squeeze(1)

    def generate(self, world: Any, frame: Frame, watch: Stopwatch) -> Read:
        """Make the frame that follows; returns what was read of it."""
        read = self.read(world, frame.camera, watch)
        with stage(watch, DECODE):
            made = self.decode(read, frame.camera)
        with stage(watch, WRITE):
            self.write(world, made, frame, watch)
        return read


class RawFrames(Kept):
    """All frames as they were, with the encoder and the decoder of all, and attention between them.

    A read chooses frames among the nearest, encodes those and attends to them; that hardly grows with age. To append costs the
    same at every age, but for a copy of everything each time that the room, which grows by a quarter, is full: it is timed
    without.
    """

    def __init__(self, model: ContextWorldModel) -> None:
        self.name, self.stride, self.budget = "context", model.config.stride, 0
        self.frames = model

    @property
    def decoder(self) -> LatentDecoder:
        return self.frames.decoder

    @property
    def walks_far(self) -> bool:
        return True

    def empty(self) -> ContextFrames:
        return self.frames.initial_state(1).world

    def bytes(self, world: ContextFrames) -> Bytes:
        return Bytes.of(world, world.occupied, grows=True)

    def observe(self, world: ContextFrames, frame: Frame, latents: Tensor) -> ContextFrames:
        return world.add(frame.rgb, frame.camera.world_from_camera)

    def read(self, world: ContextFrames, camera: Camera, watch: Stopwatch) -> Read:
        with stage(watch, READ):
            chosen, usable = world.choose(camera, self.frames.config.context.views)
            rgb, poses = (found.flatten(0, 1) for found in world.take(chosen))
        frames = replace(camera, intrinsics=camera.intrinsics.expand(len(rgb), 3, 3), world_from_camera=poses)
        with stage(watch, ENCODE):
            features = self.frames.features(rgb, frames.world_from_camera, frames.intrinsics)
        with stage(watch, READ):
            seen = FrameFeatures(*(x.unsqueeze(0) for x in features))
            grids = (cells_of_camera(c, self.stride) for c in (frames, camera))
            read = self.frames.attention(seen, next(grids), usable, next(grids))
            return Read(read.latents * read.visible.unsqueeze(1), read.visible, read.depths * read.visible)

    def write(self, world: ContextFrames, made: Made, frame: Frame, watch: Stopwatch) -> ContextFrames:
        # None is kept, so each is written over the one before: as the newest, without a copy of all that is older.
        newest = replace(world, used=world.count.clone())
        return newest.add(made.rgb, frame.camera.world_from_camera)

    def coverage(self, read: Read) -> None:
        return None


def build(config: BenchConfig, image_size: int) -> tuple[Encoder, list[Kept]]:
    """The encoder that all use, and the memories: the cloud, the cache that grows, a bounded one for each budget, patches, and
    raw frames.

    Raises:
        UserError: models of that size cannot be built, or a budget is less than one frame.
    """
    settings = replace(config.model, memory="rgb_cloud", stride=stride_of(image_size), movers=0, frame_moves_depth=False)
    torch.manual_seed(0)

    def built(memory: str, budget: int = 0) -> Any:
        own: ModelConfig = replace(settings, memory=cast(Any, memory))
        own = own.sized(budget) if budget else own
        return build_model(own, ModelShapes((image_size, image_size), 2, 3)).to(config.device).eval()

    cloud = built("rgb_cloud")
    memories = [Kept("rgb_cloud", cloud, cloud.encoder)]
    for budget in (0, *config.memory_budgets):
        name = "latent_bounded" if budget else "latent_append"
        memories.append(Kept(name, built(name, budget), cloud.encoder))
    memories += [Kept("patches", built("patches"), cloud.encoder), RawFrames(built("context"))]
    raw: ContextWorldModel = cast(RawFrames, memories[-1]).frames
    raw.encoder.load_state_dict(cloud.encoder.state_dict(), strict=False)  # but for its colours, which are `cells` there
    raw.cells.load_state_dict(cloud.encoder.colours.state_dict())
    for memory in memories:
        if isinstance(memory.decoder, LatentDecoder):
            memory.decoder.load_state_dict(cloud.decoder.state_dict())
    return cloud.encoder, memories


def stride_of(image_size: int) -> int:
    """Pixels a side of a cell: as many cells at every size, as far as strides allow."""
    return min(8, max(1, image_size // CELLS_A_SIDE))


def encoded(encoder: Encoder, rgb: Tensor, camera: Camera) -> Tensor:
    """The latents of a frame. [1, D, h, w]"""
    return encoder(rgb, camera, None).latents


def _lifted(frame: Frame, rgb: Tensor, latents: Tensor) -> Lifted:
    """A picture at the depth of a frame of the tour."""
    depth = frame.cell_depth
    return Lifted(rgb, depth, torch.full_like(depth, DEPTH_SPREAD), latents, torch.ones_like(depth), pixel_depth=frame.depth)


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
