"""LiftWM: a world model whose state is a persistent, fixed-budget map of 3D primitives.

The one dataflow of this project, end to end: encode -> lift -> fuse (write), splat -> decode (read). What the primitives are
is up to a subclass: relief patches here, plain Gaussians in `liftwm_gaussians`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.distributions import DiagonalGaussian
from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.geometry.pixel_depth import pixel_depth
from embodied_liftwm.memory.frames.keyframes import Keyframes
from embodied_liftwm.memory.frames.recent import RecentFrames
from embodied_liftwm.memory.movers import MOVES, MoverDynamics, Movers, Sight, read_movers, write_movers
from embodied_liftwm.memory.patches.look_weights import KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import PatchMap, texel_m
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.write import NEW_PATCHES, write_patches
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.base import BaseWorldModel, Matched, ModelShapes, Rendering
from embodied_liftwm.world_model.decoders.surface import SplatDecoder
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import TYPICAL_SPREAD_SEEN, Encoder, Encoding, Sources
from embodied_liftwm.world_model.motion import Motion, MotionEncoder, Recent
from embodied_liftwm.world_model.summary import AREA_M2, GOAL_FEATURES, GRID_CELLS, GRID_CHANNELS, Surface, egocentric_code


@dataclass(frozen=True)
class LiftWMState(AgentState):
    """A map of the world, and the agent in it."""

    world: TensorTree
    keyframes: Keyframes
    movers: Movers | None = None
    recent: RecentFrames | None = None


class Splatted(NamedTuple):
    """What B * V cameras see of the map."""

    features: Tensor  # [B * V, 3 + D, H, W] colours and latents, times alpha
    doubt: Tensor  # [B * V, 1, H, W] of where it is, about 0 at 5 cm, times alpha
    alpha: Tensor  # [B * V, H, W] in [0, 1]: how much of a pixel is covered
    depth: Tensor  # [B * V, H, W] z-depth in metres, times alpha

    def behind(self, front: Splatted) -> Splatted:
        """This, but for pixels that `front` covers with something nearer."""
        mine, theirs = (s.depth / s.alpha.clamp_min(1e-3) for s in (self, front))
        nearer = (front.alpha > 0.5) & ((self.alpha < 0.5) | (theirs < mine))
        shown = [torch.where(nearer.unsqueeze(1) if a.dim() == 4 else nearer, a, b) for a, b in zip(front, self, strict=True)]
        return Splatted(*shown)


class LiftWM(BaseWorldModel[LiftWMState]):
    """Satisfies `protocols.WorldModel`; a step costs the same however long the episode is."""

    CODE = 48

    def __init__(self, config: ModelConfig, shapes: ModelShapes) -> None:
        super().__init__(config, shapes, summary_dim=self.CODE + GOAL_FEATURES)
        self.encoder = Encoder(config, shapes.image_size)
        self.decoder = SplatDecoder(config, shapes.image_size)
        self.fusion = LearnedWeights() if config.learned_fusion else KalmanWeights()
        self.motion = MotionEncoder() if config.movers else None
        self.mover_dynamics = MoverDynamics() if config.movers else None
        self.log_memory_noise = nn.Parameter(torch.tensor(0.3).log())  # of a latent that is seen again
        self.summary = nn.Sequential(nn.Linear(GRID_CHANNELS * GRID_CELLS**2, 64), nn.SiLU(), nn.Linear(64, self.CODE))

    def initial_state(self, batch_size: int) -> LiftWMState:
        return self._empty_state(batch_size, self.config.budget)

    def training_state(self, batch_size: int, frames: int) -> LiftWMState:
        return self._empty_state(batch_size, min(self.config.budget, frames * NEW_PATCHES))

    def _empty_state(self, batch_size: int, budget: int) -> LiftWMState:
        like = next(self.parameters()).detach()
        world = self.empty_world(batch_size, budget, like)
        keyframes = Keyframes.empty(batch_size, self.image_size, like)
        if not self.config.movers:
            return LiftWMState(self.blank_ego(batch_size), world, keyframes)
        movers = Movers.empty(batch_size, self.config.movers, self.config.latent_dim, like)
        recent = RecentFrames.empty(batch_size, self.image_size, like)
        return LiftWMState(self.blank_ego(batch_size), world, keyframes, movers, recent)

    def empty_world(self, batch_size: int, budget: int, like: Tensor) -> Any:
        """A map without primitives."""
        return PatchMap.empty(batch_size, budget, self.config.texels, self.config.latent_dim, like)

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> Encoding:
        encoding = self.encoder.encode(rgb, camera, sources if self.config.stereo_sources else None)
        if self.motion is None or sources is None or sources.recent is None:
            return encoding
        return _with_motion(encoding, self.motion(rgb, camera, *_surface(encoding), sources.recent))

    def encode_matched(self, rgb: Tensor, camera: Camera, sources: Sources) -> Matched:
        matches, judged = self.encoder.match_and_judge(rgb, camera, sources)
        encoding = self.encoder(rgb, camera, matches if self.config.stereo_sources else None, sources)
        if self.motion is None or sources.recent is None:
            return Matched(encoding, judged)
        motion, velocities = self.motion.match_and_judge(rgb, camera, *_surface(encoding), sources.recent)
        return Matched(_with_motion(encoding, motion), judged, motion, velocities)

    def sources(self, state: LiftWMState, camera: Camera) -> Sources | None:
        recent = None if state.recent is None else Recent(*state.recent.sources())
        if not self.config.stereo_sources and recent is None:
            return None
        return Sources(*state.keyframes.sources(camera, max(1, self.config.stereo_sources)), recent=recent)

    def pass_time(self, state: LiftWMState, steps: Tensor) -> LiftWMState:
        if self.mover_dynamics is None or state.movers is None:
            return state
        return replace(state, movers=self.mover_dynamics(state.movers, steps))

    def write(self, state: LiftWMState, encoding: Encoding, observation: Observation) -> LiftWMState:
        # As a rule depth learns from the multi-view term alone: a photometric splat loss drives it to the far plane.
        depth, spread = encoding.depth.detach(), encoding.spread.detach()
        if self.config.frame_moves_depth:  # its belief meets no likelihood, so that its spread is no doubt
            depth, spread = encoding.depth, torch.full_like(spread, TYPICAL_SPREAD_SEEN)
        world = self.write_world(state.world, encoding._replace(depth=depth, spread=spread), observation)
        pose = observation.camera.world_from_camera
        written = LiftWMState(self.move_ego(state.ego, observation), world, state.keyframes.add(observation.rgb, pose))
        if state.movers is None or state.recent is None:
            return written
        sight = self._sight(encoding._replace(depth=depth, spread=spread), observation)
        movers = write_movers(state.movers, sight, observation.camera, self.config.stride)
        return replace(written, movers=movers, recent=state.recent.pushed(observation.rgb, pose))

    def write_world(self, world: Any, encoding: Encoding, observation: Observation) -> Any:
        """Lift a frame into primitives and fuse them with the map."""
        camera, stride = observation.camera, self.config.stride
        depth = self.pixel_depth(encoding, observation)
        spread = F.interpolate(encoding.spread.unsqueeze(1), scale_factor=stride, mode="nearest").squeeze(1)
        certainty = _certainty(depth, spread, camera)
        if self.config.movers:
            moving = F.interpolate(encoding.moving.unsqueeze(1), scale_factor=stride, mode="nearest").squeeze(1)
            certainty = torch.where(moving > MOVES, 0.0, certainty)
        return write_patches(world, depth, certainty, encoding.latents, observation.rgb, camera, self.fusion)

    def _sight(self, encoding: Encoding, observation: Observation) -> Sight:
        """What a frame says of things that move. Matching takes all for static and misjudges their depth: it is not asked."""
        stride = self.config.stride
        cells = replace(
            observation.camera, intrinsics=resize_intrinsics(observation.camera.intrinsics, 1.0 / stride),
            height=observation.camera.height // stride, width=observation.camera.width // stride,
        )  # fmt: skip
        return Sight(
            depth=torch.where(encoding.moving > MOVES, encoding.lone_depth.detach(), encoding.depth),
            certainty=_certainty(encoding.depth, encoding.spread, cells),
            velocity=encoding.velocity,
            moving=encoding.moving,
            latents=encoding.latents,
            rgb=F.avg_pool2d(observation.rgb, stride),
        )

    def pixel_depth(self, encoding: Encoding, observation: Observation) -> Tensor:
        """Depth of every pixel of a frame. [B, H, W] metres"""
        return pixel_depth(encoding.depth, observation.rgb)

    def decode(self, state: LiftWMState, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        splatted = self._with_movers(self.splat(state.world, cameras), state, cameras, steps)
        doubt = splatted.doubt if self.config.learned_fusion else None
        decoded = self.decoder(splatted.features, splatted.alpha, splatted.depth, cameras, doubt)
        return Rendering(decoded, _known(decoded.seen), splatted.features[:, 3:])

    def latent_prior(self, state: LiftWMState, camera: Camera) -> DiagonalGaussian:
        """What the map shows from here, with a learned noise; a standard normal where it shows nothing. [B, h, w, D]"""
        splatted = self._with_movers(self.splat(state.world, camera), state, camera, None)
        expected = F.avg_pool2d(splatted.features[:, 3:], self.config.stride).movedim(1, -1)
        covered = F.avg_pool2d(splatted.alpha.unsqueeze(1), self.config.stride).movedim(1, -1).clamp(0, 1).detach()
        variance = covered * (2.0 * self.log_memory_noise).exp() + 1.0 - covered
        return DiagonalGaussian(expected, variance.sqrt().expand_as(expected))

    def splat(self, world: Any, cameras: Camera) -> Splatted:
        """What cameras see of the map, V a row."""
        read = read_patches(world, values_of(world), cameras)
        features = read.latents * read.visible.unsqueeze(1)
        return Splatted(features[:, :-1], features[:, -1:], read.visible, read.depths * read.visible)

    def _with_movers(self, still: Splatted, state: LiftWMState, cameras: Camera, steps: Tensor | None) -> Splatted:
        """What moves, before what stands still."""
        if state.movers is None or self.mover_dynamics is None:
            return still
        views = len(cameras.intrinsics) // len(state.movers.means)
        movers = state.movers.map(lambda t: t.repeat_interleave(views, dim=0))
        if steps is not None:
            movers = self.mover_dynamics(movers, steps)
        read = read_movers(movers, values_of(movers), cameras)
        features = read.latents * read.visible.unsqueeze(1)
        return still.behind(Splatted(features[:, :-1], features[:, -1:], read.visible, read.depths * read.visible))

    def primitives(self, state: LiftWMState) -> tuple[Tensor, Tensor, Tensor]:
        """What stands in the first row's map, to draw or export: points [K, 3] m, rgb [K, 3], opacities [K]."""
        world = state.world
        assert isinstance(world, PatchMap)
        kept = world.evidence[0] > 0
        found = [(world.points()[0, kept], world.rgb[0, kept])]
        if state.movers is not None:
            moving = state.movers.evidence[0] > 0
            found.append((state.movers.means[0, moving], state.movers.rgb[0, moving]))
        points, rgb = (torch.cat(parts) for parts in zip(*found, strict=True))
        return points, rgb, torch.ones_like(points[:, 0])

    def surface(self, world: Any) -> Surface:
        """All texels of a map, patch by patch."""
        area = (world.evidence > 0) * (texel_m(world.levels, world.heights).square() / AREA_M2)[..., None]
        return Surface(world.points(), world.rgb, area)

    def summarize(self, state: LiftWMState) -> Tensor:
        """An egocentric bird's-eye code of the map, and where the goal is. [B, F]"""
        surfaces = [self.surface(state.world.detach())]
        if state.movers is not None:
            surfaces.append(_moving(state.movers.detach()))
        grid, goal = egocentric_code(surfaces, state.ego.goal, state.ego.world_from_camera)
        return torch.cat([self.summary(grid), goal], dim=-1)


