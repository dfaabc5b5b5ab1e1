"""A handful of actions in place of a continuum: policies learn sooner to choose than to aim.

The environment, and the world model that watches it, keep their continuous actions: a model trained on them stays usable.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from liftwm_envs.actions import WHEELS_ACTIONS


def table_for(action_dim: int) -> np.ndarray:
    """Actions in [-1, 1] to choose among: those of wheels for two numbers, else nothing and each axis both ways. [K, A]"""
    if action_dim == 2:
        return WHEELS_ACTIONS
    axes = np.eye(action_dim, dtype=np.float32)
    return np.concatenate([np.zeros((1, action_dim), np.float32), *np.stack([axes, -axes], axis=1)])


class TableActions(gym.ActionWrapper):
    """A continuous environment whose agent chooses among the rows of `table_for`."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        box = env.action_space
        assert isinstance(box, spaces.Box)
        self.table = table_for(spaces.flatdim(box))
        self._shape, self._low, self._high = box.shape, box.low.reshape(-1), box.high.reshape(-1)
        self.action_space = spaces.Discrete(len(self.table))

    def action(self, action: int | np.integer) -> np.ndarray:
        """The row of a choice, in the range of the environment."""
        return np.clip(self.table[int(action)], self._low, self._high).reshape(self._shape)
