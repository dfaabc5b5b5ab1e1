"""Policies without a world model: on pixels, on a stack of frames, and recurrent ones, told what a world model is told.

`PixelEnv` gives each frame with the instruction, the believed pose since the first frame, and the last action: all that a world
model reads beside pixels. What differs is the memory alone:

- `pixels`: the present frame. Its tour is nothing to it.
- `frame_stack`: the present frame and the last ones before it; when the episode begins, the last ones of the tour.
- `recurrent`: an LSTM that watches the whole tour. The tour's frames come first in its episode, with reward 0; what it answers
  to them has no effect and counts neither as a step nor in any loss (`TouredRecurrentPPO`), but gradients of what is done after
  the call flow through the LSTM into what it kept of the tour, as far back as the rollout reaches. So it can learn what to
  remember, which a network that is merely run over the tour before the episode could not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer
from sb3_contrib.common.recurrent.type_aliases import RecurrentDictRolloutBufferSamples, RNNStates
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from liftwm_agents.observations import is_last_frame
from liftwm_agents.planning.perception import heading_of
from liftwm_envs.actions import ActionCodec

PLAYING = 0  # place in the vector of 1 from the call on, 0 during the tour
BESIDE_GOAL = 5  # numbers of the vector beside the instruction and the last action: that one, and the way from the start
POSITION_SCALE_M = 5.0
COLOURS = 3


class PixelObservation:
    """Turns what an environment gives into what these policies see, frame by frame of one episode."""

    def __init__(self, stack: int, action_dim: int) -> None:
        """`stack` frames at once; actions of `action_dim` numbers."""
        self._stack, self._none = stack, np.zeros(action_dim, np.float32)
        self._frames: deque[np.ndarray] = deque(maxlen=stack)
        self._origin: np.ndarray | None = None

    def space(self, rgb: spaces.Box, goal_dim: int) -> spaces.Dict:
        """Of images [3 * stack, H, W] uint8, channels first, oldest frame first, and vectors [1 + G + 4 + A] float32."""
        height, width = rgb.shape[:2]
        length = BESIDE_GOAL + goal_dim + len(self._none)
        return spaces.Dict(
            image=spaces.Box(0, 255, (3 * self._stack, height, width), np.uint8),
            vector=spaces.Box(-np.inf, np.inf, (length,), np.float32),
        )

    def begin(self) -> None:
        """An episode begins."""
        self._frames.clear()
        self._origin = None

    def add(self, obs: Mapping[str, np.ndarray], action: np.ndarray | None, playing: bool) -> dict[str, np.ndarray]:
        """What the policy sees after this frame, which `action` led to; None for the first."""
        self._frames.append(np.moveaxis(np.asarray(obs["rgb"]), -1, 0))
        while len(self._frames) < self._stack:
            self._frames.append(self._frames[-1])
        pose = np.asarray(obs["world_from_camera"], np.float64).reshape(4, 4)
        last = self._none if action is None else action
        vector = np.concatenate([[float(playing)], np.asarray(obs["goal"]).reshape(-1), self._moved(pose), last])
        return {"image": np.concatenate(self._frames), "vector": vector.astype(np.float32)}

    def _moved(self, pose: np.ndarray) -> np.ndarray:
        """Ahead and left of the first frame's camera, in 5 m, and cosine and sine of the turn since. [4]"""
        if self._origin is None:
            self._origin = pose
        heading = float(heading_of(self._origin))
        cos, sin = np.cos(heading), np.sin(heading)
        east, north = (pose - self._origin)[:2, 3] / POSITION_SCALE_M
        turn = float(heading_of(pose)) - heading
        return np.array([cos * east + sin * north, cos * north - sin * east, np.cos(turn), np.sin(turn)])


class PixelEnv(gym.Wrapper):
    """An environment as policies without a world model see it; with `watch_tour` its episodes begin with the tour.

    Steps during the tour do nothing: the next frame of the tour comes, reward 0, and `info["touring"]` is true.
    """

    def __init__(self, env: gym.Env, stack: int = 1, watch_tour: bool = False, table: np.ndarray | None = None) -> None:
        """
        Args:
            env: observations are dicts with rgb, world_from_camera and goal.
            stack: frames at once.
            watch_tour: show the guided tour step by step.
            table: where the environment is a `TableActions`, the action behind each choice. [K, A]
        """
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Dict) and isinstance(space["rgb"], spaces.Box)
        self._codec, self._watch_tour = ActionCodec(env.action_space, table), watch_tour
        self._view = PixelObservation(stack, self._codec.width)
        self.observation_space = self._view.space(space["rgb"], spaces.flatdim(space["goal"]))
        self._to_come: Iterator[dict[str, np.ndarray]] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first frame of the tour, or of the call with the tour's last ones in the stack."""
        obs, info = self.env.reset(seed=seed, options=options)
        frames = episode_frames(self._view, info.pop("tour", None), obs)
        self._to_come = None
        if not self._watch_tour:
            *_, seen = frames
            return seen, info
        self._to_come, self._called = frames, info
        return self._next_of_tour()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step of the episode, or the next frame of its tour."""
        if self._to_come is not None:
            seen, info = self._next_of_tour()
            return seen, 0.0, False, False, info
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._view.add(obs, self._codec.encode(action), True), float(reward), terminated, truncated, info

    def _next_of_tour(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """`touring` says that the step which led here was none of the agent's."""
        assert self._to_come is not None
        seen = next(self._to_come)
        if seen["vector"][PLAYING]:
            self._to_come = None
        return seen, {**self._called, "touring": True}


