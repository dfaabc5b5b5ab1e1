"""Explorers act legally, cover ground, and repeat exactly under the same seeds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.errors import UserError
from liftwm_agents.collection.explorers import EXPLORERS, ExplorePolicy, make_policy
from liftwm_envs import EnvError


def roll(name: str, steps: int = 45, seed: int = 3, **kwargs: Any) -> np.ndarray:
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


@pytest.mark.parametrize("name", [*EXPLORERS, "support-0.5-leave-0.5-after-20"])
@pytest.mark.parametrize(("embodiment", "action"), [("wheels", "continuous"), ("wheels", "discrete"), ("drone", "discrete")])
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


def test_what_moves_is_watched_and_is_hidden_part_of_the_time() -> None:
    env = gymnasium.make("liftwm/MovingOcclusion-S-v0", disable_env_checker=True, truth=True, image_size=32).unwrapped
    in_view, hidden = [], []
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        policy, done = make_policy("explore", env, seed), False
        policy.reset()
        seen = []
        while not done and len(seen) < 96:
            obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
            done = terminated or truncated
            seen.append(info["truth"]["visible_pixels"][: len(env.scene.tracks)] >= 3)
        in_view.append(np.any(seen, axis=1).mean())
        hidden.append(np.mean([not track.is_out(np.arange(len(seen))).all() for track in env.scene.tracks]))
    env.close()
    assert np.mean(in_view) > 1 / 3 and min(in_view) < 1
    assert np.mean(hidden) > 0.5


def test_unknown_explorer_is_refused() -> None:
    with pytest.raises(EnvError, match="walk"):
        make_policy("fly", gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True), 0)


@pytest.mark.parametrize("kwargs", [{}, {"action": "discrete"}, {"embodiment": "drone"}], ids=["wheels", "discrete", "drone"])
@pytest.mark.parametrize("radius", [0.3, 1.0])
def test_a_support_is_not_left_and_is_used(radius: float, kwargs: dict[str, str]) -> None:
    start = roll("support-0", steps=1, image_size=16, **kwargs)[0]
    for seed in (3, 4):
        away = np.hypot(*(roll(f"support-{radius}", seed=seed, image_size=16, **kwargs) - start).T)
        assert 0.4 * radius < away.max() <= radius


def test_a_support_of_radius_zero_only_turns() -> None:
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True, image_size=16)
    obs, info = env.reset(seed=5)
    policy = make_policy("support-0", env, 1)
    policy.reset()
    poses = [obs["world_from_camera"].reshape(4, 4)]
    for _ in range(30):
        obs, *_, info = env.step(policy.act(obs, info))
        poses.append(obs["world_from_camera"].reshape(4, 4))
    env.close()
    stacked = np.stack(poses)
    assert np.ptp(stacked[:, :3, 3], axis=0).max() < 1e-4
    heading = np.unwrap(np.arctan2(stacked[:, 1, 2], stacked[:, 0, 2]))
    assert np.ptp(heading) > np.pi


def test_a_support_is_left_after_its_frames_for_places_at_one_distance() -> None:
    path = roll("support-0.3-leave-0.5-after-30", steps=60, image_size=16)
    context, later = path[:29], path[29:]  # frame 0 is before the first step
    assert np.hypot(*(context - path[0]).T).max() < 0.6
    nearest = np.hypot(*(later[:, None] - context).transpose(2, 0, 1)).min(1)
    assert (abs(nearest - 0.5) < 0.15).mean() > 0.5 and nearest.max() < 0.8


@pytest.mark.parametrize("name", ["support", "support-", "support-x", "support--1", "support-1-leave-0.5", "support-1-after-3"])
def test_a_support_that_does_not_parse_is_one_clear_line(name: str) -> None:
    with pytest.raises(UserError, match=f"^policy={name}: expected explore .* support-METRES, such as support-0.3"):
        CollectConfig(policy=name)
    with pytest.raises(EnvError, match="support-METRES"):
        make_policy(name, gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True), 0)
