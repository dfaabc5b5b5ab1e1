"""Policies of the user's, named `my_policy:make_policy`, as every command takes them:

    def make_policy(env, seed):             # once an episode, when the environment stands reset
        return Mine(env.action_space, seed)

    class Mine:
        def begin(self, tour): ...          # may be left out. evaluate: the frames and actions of the guided tour
        def act(self, obs, info): ...       # an action of env.action_space; obs as `liftwm_envs.contract` has it, and info

A plain function `(obs, info) -> action` does in place of an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, find_function, users_code


class UsersPolicy:
    """The user's policy, as collection (`Policy`) and the benchmark (`Agent`) take it."""

    def __init__(self, name: str, env: gym.Env, seed: int) -> None:
        """
        Args:
            name: `module:function`.
            env: the environment it acts in.
            seed: of its own choices.

        Raises:
            UserError: there is no such function; later, it fails, or what it returns cannot act.
        """
        self._name, self._env, self._seed = name, env, seed
        self._label = f"policy={name}"
        find_function(name, self._label)

    def reset(self) -> None:
        """Make it for the episode that begins."""
        self._make(self._seed)

    def reseed(self, seed: int) -> None:
        """Make it for the episode of a seed, so that what it does depends on that alone."""
        self._make(self._seed + seed)

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """Show it the tour if it cares for one."""
        if callable(begin := getattr(self._made, "begin", None)):
            with users_code(self._label, begin):
                begin(tour)

    def act(self, obs: Any, info: Mapping[str, Any]) -> Any:
        """Its action."""
        with users_code(self._label, self._act):
            return self._act(obs, info)

    def _make(self, seed: int) -> None:
        made = call_function(self._name, self._label, self._env, seed)
        act = getattr(made, "act", made)
        if isinstance(made, type) or not callable(act):
            got = f"the class {made.__name__}" if isinstance(made, type) else repr(made)
            raise UserError(f"{self._label} returned {got}, expected an object with act(obs, info), or such a function")
        self._made: Any = made
        self._act: Callable[[Any, Any], Any] = act
