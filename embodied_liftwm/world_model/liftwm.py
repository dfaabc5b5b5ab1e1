"""LiftWM: a world model whose state is a persistent, fixed-budget map of Gaussian primitives.

The one dataflow of this project, end to end: encode -> lift -> fuse (write), splat -> decode (read).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.gaussians.rasterize import rasterize
from embodied_liftwm.geometry.plane_sweep import Sweep
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.fuse import fuse
from embodied_liftwm.memory.gaussian_map import GaussianMap
from embodied_liftwm.memory.keyframes import Keyframes
from embodied_liftwm.memory.lift import lift
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes, Rendering
from embodied_liftwm.world_model.decoder import SplatDecoder
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import TYPICAL_SPREAD_SEEN, Encoder, Encoding, Sources

GRID_CELLS, GRID_CELL_M = 12, 0.75
"""The bird's-eye summary covers 9 x 9 m around the agent."""
GOAL_SHARPNESS = 40.0
"""Inverse squared colour distance at which a primitive stops looking like the goal."""


@dataclass(frozen=True)
class LiftWMState(AgentState):
    """A map of the world, and the agent in it."""

    gaussians: GaussianMap
    keyframes: Keyframes


class LiftWM(BaseWorldModel[LiftWMState]):
    """Satisfies `protocols.WorldModel`; a step costs the same however long the episode is."""

    GRID_CHANNELS = 5
    GOAL_FEATURES = 5
    CODE = 48

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes, summary_dim=self.CODE + self.GOAL_FEATURES)
        self.encoder = Encoder(config, shapes.image_size)
        self.decoder = SplatDecoder(config, shapes.image_size)
        self.summary = nn.Sequential(nn.Linear(self.GRID_CHANNELS * GRID_CELLS**2, 64), nn.SiLU(), nn.Linear(64, self.CODE))

    def initial_state(self, batch_size: int) -> LiftWMState:
        return self._empty_state(batch_size, self.config.budget)

    def training_state(self, batch_size: int, frames: int) -> LiftWMState:
        cells = (self.image_size // self.config.stride) ** 2
        return self._empty_state(batch_size, min(self.config.budget, frames * cells))

    def _empty_state(self, batch_size: int, budget: int) -> LiftWMState:
        like = next(self.parameters())
        empty = GaussianMap.empty(batch_size, budget, self.config.latent_dim, like.detach())
        return LiftWMState(self.blank_ego(batch_size), empty, Keyframes.empty(batch_size, self.image_size, like.detach()))

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
        camera, stride = observation.camera, self.config.stride
        new = lift(depth, spread, encoding.latents, encoding.opacities, observation.rgb, camera, stride)
        gaussians = fuse(state.gaussians, new, depth, camera, stride)
        keyframes = state.keyframes.add(observation.rgb, camera.world_from_camera)
        return LiftWMState(self.move_ego(state.ego, observation), gaussians, keyframes)

    def decode(self, state: LiftWMState, cameras: Camera) -> Rendering:
        g = state.gaussians
        batch_size = g.means.shape[0]
        views = cameras.intrinsics.shape[0] // batch_size
        splat = rasterize(
            g.means,
            g.quats,
            g.scales,
            g.opacities,
            torch.cat([g.rgb, g.latents], dim=-1),
            inverse_pose(cameras.world_from_camera).unflatten(0, (batch_size, views)),
            cameras.intrinsics.unflatten(0, (batch_size, views)),
            cameras.width,
            cameras.height,
            validate=False,
        )
        features = splat.features.flatten(0, 1).permute(0, 3, 1, 2)
        alpha = splat.alphas.flatten(0, 1).squeeze(-1)
        depth = splat.depths.flatten(0, 1).squeeze(-1)
        return Rendering(self.decoder(features, alpha, depth, cameras), alpha.clamp(0, 1), features[:, 3:])

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        """Occupied primitives of the first row, to draw or export: means [K, 3] m, rgb [K, 3], opacities [K]."""
        g = state.gaussians
        kept = g.occupied[0]
        return g.means[0, kept], g.rgb[0, kept], g.opacities[0, kept]

    def summarize(self, state: LiftWMState) -> Tensor:
        """An egocentric bird's-eye code of the map, and where the goal's colour lies. [B, F]"""
        gaussians = state.gaussians.detach()
        ahead, left, up = _egocentric(gaussians.means, state.ego.world_from_camera).unbind(-1)
        likeness = gaussians.opacities * _goal_likeness(gaussians.rgb, state.ego.goal)
        grid = _birds_eye(gaussians, ahead, left, up, likeness)
        return torch.cat([self.summary(grid), _goal_features(likeness, ahead, left)], dim=-1)


def _egocentric(means: Tensor, world_from_camera: Tensor) -> Tensor:
    """World points [B, N, 3] as (ahead, left, up) of a camera, in its heading: turned about gravity only. [B, N, 3]"""
    heading = F.normalize(world_from_camera[:, :2, 2], dim=-1)
    offset = means - world_from_camera[:, None, :3, 3]
    ahead = (offset[..., :2] * heading[:, None]).sum(-1)
    left = offset[..., 1] * heading[:, None, 0] - offset[..., 0] * heading[:, None, 1]
    return torch.stack([ahead, left, offset[..., 2]], dim=-1)


def _goal_likeness(rgb: Tensor, goal: Tensor) -> Tensor:
    """How much each primitive looks like the goal's colour (its first three numbers), 0 before a goal is given. [B, N]"""
    if goal.shape[-1] < 3:
        return rgb.new_zeros(rgb.shape[:2])
    distance = (rgb - goal[:, None, :3]).pow(2).sum(-1)
    given = (goal.abs().sum(-1, keepdim=True) > 0).to(rgb)
    return torch.exp(-GOAL_SHARPNESS * distance) * given


def _birds_eye(gaussians: GaussianMap, ahead: Tensor, left: Tensor, up: Tensor, likeness: Tensor) -> Tensor:
    """Occupancy by height, evidence and goal likeness, log-summed on a grid around the agent. [B, cells * channels]"""
    half = GRID_CELLS * GRID_CELL_M / 2
    column = ((ahead + half) / GRID_CELL_M).floor()
    row = ((left + half) / GRID_CELL_M).floor()
    inside = (column >= 0) & (column < GRID_CELLS) & (row >= 0) & (row < GRID_CELLS)
    cell = (row.clamp(0, GRID_CELLS - 1) * GRID_CELLS + column.clamp(0, GRID_CELLS - 1)).long()
    mass = gaussians.opacities * inside
    low, high = (up < -0.5).to(mass), (up > 0.8).to(mass)
    channels = torch.stack([mass * low, mass * (1 - low) * (1 - high), mass * high, likeness * inside, mass], dim=-1)
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
