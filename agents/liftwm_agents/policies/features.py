"""A world model's memory as the observation of stable-baselines3 policies.

`WorldModelVecEnv` watches every step through the model and replaces the observation by what `readout` finds in the state;
`BirdsEyeExtractor` is the network in front of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor, nn

from embodied_liftwm.config import size_word
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import WorldModel, frame_size_of
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.observations import KEYS
from liftwm_agents.policies.birdseye import CHANNELS
from liftwm_agents.policies.readout import FeatureConfig, FeatureReader, Features, feature_space, follow, watch_start
from liftwm_envs.actions import ActionCodec


class WorldModelVecEnv(VecEnvWrapper):
    """Watches every step of a VecEnv through a world model and shows the policy what the model remembers.

    One state per environment, each a batch of one. A guided tour in `reset_infos[i]["tour"]` is watched whole before the
    episode begins, once where the episode starts from a pool (`start_pool`).
    """

    def __init__(
        self,
        venv: VecEnv,
        model: WorldModel,
        config: FeatureConfig | None = None,
        device: str | torch.device = "cpu",
        table: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            venv: environments whose observations are dicts with rgb, intrinsics, world_from_camera and goal.
            model: any world model for frames of their size.
            config: what is read.
            device: where the model's tensors live.
            table: where the environments are `TableActions`, the action behind each choice, which the model is told. [K, A]

        Raises:
            UserError: the observation space lacks a key, or its images are not the model's size.
        """
        self._model, self._config, self._device = model, config or FeatureConfig(), device
        space = venv.observation_space
        self._codec = ActionCodec(venv.action_space, table)
        check_spaces(space, self._codec.width, model)
        assert isinstance(space, spaces.Dict)
        goal_shape = space["goal"].shape
        assert goal_shape is not None
        super().__init__(venv, observation_space=feature_space(model, goal_shape[0], self._config))
        self._readers = [FeatureReader(model, self._config) for _ in range(venv.num_envs)]
        self._states: list[TensorTree] = [model.initial_state(1)] * venv.num_envs
        self._actions = np.zeros((venv.num_envs, self._codec.width), dtype=np.float32)

    @torch.no_grad()
    def reset(self) -> VecEnvObs:
        """Reset every environment and watch the tours."""
        obs = self._raw(self.venv.reset())
        self.reset_infos = self.venv.reset_infos
        self._states = [self._begin(i, obs) for i in range(self.num_envs)]
        return self._stack([self._read(i, obs) for i in range(self.num_envs)])

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.stack([self._codec.encode(action) for action in actions])
        self.venv.step_async(actions)

    @torch.no_grad()
    def step_wait(self) -> VecEnvStepReturn:
        """Observe the step; where an episode ended, its last features go to `terminal_observation` and a new one begins."""
        raw, rewards, dones, infos = self.venv.step_wait()
        obs = self._raw(raw)
        ended = [int(i) for i in np.flatnonzero(dones)]
        seen = {key: obs[key].copy() for key in KEYS}
        for i in ended:
            for key in KEYS:
                seen[key][i] = infos[i]["terminal_observation"][key]
        self._states = follow(self._model, self._states, self._readers, seen, self._actions, self._device)
        features = [self._read(i, seen) for i in range(self.num_envs)]
        self.reset_infos = self.venv.reset_infos
        for i in ended:
            infos[i]["terminal_observation"] = features[i]
            self._states[i] = self._begin(i, obs)
            features[i] = self._read(i, obs)
        return self._stack(features), rewards, dones, infos

    def _raw(self, obs: VecEnvObs) -> dict[str, np.ndarray]:
        assert isinstance(obs, dict)
        return {key: obs[key] for key in KEYS}

    def _read(self, i: int, obs: Mapping[str, np.ndarray]) -> Features:
        return self._readers[i].read(self._states[i], {key: value[i] for key, value in obs.items()})

    def _begin(self, i: int, obs: Mapping[str, np.ndarray]) -> TensorTree:
        """Watch the tour and the first frame of environment i; returns its state, batch of one."""
        first, info = {key: obs[key][i] for key in KEYS}, self.reset_infos[i]
        watched = watch_start(self._model, self._config, first, info, self._actions.shape[1], self._device)
        self._readers[i] = watched.reader
        return watched.state

    def _stack(self, features: list[Features]) -> VecEnvObs:
        return {key: np.stack([row[key] for row in features]) for key in features[0]}


def check_spaces(space: spaces.Space, width: int, model: WorldModel) -> None:
    """Raise UserError where a model cannot watch an environment of this observation space, with `width` numbers an action."""
    if not isinstance(space, spaces.Dict) or any(key not in space.spaces for key in KEYS):
        raise UserError(f"the environment's observation must be a Dict with {', '.join(KEYS)}, got a {type(space).__name__}")
    shape, size = space["rgb"].shape, frame_size_of(model)
    assert shape is not None
    if size is not None and tuple(shape[:2]) != size:
        raise UserError(
            f"the model takes frames of {size[0]} x {size[1]}, the environment gives {shape[0]} x {shape[1]}: "
            f"set env_options.image_size={size_word(size)}, or choose another model"
        )
    goal, shapes = space["goal"].shape, getattr(model, "shapes", None)
    assert goal is not None
    for what, has in (("actions", width), ("goals", goal[0])):
        wanted = getattr(shapes, {"actions": "action_dim", "goals": "goal_dim"}[what], has)
        if wanted != has:
            given = f"the model was trained with {what} of {wanted} numbers, the environment has {has}"
            raise UserError(f"{given}: not the same task or body")


class BirdsEyeExtractor(BaseFeaturesExtractor):
    """A small convolutional network over the map and what the model says of its state, beside the vector as it is.

    The vector's few numbers, all about one in size, say where to go: among hundreds of others they would count for little, and
    summaries are of any size, so these are squashed first (sign(x) log(1 + |x|), symlog of Hafner et al. 2023).
    """

    def __init__(self, observation_space: spaces.Dict, map_dim: int = 64) -> None:
        birdseye, vector, summary = (observation_space[key].shape for key in ("birdseye", "vector", "summary"))
        assert birdseye is not None and vector is not None and summary is not None
        super().__init__(observation_space, map_dim + vector[0])
        self._map = (len(CHANNELS), *[math.isqrt(birdseye[0] // len(CHANNELS))] * 2)
        self.convolutions = nn.Sequential(
            nn.Conv2d(len(CHANNELS), 16, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            width = self.convolutions(torch.zeros(1, *self._map)).shape[1]
        self.join = nn.Sequential(nn.Linear(width + summary[0], map_dim), nn.LayerNorm(map_dim), nn.ReLU())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """birdseye [B, C * cells * cells], summary [B, F] and vector [B, n] -> [B, map_dim + n]."""
        summary = observations["summary"]
        squashed = summary.sign() * summary.abs().log1p()
        birdseye = observations["birdseye"].unflatten(1, self._map)
        joined = self.join(torch.cat([self.convolutions(birdseye), squashed], dim=1))
        return torch.cat([joined, observations["vector"]], dim=1)
