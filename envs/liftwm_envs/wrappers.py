"""Wrappers around the environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from liftwm_envs.actions import ActionCodec
from liftwm_envs.env import Record
from liftwm_envs.errors import EnvError
from liftwm_envs.tasks.policies import TourPolicy

_MAX_TOUR_STEPS = 4000


class GuidedTour(gymnasium.Wrapper):
    """Drives the scripted tour on reset, so that every agent saw the same and acts from the call on.

    `reset` returns the first observation of the call phase. Its info["tour"] holds every frame of the tour in order, that first
    observation included: rgb [K, H, W, 3], intrinsics [K, 9], world_from_camera [K, 16], goal [K, 9], and action [K, A], the
    action that led to each frame (zeros for the first; one-hot where actions are discrete).
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Reset, tour, return at the call."""
        obs, info = self.env.reset(seed=seed, options=options)
        guide = TourPolicy(self.env)
        codec = ActionCodec(self.env.action_space)
        frames, actions = [obs], [np.zeros(codec.width, np.float32)]
        while info["phase"] == "tour":
            action = guide.act(obs, info)
            obs, _, terminated, truncated, info = self.env.step(action)
            frames.append(obs)
            actions.append(codec.encode(action))
            if info["phase"] == "tour" and (terminated or truncated or len(frames) > _MAX_TOUR_STEPS):
                raise EnvError(f"the tour ended after {len(frames) - 1} steps, before a goal was called: raise max_steps")
        tour = {key: np.stack([frame[key] for frame in frames]) for key in obs}
        return obs, {**info, "tour": Record(**tour, action=np.stack(actions))}
