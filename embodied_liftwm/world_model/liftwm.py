"""LiftWM: an encoder, a memory and a decoder.

The one dataflow of this project, end to end: encode -> lift -> write, read -> decode. What is kept, and how, is up to the
memory (`memory/contract.py`); `build.py` says which networks stand about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.geometry.pixel_depth import pixel_depth
from embodied_liftwm.memory.contract import Bytes, Lifted, Memory, Points, Read
from embodied_liftwm.memory.contract import Motion as InMotion
from embodied_liftwm.memory.frames.keyframes import Keyframes
from embodied_liftwm.memory.frames.recent import RecentFrames
from embodied_liftwm.protocols import Camera, Observation, View
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.base import BaseWorldModel, Matched, ModelShapes, Rendering
from embodied_liftwm.world_model.decoders.latents import KNOWN_FROM, LatentDecoder
from embodied_liftwm.world_model.decoders.picture import encoded_again
from embodied_liftwm.world_model.decoders.surface import Decoded, SplatDecoder
from embodied_liftwm.world_model.dynamics import AgentState
from embodied_liftwm.world_model.encoder import TYPICAL_SPREAD_SEEN, Encoder, Encoding, Sources
from embodied_liftwm.world_model.episode_belief import Episode, drifted, expected, in_units, narrowed, unknown
from embodied_liftwm.world_model.generation import shown
from embodied_liftwm.world_model.motion import Motion, MotionEncoder, Recent
from embodied_liftwm.world_model.summary import GOAL_FEATURES, GRID_CELLS, GRID_CHANNELS, Surface, egocentric_code

IMAGINED_SPREAD = 0.25
"""Spread of a log-depth that was imagined: what is seen later soon outweighs it."""
SURE_SCALE = 0.02
"""Standard deviation of the log of an episode's unit below which a frame is not asked about it: a fifth of a depth plane."""
SURELY_SEEN = 0.5
"""Probability below which a pixel of a generated picture is written as imagined."""

W = TypeVar("W", bound=TensorTree)


class Networks(NamedTuple):
    """What stands about a memory."""

    encoder: type[Encoder]
    decoder: type[SplatDecoder] | type[LatentDecoder]


@dataclass(frozen=True)
class LiftWMState(AgentState, Generic[W]):
    """What the memory keeps, the agent in it, and the last frames, which help to encode the next."""

    world: W
    keyframes: Keyframes
    recent: RecentFrames | None = None
    episode: Tensor | None = None  # [B, R, S] what its world is like (`episode_belief.py`); None where a unit is a metre