def episode_frames(
    view: PixelObservation, tour: Mapping[str, np.ndarray] | None, first: Mapping[str, np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Everything up to the call, in order: the tour's frames, and the one that reset returned, which is played."""
    view.begin()
    count = 0 if tour is None else len(tour["rgb"]) - is_last_frame(tour, first)
    for k in range(count):
        assert tour is not None
        yield view.add({key: tour[key][k] for key in first}, tour["action"][k] if k else None, False)
    last = tour["action"][count] if tour is not None and count < len(tour["rgb"]) and count else None
    yield view.add(first, last, True)


class PixelExtractor(BaseFeaturesExtractor):
    """Three convolutions as in Mnih et al. 2015 (Nature 518), padded so that small frames fit, joined with the vector."""

    def __init__(self, observation_space: spaces.Dict, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        image, vector = observation_space["image"].shape, observation_space["vector"].shape
        assert image is not None and vector is not None
        self.convolutions = nn.Sequential(
            nn.Conv2d(image[0], 32, 8, stride=4, padding=2), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            width = self.convolutions(torch.zeros(1, *image)).shape[1]
        self.join = nn.Sequential(nn.Linear(width + vector[0], features_dim), nn.LayerNorm(features_dim), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """image [B, C, H, W], which stable-baselines3 has divided by 255, and vector [B, n] -> [B, features_dim].

        Rows whose vector is zero are padding of sequences: turns have a cosine and a sine. No network sees them; they are zero.
        """
        image, vector = observations["image"], observations["vector"]
        real = vector.any(1)
        if not bool(real.all()):
            features = self({"image": image[real], "vector": vector[real]})
            return features.new_zeros(len(real), self.features_dim).index_put((real,), features)
        if torch.is_grad_enabled() and image.shape[1] > COLOURS:  # on a CPU, gradients of many channels come faster
            image = image.contiguous(memory_format=torch.channels_last)
        return self.join(torch.cat([self.convolutions(image), vector], dim=1))


class PlayedSteps(RecurrentDictRolloutBuffer):
    """Counts a tour's frames as padding, which no loss sees; the LSTM runs over them all the same.

    Every episode that starts begins a sequence. So what the LSTM forgets there is forgotten here, and no start is left to be
    found in a sequence, which lets the LSTM run over it in one call instead of step by step.
    """

    def get(self, batch_size: int | None = None) -> Iterator[RecurrentDictRolloutBufferSamples]:  # type: ignore[override]
        """Batches with at least two played steps: means and deviations over fewer are not defined."""
        return (samples for samples in super().get(batch_size) if float(samples.mask.sum()) >= 2)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env_change: np.ndarray, env: Any = None
    ) -> RecurrentDictRolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env_change, env)
        playing = self.pad_and_flatten(self.observations["vector"][batch_inds][:, PLAYING])
        begins = self.to_torch(self.episode_starts[batch_inds][self.seq_start_indices].reshape(1, -1, 1))
        remembered = [tuple(state * (1 - begins) for state in states) for states in samples.lstm_states]
        return samples._replace(
            mask=samples.mask * playing,
            lstm_states=RNNStates(*remembered),
            episode_starts=torch.zeros_like(samples.episode_starts),
        )


class TouredRecurrentPPO(RecurrentPPO):
    """RecurrentPPO that learns from played steps alone; `RecurrentPPO.load` opens what it saves."""

    def _setup_model(self) -> None:
        super()._setup_model()
        made = self.rollout_buffer
        assert isinstance(made, RecurrentDictRolloutBuffer)
        self.rollout_buffer = PlayedSteps(
            self.n_steps, self.observation_space, self.action_space, made.hidden_state_shape, self.device,
            gamma=self.gamma, gae_lambda=self.gae_lambda, n_envs=self.n_envs,
        )  # fmt: skip

    def train(self) -> None:
        """An update, unless tours so fill the rollout that no batch of it may have two played steps."""
        played = float(self.rollout_buffer.observations["vector"][..., PLAYING].sum())
        if played > self.n_steps * self.n_envs / (self.batch_size or 1) + 1:
            super().train()