def _certainty(depth: Tensor, spread: Tensor, camera: Camera) -> Tensor:
    """Inverse variance of where the surface of every pixel of `camera` is. [B, H, W] 1/m^2"""
    footprint = depth / camera.intrinsics[:, None, None, 0, 0]
    certainty = 1.0 / (footprint.square() + (depth * spread).square())
    return certainty.detach()


def _surface(encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Depth and its spread as data: motion is not to move depth."""
    return encoding.depth.detach(), encoding.spread.detach()


def _with_motion(encoding: Encoding, motion: Motion) -> Encoding:
    return encoding._replace(velocity=motion.velocity.detach(), moving=motion.moving.detach())


def _moving(movers: Movers) -> Surface:
    """Moving points, each a primitive of one piece."""
    area = (movers.evidence > 0) * movers.sizes.square() / AREA_M2
    return Surface(*(values.unsqueeze(2) for values in (movers.means, movers.rgb, area)))


def values_of(world: Any) -> Tensor:
    """What a decoder reads of each primitive or texel: colour, latent, and the doubt that is left. [B, ..., 3 + D + 1]"""
    doubt = -0.25 * world.evidence.clamp_min(MEETING.least_evidence).log() + 1.5
    return torch.cat([world.rgb, world.latents, doubt.unsqueeze(-1)], dim=-1)


def _known(seen: Tensor | None) -> Tensor:
    assert seen is not None
    return seen
