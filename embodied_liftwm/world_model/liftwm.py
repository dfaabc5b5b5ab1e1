"""LiftWM: a world model whose state is a persistent, fixed-budget map of 3D primitives.

The one dataflow of this project, end to end: encode -> lift -> fuse (write), splat -> decode (read). What the primitives are
is up to a subclass: relief patches here, plain Gaussians in `liftwm_gaussians`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.distributions import DiagonalGaussian
from embodied_liftwm.geometry.pixel_depth import pixel_depth
from embodied_liftwm.geometry.plane_sweep import Sweep
from embodied_liftwm.memory.fusion import LEAST_EVIDENCE, KalmanFusion, LearnedFusion
from embodied_liftwm.memory.keyframes import Keyframes
from embodied_liftwm.memory.lift import DOUBTFUL_SPREAD
from embodied_liftwm.memory.patch_map import PatchMap, texel_m
from embodied_liftwm.memory.patch_read import read_patches
from embodied_liftwm.memory.patch_write import NEW_PATCHES, write_patches
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes, Rendering
from embodied_liftwm.world_model.decoder import SplatDecoder
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import TYPICAL_SPREAD_SEEN, Encoder, Encoding, Sources

GRID_CELLS, GRID_CELL_M = 12, 0.75
"""The bird's-eye summary covers 9 x 9 m around the agent."""
GOAL_SHARPNESS = 40.0
"""Inverse squared colour distance at which a primitive stops looking like the goal."""


AREA_M2 = 0.02
"""Surface that weighs 1 in the bird's-eye summary."""


@dataclass(frozen=True)
class LiftWMState(AgentState):
    """A map of the world, and the agent in it."""

    world: TensorTree
    keyframes: Keyframes


class Splatted(NamedTuple):
    """What B * V cameras see of the map."""

    features: Tensor  # [B * V, 3 + D, H, W] colours and latents, times alpha
    doubt: Tensor  # [B * V, 1, H, W] of where it is, about 0 at 5 cm, times alpha
    alpha: Tensor  # [B * V, H, W] in [0, 1]: how much of a pixel is covered
    depth: Tensor  # [B * V, H, W] z-depth in metres, times alpha


class Landmarks(NamedTuple):
    """The map's primitives, for a summary."""

    means: Tensor  # [B, N, 3] metres, world frame
    mass: Tensor  # [B, N] how much there is of it, 0 for free ones
    goal_mass: Tensor  # [B, N] and how much of that looks like the goal


