"""LiftWM with plain Gaussians as primitives: one colour and one latent each, rendered by alpha compositing.

What 3D Gaussian Splatting keeps of a scene, in the same model and at the same budget: the comparison for relief patches.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.gaussians.lift import lift
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.memory.gaussians.merge import merge
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import rasterize
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.encoder import Encoding
from embodied_liftwm.world_model.liftwm import LiftWM, LiftWMState, Splatted, values_of
from embodied_liftwm.world_model.summary import Surface


class GaussianLiftWM(LiftWM):
    """`LiftWM` whose map is a `GaussianMap`."""

    def training_state(self, batch_size: int, frames: int) -> LiftWMState:
        cells = math.prod(self.image_size) // self.config.stride**2
        return self._empty_state(batch_size, min(self.config.budget, frames * cells))

    def empty_world(self, batch_size: int, budget: int, like: Tensor) -> Any:
        return GaussianMap.empty(batch_size, budget, self.config.latent_dim, like)

    def write_world(self, world: Any, encoding: Encoding, observation: Observation) -> Any:
        camera, stride = observation.camera, self.config.stride
        depth, spread, latents, opacities = encoding.depth, encoding.spread, encoding.latents, encoding.opacities
        new = lift(depth, spread, latents, opacities, observation.rgb, camera, stride)
        return merge(world, new, depth, camera, stride)

    def splat(self, world: Any, cameras: Camera) -> Splatted:
        batch_size = world.means.shape[0]
        views = cameras.intrinsics.shape[0] // batch_size
        splat = rasterize(
            world.means,
            world.quats,
            world.scales,
            world.opacities,
            values_of(world),
            inverse_pose(cameras.world_from_camera).unflatten(0, (batch_size, views)),
            cameras.intrinsics.unflatten(0, (batch_size, views)),
            cameras.width,
            cameras.height,
            validate=False,
        )
        alpha, depth = (x.flatten(0, 1).squeeze(-1) for x in (splat.alphas, splat.depths))
        features = splat.features.flatten(0, 1).permute(0, 3, 1, 2)
        return Splatted(features[:, :-1], features[:, -1:], alpha, depth)

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        world = state.world
        assert isinstance(world, GaussianMap)
        kept = world.occupied[0]
        return world.means[0, kept], world.rgb[0, kept], world.opacities[0, kept]

    def surface(self, world: Any) -> Surface:
        return Surface(*(values.unsqueeze(2) for values in (world.means, world.rgb, world.opacities)))
