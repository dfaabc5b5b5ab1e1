"""How well a policy does while it is being trained: the same held-out tours every time, real and imagined.

The tours are of the evaluation half of the seeds, from its development part: nothing is reported on them, and nothing that is
reported was chosen on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from embodied_liftwm.config import EVAL_SEED_OFFSET, TrainAgentConfig
from embodied_liftwm.protocols import WorldModel
from liftwm_agents.policies.action_table import table_for
from liftwm_agents.policies.imagination import ImaginedVecEnv
from liftwm_agents.policies.policy import PPOPolicy
from liftwm_agents.policies.policy_file import about_of
from liftwm_agents.policies.readout import FeatureConfig, Watched
from liftwm_agents.policies.start_pool import Start
from liftwm_agents.policies.training_envs import make_task


@dataclass(frozen=True)
class HeldOutScore:
    """Of one evaluation. Imagined figures are of the tours whose goal the state shows; nan where nothing is imagined."""

    episodes: int
    success: float  # share, in the simulator
    mean_return: float
    imagined_episodes: int
    imagined_success: float
    imagined_return: float


class HeldOutTours:
    """`config.eval_episodes` tours, from `config.eval_seed` on; those solved at the call or by no memory are passed over."""

    def __init__(self, config: TrainAgentConfig, model: WorldModel) -> None:
        self._config, self._model = config, model
        self._env = make_task(config)
        self._starts: list[Start] = []
        self._next = EVAL_SEED_OFFSET + config.eval_seed

    def score(self, algorithm: OnPolicyAlgorithm) -> HeldOutScore:
        """Let a policy act on all of them, greedily, as `liftwm evaluate` does."""
        policy = PPOPolicy(self._model, algorithm, self._config.device, space=self._env.action_space)
        played = [self._play(policy, start) for start in self._tours()]
        imagined = self._imagine(algorithm) if about_of(algorithm)["input"] in ("state", "imagined") else []
        return HeldOutScore(len(played), *_means(played), len(imagined), *_means(imagined))

    def close(self) -> None:
        """Free the environment."""
        self._env.close()

    def _tours(self) -> list[Start]:
        """The starts, found the first time."""
        while len(self._starts) < self._config.eval_episodes:
            _, info = self._env.reset(seed=self._next)
            if info.get("solvable_by_memory", True) and not info.get("success", False):
                self._starts.append(Start(self._next))
            self._next += 1
        return self._starts

    def _play(self, policy: PPOPolicy, start: Start) -> tuple[float, float]:
        """Success and return of one real episode."""
        obs, info = self._env.reset(seed=start.seed)
        policy.reset()
        if "tour" in info:
            policy.begin(info["tour"], start)
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, info = self._env.step(policy.act(obs, info))
            total, done = total + float(reward), bool(terminated or truncated)
        return float(info.get("success", np.nan)), total

    def _imagine(self, algorithm: OnPolicyAlgorithm) -> list[tuple[float, float]]:
        """The same of the same tours in imagination, after their real episodes have watched them."""
        features = FeatureConfig(**about_of(algorithm)["features"])
        if not features.way:
            return []
        seen = [s.memory for s in self._starts if isinstance(s.memory, Watched) and s.memory.reader.belief.goal_xyz is not None]
        return [imagine_episode(algorithm, self._model, watched, self._env, features, self._config.device) for watched in seen]


def imagine_episode(
    algorithm: OnPolicyAlgorithm, model: WorldModel, watched: Watched, env: gym.Env, features: FeatureConfig, device: str
) -> tuple[float, float]:
    """Success and return of a greedy policy in one imagined episode after a watched tour of `env`."""
    width = spaces.flatdim(env.action_space)
    table = table_for(width, env.action_space) if spaces.flatdim(algorithm.action_space) != width else None
    dream = ImaginedVecEnv(model, lambda: watched, algorithm.action_space, 1, features, table, device)
    obs: Any = dream.reset()
    while True:
        action, _ = algorithm.predict(obs, deterministic=True)
        obs, _, done, infos = dream.step(action)
        if done[0]:
            return float(infos[0]["success"]), float(infos[0]["episode"]["r"])


def _means(played: list[tuple[float, float]]) -> tuple[float, float]:
    """Success rate and mean return; nan of nothing."""
    if not played:
        return float("nan"), float("nan")
    successes, returns = zip(*played, strict=True)
    return float(np.mean(successes)), float(np.mean(returns))
