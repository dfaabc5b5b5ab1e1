"""When goals are called, what hides, what counts as reached, and that contacts hold."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from liftwm_envs import EnvError
from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.scene import SceneOptions
from liftwm_envs.settings import MIN_CALL_M, REACH_M, SEEN_PX, settings_of
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.policies import OraclePolicy, RandomPolicy, TourPolicy
from liftwm_envs.wrappers import GuidedTour

IDS = tuple(f"liftwm/{task}-S-v0" for task in ("Revisit", "Occlusion", "MovingOcclusion", "ShellGame", "Search"))


def make(env_id: str, **kwargs: Any) -> gymnasium.Env:
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def test_revisit_calls_what_was_seen_is_hidden_and_far() -> None:
    env = make("liftwm/Revisit-S-v0", truth=True)
    for seed in range(4):
        obs, info = env.reset(seed=seed)
        policy, visible = TourPolicy(env), [info["truth"]["visible_pixels"]]
        while info["phase"] == "tour":
            assert not obs["goal"].any()
            assert math.isinf(info["distance_to_goal"])
            obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
            assert not terminated and not truncated
            visible.append(info["truth"]["visible_pixels"])
        history = np.array(visible)[:, info["goal_object"] - 1]
        item = env.unwrapped.scene.objects[info["goal_object"] - 1]
        assert info["solvable_by_memory"]
        assert history.max() >= SEEN_PX
        assert not history[-8:].any()
        assert len(history) - 1 >= env.unwrapped.task.tour_steps
        assert np.hypot(*(info["position"] - item.position)) - item.radius_m >= MIN_CALL_M - 0.1
        assert np.allclose(obs["goal"], [*item.colour, *item.one_hot_shape()])
        assert info["distance_to_goal"] > 0
    env.close()


def test_blind_tour_ends_in_a_call_that_memory_cannot_solve() -> None:
    env = make("liftwm/Occlusion-S-v0").unwrapped
    env.reset(seed=0)
    env.task._was_seen[:] = False
    env.task.update = lambda sim, step, visible: env.task._advance(sim, step)  # an agent that saw nothing
    info: dict[str, Any] = {"phase": "tour"}
    steps = 0
    while info["phase"] == "tour":
        *_, info = env.step(np.zeros(2, np.float32))
        steps += 1
    assert steps < 250
    assert info["solvable_by_memory"] is False
    env.close()


def test_screens_rise_and_hide_every_object() -> None:
    env = make("liftwm/Occlusion-S-v0", truth=True)
    for seed in range(3):
        obs, info = env.reset(seed=seed)
        policy, seen = TourPolicy(env), np.zeros(len(env.unwrapped.scene.objects), int)
        while info["phase"] == "tour":
            obs, *_, info = env.step(policy.act(obs, info))
            if env.unwrapped.task.hidden_at < 0:
                seen = np.maximum(seen, info["truth"]["visible_pixels"])
            else:
                assert not info["truth"]["visible_pixels"].any()
        assert (seen >= SEEN_PX).any()
        assert seen[info["goal_object"] - 1] >= SEEN_PX
    env.close()


def test_screens_wait_for_an_agent_in_their_way() -> None:
    env = make("liftwm/Occlusion-S-v0").unwrapped
    env.reset(seed=1)
    screen = env.scene.screens[0]
    front = np.array(screen.centre) + (screen.half_depth + 0.2) * np.array([math.cos(screen.yaw), math.sin(screen.yaw)])
    env.sim.data.qpos[:2] = front
    for _ in range(env.task.tour_steps + 10):
        env.step(np.zeros(2, np.float32))
    assert not env.sim.screen_is_up(screen.id)
    assert all(env.sim.screen_is_up(s.id) for s in env.scene.screens[1:])
    assert env.task.phase == "tour"
    env.close()


def test_reached_means_near_and_in_the_same_room() -> None:
    env = GuidedTour(make("liftwm/Revisit-S-v0"))
    for seed in range(4):
        env.reset(seed=seed)
        task, scene = env.unwrapped.task, env.unwrapped.scene
        item = task.goal
        towards = scene.rooms[item.room].centre - item.position
        towards /= np.hypot(*towards)
        assert task.is_success(item.position + towards * (item.radius_m + REACH_M - 0.01), 0)
        assert not task.is_success(item.position + towards * (item.radius_m + REACH_M + 0.01), 0)
        for other in scene.rooms:
            if other.index != item.room:
                x0, y0, x1, y1 = other.interior
                assert not task.is_success(np.clip(item.position, (x0, y0), (x1, y1)), 0)
    env.close()


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize(("embodiment", "action"), [("wheels", "continuous"), ("wheels", "discrete"), ("drone", "continuous")])
def test_oracle_solves_and_random_does_not(env_id: str, embodiment: str, action: str) -> None:
    env = GuidedTour(make(env_id, embodiment=embodiment, action=action))
    wins = {"oracle": 0, "random": 0}
    for name, make_policy in (("oracle", OraclePolicy), ("random", RandomPolicy)):
        for seed in range(3):
            obs, info = env.reset(seed=seed)
            policy, done, total, wanted = make_policy(env, seed), False, 0.0, env.unwrapped.settings.targets
            while not done:
                obs, reward, terminated, truncated, info = env.step(policy.act(obs, info))
                done, total = terminated or truncated, total + reward
                assert total == info["targets_reached"] and info["success"] == (total == wanted)
                assert info["success"] <= terminated
            wins[name] += info["success"]
    assert wins["oracle"] == 3
    assert wins["random"] <= 1
    env.close()


def test_guided_tour_hands_over_every_frame() -> None:
    env = GuidedTour(make("liftwm/Revisit-S-v0", action="discrete"))
    obs, info = env.reset(seed=3)
    tour = info["tour"]
    assert info["phase"] == "call"
    assert obs["goal"].any()
    assert {len(value) for value in tour.values()} == {len(tour["rgb"])}
    assert np.array_equal(tour["rgb"][-1], obs["rgb"])
    assert not tour["goal"][:-1].any() and tour["goal"][-1].any()
    assert not tour["action"][0].any()
    assert (tour["action"][1:].sum(1) == 1).all() and tour["action"].shape[1] == 6
    with pytest.raises(EnvError, match="max_steps"):
        GuidedTour(make("liftwm/Revisit-S-v0", max_steps=5)).reset(seed=3)
    env.close()


def test_progress_reward_sums_to_the_way_made() -> None:
    env = GuidedTour(make("liftwm/Revisit-S-v0", reward="progress"))
    obs, info = env.reset(seed=2)
    start, total, done = info["distance_to_goal"], 0.0, False
    policy = OraclePolicy(env)
    while not done:
        obs, reward, terminated, truncated, info = env.step(policy.act(obs, info))
        total, done = total + reward, terminated or truncated
    assert math.isclose(total, start + 1.0, rel_tol=1e-6)
    env.close()


@pytest.mark.parametrize(("embodiment", "action"), [("wheels", [1, 0]), ("wheels", [-1, 0]), ("drone", [1, 0, 0, 0, 0, 0])])
def test_agent_bumps_and_never_passes(embodiment: str, action: list[float]) -> None:
    for seed in range(4):
        simulation = Simulation(make_scene(seed, SceneOptions(rooms=(1,))), embodiment, (16, 16))
        simulation.action[:] = action
        for _ in range(50):
            simulation.step()
        x0, y0, x1, y1 = simulation.scene.rooms[0].interior
        x, y = simulation.position()
        assert simulation.bumped
        assert x0 + 0.19 < x < x1 - 0.19 and y0 + 0.19 < y < y1 - 0.19
        for item in simulation.scene.objects:
            assert np.hypot(x - item.position[0], y - item.position[1]) > 0.5 * item.radius_m
        simulation.close()


@pytest.mark.parametrize("axis", [2, -2])
def test_drone_stays_between_floor_and_ceiling_and_levels_out(axis: int) -> None:
    simulation = Simulation(make_scene(1, SceneOptions()), "drone", (16, 16))
    simulation.action[abs(axis)] = math.copysign(1.0, axis)
    simulation.action[3] = 1.0
    for _ in range(40):
        simulation.step()
    assert 0.19 < simulation.camera_pose()[2, 3] < 2.31
    tilted = simulation.camera_pose()[2, 1]
    simulation.action[:] = 0
    for _ in range(20):
        simulation.step()
    assert tilted > -0.999  # it had rolled
    assert simulation.camera_pose()[2, 1] < -0.99999  # camera y is straight down again
    simulation.close()


def test_a_control_step_moves_what_the_action_says() -> None:
    simulation = Simulation(make_scene(0, SceneOptions()), "wheels", (16, 16))
    simulation.step()
    before = simulation.camera_pose()
    simulation.action[:] = (1.0, 0.0)
    simulation.step()
    moved = simulation.camera_pose()[:3, 3] - before[:3, 3]
    assert math.isclose(float(moved @ before[:3, 2]), 0.2, rel_tol=0.1)
    simulation.action[:] = (0.0, 1.0)
    simulation.step()
    simulation.step()
    turned = before[:3, :3].T @ simulation.camera_pose()[:3, :3]
    assert math.isclose(math.acos((np.trace(turned) - 1) / 2), 0.6, rel_tol=0.06)
    left_of_before = float(simulation.camera_pose()[:3, 2] @ -before[:3, 0])
    assert left_of_before > 0.4
    simulation.close()


def test_unknown_task_is_refused() -> None:
    with pytest.raises(EnvError, match="Revisit-S"):
        settings_of("Revisit", "XL")