class LiftWM(BaseWorldModel[LiftWMState]):
    """Satisfies `protocols.WorldModel`; a step costs the same however long the episode is."""

    GRID_CHANNELS = 5
    GOAL_FEATURES = 5
    CODE = 48

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes, summary_dim=self.CODE + self.GOAL_FEATURES)
        self.encoder = Encoder(config, shapes.image_size)
        self.decoder = SplatDecoder(config, shapes.image_size)
        self.fusion = LearnedFusion() if config.learned_fusion else KalmanFusion()
        self.log_memory_noise = nn.Parameter(torch.tensor(0.3).log())  # of a latent that is seen again
        self.summary = nn.Sequential(nn.Linear(self.GRID_CHANNELS * GRID_CELLS**2, 64), nn.SiLU(), nn.Linear(64, self.CODE))

    def initial_state(self, batch_size: int) -> LiftWMState:
        return self._empty_state(batch_size, self.config.budget)

    def training_state(self, batch_size: int, frames: int) -> LiftWMState:
        return self._empty_state(batch_size, min(self.config.budget, frames * NEW_PATCHES))

    def _empty_state(self, batch_size: int, budget: int) -> LiftWMState:
        like = next(self.parameters()).detach()
        world = self.empty_world(batch_size, budget, like)
        return LiftWMState(self.blank_ego(batch_size), world, Keyframes.empty(batch_size, self.image_size, like))

    def empty_world(self, batch_size: int, budget: int, like: Tensor) -> Any:
        """A map without primitives."""
        return PatchMap.empty(batch_size, budget, self.config.texels, self.config.latent_dim, like)

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> Encoding:
        return self.encoder.encode(rgb, camera, sources if self.config.stereo_sources else None)

    def encode_matched(self, rgb: Tensor, camera: Camera, sources: Sources) -> tuple[Encoding, Sweep | None]:
        matches, judged = self.encoder.match_and_judge(rgb, camera, sources)
        return self.encoder(rgb, camera, matches if self.config.stereo_sources else None, sources), judged

    def sources(self, state: LiftWMState, camera: Camera) -> Sources | None:
        if not self.config.stereo_sources:
            return None
        return Sources(*state.keyframes.sources(camera, self.config.stereo_sources))

    def write(self, state: LiftWMState, encoding: Encoding, observation: Observation) -> LiftWMState:
        # As a rule depth learns from the multi-view term alone: a photometric splat loss drives it to the far plane.
        depth, spread = encoding.depth.detach(), encoding.spread.detach()
        if self.config.frame_moves_depth:  # its belief meets no likelihood, so that its spread is no doubt
            depth, spread = encoding.depth, torch.full_like(spread, TYPICAL_SPREAD_SEEN)
        world = self.write_world(state.world, encoding._replace(depth=depth, spread=spread), observation)
        keyframes = state.keyframes.add(observation.rgb, observation.camera.world_from_camera)
        return LiftWMState(self.move_ego(state.ego, observation), world, keyframes)

    def write_world(self, world: Any, encoding: Encoding, observation: Observation) -> Any:
        """Lift a frame into primitives and fuse them with the map."""
        camera, stride = observation.camera, self.config.stride
        depth = self.pixel_depth(encoding, observation)
        spread = F.interpolate(encoding.spread.unsqueeze(1), scale_factor=stride, mode="nearest").squeeze(1)
        footprint = depth / camera.intrinsics[:, None, None, 0, 0]
        certainty = 1.0 / (footprint.square() + (depth * spread).square())
        certainty = torch.where(spread < DOUBTFUL_SPREAD, certainty, 0.0).detach()
        return write_patches(world, depth, certainty, encoding.latents, observation.rgb, camera, self.fusion)

    def pixel_depth(self, encoding: Encoding, observation: Observation) -> Tensor:
        """Depth of every pixel of a frame. [B, H, W] metres"""
        return pixel_depth(encoding.depth, observation.rgb)

    def decode(self, state: LiftWMState, cameras: Camera) -> Rendering:
        splatted = self.splat(state.world, cameras)
        doubt = splatted.doubt if self.config.learned_fusion else None
        decoded = self.decoder(splatted.features, splatted.alpha, splatted.depth, cameras, doubt)
        return Rendering(decoded, _known(decoded.seen), splatted.features[:, 3:])

    def latent_prior(self, state: LiftWMState, camera: Camera) -> DiagonalGaussian:
        """What the map shows from here, with a learned noise; a standard normal where it shows nothing. [B, h, w, D]"""
        splatted = self.splat(state.world, camera)
        expected = F.avg_pool2d(splatted.features[:, 3:], self.config.stride).movedim(1, -1)
        covered = F.avg_pool2d(splatted.alpha.unsqueeze(1), self.config.stride).movedim(1, -1).clamp(0, 1).detach()
        variance = covered * (2.0 * self.log_memory_noise).exp() + 1.0 - covered
        return DiagonalGaussian(expected, variance.sqrt().expand_as(expected))

    def splat(self, world: Any, cameras: Camera) -> Splatted:
        """What cameras see of the map, V a row."""
        read = read_patches(world, values_of(world), cameras)
        features = read.latents * read.visible.unsqueeze(1)
        return Splatted(features[:, :-1], features[:, -1:], read.visible, read.depths * read.visible)

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        """What stands in the first row's map, to draw or export: points [K, 3] m, rgb [K, 3], opacities [K]."""
        world = state.world
        assert isinstance(world, PatchMap)
        kept = world.evidence[0] > 0
        return world.points()[0, kept], world.rgb[0, kept], torch.ones_like(world.evidence[0, kept])

    def landmarks(self, world: Any, goal: Tensor) -> Landmarks:
        """The primitives of a map, weighed by surface."""
        there = (world.evidence > 0).to(world.heights)
        area = there * (texel_m(world.levels, world.heights).square() / AREA_M2)[..., None]
        mass = area.sum(-1)
        means = (world.points() * there[..., None]).sum(2) / there.sum(-1, keepdim=True).clamp_min(1.0)
        return Landmarks(means, mass, (area * goal_likeness(world.rgb, goal)).sum(-1))

    def summarize(self, state: LiftWMState) -> Tensor:
        """An egocentric bird's-eye code of the map, and where the goal's colour lies. [B, F]"""
        found = self.landmarks(state.world.detach(), state.ego.goal)
        ahead, left, up = _egocentric(found.means, state.ego.world_from_camera).unbind(-1)
        grid = _birds_eye(found, ahead, left, up)
        return torch.cat([self.summary(grid), _goal_features(found.goal_mass, ahead, left)], dim=-1)


