"""Environments that policies are trained in: real ones, as each input sees them, and imagined ones.

Every input has the same scenes, tours, rewards and actions. With several processes each has a world model of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.environments import find_env
from embodied_liftwm.goals import COLOUR
from embodied_liftwm.protocols import WorldModel
from liftwm_agents.observations import KEYS, instructed
from liftwm_agents.policies.action_table import TableActions, table_for
from liftwm_agents.policies.baselines import PixelEnv
from liftwm_agents.policies.env_processes import EnvProcesses
from liftwm_agents.policies.features import WorldModelVecEnv, check_spaces
from liftwm_agents.policies.imagination import ImaginedVecEnv
from liftwm_agents.policies.readout import FeatureConfig, Watched, watch_start
from liftwm_agents.policies.start_pool import StartPool, TrainingSeeds
from liftwm_envs.contract import goal_kind

_STREAM = 7919  # between the seeds of environments


def make_task(config: TrainAgentConfig) -> gym.Env:
    """The environment of `config.env` with a tour; where it is ours, with the reward `progress`.

    Raises:
        UserError: nothing of that name, or options it does not take.
    """
    source = find_env(config.env)
    more = {"reward": "progress"} if source.ours else {}
    env = source.make_task(config, **more)
    kept = isinstance(env.observation_space, spaces.Dict) and set(env.observation_space.spaces) <= set(KEYS)
    env = env if kept else gym.wrappers.FilterObservation(env, KEYS)
    return Instructed(env) if goal_kind(env) == "picture" else env


class Instructed(gym.Wrapper):
    """Says the colour of what a picture shows in place of the picture, as data hold it: policies know no other looks."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = spaces.Dict({**env.observation_space, "goal": spaces.Box(0.0, 1.0, (COLOUR,), np.float32)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode, and its tour."""
        obs, info = self.env.reset(seed=seed, options=options)
        told = {"tour": instructed(info["tour"], COLOUR)} if "tour" in info else {}
        return instructed(obs, COLOUR), {**info, **told}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return instructed(obs, COLOUR), float(reward), terminated, truncated, info


def check_task(config: TrainAgentConfig, model: WorldModel) -> None:
    """Hold the task against the model, before anything is written.

    Raises:
        UserError: no such environment, or the model cannot watch it.
    """
    env = make_task(config)
    try:
        find_env(config.env).hold_to_contract(env, config.seed)
        if config.input in ("state", "imagined"):
            check_spaces(env.observation_space, spaces.flatdim(env.action_space), model)
    finally:
        env.close()


def make_env(config: TrainAgentConfig, seed: int) -> gym.Env:
    """One training environment: training scenes from a pool of starts, actions as configured, statistics.

    Raises:
        UserError: as `make_task`.
    """
    made: gym.Env = TrainingSeeds(make_task(config), seed, config.starts, config.fresh, config.repeats)
    if has_table(config, made):
        made = TableActions(made)
    if config.input in ("pixels", "frame_stack", "recurrent"):
        stack = config.frame_stack if config.input == "frame_stack" else 1
        made = PixelEnv(made, stack, config.input == "recurrent", getattr(made, "table", None))
    return Monitor(made, allow_early_resets=True)


def has_table(config: TrainAgentConfig, env: gym.Env) -> bool:
    """Whether the policy chooses among a few actions of a continuous environment."""
    return config.discrete and isinstance(env.action_space, spaces.Box)


def make_venv(config: TrainAgentConfig, model: WorldModel, features: FeatureConfig, done: int) -> VecEnv:
    """All training environments of a run.

    Args:
        config: see `TrainAgentConfig`.
        model: the world model; processes beyond this one load their own.
        features: what is read of the state.
        done: steps behind a run that is continued: it goes on in other scenes.

    Raises:
        UserError: no such environment, or the model does not fit it.
    """
    seeds = [config.seed + _STREAM * (i + 1) + done for i in range(config.num_envs)]
    if config.input == "imagined":
        return _imagined(config, model, features, seeds[0])
    if config.input != "state":
        makers: list[Callable[[], gym.Env]] = [partial(make_env, config, seed) for seed in seeds]
        return EnvProcesses(makers) if config.parallel else DummyVecEnv(makers)
    if config.parallel:
        return EnvProcesses([partial(_watched_env, config, seed, features) for seed in seeds])
    return _watched(config, model, seeds, features)


