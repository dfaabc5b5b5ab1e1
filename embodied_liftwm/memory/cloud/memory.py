"""An RGB point cloud as a memory: what published pipelines do, to compare with.

Writing takes pixels: each is lifted by its depth. Reading goes back to pixels and on to latents: the cloud is rendered, and the
picture is encoded again by the model's own encoder. This round trip, at every read, is what latent memories save.
"""

from __future__ import annotations

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.memory.cloud.cloud import RgbCloud
from embodied_liftwm.memory.cloud.render import render_cloud
from embodied_liftwm.memory.contract import AREA_M2, Bytes, Grid, Lifted, Memory, MemoryModule, Points, Read
from embodied_liftwm.protocols import Camera


class CloudMemory(MemoryModule, Memory[RgbCloud]):
    """It grows with every frame."""

    reads: Grid = "picture"
    takes_pixel_depth = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.voxel_m = config.rgb_cloud.voxel_m

    def empty(self, batch_size: int) -> RgbCloud:
        return RgbCloud.empty(batch_size, self.voxel_m, self.like.device)

    def write(self, world: RgbCloud, lifted: Lifted, camera: Camera) -> RgbCloud:
        """Raises UserError for a frame whose pose or depth is of no use."""
        assert lifted.pixel_depth is not None
        return world.add(lifted.pixel_depth.detach(), lifted.rgb.detach(), camera, lifted.imagined)

    def read(self, world: RgbCloud, cameras: Camera) -> Read:
        seen = render_cloud(world, cameras)  # whose pixels are covered or not: nothing is left to multiply
        return Read(seen.rgb, seen.visible, seen.depth, observed=seen.observed)

    def points(self, world: RgbCloud) -> Points:
        there = world.occupied.to(world.points)
        area = there * world.sizes.square() / AREA_M2
        places, weights, area, rgb = (t.unsqueeze(2) for t in (world.points, there, area, world.rgb))
        return Points(places, weights, area, rgb[..., :0], rgb)

    def nbytes(self, world: RgbCloud) -> Bytes:
        return Bytes.of(world, world.occupied, grows=True)
