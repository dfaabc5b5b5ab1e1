"""Explorers act legally, cover ground, and repeat exactly under the same seeds."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from liftwm_agents.explorers import EXPLORERS, ExplorePolicy, make_policy
from liftwm_envs import EnvError


def roll(name: str, steps: int = 45, seed: int = 3, **kwargs: str) -> np.ndarray:
    """Positions [steps, 2] of an explorer."""
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True, **kwargs)
    obs, info = env.reset(seed=5)
    policy = make_policy(name, env, seed)
    policy.reset()
    positions = []
    for _ in range(steps):
        action = policy.act(obs, info)
        assert env.action_space.contains(action) or env.action_space.contains(np.asarray(action, env.action_space.dtype))
        obs, _, terminated, truncated, info = env.step(action)
        positions.append(info["position"])
        if terminated or truncated:
            break
    env.close()
    return np.array(positions)


@pytest.mark.parametrize("name", EXPLORERS)
@pytest.mark.parametrize(("embodiment", "action"), [("base", "continuous"), ("base", "discrete"), ("drone", "discrete")])
def test_same_seed_same_path(name: str, embodiment: str, action: str) -> None:
    first, second = (roll(name, embodiment=embodiment, action=action) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["walk", "tour", "loop", "explore"])
def test_explorers_cover_ground(name: str) -> None:
    assert np.ptp(roll(name), axis=0).max() > 1.0


def test_walk_and_random_depend_on_their_seed() -> None:
    for name in ("walk", "random"):
        assert not np.array_equal(roll(name, seed=1), roll(name, seed=2))


def test_loop_returns_to_where_it_started() -> None:
    path = roll("loop", steps=58)
    away = np.hypot(*(path - path[0]).T)
    farthest = int(away.argmax())
    assert away[farthest] > 0.8
    assert away[farthest:].min() < 0.25


def test_walk_gets_away_from_walls() -> None:
    path = roll("walk", steps=58)
    resting = np.hypot(*np.diff(path, axis=0).T) < 0.01
    longest = max(len(run) for run in "".join("x" if r else " " for r in resting).split(" "))
    assert longest <= 14


def test_explore_mixes_all_three() -> None:
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True)
    kinds = {type(ExplorePolicy(env, seed).chosen).__name__ for seed in range(30)}
    assert kinds == {"WalkPolicy", "TourPolicy", "LoopPolicy"}


def test_unknown_explorer_is_refused() -> None:
    with pytest.raises(EnvError, match="walk"):
        make_policy("fly", gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True), 0)
