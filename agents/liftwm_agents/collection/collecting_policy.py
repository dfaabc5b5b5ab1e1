"""The scripted tour up to the call, a learned policy from there: what `train-agent loop=true` collects with."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from liftwm_agents.collection.recording import Policy
from liftwm_agents.observations import KEYS
from liftwm_agents.policies.policy import PPOPolicy
from liftwm_envs.actions import ActionCodec


class TourThenPolicy:
    """Satisfies `recording.Policy`: drives the tour that `GuidedTour` drives, lets the policy watch it, and hands over."""

    def __init__(self, env: gym.Env, policy: PPOPolicy) -> None:
        """An environment of ours that stands reset, and who acts after the call."""
        from liftwm_envs.tasks.policies import TourPolicy

        self._codec, self._policy = ActionCodec(env.action_space), policy
        self._guide: Policy = TourPolicy(env)
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self._guide.reset()
        self._frames: list[dict[str, np.ndarray]] = []
        self._actions = [np.zeros(self._codec.width, np.float32)]
        self._called = False

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """An action of the environment's action space."""
        if not self._called:
            self._frames.append({key: np.asarray(obs[key]) for key in KEYS})
        if info["phase"] == "tour":
            action = self._guide.act(obs, info)
            self._actions.append(self._codec.encode(action))
            return action
        if not self._called:
            self._called = True
            tour = {key: np.stack([frame[key] for frame in self._frames]) for key in KEYS}
            self._policy.begin(tour | {"action": np.stack(self._actions)})
        return self._policy.act(obs, info)
