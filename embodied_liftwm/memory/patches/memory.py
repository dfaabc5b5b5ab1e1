"""Relief patches as a memory: a fixed budget of them, read pixel by pixel, fused as a learned network weighs each look."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.memory.contract import AREA_M2, Bytes, Grid, Lifted, Memory, MemoryModule, Points, Read
from embodied_liftwm.memory.patches.look_weights import KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import PatchMap, texel_m
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.write import NEW_PATCHES, write_patches
from embodied_liftwm.memory.pixels import certainty_of, read_of, values_of
from embodied_liftwm.protocols import Camera


class PatchMemory(MemoryModule, Memory[PatchMap]):
    """A step costs the same however long the episode is."""

    reads: Grid = "pixels"
    takes_pixel_depth = True
    random_latents = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.budget, self.texels = config.patches.budget, config.patches.texels
        self.latent_dim, self.stride = config.latent_dim, config.stride
        self.look_weights = LearnedWeights() if config.learned_fusion else KalmanWeights()

    def empty(self, batch_size: int) -> PatchMap:
        return PatchMap.empty(batch_size, self.budget, self.texels, self.latent_dim, self.like)

    def empty_to_train(self, batch_size: int, frames: int) -> PatchMap:
        budget = min(self.budget, frames * NEW_PATCHES)
        return PatchMap.empty(batch_size, budget, self.texels, self.latent_dim, self.like)

    def resize(self, size: int) -> None:
        self.budget = size

    def write(self, world: PatchMap, lifted: Lifted, camera: Camera) -> PatchMap:
        assert lifted.pixel_depth is not None
        spread = F.interpolate(lifted.spread.unsqueeze(1), scale_factor=self.stride, mode="nearest").squeeze(1)
        certainty = certainty_of(lifted.pixel_depth, spread, camera)
        return write_patches(world, lifted.pixel_depth, certainty, lifted.latents, lifted.rgb, camera, self.look_weights)

    def read(self, world: PatchMap, cameras: Camera) -> Read:
        return read_of(read_patches(world, values_of(world), cameras))

    def points(self, world: PatchMap) -> Points:
        there: Tensor = world.evidence > 0
        area = there * (texel_m(world.levels, world.heights).square() / AREA_M2)[..., None]
        return Points(world.points(), there.to(area), area, world.latents, world.rgb)

    def nbytes(self, world: PatchMap) -> Bytes:
        return Bytes.of(world, world.occupied)
