"""Who acts while episodes are recorded: scripted explorers, random actions, or a policy of the user's.

A policy of the user's is named `my_policy:make_policy`, as `liftwm collect` and `liftwm evaluate` take it:

    def make_policy(env, seed):             # once an episode, when the environment stands reset
        return Mine(env.action_space, seed)

    class Mine:
        def begin(self, tour): ...          # may be left out. evaluate: the frames and actions of the guided tour
        def act(self, obs, info): ...       # an action of env.action_space; obs and info as the environment gives them

A plain function `(obs, info) -> action` does in place of an object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, find_function, is_function_name, users_code
from liftwm_envs.actions import Policy


class RandomActions:
    """Uniform actions of any action space, from one seed."""

    def __init__(self, space: gym.Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def reset(self) -> None:
        self._space.seed(self._seed)

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        return self._space.sample()


def make_policy(name: str, env: gym.Env, *, ours: bool, seed: int) -> Policy:
    """A policy of the user's, a scripted one for our environments, random actions for others."""
    if is_function_name(name):
        return UsersPolicy(name, env, seed)
    if not ours:
        return RandomActions(env.action_space, seed)
    from liftwm_agents.collection.explorers import make_policy as make_explorer

    return make_explorer(name, env, seed)


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
