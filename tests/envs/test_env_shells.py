"""Cups: they never meet, carry what they hide, are watched in the tour, and give one guess."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.scene import Scene
from liftwm_envs.rooms.shells import CUP_HEIGHT_M, CUP_RADIUS_M, HANG_M, LOWER_STEPS, SWAP_STEPS, Show, Swap, cup_pixels
from liftwm_envs.settings import LIMIT_EXTRA_STEPS, REACH_M, SEEN_PX, settings_of
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.policies import OraclePolicy, TourPolicy
from liftwm_envs.wrappers import GuidedTour

ENV_ID = "liftwm/ShellGame-S-v0"
SLOTS = ((0.0, 0.0), (0.95, 0.0), (1.9, 0.0), (2.85, 0.0))


def make(**kwargs: Any) -> gymnasium.Env:
    return gymnasium.make(ENV_ID, disable_env_checker=True, **kwargs)


def scene_of(seed: int, size: str) -> Scene:
    return make_scene(seed, settings_of("ShellGame", size).scene)


def elsewhere() -> tuple[gymnasium.Env, int]:
    """An environment that stands reset, in a room without cups, and its seed."""
    env = make(truth=True).unwrapped
    for seed in range(20):
        env.reset(seed=seed)
        if env.scene.room_at(np.array(env.scene.start[:2])) != env.scene.shows[0].room:
            return env, seed
    raise AssertionError("every agent starts in the room of the cups")


def test_swaps_exchange_two_cups_and_leave_the_others() -> None:
    show = Show(0, 1, SLOTS, math.pi / 2, (Swap(0, 2, 1), Swap(2, 3, -1), Swap(0, 1, 1)))
    order = [0, 1, 2, 3]  # the cup at each slot
    assert np.array_equal(show.places(-1), SLOTS) and np.array_equal(show.places(0), SLOTS)
    for number, (first, second) in enumerate(((0, 2), (2, 3), (0, 1))):
        begin = show.swap_begins(number)
        half = show.places(begin + SWAP_STEPS / 2)
        for slot, cup in enumerate(order):
            assert np.allclose(show.places(begin)[cup], SLOTS[slot])
            assert (abs(half[cup, 1]) > 0.3) == (slot in (first, second))
        assert half[order[first], 1] * half[order[second], 1] < 0  # they pass on opposite sides
        order[first], order[second] = order[second], order[first]
    last = show.places(show.duration_steps)
    assert all(np.allclose(last[cup], SLOTS[slot]) for slot, cup in enumerate(order))
    assert show.slots_after(3).tolist() == [order.index(cup) for cup in range(4)]


def test_cups_come_down_before_they_swap() -> None:
    show = Show(0, 1, SLOTS, 0.0, (Swap(0, 1, 1),))
    assert [show.height(at) for at in (-1, 0, LOWER_STEPS / 2, LOWER_STEPS, 99)] == [HANG_M, HANG_M, HANG_M / 2, 0, 0]
    assert np.array_equal(show.places(LOWER_STEPS), SLOTS)
    assert [show.swap_at(at) for at in (0, show.swap_begins(0), show.swap_begins(0) + 1, show.duration_steps)] == [
        None,
        None,
        0,
        None,
    ]


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_cups_never_touch_each_other_the_walls_or_a_doorway(size: str) -> None:
    for seed in range(4):
        scene = scene_of(seed, size)
        ids = [item.id for item in scene.objects]
        assert ids == list(range(1, len(ids) + 1))
        for show in scene.shows:
            ways = np.array([show.places(at) for at in np.arange(0, show.duration_steps, 0.5)])
            for a, b in itertools.combinations(range(len(show.slots)), 2):
                assert np.hypot(*(ways[:, a] - ways[:, b]).T).min() > 2 * CUP_RADIUS_M
            x0, y0, x1, y1 = scene.rooms[show.room].interior
            assert (ways.min((0, 1)) > np.add((x0, y0), CUP_RADIUS_M)).all()
            assert (ways.max((0, 1)) < np.subtract((x1, y1), CUP_RADIUS_M)).all()
            for k, slot in enumerate(show.slots):
                item = scene.objects[show.first_id - 1 + k]
                assert item.position == slot and item.room == show.room
                assert item.radius_m < CUP_RADIUS_M and item.height_m < CUP_HEIGHT_M
            for door in scene.doors:
                assert np.hypot(*np.moveaxis(ways - door.centre, -1, 0)).min() > CUP_RADIUS_M + 0.5


def test_the_plan_describes_shows_only_where_there_are_any() -> None:
    plan = json.loads(json.dumps(scene_of(1, "L").describe()))
    assert [show["objects"] for show in plan["shows"]] == [[1, 2, 3], [4, 5, 6]]
    assert "shows" not in make_scene(1, settings_of("Revisit", "S").scene).describe()


def test_truth_follows_what_cups_hide_and_nothing_shows_it() -> None:
    env = make(truth=True)
    obs, info = env.reset(seed=2)
    policy, sim, show = TourPolicy(env), env.unwrapped.sim, env.unwrapped.scene.shows[0]
    hidden = slice(show.first_id - 1, show.first_id - 1 + len(show.slots))
    still = info["truth"]["object_pose"][hidden.stop :]
    seen = np.zeros(len(show.slots), int)
    while info["phase"] == "tour":
        obs, *_, info = env.step(policy.act(obs, info))
        truth, elapsed = info["truth"], sim.elapsed(0)
        assert np.allclose(truth["object_pose"][hidden, :2], show.places(max(elapsed, 0)), atol=1e-5)
        assert np.array_equal(truth["object_pose"][hidden.stop :], still)
        if elapsed < 0:
            seen += truth["visible_pixels"][hidden] >= SEEN_PX
        elif elapsed >= LOWER_STEPS:
            assert not truth["visible_pixels"][hidden].any()
    assert (seen >= 4).all()
    env.close()


def test_a_cup_over_an_object_is_no_contact_and_stops_an_agent() -> None:
    scene = scene_of(0, "S")
    show = scene.shows[0]
    simulation = Simulation(scene, "wheels", (16, 16))
    inward = np.array([math.cos(show.yaw), math.sin(show.yaw)])
    simulation.data.qpos[:2] = show.slots[1] + 1.6 * inward
    simulation.data.qpos[2] = show.yaw + math.pi
    simulation.start_show(0)
    for _ in range(show.duration_steps):
        simulation.step()
        assert not simulation.bumped
    simulation.action[:] = (1.0, 0.0)
    for _ in range(12):
        simulation.step()
    assert simulation.bumped
    assert np.hypot(*(simulation.position() - show.slots[1])) > CUP_RADIUS_M + 0.19
    simulation.close()


def test_pixels_on_cups_are_those_in_front_of_the_camera() -> None:
    points = np.full((4, 5, 3), 9.0)
    points[0] = [1.0 - CUP_RADIUS_M, 2.0, 0.3]
    points[1, :2] = [1.0, 2.0, CUP_HEIGHT_M]
    points[2] = [1.0, 2.0, 0.0]  # floor
    points[3] = [1.0, 2.0 - CUP_RADIUS_M - 0.05, 0.3]
    assert cup_pixels(points, [(1.0, 2.0), (5.0, 5.0)]).tolist() == [7, 0]


def test_the_guided_tour_watches_every_swap() -> None:
    env = GuidedTour(make())
    for seed in range(3):
        _, info = env.reset(seed=seed)
        show, task = env.unwrapped.scene.shows[0], env.unwrapped.task
        assert info["solvable_by_memory"] and 1 <= info["goal_object"] <= len(show.slots)
        began = task.over_at - show.duration_steps
        poses = info["tour"]["world_from_camera"].reshape(-1, 4, 4).astype(float)
        k = info["tour"]["intrinsics"][0].reshape(3, 3)
        for number, swap in enumerate(show.swaps):
            pair, in_view = np.isin(show.slots_after(number), (swap.first, swap.second)), 0
            for at in range(1, SWAP_STEPS):
                elapsed = show.swap_begins(number) + at
                places = np.pad(show.places(elapsed)[pair], ((0, 0), (0, 1)), constant_values=0.3)
                pose = poses[began + elapsed]
                local = (places - pose[:3, 3]) @ pose[:3, :3]
                u = k[0, 0] * local[:, 0] / local[:, 2] + k[0, 2]
                in_view += bool(((local[:, 2] > 0) & (u > 0) & (u < 64)).all())
            assert in_view >= SWAP_STEPS // 2
        assert info["gap_steps"] >= settings_of("ShellGame", "S").gap_steps[0]
    env.close()


def test_swaps_that_nobody_watched_cannot_be_remembered() -> None:
    env, _ = elsewhere()
    info: dict[str, Any] = {"phase": "tour"}
    steps = 0
    while info["phase"] == "tour":
        *_, info = env.step(np.zeros(2, np.float32))
        steps += 1
    task = env.task
    assert steps == task.tour_steps + env.scene.shows[0].duration_steps + task.gap_steps + task.settings.max_delay_steps
    assert info["solvable_by_memory"] is False
    env.close()


def test_a_wrong_cup_ends_the_episode_and_the_oracle_passes_none() -> None:
    env = GuidedTour(make())
    for seed in range(2):
        env.reset(seed=seed)
        task, show, restore = env.unwrapped.task, env.unwrapped.scene.shows[0], env.unwrapped.save()
        inward = np.array([math.cos(show.yaw), math.sin(show.yaw)])
        wrong = next(k for k in range(len(show.slots)) if k != task.goal.id - 1)
        before = task.place(wrong) + (CUP_RADIUS_M + REACH_M - 0.1) * inward
        env.unwrapped.sim.data.qpos[:2] = before
        ends = [env.step(np.zeros(2, np.float32)) for _ in range(2)]
        assert [end[2] for end in ends] == [False, True]
        assert not ends[1][4]["success"] and ends[1][1] == 0.0 and not ends[1][3]
        restore()
        task, obs, done = env.unwrapped.task, None, False
        policy, info = OraclePolicy(env), {"phase": "call", "goal_object": task.goal.id}
        while not done:
            obs, reward, terminated, truncated, info = env.step(policy.act(obs, info))
            assert task.reached_cup(info["position"]) in (None, task.goal.id - 1)
            done = terminated or truncated
        assert info["success"] and reward == 1.0 and task.limit_steps > LIMIT_EXTRA_STEPS
    env.close()
