"""A handful of actions in place of a continuum: policies learn sooner to choose than to aim.

The environment, and the world model that watches it, keep their continuous actions: a model trained on them stays usable.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from liftwm_envs.actions import WHEELS_ACTIONS


def table_for(action_dim: int, space: spaces.Space | None = None) -> np.ndarray:
    """Actions to choose among: those of wheels for two numbers, else nothing and each axis both ways. [K, A]

    Args:
        action_dim: A.
        space: Box of the environment, at whose ends they are; None for ends of -1 and 1.
    """
    axes = np.eye(action_dim, dtype=np.float32)
    table = np.concatenate([np.zeros((1, action_dim), np.float32), *np.stack([axes, -axes], axis=1)])
    table = WHEELS_ACTIONS if action_dim == 2 else table
    if not isinstance(space, spaces.Box):
        return table
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    return np.clip(np.where(table > 0, high, np.where(table < 0, low, 0.0)), low, high).astype(np.float32)


class TableActions(gym.ActionWrapper):
    """A continuous environment whose agent chooses among the rows of `table_for`."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        box = env.action_space
        assert isinstance(box, spaces.Box)
        self.table, self._shape = table_for(spaces.flatdim(box), box), box.shape
        self.action_space = spaces.Discrete(len(self.table))

    def action(self, action: int | np.integer) -> np.ndarray:
        """The row of a choice."""
        return self.table[int(action)].reshape(self._shape)
