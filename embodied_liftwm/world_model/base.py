"""What every world model of ours shares: shapes, the ego camera, imagination, task heads and the likelihood of a frame.

A model adds four things: `encode` (a frame by itself), `write` (an encoding into the state), `decode` (any camera from the
state) and `summarize`. Training encodes many frames at once and writes them one by one; `observe` does both for one frame.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.geometry.matching.plane_sweep import Sweep
from embodied_liftwm.geometry.se3 import relative_twist
from embodied_liftwm.memory.contract import Bytes
from embodied_liftwm.protocols import Camera, Observation, Prediction, View
from embodied_liftwm.world_model.decoders.surface import Decoded
from embodied_liftwm.world_model.dynamics import AgentState, EgoMotion, EgoState, TaskHeads
from embodied_liftwm.world_model.encoder import Sources
from embodied_liftwm.world_model.gate import check_action, check_camera, check_observation
from embodied_liftwm.world_model.generation import render_then_observe
from embodied_liftwm.world_model.layers.blocks import levels_of
from embodied_liftwm.world_model.motion import Motion


@dataclass(frozen=True)
class ModelShapes:
    """What a model takes from the dataset it is trained on; saved beside its weights."""

    image_size: tuple[int, int]  # height and width, pixels; one number for square frames is taken as well
    action_dim: int  # A; discrete actions are one-hot
    goal_dim: int  # G; 0 where the task has no goal

    def __post_init__(self) -> None:
        size: Any = self.image_size  # files hold a list, those of older versions one number
        height, width = (size, size) if isinstance(size, int) else size
        object.__setattr__(self, "image_size", (int(height), int(width)))


class Rendering(NamedTuple):
    """A decoded view, and what was known of it before decoding."""

    decoded: Decoded
    seen: Tensor  # [B, H, W]
    latent: Tensor | None  # [B, D, H, W]


class Matched(NamedTuple):
    """Encoded frames, and what their depth and motion can be held against."""

    encoding: Any  # a NamedTuple of each model's own
    planes: Sweep | None = None  # costs of depth planes, where the model matches
    motion: Motion | None = None  # belief over velocities, where the model believes in motion
    velocities: Sweep | None = None  # and their costs with the judges of motion


S = TypeVar("S", bound=AgentState)


class BaseWorldModel(nn.Module, ABC, Generic[S]):
    """Implements `protocols.WorldModel` up to the four methods a memory must bring."""

    def __init__(self, config: ModelConfig, shapes: ModelShapes, summary_dim: int) -> None:
        super().__init__()
        self.config = config
        self.shapes = shapes
        self.image_size = shapes.image_size
        self.summary_dim = summary_dim
        self.grain = grain_of(config.stride, shapes.image_size)
        self.ego_motion = EgoMotion(shapes.action_dim)
        self.heads = TaskHeads(summary_dim, shapes.goal_dim)

    @abstractmethod
    def encode(self, rgb: Tensor, camera: Camera, sources: Sources | None = None) -> Any:
        """What frames [B, 3, H, W] say, with the help of `sources`: a NamedTuple of tensors with a leading batch axis."""

    @abstractmethod
    def write(self, state: S, encoding: Any, observation: Observation) -> S:  # what `encode` of the same model gave
        """Take one encoded frame into the state and move the ego camera to it."""

    @abstractmethod
    def decode(self, state: S, cameras: Camera, steps: Tensor | None = None) -> Rendering:
        """Render V cameras per batch row.

        Args:
            state: B rows.
            cameras: B * V cameras, the views of a row one after another.
            steps: how long after the state, or before it, each looks; now if None. [B * V]

        Returns:
            B * V rendered views.
        """

    @abstractmethod
    def initial_state(self, batch_size: int) -> S:
        """A state that remembers nothing."""

    @contextmanager
    def seeing(self, image_size: tuple[int, int]) -> Iterator[None]:
        """Let states that are made in this block take frames of another size: of one of several datasets."""
        own, self.image_size = self.image_size, image_size
        try:
            yield
        finally:
            self.image_size = own

    def training_state(self, batch_size: int, frames: int) -> S:
        """A state that remembers nothing and has room for `frames` frames: the least that training has to carry along."""
        return self.initial_state(batch_size)

    @abstractmethod
    def summarize(self, state: S) -> Tensor:
        """What probes and policies may read. [B, F]"""

    @property
    def log_planes(self) -> Tensor | None:
        """Logarithms of the depths, in metres, that a model which lifts believes in [P]; None of one that does not lift."""
        return None

    def memory_bytes(self, state: S) -> Bytes:
        """What a state remembers the world with; neither the ego camera nor frames that only stereo needs are part of it."""
        size = state.nbytes() - state.ego.nbytes()
        return Bytes(size, size, grows=False)

    def resize(self, size: int) -> None:
        """Let states that are made from now on keep so much, where the memory has a budget, in its unit: primitives, or bytes.

        Weights do not depend on it. Raises UserError for too little.
        """
        self.config = self.config.sized(size)

    def latent_prior(self, state: S, camera: Camera) -> DiagonalGaussian | None:
        """What the state expects of a frame's latents before it is seen: [B, h, w, D], where the model's latents are random."""
        return None

    def observe(self, state: S, observation: Observation) -> S:
        """Write: take in what the camera sees now. Raises UserError, before it begins, for what is no frame of the model's."""
        self._check_observation(state, observation)
        state = self.pass_time(state, torch.ones_like(observation.rgb[:, 0, 0, 0]))
        if bool(observation.is_first.any()):
            state = self.initial_state(len(observation.rgb)).where(observation.is_first, state)
        return self.write(*self.look(state, observation), observation)

    def look(self, state: S, observation: Observation) -> tuple[S, Any]:
        """The state, which may learn of a frame before it is written, and what the frame says beside it, as `encode` has it."""
        return state, self.encode(observation.rgb, observation.camera, self.sources(state, observation.camera))

    def encode_matched(self, rgb: Tensor, camera: Camera, sources: Sources) -> Matched:
        """`encode`, with the matching costs of all sources where the model matches: what training reads."""
        return Matched(self.encode(rgb, camera, sources))

    def pass_time(self, state: S, steps: Tensor) -> S:
        """Let `steps` [B] go by, or back: what the state knows to move, moves."""
        return state

    def sources(self, state: S, camera: Camera) -> Sources | None:
        """Frames kept in the state that help to encode what `camera` sees now, where the model keeps any."""
        return None

    def imagine(self, state: S, action: Tensor) -> S:
        """Advance one step by `action` [B, A] without looking. Raises UserError for another size, or numbers not finite."""
        check_action(action, self._rows(state), self.shapes.action_dim, next(self.parameters()))
        state = self.pass_time(state, torch.ones_like(action[:, 0]))
        return replace(state, ego=self.ego_motion.move(state.ego, action))

    def render(self, state: S, camera: Camera) -> View:
        """Read: what `camera` would see, one camera a row, of any size. Raises UserError for what is no camera.

        A picture whose sides the networks cannot halve often enough is rendered larger, to the right and below, and cut.
        """
        check_camera(camera, self._rows(state), next(self.parameters()))
        height, width = (-(-side // self.grain) * self.grain for side in (camera.height, camera.width))
        larger = replace(camera, height=height, width=width)
        rendering = self.decode(state, larger)
        view = View(
            rgb=rendering.decoded.rgb.clamp(0, 1),
            depth=rendering.decoded.depth,
            seen=rendering.seen,
            latent=rendering.latent,
        )
        return view if (larger.height, larger.width) == (camera.height, camera.width) else _cut(view, camera)

    def generate(self, state: S, camera: Camera) -> tuple[S, View]:
        """One step of closed-loop generation: show what `camera` would see, and believe it.

        What was rendered is observed.

        Returns:
            The state after the step, with its ego camera at `camera`, and the view as it was before the step was believed.
        """
        self.check_next(state, camera)
        return render_then_observe(self, state, camera, self.shapes.action_dim)

    def predict(self, state: S) -> Prediction:
        """Reward and continuation expected in this state."""
        self._rows(state)
        return self.heads(self.summarize(state), state.ego.goal)

    def surprise(self, state: S, observation: Observation) -> Tensor:
        """-log p of a frame under the model's own Gaussian noise, in nats per pixel and channel. [B]"""
        self._check_observation(state, observation)
        after = torch.ones_like(observation.rgb[:, 0, 0, 0])
        decoded = self.decode(state, observation.camera, after).decoded
        return -DiagonalGaussian(decoded.rgb, decoded.scale.unsqueeze(1)).log_prob(observation.rgb).mean((1, 2, 3))

    def ego_camera(self, state: S) -> Camera:
        """The camera the state believes it looks through now."""
        self._rows(state)
        return Camera(state.ego.intrinsics, state.ego.world_from_camera, *self.image_size)

    def check_next(self, state: S, camera: Camera) -> None:
        """Raise UserError unless `camera` can be the next that a generated video is filmed with."""
        check_camera(camera, self._rows(state), next(self.parameters()), self.image_size)

    def _check_observation(self, state: S, observation: Observation) -> None:
        sizes = self.image_size, self.shapes.action_dim, self.shapes.goal_dim
        check_observation(observation, self._rows(state), *sizes, next(self.parameters()))

    def _rows(self, state: S) -> int:
        if type(state) is not self._state_type:
            raise UserError(f"state is a {type(state).__name__}: expected what initial_state or observe of this model returned")
        return len(state.ego.world_from_camera)

    @cached_property
    def _state_type(self) -> type[S]:
        with torch.no_grad():
            return type(self.initial_state(1))

    def blank_ego(self, batch_size: int) -> EgoState:
        """An ego state before anything was seen: at the origin, with a 90 degree field of view."""
        like = next(self.parameters())
        height, width = self.image_size
        intrinsics = like.new_tensor([[width / 2.0, 0, width / 2.0], [0, width / 2.0, height / 2.0], [0, 0, 1]])
        return EgoState(
            world_from_camera=torch.eye(4).to(like).expand(batch_size, 4, 4).clone(),
            twist=like.new_zeros(batch_size, 6),
            intrinsics=intrinsics.expand(batch_size, 3, 3).clone(),
            goal=like.new_zeros(batch_size, self.shapes.goal_dim),
        )

    def move_ego(self, ego: EgoState, observation: Observation) -> EgoState:
        """Take the believed pose of an observation; the twist is the step since the last one, zero on first frames."""
        pose = observation.camera.world_from_camera
        step = relative_twist(ego.world_from_camera, pose)
        twist = torch.where(observation.is_first[:, None], torch.zeros_like(step), step)
        goal = ego.goal if observation.goal is None else observation.goal
        return EgoState(pose, twist.detach(), observation.camera.intrinsics, goal)


def grain_of(stride: int, image_size: tuple[int, int]) -> int:
    """What the sides of a picture must be multiples of, so that its pixels, folded 2 x 2, and its cells can be halved often
    enough for the networks of a model of frames of `image_size`."""
    return math.lcm(16, 2 << levels_of(image_size, 2), stride << levels_of(image_size, stride))


def _cut(view: View, camera: Camera) -> View:
    """The upper left part of a view that is larger than its camera's picture."""

    def cut(image: Tensor | None) -> Tensor | None:
        if image is None:
            return None
        cell = view.rgb.shape[-1] // image.shape[-1]  # latents may lie on a coarser grid
        return image[..., : -(-camera.height // cell), : -(-camera.width // cell)]

    return View(*(cut(getattr(view, name)) for name in ("rgb", "depth", "seen", "normal", "latent")))  # type: ignore[arg-type]
