"""Search: one target after another, the same for every agent; and an episode that is gone back to goes on the same."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from liftwm_envs.settings import REACH_M, settings_of
from liftwm_envs.tasks.policies import OraclePolicy, RandomPolicy
from liftwm_envs.wrappers import GuidedTour


def make(env_id: str, **kwargs: Any) -> GuidedTour:
    return GuidedTour(gymnasium.make(env_id, disable_env_checker=True, **kwargs))


@pytest.mark.parametrize("size", ["S", "M"])
def test_each_target_reached_pays_and_calls_the_next(size: str) -> None:
    env, wanted = make(f"liftwm/Search-{size}-v0"), settings_of("Search", size).targets
    obs, info = env.reset(seed=1)
    policy, called, at, distances = OraclePolicy(env), [info["goal_object"]], [], [info["distance_to_goal"]]
    assert info["solvable_by_memory"] and info["targets_reached"] == 0 and not info["success"]
    done, total = False, 0.0
    while not done:
        obs, reward, terminated, truncated, info = env.step(policy.act(obs, info))
        done, total = terminated or truncated, total + reward
        distances.append(info["distance_to_goal"])
        assert info["targets_reached"] == total
        assert terminated == info["success"] == (total == wanted)
        if reward:
            at.append(info["position"])
        if info["goal_object"] != called[-1]:
            assert reward == 1.0
            called.append(info["goal_object"])
        item = env.unwrapped.scene.objects[info["goal_object"] - 1]
        assert np.allclose(obs["goal"], [*item.colour, *item.one_hot_shape()])
    assert len(called) == len(set(called)) == len(at) == wanted
    for place, goal in zip(at, called, strict=True):
        item = env.unwrapped.scene.objects[goal - 1]
        assert np.hypot(*(place - item.position)) - item.radius_m < REACH_M
    assert distances[-1] == 0.0 and max(np.diff(distances)) < 1.0  # what is left of the whole sequence: no jumps back up
    env.close()


def test_the_sequence_and_its_length_do_not_depend_on_the_agent() -> None:
    env, sequences = make("liftwm/Search-S-v0"), []
    for policy_of in (OraclePolicy, RandomPolicy):
        obs, info = env.reset(seed=4)
        policy, path, done = policy_of(env), info["shortest_path_m"], False
        assert info["distance_to_goal"] == pytest.approx(path, rel=0.1)
        for _ in range(30):
            if not done:
                obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
                done = terminated or truncated
                assert info["shortest_path_m"] == path
        sequences.append((path, [leg.goal.id for leg in env.unwrapped.task._legs]))
    assert sequences[0] == sequences[1]
    env.close()


def test_time_for_a_target_runs_from_its_call() -> None:
    env = make("liftwm/Search-S-v0")
    obs, info = env.reset(seed=1)
    policy, task = OraclePolicy(env), env.unwrapped.task
    first, steps = task.limit_steps, 0
    while info["targets_reached"] == 0:
        obs, *_, info = env.step(policy.act(obs, info))
        steps += 1
    assert steps < first and task.limit_steps > steps
    left = task.limit_steps - steps
    ends = [env.step(np.zeros(2, np.float32)) for _ in range(left)]
    assert [end[3] for end in ends] == [False] * (left - 1) + [True]
    assert not ends[-1][2] and ends[-1][4]["targets_reached"] == 1 and not ends[-1][4]["success"]
    env.close()


@pytest.mark.parametrize("task", ["MovingOcclusion", "Search"])
def test_going_back_to_the_call_gives_the_same_frames_and_the_same_end(task: str) -> None:
    env = make(f"liftwm/{task}-S-v0", odometry_noise=0.1)
    obs, info = env.reset(seed=2)
    restore, runs = env.unwrapped.save(), []
    for _ in range(2):
        restore()
        policy, frames, now, done = OraclePolicy(env), [], dict(info), False
        while not done:
            obs, reward, terminated, truncated, now = env.step(policy.act(obs, now))
            frames.append((obs["rgb"].tobytes(), obs["world_from_camera"].tobytes(), reward, now["distance_to_goal"]))
            done = terminated or truncated
        assert now["success"]
        runs.append(frames)
    assert runs[0] == runs[1]
    env.close()
