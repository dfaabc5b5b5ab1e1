"""Plain Gaussians as a memory: one colour and one latent each, at a fixed budget, rendered by alpha compositing.

What 3D Gaussian Splatting keeps of a scene, at the same budget: the comparison for relief patches.
"""

from __future__ import annotations

import math

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.contract import Bytes, Grid, Lifted, Memory, MemoryModule, Points, Read
from embodied_liftwm.memory.gaussians.lift import lift
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.memory.gaussians.merge import merge
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import rasterize
from embodied_liftwm.memory.pixels import values_of
from embodied_liftwm.protocols import Camera


class GaussianMemory(MemoryModule, Memory[GaussianMap]):
    """A primitive a cell of every frame, merged with what is there."""

    reads: Grid = "pixels"
    random_latents = True

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.budget, self.latent_dim, self.stride = config.gaussians.budget, config.latent_dim, config.stride
        self.cells = math.prod(image_size) // config.stride**2

    def empty(self, batch_size: int) -> GaussianMap:
        return GaussianMap.empty(batch_size, self.budget, self.latent_dim, self.like)

    def empty_to_train(self, batch_size: int, frames: int) -> GaussianMap:
        return GaussianMap.empty(batch_size, min(self.budget, frames * self.cells), self.latent_dim, self.like)

    def resize(self, size: int) -> None:
        self.budget = size

    def write(self, world: GaussianMap, lifted: Lifted, camera: Camera) -> GaussianMap:
        found = lifted.depth, lifted.spread, lifted.latents, lifted.opacities, lifted.rgb
        return merge(world, lift(*found, camera, self.stride), lifted.depth, camera, self.stride)

    def read(self, world: GaussianMap, cameras: Camera) -> Read:
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
        return Read(features[:, :-1], alpha, depth, features[:, -1:])

    def points(self, world: GaussianMap) -> Points:
        means, opacities, latents, rgb = (t.unsqueeze(2) for t in (world.means, world.opacities, world.latents, world.rgb))
        return Points(means, opacities, opacities, latents, rgb)

    def nbytes(self, world: GaussianMap) -> Bytes:
        return Bytes.of(world, world.occupied)