def _watched(config: TrainAgentConfig, model: WorldModel, seeds: list[int], features: FeatureConfig) -> WorldModelVecEnv:
    venv = DummyVecEnv([partial(make_env, config, seed) for seed in seeds])
    table = next(iter(venv.get_attr("table"))) if _is_choice(config, venv) else None
    return WorldModelVecEnv(venv, model, features, config.device, table)


def _is_choice(config: TrainAgentConfig, venv: VecEnv) -> bool:
    return config.discrete and isinstance(venv.action_space, spaces.Discrete) and venv.has_attr("table")


def _watched_env(config: TrainAgentConfig, seed: int, features: FeatureConfig) -> gym.Env:
    """One environment with a world model of its own, in a process of its own."""
    import torch

    import embodied_liftwm

    torch.set_num_threads(1)
    return WatchedEnv(_watched(config, embodied_liftwm.load(config.model, config.device), [seed], features))


class WatchedEnv(gym.Env):
    """A `WorldModelVecEnv` of one environment as a `gymnasium.Env`."""

    def __init__(self, venv: WorldModelVecEnv) -> None:
        assert venv.num_envs == 1
        self._venv, self.action_space = venv, venv.action_space
        self.observation_space = venv.observation_space
        self._begun: Any = None  # a VecEnv has begun the next episode when it ends one

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next episode; its tour stays in the process."""
        super().reset(seed=seed)
        if seed is not None:
            self._venv.seed(seed)
        obs = self._row(self._venv.reset()) if self._begun is None or seed is not None else self._begun
        self._begun = None
        return obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, in Gymnasium's five values."""
        obs, reward, done, infos = self._venv.step(np.array([action]))
        info = dict(infos[0])
        if not done[0]:
            return self._row(obs), float(reward[0]), False, False, info
        self._begun, truncated = self._row(obs), bool(info.pop("TimeLimit.truncated"))
        return info.pop("terminal_observation"), float(reward[0]), not truncated, truncated, info

    def close(self) -> None:
        """Close the environment."""
        self._venv.close()

    def _row(self, obs: Any) -> dict[str, np.ndarray]:
        return {key: value[0] for key, value in obs.items()}


class WatchedTours:
    """Draws tours of training scenes, each watched once, for imagination to begin after."""

    def __init__(self, env: gym.Env, model: WorldModel, features: FeatureConfig, pool: StartPool, device: str) -> None:
        check_spaces(env.observation_space, spaces.flatdim(env.action_space), model)
        self._env, self._model, self._features, self._pool, self._device = env, model, features, pool, device
        self._width = spaces.flatdim(env.action_space)

    def __call__(self) -> Watched:
        """The next one; only a new one costs a tour."""
        start = self._pool.draw()
        if start.memory is None:
            obs, info = self._env.reset(seed=start.seed)
            about = {"tour": info.get("tour"), "start": start}
            watch_start(self._model, self._features, obs, about, self._width, self._device)
        return start.memory


def _imagined(config: TrainAgentConfig, model: WorldModel, features: FeatureConfig, seed: int) -> ImaginedVecEnv:
    env = make_task(config)
    table = table_for(spaces.flatdim(env.action_space), env.action_space) if has_table(config, env) else None
    space = env.action_space if table is None else spaces.Discrete(len(table))
    pool = StartPool(max(config.starts, 1), config.fresh, seed, config.repeats)
    tours = WatchedTours(env, model, features, pool, config.device)
    return ImaginedVecEnv(model, tours, space, config.imagined_envs, features, table, config.device)
