"""The 2D baseline: frames and poses into a GRU, images out of a pose-queried decoder. No geometry in between.

It is given what LiftWM is given: the same rays, poses, objective terms, data and trainer. What it lacks is the 3D state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes, Rendering
from embodied_liftwm.world_model.decoders.surface import Decoded, PoseDecoder
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import Sources
from embodied_liftwm.world_model.layers.blocks import ResidualBlock, levels_of, ray_channels

POSE_FREQUENCIES = 4
POSE_DIM = 12 + 2 * 3 * POSE_FREQUENCIES


class FrameCode(NamedTuple):
    """A frame as one vector."""

    code: Tensor  # [B, F]


@dataclass(frozen=True)
class RecurrentState(AgentState):
    """What a recurrent network keeps: one vector."""

    hidden: Tensor  # [B, F]
    origin: Tensor  # [B, 4, 4] first camera of the episode: poses are told relative to it


class RecurrentWorldModel(BaseWorldModel[RecurrentState]):
    """Satisfies `protocols.WorldModel` with a GRU as its memory."""

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes, summary_dim=config.recurrent.units + POSE_DIM)
        halvings = levels_of(shapes.image_size, 1)
        widths = [min(config.width * 2**i, 4 * config.width) for i in range(halvings)]
        self.stem = nn.Conv2d(3 + 4, widths[0], 2, stride=2)
        self.trunk = nn.Sequential(
            *(nn.Sequential(ResidualBlock(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in zip(widths, widths[1:], strict=False))
        )
        self.embed = nn.Linear(widths[-1] * math.prod(shapes.image_size) // 4**halvings, config.recurrent.units)
        self.cell = nn.GRUCell(config.recurrent.units + POSE_DIM, config.recurrent.units)
        self.decoder = PoseDecoder(config, config.recurrent.units + POSE_DIM, shapes.image_size)

    def initial_state(self, batch_size: int) -> RecurrentState:
        ego = self.blank_ego(batch_size)
        return RecurrentState(ego, ego.twist.new_zeros(batch_size, self.config.recurrent.units), ego.world_from_camera)

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> FrameCode:
        x = self.trunk(self.stem(torch.cat([2.0 * rgb - 1.0, ray_channels(camera)], dim=1)))
        return FrameCode(self.embed(F.silu(x).flatten(1)))

    def write(self, state: RecurrentState, encoding: FrameCode, observation: Observation) -> RecurrentState:
        first = observation.is_first[:, None]
        pose = observation.camera.world_from_camera
        origin = torch.where(first[..., None], pose, state.origin)
        hidden = torch.where(first, torch.zeros_like(state.hidden), state.hidden)
        inputs = torch.cat([F.silu(encoding.code), pose_features(origin, pose)], dim=-1)
        return RecurrentState(self.move_ego(state.ego, observation), self.cell(inputs, hidden), origin)

    def decode(self, state: RecurrentState, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        views = cameras.intrinsics.shape[0] // state.hidden.shape[0]
        hidden = state.hidden.repeat_interleave(views, dim=0)
        origin = state.origin.repeat_interleave(views, dim=0)
        decoded = self.decoder(torch.cat([hidden, pose_features(origin, cameras.world_from_camera)], dim=-1))
        # It cannot tell memory from imagination; its own confidence is the nearest thing it has.
        seen = torch.exp(-10.0 * decoded.scale)
        painted = state.ego.intrinsics.repeat_interleave(views, dim=0)
        if (cameras.height, cameras.width) != self.image_size or not torch.equal(cameras.intrinsics, painted):
            decoded, seen = _through(decoded, seen, painted, cameras)
        return Rendering(decoded, seen, None)

    def summarize(self, state: RecurrentState) -> Tensor:
        """The hidden vector and where the agent is. [B, F]"""
        return torch.cat([state.hidden, pose_features(state.origin, state.ego.world_from_camera)], dim=-1).detach()


def _through(decoded: Decoded, seen: Tensor, intrinsics: Tensor, cameras: Camera) -> tuple[Decoded, Tensor]:
    """A frame painted for cameras of `intrinsics`, and what is seen of it, as `cameras` at the same places have it.

    Beyond the painted frame its border is repeated, and nothing is seen.
    """
    rays = camera_rays(cameras.intrinsics, cameras.height, cameras.width)
    pixels = torch.einsum("bij,bhwj->bhwi", intrinsics, rays)[..., :2]
    grid = 2.0 * pixels / pixels.new_tensor(decoded.depth.shape[:0:-1]) - 1.0
    image = torch.cat([decoded.rgb, torch.stack([decoded.depth, decoded.scale, seen], dim=1)], dim=1)
    found = F.grid_sample(image, grid.clamp(-2.0, 2.0), padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1.0).all(-1)
    return Decoded(found[:, :3], found[:, 3], found[:, 4]), found[:, 5] * inside


def pose_features(origin: Tensor, pose: Tensor) -> Tensor:
    """A pose relative to `origin` as numbers a network can read: rotation, position and its Fourier features. [B, P]"""
    relative = inverse_pose(origin) @ pose
    position = relative[:, :3, 3]
    angles = torch.cat([position * 2.0**k for k in range(POSE_FREQUENCIES)], dim=-1)
    return torch.cat([relative[:, :3, :3].flatten(1), position / 3.0, angles.sin(), angles.cos()], dim=-1)
