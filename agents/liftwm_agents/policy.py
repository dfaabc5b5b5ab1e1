"""Policies learned by stable-baselines3's PPO on what a world model remembers.

A run folder holds `policy.zip` (the library's own format: open it with `PPO.load`), `metrics.json` and `tensorboard/`.
SB3 zips contain pickles: only ever load one that you trust.
"""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from embodied_liftwm.config import EVAL_SEED_OFFSET, TrainAgentConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import whole_file, write_text
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.env_source import find_env
from liftwm_agents.features import BirdsEyeExtractor, WorldModelVecEnv
from liftwm_agents.observations import encode_action, single, to_observation
from liftwm_agents.readout import FeatureConfig, FeatureReader, watch

ZIP_NAME, METRICS_NAME = "policy.zip", "metrics.json"


@dataclass(frozen=True)
class AgentProgress:
    """Where training stands."""

    steps: int  # environment steps so far, over all resumptions
    total: int  # steps asked for
    fps: float  # environment steps a second since this start
    episodes: int  # finished since this start
    mean_return: float  # of the last 100 episodes; nan before the first has ended
    success_rate: float  # of the last 100 episodes, where the task says; nan otherwise


class TrainingSeeds(gym.Wrapper):
    """Draws every episode's scene from the training half of the seeds."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        return self.env.reset(seed=int(self._rng.integers(EVAL_SEED_OFFSET)), options=options)


def make_env(config: TrainAgentConfig, seed: int) -> gym.Env:
    """One training environment: progress reward, guided tour (ours), training scenes, statistics.

    Raises:
        UserError: nothing of that name, or options it does not take.
    """
    source = find_env(config.env)
    if source.ours:
        from liftwm_envs.wrappers import GuidedTour

        made: gym.Env = gym.make(
            source.gym_id, disable_env_checker=True, reward="progress", **dataclasses.asdict(config.env_options)
        )
        made = GuidedTour(made)
    else:
        made, _ = source.make(config.env_options, truth=False)
    return Monitor(TrainingSeeds(made, seed), allow_early_resets=True)


def train_ppo(
    config: TrainAgentConfig,
    model: WorldModel,
    on_progress: Callable[[AgentProgress], None] | None = None,
    features: FeatureConfig | None = None,
) -> Path:
    """Train, or continue to train, a PPO policy.

    An existing `policy.zip` in the run folder is continued with the steps that remain, on new scenes; its own
    hyper-parameters hold. It is written whole after every rollout.

    Args:
        config: see `TrainAgentConfig`.
        model: the world model whose state is read; never changed.
        on_progress: called after every rollout.
        features: what is read of the state.

    Returns:
        The path of the zip.

    Raises:
        UserError: the model does not fit the environment, or the zip does not fit either.
    """
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    path = run / ZIP_NAME
    done = saved_steps(run) if path.exists() else 0
    makers: list[Callable[[], gym.Env]] = [
        partial(make_env, config, config.seed + 7919 * (i + 1) + done) for i in range(config.num_envs)
    ]
    venv = WorldModelVecEnv(DummyVecEnv(makers), model, features, config.device)
    try:
        algorithm = _load(path, venv, config) if path.exists() else _create(venv, config)
        remaining = config.steps - algorithm.num_timesteps
        saver = _Saver(path, config.steps, on_progress)
        if remaining > 0:
            algorithm.learn(remaining, callback=saver, reset_num_timesteps=False, tb_log_name="ppo")
            saver.save()
    finally:
        venv.close()
    return path


def saved_steps(run: Path) -> int:
    """Environment steps behind the zip of a run folder; 0 where that is not known."""
    try:
        return int(json.loads((run / METRICS_NAME).read_text())["steps"])
    except (OSError, ValueError, KeyError):
        return 0


def _create(venv: WorldModelVecEnv, config: TrainAgentConfig) -> PPO:
    return PPO(
        "MultiInputPolicy",
        venv,
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=min(config.batch_size, config.rollout_steps * config.num_envs),
        gamma=0.97,
        ent_coef=0.01,
        policy_kwargs={"features_extractor_class": BirdsEyeExtractor, "net_arch": [64, 64]},
        tensorboard_log=str(Path(config.run) / "tensorboard"),
        seed=config.seed,
        device=config.device,
    )


def _load(path: Path, venv: WorldModelVecEnv | None, config: TrainAgentConfig | None = None) -> PPO:
    if not zipfile.is_zipfile(path) or not {"data", "policy.pth"} <= set(zipfile.ZipFile(path).namelist()):
        raise UserError(f"{path} is not a stable-baselines3 zip: remove it, or name another run")
    try:
        return PPO.load(path, env=venv, device=config.device if config else "cpu")
    except ValueError as error:
        raise UserError(f"{path} was trained with another model, task or number of environments: {error}") from error


class _Saver(BaseCallback):
    """After every rollout: the zip, the metrics, the progress bar."""

    def __init__(self, path: Path, total: int, on_progress: Callable[[AgentProgress], None] | None) -> None:
        super().__init__()
        self._path, self._total, self._on_progress = path, total, on_progress
        self._started, self._first_step = time.perf_counter(), 0
        self._episodes = 0
        self._successes: list[float] = []

    def _on_training_start(self) -> None:
        self._started, self._first_step = time.perf_counter(), self.model.num_timesteps

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._episodes += 1
                self._successes = [*self._successes[-99:], float(info.get("success", np.nan))]
        return True

    def _on_rollout_end(self) -> None:
        row = self.progress()
        self.logger.record("rollout/success_rate", row.success_rate)
        self.save()
        if self._on_progress is not None:
            self._on_progress(row)

    def progress(self) -> AgentProgress:
        steps = self.model.num_timesteps
        seconds = max(time.perf_counter() - self._started, 1e-9)
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return AgentProgress(
            steps=steps,
            total=self._total,
            fps=(steps - self._first_step) / seconds,
            episodes=self._episodes,
            mean_return=float(np.mean(returns)) if returns else float("nan"),
            success_rate=float(np.mean(self._successes)) if self._successes else float("nan"),
        )

    def save(self) -> None:
        """Write zip and metrics, each whole or not at all."""
        with whole_file(self._path) as partial:
            self.model.save(partial)
        metrics = {name: None if value != value else value for name, value in asdict(self.progress()).items()}
        write_text(self._path.with_name(METRICS_NAME), json.dumps(metrics, indent=2) + "\n")


class PPOPolicy:
    """A trained policy that acts like the planner: `begin` with the tour, then `act`.

    Loading a zip runs the pickles inside it: give only files that you trust.
    """

    def __init__(
        self,
        model: WorldModel,
        path: str | Path,
        device: str = "cpu",
        features: FeatureConfig | None = None,
        deterministic: bool = True,
    ) -> None:
        """
        Args:
            model: the world model that the policy was trained on.
            path: `policy.zip`, or the run folder that holds it.
            device: where the model's tensors live.
            features: as in training.
            deterministic: take the most probable action instead of a sample.

        Raises:
            UserError: no such file, no PPO zip, or another model's summary.
        """
        path = Path(path)
        path = path / ZIP_NAME if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"no policy at {path}: train one with liftwm train-agent")
        self._model, self._device, self._deterministic = model, device, deterministic
        self._algorithm = _load(path, None)
        self._reader = FeatureReader(model, features or FeatureConfig())
        space = self._algorithm.action_space
        self._action_dim, self._space = spaces.flatdim(space), space
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._tour: Mapping[str, np.ndarray] | None = None
        self._state: TensorTree | None = None
        self._last_action = np.zeros(self._action_dim, dtype=np.float32)

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """Start an episode with its guided tour, `info["tour"]`; it is watched with the first observation."""
        self.reset()
        self._tour = tour

    @torch.no_grad()
    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None) -> np.ndarray | int:
        """Observe, and choose the next action. `info` is ignored."""
        if self._state is None:
            self._state, positions = watch(self._model, self._tour, obs, self._action_dim, self._device)
            self._reader.begin(self._state, positions)
        else:
            observation = to_observation(single(obs), self._last_action[None], False, self._device)
            self._state = self._model.observe(self._state, observation)
        features = self._reader.read(self._state, np.asarray(obs["goal"]))
        try:
            action, _ = self._algorithm.predict(features, deterministic=self._deterministic)
        except ValueError as error:
            raise UserError(f"the policy was trained on another model's features: {error}") from error
        self._last_action = encode_action(action, self._space)
        return int(action) if isinstance(self._space, spaces.Discrete) else action
