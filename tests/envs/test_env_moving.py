"""Objects that move: exact on their lines, hidden by their tunnels, and called so that only memory of motion is in time."""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.navigation import distance_to_rectangles
from liftwm_envs.rooms.scene import Scene
from liftwm_envs.settings import LIMIT_EXTRA_STEPS, REACH_M, SEEN_PX, settings_of
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.policies import OraclePolicy, TourPolicy
from liftwm_envs.wrappers import GuidedTour

ENV_ID = "liftwm/MovingOcclusion-S-v0"


def make(**kwargs: Any) -> gymnasium.Env:
    return gymnasium.make(ENV_ID, disable_env_checker=True, **kwargs)


def scene_of(seed: int, size: str = "S") -> Scene:
    return make_scene(seed, settings_of("MovingOcclusion", size).scene)


def walked(track: Track, steps: int) -> np.ndarray:
    """Places of steps 0 to `steps`, found by walking the way in small paces and turning round at the ends. [steps + 1, 2]"""
    length, paces = math.dist(track.start, track.end), 1000
    at, sign = track.offset_m, 1.0
    if at > length:
        at, sign = 2 * length - at, -1.0
    places = [at]
    for _ in range(steps):
        for _ in range(paces):
            at += sign * track.speed_m / paces
            if not 0 <= at <= length:
                sign, at = -sign, float(np.clip(at, 0, length))
        places.append(at)
    unit = np.subtract(track.end, track.start) / length
    return np.array(track.start) + np.array(places)[:, None] * unit


