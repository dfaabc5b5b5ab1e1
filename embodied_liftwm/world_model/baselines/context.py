"""Raw context as a memory: all frames are kept as they were, and a view is read by attention to those that show the most of it.

Nothing is lost between writing and reading, and nothing is understood before it is asked for. Frames are encoded when they are
read, by the encoder of all models, whose depth is trained as theirs is; what a camera sees of them is found by
`context_attention`, and decoded as latents are that were read of any other memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.cameras import camera_rays, resize_intrinsics, transform
from embodied_liftwm.geometry.se3 import relative_pose
from embodied_liftwm.geometry.view_selection import relation
from embodied_liftwm.goals import colour_likeness
from embodied_liftwm.memory.contract import Bytes, Read
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import BaseWorldModel, Matched, ModelShapes, Rendering
from embodied_liftwm.world_model.baselines.context_attention import MATCHED, ContextAttention, FrameFeatures
from embodied_liftwm.world_model.decoders.cell_codec import CellEncoder
from embodied_liftwm.world_model.decoders.latents import LatentDecoder, cells_of_camera
from embodied_liftwm.world_model.depth_belief import TYPICAL_DEPTH, belief_of
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import Encoder, Sources
from embodied_liftwm.world_model.layers.blocks import ray_channels
from embodied_liftwm.world_model.summary import GOAL_FEATURES, egocentric, goal_features

THUMB = 4
"""Cells a side of the small pictures that a summary reads."""
SUMMED_UP = 32
"""Frames, those taken nearest to the agent, that a summary reads."""


class RawFrame(NamedTuple):
    """A frame that nothing was made of yet."""

    rgb: Tensor  # [B, 3, H, W]


@dataclass(frozen=True)
class ContextState(AgentState):
    """All frames, and the agent among them."""

    world: ContextFrames


class ContextWorldModel(BaseWorldModel[ContextState]):
    """Satisfies `protocols.WorldModel` with raw frames as its memory; it grows with every frame."""

    CODE = 48

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes, summary_dim=2 * self.CODE + GOAL_FEATURES)
        self.encoder = Encoder(config, shapes.image_size)
        self.cells = CellEncoder(config.latent_dim, config.stride)
        self.match = nn.Conv2d(config.width, MATCHED, 1)
        self.attention = ContextAttention(config, config.latent_dim + config.width, self.encoder.log_planes.clone())
        self.decoder = LatentDecoder(config, shapes.image_size)
        self.summary = nn.Sequential(nn.Linear(4 * THUMB**2 + 12, 64), nn.SiLU(), nn.Linear(64, self.CODE))

    def initial_state(self, batch_size: int) -> ContextState:
        return self.training_state(batch_size, 0)

    def training_state(self, batch_size: int, frames: int) -> ContextState:
        like = next(self.parameters()).detach()
        return ContextState(self.blank_ego(batch_size), ContextFrames.empty(batch_size, self.image_size, like, frames))

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> RawFrame:
        """Nothing yet: a frame is encoded when it is read."""
        return RawFrame(rgb)

    def encode_matched(self, rgb: Tensor, camera: Camera, sources: Sources) -> Matched:
        """Depth as every model that lifts is taught it: reading weighs frames by it, and `seen` is judged by it."""
        matches, judged = self.encoder.match_and_judge(rgb, camera, sources)
        return Matched(self.encoder(rgb, camera, matches if self.config.matches else None, sources), judged)

    def write(self, state: ContextState, encoding: NamedTuple, observation: Observation) -> ContextState:
        """Raises UserError for a pose that is not finite; the state that was given holds what it held."""
        world = state.world.add(observation.rgb, observation.camera.world_from_camera)
        return ContextState(self.move_ego(state.ego, observation), world)

    def decode(self, state: ContextState, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        chosen, usable = state.world.choose(cameras, self.config.context.views)
        views = len(chosen) // len(state.world.count)
        intrinsics = state.ego.intrinsics.repeat_interleave(views, dim=0)
        seen, poses = self._features(state, chosen, intrinsics)
        repeated = intrinsics.repeat_interleave(chosen.shape[1], dim=0)
        frames, stride = Camera(repeated, poses.flatten(0, 1), *self.image_size), self.config.stride
        read = self.attention(seen, cells_of_camera(frames, stride), usable, cells_of_camera(cameras, stride))
        latents = read.latents * read.visible.unsqueeze(1)
        decoded = self.decoder(Read(latents, read.visible, read.depths * read.visible), cameras)
        assert decoded.seen is not None
        return Rendering(decoded, decoded.seen, latents)

    def _features(self, state: ContextState, chosen: Tensor, intrinsics: Tensor) -> tuple[FrameFeatures, Tensor]:
        """Features of the frames chosen [B * V, K], and their poses; each is encoded once where that is less to do."""
        world = state.world if state.world.slots else state.world.resized(1)
        rgb, poses = world.take(chosen)
        batch, kept = len(world.count), max(1, int(world.count.max()))
        if batch * kept >= chosen.numel():
            repeated = intrinsics.repeat_interleave(chosen.shape[1], dim=0)
            encoded = self.features(rgb.flatten(0, 1), poses.flatten(0, 1), repeated)
            return FrameFeatures(*(x.unflatten(0, chosen.shape) for x in encoded)), poses
        everything = world.rgb[:, :kept].flatten(0, 1).to(poses) / 255.0
        repeated = state.ego.intrinsics.repeat_interleave(kept, dim=0)
        encoded = self.features(everything, world.poses[:, :kept].flatten(0, 1), repeated)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None] // (len(chosen) // batch)
        return FrameFeatures(*(x.unflatten(0, (batch, kept))[rows, chosen] for x in encoded)), poses

    def features(self, rgb: Tensor, poses: Tensor, intrinsics: Tensor) -> FrameFeatures:
        """What attention reads of frames [F, 3, H, W] by themselves: without the axis of frames, F in its place."""
        camera = Camera(intrinsics, poses, *self.image_size)
        features = F.silu(self.encoder.trunk(self.encoder.stem(torch.cat([2.0 * rgb - 1.0, ray_channels(camera)], dim=1))))
        logits = self.encoder.head(features)[:, : self.config.planes].detach()  # what is read does not move depth
        belief = belief_of(logits, self.encoder.log_planes).log_belief
        return FrameFeatures(self.match(features), torch.cat([self.cells(rgb), features], dim=1), belief)

    @property
    def log_planes(self) -> Tensor:
        return self.encoder.log_planes

    def memory_bytes(self, state: ContextState) -> Bytes:
        return Bytes.of(state.world, state.world.occupied, grows=True)

    def summarize(self, state: ContextState) -> Tensor:
        """A code of the frames taken nearest to the agent, and whereabouts the goal's colour is among them. [B, F]"""
        world, ego = (state.world if state.world.slots else state.world.resized(1)), state.ego.detach()
        baseline = relation(ego.world_from_camera, world.poses)[0].masked_fill(~world.occupied, torch.inf)
        nearest = baseline.topk(min(SUMMED_UP, world.slots), dim=1, largest=False).indices
        there = world.occupied.gather(1, nearest)
        rgb, poses = world.take(nearest)
        thumbs = F.adaptive_avg_pool2d(rgb.flatten(0, 1), THUMB).unflatten(0, nearest.shape)
        goal = colour_likeness(thumbs.movedim(2, -1).flatten(1, -2), ego.goal).unflatten(1, (nearest.shape[1], -1))
        relative = relative_pose(ego.world_from_camera.unsqueeze(1), poses)[..., :3, :].flatten(2)
        codes = self.summary(torch.cat([thumbs.flatten(2), goal, relative], dim=-1))
        mean = (codes * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp_min(1)
        most = torch.where(there[..., None], codes, -10.0).amax(1)
        most = torch.where(there.any(1, keepdim=True), most, 0.0)
        return torch.cat(
            [mean, most, self._goal(goal * there[..., None], poses, ego.world_from_camera, ego.intrinsics)], dim=-1
        )

    def _goal(self, likeness: Tensor, poses: Tensor, pose: Tensor, intrinsics: Tensor) -> Tensor:
        """`summary.goal_features` of what small pictures show, [B, S, THUMB ** 2], were it all at a typical distance."""
        height, width = self.image_size
        rays = camera_rays(resize_intrinsics(intrinsics, (THUMB / width, THUMB / height)), THUMB, THUMB).flatten(1, 2)
        ahead = (TYPICAL_DEPTH * rays).repeat_interleave(poses.shape[1], dim=0)
        points = transform(poses.flatten(0, 1), ahead).unflatten(0, poses.shape[:2]).flatten(1, 2)
        forward, left, _ = egocentric(points, pose).unbind(-1)
        return goal_features(likeness.flatten(1), forward, left)
