"""LiftWM with an RGB point cloud as its memory: what published pipelines do, in the same model, to compare with.

Writing takes pixels: each is lifted by its depth. Reading goes back to pixels and on to latents: the cloud is rendered, the
picture is encoded again by the model's own encoder, and the latents are decoded as those of a latent memory are. This round
trip, at every read, is what latent memories save.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.distributions import DiagonalGaussian
from embodied_liftwm.memory.cloud.cloud import RgbCloud
from embodied_liftwm.memory.cloud.render import CloudView, render_cloud
from embodied_liftwm.memory.growing import where_by_field
from embodied_liftwm.protocols import Camera, Observation, View
from embodied_liftwm.world_model.base import ModelShapes, Rendering
from embodied_liftwm.world_model.decoders.cell_codec import CellEncoder
from embodied_liftwm.world_model.decoders.latents import LatentDecoder
from embodied_liftwm.world_model.encoder import Encoding
from embodied_liftwm.world_model.generation import shown
from embodied_liftwm.world_model.liftwm import LiftWM, LiftWMState
from embodied_liftwm.world_model.summary import AREA_M2, Surface

FILLED_PX = (3, 9)
"""Sides of the boxes whose mean colour holes are given before a picture is encoded, the least that reaches something first."""
SURELY_SEEN = 0.5
"""Probability below which a pixel of a generated picture is kept as imagined."""
GREY = 0.5
"""Colour of holes with nothing about."""


@dataclass(frozen=True)
class CloudState(LiftWMState):
    """A cloud of points, and the agent in it."""

    def where(self, mask: Tensor, other: Self) -> Self:
        return where_by_field(self, mask, other)


class CloudLiftWM(LiftWM):
    """`LiftWM` whose map is an `RgbCloud`; it grows with every frame."""

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes)
        self.decoder = LatentDecoder(config, shapes.image_size)  # type: ignore[assignment]
        self.cells = CellEncoder(config.latent_dim, config.stride)
        del self.fusion, self.log_memory_noise  # nothing is fused, and nothing expected of a latent

    def initial_state(self, batch_size: int) -> CloudState:
        state = super().initial_state(batch_size)
        return CloudState(state.ego, state.world, state.keyframes)

    def training_state(self, batch_size: int, frames: int) -> CloudState:
        return self.initial_state(batch_size)  # it makes room as it needs it

    def empty_world(self, batch_size: int, budget: int, like: Tensor) -> Any:
        return RgbCloud.empty(batch_size, self.config.voxel_m, like.device)

    def write(self, state: LiftWMState, encoding: Encoding, observation: Observation) -> CloudState:
        """Raises UserError for a frame whose pose or depth is of no use; the state that was given stays as it was."""
        world = self.write_world(state.world, encoding, observation)
        keyframes = state.keyframes.add(observation.rgb, observation.camera.world_from_camera)
        return CloudState(self.move_ego(state.ego, observation), world, keyframes)

    def write_world(self, world: Any, encoding: Encoding, observation: Observation, imagined: Tensor | None = None) -> Any:
        with torch.no_grad():
            depth = self.pixel_depth(encoding._replace(depth=encoding.depth.detach()), observation)
        return world.add(depth, observation.rgb.detach(), observation.camera, imagined)

    def generate(self, state: LiftWMState, camera: Camera) -> tuple[LiftWMState, View]:
        """What is rendered is observed; its pixels that show nothing that was observed are kept as imagined."""
        self.check_next(state, camera)
        view = self.render(state, camera)
        step = shown(view, camera, self.shapes.action_dim)
        encoding = self.encode(step.rgb, camera, self.sources(state, camera))
        world = self.write_world(state.world, encoding, step, view.seen < SURELY_SEEN)
        keyframes = state.keyframes.add(step.rgb, camera.world_from_camera)
        return CloudState(self.move_ego(state.ego, step), world, keyframes), view

    def decode(self, state: LiftWMState, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        view = render_cloud(_cloud(state), cameras)
        picture = filled(view)
        latents = self.encoder(picture, cameras, None).latents + self.cells(picture)
        visible, depth = cells_of(view, self.config.stride)
        latents = latents * visible.unsqueeze(1)
        decoded = self.decoder(latents, visible, depth * visible, cameras, observed_cells(view, self.config.stride))
        assert decoded.seen is not None
        return Rendering(decoded, decoded.seen, latents)

    def latent_prior(self, state: LiftWMState, camera: Camera) -> DiagonalGaussian | None:  # type: ignore[override]
        """None: the cloud keeps colours, no latents to expect anything of."""
        return None

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        cloud = _cloud(state)
        kept = cloud.occupied[0]
        points = cloud.points[0, kept]
        return points, cloud.rgb[0, kept], torch.ones_like(points[:, 0])

    def surface(self, world: Any) -> Surface:
        area = world.occupied * world.sizes.square() / AREA_M2
        return Surface(*(values.unsqueeze(2) for values in (world.points, world.rgb, area)))


def _cloud(state: LiftWMState) -> RgbCloud:
    assert isinstance(state.world, RgbCloud)
    return state.world


def filled(view: CloudView) -> Tensor:
    """The picture with colours from around in its holes, so that cells at their borders are encoded as what they show.

    Returns:
        [B, 3, H, W] in [0, 1]
    """
    visible = view.visible.unsqueeze(1)
    picture, known = view.rgb * visible, visible
    for box in FILLED_PX:
        sums = [F.avg_pool2d(x, box, stride=1, padding=box // 2) for x in (view.rgb * visible, visible)]
        mean = sums[0] / sums[1].clamp_min(1e-6)
        reached = (sums[1] > 0).to(known)
        picture = torch.where(known > 0, picture, mean * reached)
        known = torch.maximum(known, reached)
    return torch.where(known > 0, picture, GREY)


def observed_cells(view: CloudView, stride: int) -> Tensor:
    """Of what is visible of each cell, how much was observed. [B, h, w] in [0, 1], 0 where nothing is visible"""
    there, known = (F.avg_pool2d(x.unsqueeze(1), stride).squeeze(1) for x in (view.visible, view.visible * view.observed))
    return known / there.clamp_min(1e-6)


def cells_of(view: CloudView, stride: int) -> tuple[Tensor, Tensor]:
    """How much of each cell is visible, and the median depth of that, the nearer of two: a mean may lie on no surface.

    Returns:
        Visible in [0, 1], and metres, 0 where nothing is visible. [B, h, w] twice
    """
    visible = F.avg_pool2d(view.visible.unsqueeze(1), stride).squeeze(1)
    depth = torch.where(view.visible > 0, view.depth, torch.inf)
    pixels = depth.unfold(1, stride, stride).unfold(2, stride, stride).flatten(3).sort(-1).values
    middle = ((visible * stride**2).round().long() - 1).clamp_min(0) // 2
    chosen = pixels.gather(3, middle.unsqueeze(-1)).squeeze(-1)
    return visible, torch.where(visible > 0, chosen, 0.0)