@pytest.mark.parametrize("offset", [0.4, 2.9])
def test_a_track_goes_back_and_forth_at_constant_speed(offset: float) -> None:
    track = Track(1, (1.0, 2.0), (-0.2, 3.6), 0.05, offset, (0.7, 1.5))
    assert np.abs(track.place(np.arange(130)) - walked(track, 129)).max() < 1e-3
    assert [track.passage(step) for step in (0, 129)] == [int(offset // 2), int((offset + 129 * 0.05) // 2)]


def test_exits_and_entries_are_where_the_tunnel_ends() -> None:
    track = Track(1, (0.0, 0.0), (2.0, 0.0), 0.05, 0.01, (0.7, 1.3))
    x = track.place(np.arange(200))[:, 0]
    covered = (x >= 0.7) & (x <= 1.3)
    exits = [step for step in range(1, 200) if covered[step - 1] and not covered[step]]
    for step in range(exits[3]):
        assert track.next_exit(step) == min(e for e in exits if e > step)
    inside = next(step for step in range(exits[1], 200) if covered[step])
    assert track.last_entry(inside + 3) == inside - 1


@pytest.mark.parametrize("size", ["S", "M"])
def test_lines_are_clear_of_everything_and_the_first_is_in_sight(size: str) -> None:
    for seed in range(4):
        scene = scene_of(seed, size)
        assert len(scene.tracks) >= len(scene.rooms)
        assert len(scene.screens) == len(scene.tracks) + len(scene.rooms)  # one empty tunnel in each
        solid = scene.wall_rectangles
        still = [o for o in scene.objects if o.id > len(scene.tracks)]
        for track, screen in zip(scene.tracks, scene.screens, strict=False):
            item = scene.objects[track.object_id - 1]
            line = track.place(np.arange(0, 2 * track.length_m / track.speed_m))
            assert item.position == tuple(line[0])
            assert 0.02 <= track.speed_m <= 0.06
            assert distance_to_rectangles(line, solid).min() > item.radius_m
            assert all(np.hypot(*(line - o.position).T).min() > item.radius_m + o.radius_m + 0.4 for o in still)
            covered = ~track.is_out(np.arange(len(line)))
            inside = distance_to_rectangles(line, np.array([screen.rectangle]))[:, 0] == 0
            assert np.array_equal(covered, inside)
            hidden = (track.covered[1] - track.covered[0] - 2 * item.radius_m) / track.speed_m
            assert 10 <= hidden <= 50
        first = scene.tracks[0]
        assert first.along(5) > first.along(0) and first.is_out(0)
        ahead = first.place(0) - scene.start[:2]
        assert abs(math.remainder(math.atan2(ahead[1], ahead[0]) - scene.start[2], math.tau)) < 0.25


def test_same_seed_same_tracks_and_only_moving_scenes_describe_them() -> None:
    assert scene_of(5) == scene_of(5) != scene_of(6)
    plan = json.loads(json.dumps(scene_of(5).describe()))
    assert {track["object"] for track in plan["tracks"]} == {1, 2}
    assert "tracks" not in make_scene(5, settings_of("Occlusion", "S").scene).describe()


def test_truth_carries_every_object_where_its_pixels_are() -> None:
    env = make(truth=True)
    obs, info = env.reset(seed=0)
    scene, policy, seen = env.unwrapped.scene, TourPolicy(env), 0
    still = info["truth"]["object_pose"][len(scene.tracks) :]
    expected = [walked(track, 40) for track in scene.tracks]
    for step in range(41):
        truth = info["truth"]
        assert np.array_equal(truth["object_pose"][len(scene.tracks) :], still)
        for k, places in enumerate(expected):
            assert np.allclose(truth["object_pose"][k, :2], places[step], atol=2e-3)
            mask = truth["segmentation"] == k + 1
            assert truth["visible_pixels"][k] == mask.sum()
            if mask.sum() >= SEEN_PX:
                seen += 1
                points = _points(truth["depth"].astype(float), obs, mask)
                assert np.hypot(*(points[:, :2] - places[step]).T).max() < scene.objects[k].radius_m + 0.03
        obs, *_, info = env.step(policy.act(obs, info))
    assert seen > 15
    env.close()


def _points(depth: np.ndarray, obs: dict[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
    """World points of the masked pixels, by the pinhole formula. [N, 3]"""
    k, pose = obs["intrinsics"].reshape(3, 3), obs["world_from_camera"].reshape(4, 4)
    v, u = np.nonzero(mask)
    z = depth[mask]
    local = np.stack([(u + 0.5 - k[0, 2]) / k[0, 0] * z, (v + 0.5 - k[1, 2]) / k[1, 1] * z, z], 1)
    return local @ pose[:3, :3].T + pose[:3, 3]


@pytest.mark.parametrize("embodiment", ["wheels", "drone"])
def test_nothing_pushes_an_object_off_its_line_and_an_agent_in_its_way_is_pushed(embodiment: str) -> None:
    scene = scene_of(0)
    track, item = scene.tracks[0], scene.objects[0]
    simulation = Simulation(scene, embodiment, (16, 16))
    before = track.place(0) + track.direction * (item.radius_m + 0.25)
    simulation.data.qpos[:2] = before
    if embodiment == "drone":
        simulation.data.qpos[2] = 0.4
    bumped = False
    for _ in range(20):
        simulation.step()
        bumped |= simulation.bumped
        assert np.allclose(simulation.object_poses()[0, :2], track.place(simulation.steps), atol=1e-5)
    assert bumped
    away = simulation.position() - track.place(simulation.steps)
    assert np.hypot(*away) > 0.35 * item.size + 0.18  # outside even the waist of a tower, the thinnest part of any shape
    assert 0.05 < np.hypot(*(simulation.position() - before)) < 2.0
    simulation.close()


def test_the_call_comes_while_the_tunnel_hides_what_was_watched_and_leaves_time() -> None:
    env = make(truth=True)
    for seed in range(3):
        obs, info = env.reset(seed=seed)
        policy, visible = TourPolicy(env), [info["truth"]["visible_pixels"]]
        while info["phase"] == "tour":
            obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
            assert not terminated and not truncated and not info["success"]
            visible.append(info["truth"]["visible_pixels"])
        task, history = env.unwrapped.task, np.array(visible)[:, info["goal_object"] - 1]
        called = len(history) - 1
        assert info["solvable_by_memory"]
        assert (history >= SEEN_PX).sum() >= 4
        assert not history[-2:].any()
        assert not task.track.is_out(np.arange(called, task.out_at)).any()
        assert task.track.is_out(task.out_at)
        assert task.limit_steps == task.out_at - called + LIMIT_EXTRA_STEPS
        item = env.unwrapped.scene.objects[info["goal_object"] - 1]
        assert np.allclose(obs["goal"], [*item.colour, *item.one_hot_shape()])
    env.close()


def test_met_means_near_in_the_room_and_out_of_the_tunnel() -> None:
    env = GuidedTour(make())
    env.reset(seed=0)
    task, scene = env.unwrapped.task, env.unwrapped.scene
    there, into = task.track.place(task.out_at), scene.rooms[task.goal.room].centre
    towards = (into - there) / np.hypot(*(into - there))
    near, far = (there + towards * (task.goal.radius_m + REACH_M + by) for by in (-0.01, 0.01))
    assert task.is_success(near, task.out_at)
    assert not task.is_success(far, task.out_at)
    assert not task.is_success(near, task.out_at - 1)
    entered = task.track.place(task.track.last_entry(task.called_at))
    assert not task.is_success(entered + towards * (task.goal.radius_m + 0.3), task.out_at)
    env.close()


def test_the_oracle_waits_and_meets_the_object_as_it_comes_out() -> None:
    env = GuidedTour(make())
    for seed in range(2):
        obs, info = env.reset(seed=seed)
        policy, done = OraclePolicy(env), False
        while not done:
            obs, reward, terminated, truncated, info = env.step(policy.act(obs, info))
            done = terminated or truncated
        assert terminated and reward == 1.0 and info["distance_to_goal"] == 0.0
        task = env.unwrapped.task
        assert task.out_at <= env.unwrapped.sim.steps <= task.out_at + LIMIT_EXTRA_STEPS
    env.close()


def test_a_call_nobody_could_foresee_leaves_time_too() -> None:
    env = make().unwrapped
    env.reset(seed=0)
    task, info = env.task, {"phase": "tour"}
    task._seen_px = 10**6  # an agent that saw nothing
    steps = 0
    while info["phase"] == "tour":
        *_, info = env.step(np.zeros(2, np.float32))
        steps += 1
    assert steps == task.tour_steps + task.settings.max_delay_steps
    assert info["solvable_by_memory"] is False
    assert 1 <= info["goal_object"] <= len(env.scene.tracks)
    assert task.limit_steps == task.out_at - steps + LIMIT_EXTRA_STEPS
    env.close()