class LiftWM(BaseWorldModel[LiftWMState[W]], Generic[W]):
    """Satisfies `protocols.WorldModel`; whether a step costs the same however long the episode is, is up to the memory."""

    CODE = 48

    def __init__(
        self, config: ModelConfig, shapes: ModelShapes, networks: Networks, make_memory: Callable[[], Memory[W]]
    ) -> None:
        super().__init__(config, shapes, summary_dim=self.CODE + GOAL_FEATURES)
        self.encoder = networks.encoder(config, shapes.image_size)
        self.decoder = networks.decoder(config, shapes.image_size)
        self.memory = make_memory()
        self.motion = MotionEncoder() if config.movers else None
        if self.memory.random_latents:
            self.log_memory_noise = nn.Parameter(torch.tensor(0.3).log())  # of a latent that is seen again
        self.summary = nn.Sequential(nn.Linear(GRID_CHANNELS * GRID_CELLS**2, 64), nn.SiLU(), nn.Linear(64, self.CODE))

    @property
    def log_planes(self) -> Tensor:
        return self.encoder.log_planes

    def initial_state(self, batch_size: int) -> LiftWMState[W]:
        return self._around(self.memory.empty(batch_size), batch_size)

    def training_state(self, batch_size: int, frames: int) -> LiftWMState[W]:
        larger = math.prod(self.image_size) / math.prod(
            self.shapes.image_size
        )  # the memory counts in frames of the model's own
        return self._around(self.memory.empty_to_train(batch_size, math.ceil(frames * larger)), batch_size)

    def _around(self, world: W, batch_size: int) -> LiftWMState[W]:
        like = next(self.parameters()).detach()
        keyframes = Keyframes.empty(batch_size, self.image_size, like)
        recent = RecentFrames.empty(batch_size, self.image_size, like) if self.motion is not None else None
        prior = self.config.scale_prior
        episode = unknown(batch_size, prior, self.log_planes) if prior else None
        return LiftWMState(self.blank_ego(batch_size), world.to(like.device), keyframes, recent, episode)

    def look(self, state: LiftWMState[W], observation: Observation) -> tuple[LiftWMState[W], Encoding]:
        if state.episode is None:
            return super().look(state, observation)
        rgb, camera = observation.rgb, observation.camera
        belief = drifted(state.episode)
        episode = expected(belief, self.log_planes)
        seen, sources = self._in_units(state, camera, episode)
        if bool(((episode.doubt > SURE_SCALE) & sources.usable.any(1)).any()):
            looks = self.encoder(rgb, seen, None).log_belief
            belief = narrowed(belief, looks, rgb, seen, sources, episode.unit, self.log_planes, self.config.stride)
            episode = expected(belief, self.log_planes)
            seen, sources = self._in_units(state, camera, episode)
        return replace(state, episode=belief), _in_metres(self.encode(rgb, seen, sources), episode)

    def _in_units(self, state: LiftWMState[W], camera: Camera, episode: Episode) -> tuple[Camera, Sources]:
        """A camera, and the frames kept that help to encode what it sees, with lengths in the episode's unit."""
        camera = replace(camera, world_from_camera=in_units(camera.world_from_camera, episode.unit))
        kept = replace(state.keyframes, poses=in_units(state.keyframes.poses, episode.unit))
        return camera, Sources(*kept.sources(camera, self.config.stereo_sources), reliance=episode.reliance)

    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> Encoding:
        asked = sources if self.config.stereo_sources else None
        encoding = self.encoder.encode(rgb, camera, asked) if self.config.matches else self.encoder(rgb, camera, None, asked)
        if self.motion is None or sources is None or sources.recent is None:
            return encoding
        return _with_motion(encoding, self.motion(rgb, camera, *_surface(encoding), sources.recent))

    def encode_matched(self, rgb: Tensor, camera: Camera, sources: Sources) -> Matched:
        matches, judged = self.encoder.match_and_judge(rgb, camera, sources)
        encoding = self.encoder(rgb, camera, matches if self.config.matches else None, sources)
        if self.motion is None or sources.recent is None:
            return Matched(encoding, judged)
        motion, velocities = self.motion.match_and_judge(rgb, camera, *_surface(encoding), sources.recent)
        return Matched(_with_motion(encoding, motion), judged, motion, velocities)

    def sources(self, state: LiftWMState[W], camera: Camera) -> Sources | None:
        recent = None if state.recent is None else Recent(*state.recent.sources())
        if not self.config.stereo_sources and recent is None:
            return None
        return Sources(*state.keyframes.sources(camera, max(1, self.config.stereo_sources)), recent=recent)

    def pass_time(self, state: LiftWMState[W], steps: Tensor) -> LiftWMState[W]:
        return replace(state, world=self.memory.advance(state.world, steps))

    def write(self, state: LiftWMState[W], encoding: Encoding, observation: Observation) -> LiftWMState[W]:
        """Raises UserError for a frame that the memory cannot place; the state that was given stays as it was."""
        return self._take_in(state, self._lifted(encoding, observation), observation)

    def _lifted(self, encoding: Encoding, observation: Observation, imagined: Tensor | None = None) -> Lifted:
        """What a frame has to write; `imagined` [B, H, W] bool are pixels that show nothing that was observed."""
        # As a rule depth learns from the multi-view term alone: a photometric splat loss drives it to the far plane.
        depth, spread = encoding.depth.detach(), encoding.spread.detach()
        if self.config.frame_moves_depth:  # its belief meets no likelihood, so that its spread is no doubt
            depth, spread = encoding.depth, torch.full_like(spread, TYPICAL_SPREAD_SEEN)
        encoding = encoding._replace(depth=depth, spread=spread)
        return Lifted(
            rgb=observation.rgb,
            depth=depth,
            spread=spread,
            latents=encoding.latents,
            opacities=encoding.opacities,
            motion=None if self.motion is None else InMotion(encoding.velocity, encoding.moving, encoding.lone_depth.detach()),
            pixel_depth=self.pixel_depth(encoding, observation) if self.memory.takes_pixel_depth else None,
            imagined=imagined,
        )

    def _take_in(self, state: LiftWMState[W], lifted: Lifted, observation: Observation) -> LiftWMState[W]:
        world = self.memory.write(state.world, lifted, observation.camera)
        pose = observation.camera.world_from_camera
        unit = 1.0 if state.episode is None else expected(state.episode, self.log_planes).unit
        keyframes = state.keyframes.add(observation.rgb, pose, unit)
        recent = None if state.recent is None else state.recent.pushed(observation.rgb, pose)
        return LiftWMState(self.move_ego(state.ego, observation), world, keyframes, recent, state.episode)

    def pixel_depth(self, encoding: Encoding, observation: Observation) -> Tensor:
        """Depth of every pixel of a frame. [B, H, W] metres"""
        return pixel_depth(encoding.depth, observation.rgb)

    def decode(self, state: LiftWMState[W], cameras: Camera, steps: Tensor | None = None) -> Rendering:
        read = self._read(state.world, cameras, steps)
        decoded = self.decoder(read, cameras)
        return Rendering(decoded, _known(decoded), read.features[:, -self.config.latent_dim :])

    def _read(self, world: W, cameras: Camera, steps: Tensor | None = None) -> Read:
        """What cameras see of a world, V a row, on the decoder's grid."""
        read = self.memory.read(world, cameras) if steps is None else self.memory.read_at(world, cameras, steps)
        return encoded_again(read, cameras, self.encoder) if self.memory.reads == "picture" else read

    def latent_prior(self, state: LiftWMState[W], camera: Camera) -> DiagonalGaussian | None:
        """What the map shows from here, with a learned noise; a standard normal where it shows nothing. [B, h, w, D]"""
        if not self.memory.random_latents:
            return None
        read = self._read(state.world, camera)
        stride = read.visible.shape[-1] // (camera.width // self.config.stride)
        latents = read.features[:, -self.config.latent_dim :]
        expected = F.avg_pool2d(latents, stride).movedim(1, -1)
        covered = F.avg_pool2d(read.visible.unsqueeze(1), stride).movedim(1, -1).clamp(0, 1).detach()
        variance = covered * (2.0 * self.log_memory_noise).exp() + 1.0 - covered
        return DiagonalGaussian(expected, variance.sqrt().expand_as(expected))

    def generate(self, state: LiftWMState[W], camera: Camera) -> tuple[LiftWMState[W], View]:
        """One step of closed-loop generation: show what `camera` would see, and believe it.

        What is rendered is observed; pixels that show nothing that was observed are written as imagined, and memories that keep
        this apart do not take them for something seen. A memory of cells is not written by way of a picture.

        Returns:
            The state after the step, with its ego camera at `camera`, and the view as it was before the step was believed.
        """
        self.check_next(state, camera)
        if self.memory.reads == "cells":
            return self._generate_cells(state, camera)
        view = self.render(state, camera)
        step = shown(view, camera, self.shapes.action_dim)
        state = self.pass_time(state, torch.ones_like(camera.intrinsics[:, 0, 0]))
        state, encoding = self.look(state, step)
        return self._take_in(state, self._lifted(encoding, step, view.seen < SURELY_SEEN), step), view

    def _generate_cells(self, state: LiftWMState[W], camera: Camera) -> tuple[LiftWMState[W], View]:
        """What is imagined is written as latents. The picture is for the viewer alone: nothing is encoded."""
        state = self.pass_time(state, torch.ones_like(camera.intrinsics[:, 0, 0]))
        read, decoder = self._read(state.world, camera), cast(LatentDecoder, self.decoder)
        grid = decoder.complete(read, camera)
        decoded = decoder.paint(grid)
        view = View(decoded.rgb.clamp(0, 1), decoded.depth, _known(decoded), latent=grid.latents)
        step = shown(view, camera, self.shapes.action_dim)
        imagined = Lifted(
            rgb=step.rgb,
            depth=grid.depth,
            spread=torch.where(read.visible < KNOWN_FROM, IMAGINED_SPREAD, torch.inf),  # what was read is there already
            latents=grid.latents,
            opacities=torch.ones_like(grid.depth),
            pixel_depth=decoded.depth if self.memory.takes_pixel_depth else None,
            imagined=torch.ones_like(decoded.depth, dtype=torch.bool),
        )
        world = self.memory.write(state.world, imagined, camera)
        return replace(state, world=world, ego=self.move_ego(state.ego, step)), view

    def primitives(self, state: LiftWMState[W]) -> tuple[Tensor, Tensor, Tensor]:
        """What the first row keeps, to draw or export: points [K, 3] m, rgb [K, 3], opacities [K]."""
        points = self.memory.points(state.world)
        kept = points.weights[0] > 0
        return points.places[0][kept], self._colours(points)[0][kept], points.weights[0][kept]

    def _colours(self, points: Points) -> Tensor:
        """Of points that keep latents alone, what the decoder paints with them. [B, N, M, 3] in [0, 1]"""
        if points.rgb is not None:
            return points.rgb
        return cast(LatentDecoder, self.decoder).colours.colours(points.features).clamp(0, 1)

    def memory_bytes(self, state: LiftWMState[W]) -> Bytes:
        return self.memory.nbytes(state.world)

    def resize(self, size: int) -> None:
        self.memory.resize(size)
        super().resize(size)

    def summarize(self, state: LiftWMState[W]) -> Tensor:
        """An egocentric bird's-eye code of the map, and where the goal is. [B, F]"""
        points = self.memory.points(state.world.detach())
        surface = Surface(points.places, self._colours(points), points.area)
        grid, goal = egocentric_code(surface, state.ego.goal, state.ego.world_from_camera)
        return torch.cat([self.summary(grid), goal], dim=-1)

    def renamed(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of an older checkpoint by the names they have now; those that nothing needed are left out."""
        own, found = self.state_dict().keys(), {}
        for name, tensor in stored.items():
            names = [new + name.removeprefix(old) for old, new in RENAMED if name.startswith(old)]
            now = next((candidate for candidate in names if candidate in own), name)
            if now in own or not name.startswith(UNUSED):
                found[now] = tensor
        return found


RENAMED = (
    ("fusion.", "memory.look_weights."),
    ("fusion.", "memory.still.look_weights."),
    ("mover_dynamics.", "memory.dynamics."),
    ("painter.", "decoder."),
    ("cells.", "encoder.colours."),
)
"""How names of weights began, and begin now."""
UNUSED = ("fusion.", "log_memory_noise")
"""Weights that older models had, some of them for no use."""


def _surface(encoding: Encoding) -> tuple[Tensor, Tensor]:
    """Depth and its spread as data: motion is not to move depth."""
    return encoding.depth.detach(), encoding.spread.detach()


def _in_metres(encoding: Encoding, episode: Episode) -> Encoding:
    """What was encoded in an episode's unit."""
    unit, doubt = episode.unit[:, None, None], episode.doubt[:, None, None]
    spread = (encoding.spread.square() + doubt.square()).sqrt()
    return encoding._replace(depth=unit * encoding.depth, lone_depth=unit * encoding.lone_depth, spread=spread)


def _with_motion(encoding: Encoding, motion: Motion) -> Encoding:
    return encoding._replace(velocity=motion.velocity.detach(), moving=motion.moving.detach())


def _known(decoded: Decoded) -> Tensor:
    assert decoded.seen is not None
    return decoded.seen