def values_of(world: Any) -> Tensor:
    """What a decoder reads of each primitive or texel: colour, latent, and the doubt that is left. [B, ..., 3 + D + 1]"""
    doubt = -0.25 * world.evidence.clamp_min(LEAST_EVIDENCE).log() + 1.5
    return torch.cat([world.rgb, world.latents, doubt.unsqueeze(-1)], dim=-1)


def _known(seen: Tensor | None) -> Tensor:
    assert seen is not None
    return seen


def _egocentric(means: Tensor, world_from_camera: Tensor) -> Tensor:
    """World points [B, N, 3] as (ahead, left, up) of a camera, in its heading: turned about gravity only. [B, N, 3]"""
    heading = F.normalize(world_from_camera[:, :2, 2], dim=-1)
    offset = means - world_from_camera[:, None, :3, 3]
    ahead = (offset[..., :2] * heading[:, None]).sum(-1)
    left = offset[..., 1] * heading[:, None, 0] - offset[..., 0] * heading[:, None, 1]
    return torch.stack([ahead, left, offset[..., 2]], dim=-1)


def goal_likeness(rgb: Tensor, goal: Tensor) -> Tensor:
    """How much colours [B, ..., 3] look like the goal's (its first three numbers), 0 before a goal is given. [B, ...]"""
    if goal.shape[-1] < 3:
        return rgb.new_zeros(rgb.shape[:-1])
    ones = [1] * (rgb.dim() - 2)
    distance = (rgb - goal[:, :3].view(-1, *ones, 3)).square().sum(-1)
    given = (goal.abs().sum(-1) > 0).to(rgb).view(-1, *ones)
    return torch.exp(-GOAL_SHARPNESS * distance) * given


def _birds_eye(found: Landmarks, ahead: Tensor, left: Tensor, up: Tensor) -> Tensor:
    """Occupancy by height, evidence and goal likeness, log-summed on a grid around the agent. [B, cells * channels]"""
    half = GRID_CELLS * GRID_CELL_M / 2
    column = ((ahead + half) / GRID_CELL_M).floor()
    row = ((left + half) / GRID_CELL_M).floor()
    inside = (column >= 0) & (column < GRID_CELLS) & (row >= 0) & (row < GRID_CELLS)
    cell = (row.clamp(0, GRID_CELLS - 1) * GRID_CELLS + column.clamp(0, GRID_CELLS - 1)).long()
    mass = found.mass * inside
    low, high = (up < -0.5).to(mass), (up > 0.8).to(mass)
    channels = torch.stack([mass * low, mass * (1 - low) * (1 - high), mass * high, found.goal_mass * inside, mass], dim=-1)
    grid = channels.new_zeros(len(mass), GRID_CELLS**2, channels.shape[-1])
    grid = grid.scatter_add(1, cell[..., None].expand_as(channels), channels)
    return torch.log1p(grid).flatten(1)


def _goal_features(likeness: Tensor, ahead: Tensor, left: Tensor) -> Tensor:
    """Believed direction (2), distance, mass and presence of what looks like the goal. [B, 5]"""
    mass = likeness.sum(-1)
    x = (likeness * ahead).sum(-1) / (mass + 0.1)
    y = (likeness * left).sum(-1) / (mass + 0.1)
    distance = torch.sqrt(x * x + y * y + 1e-6)
    return torch.stack([x / distance, y / distance, distance / 5.0, torch.log1p(mass), (mass > 1.0).to(mass)], dim=-1)
