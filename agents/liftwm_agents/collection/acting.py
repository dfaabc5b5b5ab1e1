"""Who acts while episodes are recorded: scripted explorers, random actions, or a policy of the user's (`users_policy`)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from embodied_liftwm.environments.users_policy import UsersPolicy
from embodied_liftwm.plugins import is_function_name
from liftwm_envs.actions import Policy, Wander


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
    """A policy of the user's, a scripted one for our environments, wandering or random actions for others."""
    if is_function_name(name):
        return UsersPolicy(name, env, seed)
    if name == "wander":
        return Wander(env, seed)
    if not ours:
        return RandomActions(env.action_space, seed)
    from liftwm_agents.collection.explorers import make_policy as make_explorer

    return make_explorer(name, env, seed)
