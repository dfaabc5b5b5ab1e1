"""Records the episodes of a collection in this process: environment and policy from the configuration, seed from the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import gymnasium as gym

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import group_name
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import is_function_name, users_fault
from liftwm_agents.collection.env_source import EnvSource, use_renderer, versions
from liftwm_agents.collection.recording import Policy, RandomActions, record_episode
from liftwm_agents.collection.users_policy import UsersPolicy
from liftwm_envs.errors import EnvError


class ShardCollector:
    """One environment, kept over the episodes of a process."""

    def __init__(self, config: CollectConfig, source: EnvSource) -> None:
        """Build the environment.

        Raises:
            UserError, EnvError: it cannot be built.
        """
        use_renderer(config.renderer)
        self._config, self._source = config, source
        self.env, self._camera = source.make(config.env_options, truth=True)
        self.policy_maker: Callable[..., Policy] = make_policy
        self._versions = versions()
        self._renderer = _describe_renderer() if source.ours else None

    def record(
        self, index: int, *, on_ready: Callable[[], None] = lambda: None, on_frames: Callable[[int], None] = lambda frames: None
    ) -> Episode:
        """Record episode `index` of the dataset; `on_ready` and `on_frames` as in `record_episode`.

        Raises:
            UserError: the environment gave what no episode can hold; what is held, `write_episode` validates.
        """
        config, seed = self._config, self._config.first_seed + index
        policy = partial(self.policy_maker, config.policy, ours=self._source.ours, seed=seed)
        try:
            episode = record_episode(self.env, self._camera, policy, seed, config.steps, on_ready, on_frames)
        except Exception as error:
            line = str(error) if isinstance(error, UserError | EnvError) else users_fault(error)
            if line is None:
                raise
            raise UserError(f"{group_name(index)}: {line}") from error
        about = {
            "index": index,
            "env": config.env,
            "env_options": dataclasses.asdict(config.env_options) if self._source.ours else {},
            "policy": config.policy,
            "renderer": self._renderer,
            "versions": self._versions,
            "licence": "CC0-1.0" if self._source.ours else None,
        }
        return dataclasses.replace(episode, meta=episode.meta | about)

    def close(self) -> None:
        """Free the environment's GL context."""
        self.env.close()


def _describe_renderer() -> str:
    from liftwm_envs.rendering import describe_renderer

    return describe_renderer()


def make_policy(name: str, env: gym.Env, *, ours: bool, seed: int) -> Policy:
    """A policy of the user's, a scripted one for our environments, random actions for others."""
    if is_function_name(name):
        return UsersPolicy(name, env, seed)
    if not ours:
        return RandomActions(env.action_space, seed)
    from liftwm_agents.collection.explorers import make_policy as make_explorer

    return make_explorer(name, env, seed)
