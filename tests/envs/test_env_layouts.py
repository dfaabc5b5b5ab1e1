"""What training and evaluation never share, what distractors are, and that scenes drawn before stay as they were."""

from __future__ import annotations

import hashlib
import json

import gymnasium
import numpy as np
import pytest

from liftwm_envs.rooms.floor_plan import canonical_doors, draw_floor_plan, is_held_out
from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.looks import draw_looks
from liftwm_envs.rooms.scene import PALETTE, Door
from liftwm_envs.settings import SETTINGS, settings_of
from liftwm_envs.tasks.policies import OraclePolicy
from liftwm_envs.wrappers import GuidedTour

PINNED = {  # of scenes and tours as they were before there were L, ShellGame and Search
    "Revisit-S": "70fc521ca68f1e8b",
    "Revisit-M": "2cf9e5b524873fba",
    "Occlusion-S": "b5e73e90fde1f62b",
    "Occlusion-M": "4b41510768d3ea67",
    "MovingOcclusion-S": "39dae85a265b5937",
    "MovingOcclusion-M": "39ff97878e49b2c3",
}
PINNED_TOUR = {"Revisit-S": "1c649b661db2cd22", "MovingOcclusion-S": "39aeae9db9a062ac"}


def rounded(value: object) -> object:
    """JSON-able data with numbers to 1e-6."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scene_digest(name: str) -> str:
    options = settings_of(*name.split("-")).scene
    return digest(json.dumps([rounded(make_scene(seed, options).describe()) for seed in (3, 2**30 + 3)]))


def tour_digest(name: str) -> str:
    """Of the poses of a guided tour to a centimetre, the goal and the shortest path."""
    env = GuidedTour(gymnasium.make(f"liftwm/{name}-v0", disable_env_checker=True))
    _, info = env.reset(seed=2**30 + 3)
    env.close()
    poses = np.round(info["tour"]["world_from_camera"].astype(float), 2) + 0.0
    return digest(json.dumps([poses.tolist(), info["goal_object"], round(info["shortest_path_m"], 2)]))


@pytest.mark.parametrize("name", PINNED)
def test_scenes_are_what_they_were(name: str) -> None:
    assert scene_digest(name) == PINNED[name]


@pytest.mark.parametrize("name", PINNED_TOUR)
def test_tours_are_what_they_were(name: str) -> None:
    assert tour_digest(name) == PINNED_TOUR[name]


@pytest.mark.parametrize("task", ["Revisit", "ShellGame"])
def test_door_graphs_of_nine_rooms_are_for_training_or_for_evaluation(task: str) -> None:
    options = settings_of(task, "L").scene
    graphs = {}
    for name, first in (("train", 0), ("eval", 2**30), ("teacher", 2**31)):
        plans = [draw_floor_plan(np.random.default_rng(first + k), first + k, options) for k in range(40)]
        assert all(len(rooms) == 9 for rooms, *_ in plans)
        graphs[name] = {str(canonical_doors(9, doors)) for _, doors, _ in plans}
    assert not graphs["eval"] & (graphs["train"] | graphs["teacher"])
    assert len(graphs["eval"]) >= 5 and len(graphs["train"]) >= 15


def test_a_turned_or_mirrored_door_graph_is_the_same() -> None:
    rng = np.random.default_rng(0)
    _, doors, _ = draw_floor_plan(rng, 0, settings_of("Revisit", "L").scene)
    turned = tuple(Door(tuple(3 * (room % 3) + 2 - room // 3 for room in door.rooms), door.centre) for door in doors)
    mirrored = tuple(Door(tuple(3 * (room // 3) + 2 - room % 3 for room in door.rooms), door.centre) for door in doors)
    less = doors[1:]
    assert canonical_doors(9, doors) == canonical_doors(9, turned) == canonical_doors(9, mirrored)
    assert is_held_out(9, doors) == is_held_out(9, turned)
    assert canonical_doors(9, less) != canonical_doors(9, doors)


@pytest.mark.parametrize("size", ["S", "M"])
def test_no_room_of_evaluation_has_the_measures_of_one_of_training(size: str) -> None:
    options = settings_of("Revisit", size).scene
    measures = {}
    for first in (0, 2**30):
        plans = [draw_floor_plan(np.random.default_rng([first + k, 0]), first + k, options)[0] for k in range(200)]
        sides = [np.subtract(room.interior[2:], room.interior[:2]) for rooms in plans for room in rooms]
        measures[first] = np.array(sides)
    apart = np.abs(measures[0][:, None] - measures[2**30][None]).max(-1)
    assert apart.min() > 1e-6


@pytest.mark.parametrize("count", [4, 5, 8, 13, 18, 24])
def test_with_distractors_neither_colour_nor_shape_alone_tells(count: int) -> None:
    for seed in range(10):
        looks = draw_looks(np.random.default_rng(seed), count, distractors=True)
        assert len(looks) == count - count % 2 == len(set(looks))
        for look in looks:
            assert sum(other.colour_name == look.colour_name for other in looks) == 2
            assert sum(other.shape == look.shape for other in looks) >= 2


def test_distractors_are_an_option_of_every_size_and_the_default_of_l() -> None:
    for task, size in SETTINGS:
        settings = settings_of(task, size)
        assert settings.scene.distractors == (size == "L")
        for distractors in (True, False):
            options = settings.scene_of("rich", distractors)
            if distractors or options.objects[1] + options.cups <= len(PALETTE):
                objects = make_scene(7, options).objects
                twins = [sum(o.colour_name == item.colour_name for o in objects) for item in objects]
                assert set(twins) == {2 if distractors else 1}
                assert len({(o.colour_name, o.shape) for o in objects}) == len(objects)


def test_without_distractors_there_are_no_more_objects_than_colours() -> None:
    env = gymnasium.make("liftwm/Revisit-L-v0", distractors=False, disable_env_checker=True)
    env.reset(seed=0)
    objects = env.unwrapped.scene.objects
    assert len({o.colour_name for o in objects}) == len(objects) == len(PALETTE)
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted({task for task, _ in SETTINGS}))
def test_tours_of_nine_rooms_end_in_a_call_that_the_oracle_answers(task: str) -> None:
    env = GuidedTour(gymnasium.make(f"liftwm/{task}-L-v0", disable_env_checker=True))
    obs, info = env.reset(seed=2**30)
    assert 400 <= len(info["tour"]["rgb"]) <= 2500
    assert info["solvable_by_memory"] and info["gap_steps"] >= settings_of(task, "L").gap_steps[0]
    policy, done = OraclePolicy(env), False
    while not done:
        obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
        done = terminated or truncated
    assert info["success"]
    env.close()
