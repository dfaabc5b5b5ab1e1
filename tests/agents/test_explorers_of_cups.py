"""Explorers watch cups: what they collect holds the swaps, not only their outcome."""

from __future__ import annotations

import gymnasium
import pytest

from liftwm_agents.collection.explorers import ExplorePolicy, WalkPolicy, make_policy
from liftwm_envs.tasks.shells import WATCHED_FRAMES


@pytest.mark.parametrize("name", ["tour", "loop"])
def test_swaps_are_watched(name: str) -> None:
    env = gymnasium.make("liftwm/ShellGame-S-v0", disable_env_checker=True).unwrapped
    for seed in (1, 2):
        obs, info = env.reset(seed=seed)
        policy = make_policy(name, env, seed)
        while env.sim.elapsed(0) < env.scene.shows[0].duration_steps:
            obs, *_, info = env.step(policy.act(obs, info))
        assert env.task._watched[0].min() >= WATCHED_FRAMES
    env.close()


def test_where_there_are_cups_most_explorers_watch() -> None:
    walks = {}
    for env_id in ("liftwm/Revisit-S-v0", "liftwm/ShellGame-S-v0"):
        env = gymnasium.make(env_id, disable_env_checker=True)
        env.reset(seed=0)
        walks[env_id] = sum(isinstance(ExplorePolicy(env, seed).chosen, WalkPolicy) for seed in range(60))
        env.close()
    assert walks["liftwm/ShellGame-S-v0"] < 0.5 * walks["liftwm/Revisit-S-v0"]
