"""A memory of what stands still, with points that may move beside it: these take what moves, and are shown before the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.memory.contract import AREA_M2, Bytes, Grid, Lifted, Memory, MemoryModule, Motion, Points, Read
from embodied_liftwm.memory.movers import MOVES, MoverDynamics, Movers, Sight, read_movers, write_movers
from embodied_liftwm.memory.pixels import behind, certainty_of, read_of, values_of
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import TensorTree

W = TypeVar("W", bound=TensorTree)


@dataclass(frozen=True)
class MovingWorld(TensorTree, Generic[W]):
    """What stands still, and what does not."""

    still: W
    movers: Movers


class MovingMemory(MemoryModule, Memory[MovingWorld[W]], Generic[W]):
    """Any memory that is read pixel by pixel, with a budget of moving points."""

    reads: Grid = "pixels"

    def __init__(self, still: Memory[W], movers: int, latent_dim: int, stride: int) -> None:
        super().__init__()
        self.still = still
        self.budget, self.latent_dim, self.stride = movers, latent_dim, stride
        self.takes_pixel_depth, self.random_latents = still.takes_pixel_depth, still.random_latents
        self.dynamics = MoverDynamics()

    def empty(self, batch_size: int) -> MovingWorld[W]:
        return MovingWorld(self.still.empty(batch_size), self._no_movers(batch_size))

    def empty_to_train(self, batch_size: int, frames: int) -> MovingWorld[W]:
        return MovingWorld(self.still.empty_to_train(batch_size, frames), self._no_movers(batch_size))

    def _no_movers(self, batch_size: int) -> Movers:
        return Movers.empty(batch_size, self.budget, self.latent_dim, self.like)

    def resize(self, size: int) -> None:
        self.still.resize(size)

    def write(self, world: MovingWorld[W], lifted: Lifted, camera: Camera) -> MovingWorld[W]:
        motion = lifted.motion
        assert motion is not None
        resting = torch.where(motion.moving > MOVES, torch.inf, lifted.spread)  # what moves is no part of what stands still
        still = self.still.write(world.still, replace(lifted, spread=resting), camera)
        return MovingWorld(still, write_movers(world.movers, self._sight(lifted, motion, camera), camera, self.stride))

    def _sight(self, lifted: Lifted, motion: Motion, camera: Camera) -> Sight:
        """What a frame says of things that move. Matching misjudges their depth: it is not asked."""
        height, width = lifted.depth.shape[1:]
        cells = Camera(resize_intrinsics(camera.intrinsics, 1.0 / self.stride), camera.world_from_camera, height, width)
        return Sight(
            depth=torch.where(motion.moving > MOVES, motion.lone_depth, lifted.depth),
            certainty=certainty_of(lifted.depth, lifted.spread, cells),
            velocity=motion.velocity,
            moving=motion.moving,
            latents=lifted.latents,
            rgb=F.avg_pool2d(lifted.rgb, self.stride),
        )

    def read(self, world: MovingWorld[W], cameras: Camera) -> Read:
        return self._read(world, self._of_each(world, cameras), cameras)

    def read_at(self, world: MovingWorld[W], cameras: Camera, steps: Tensor) -> Read:
        return self._read(world, self.dynamics(self._of_each(world, cameras), steps), cameras)

    def _read(self, world: MovingWorld[W], movers: Movers, cameras: Camera) -> Read:
        """What moves, as it is when each camera looks, before what stands still."""
        front = read_of(read_movers(movers, values_of(movers), cameras))
        return behind(self.still.read(world.still, cameras), front)

    def _of_each(self, world: MovingWorld[W], cameras: Camera) -> Movers:
        """The points, a row for each camera."""
        views = len(cameras.intrinsics) // len(world.movers.means)
        return world.movers.map(lambda t: t.repeat_interleave(views, dim=0))

    def advance(self, world: MovingWorld[W], steps: Tensor) -> MovingWorld[W]:
        return MovingWorld(self.still.advance(world.still, steps), self.dynamics(world.movers, steps))

    def points(self, world: MovingWorld[W]) -> Points:
        """Moving points come last, each a primitive of one piece."""
        still, movers = self.still.points(world.still), world.movers
        there = (movers.evidence > 0).to(movers.means)
        moving = Points(movers.means, there, there * movers.sizes.square() / AREA_M2, movers.latents, movers.rgb)
        pieces = still.weights.shape[2]

        def join(before: Tensor, one: Tensor) -> Tensor:
            free = one.new_zeros(*one.shape[:2], pieces - 1, *one.shape[2:])
            return torch.cat([before, torch.cat([one.unsqueeze(2), free], dim=2)], dim=1)

        return still.map_with(moving, join)

    def nbytes(self, world: MovingWorld[W]) -> Bytes:
        still, moving = self.still.nbytes(world.still), Bytes.of(world.movers, world.movers.evidence > 0)
        return Bytes(still.occupied + moving.occupied, still.allocated + moving.allocated, still.grows)
