"""The contract of anyone's environment: what the wrapper makes of one, and one message a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import liftwm_envs
from liftwm_envs.actions import Wander
from liftwm_envs.contract import ContractEnv, check_env, goal_kind
from liftwm_envs.wrappers import ExploredTour

K = np.array([[24, 0, 16], [0, 24, 12], [0, 0, 1]], np.float64)


class Slider(gym.Env):
    """A camera that slides along x; `change` spoils what it gives, as (obs, info)."""

    observation_space = spaces.Dict({"rgb": spaces.Box(0, 255, (24, 32, 3), np.uint8)})
    action_space: spaces.Space = spaces.Discrete(2)

    def __init__(self, change: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] = lambda *found: found) -> None:
        self._change, self._rgb = change, np.zeros((24, 32, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = float(self.np_random.integers(9))
        return self._seen()

    def step(self, action: Any) -> Any:
        self.x += float(action)
        obs, info = self._seen()
        return obs, 0.0, False, False, info

    def _seen(self) -> Any:
        self._rgb[:] = int(self.x)  # the same array again and again
        pose = np.eye(4)
        pose[0, 3] = self.x
        return self._change({"rgb": self._rgb, "intrinsics": K, "world_from_camera": pose}, {})


def test_observations_are_whole_and_copies() -> None:
    env = ContractEnv(Slider())
    first, _ = env.reset(seed=3)
    second = env.step(1)[0]
    assert set(first) == {"rgb", "intrinsics", "world_from_camera", "goal"} and first["goal"].shape == (0,)
    assert first["intrinsics"].shape == (9,) and second["world_from_camera"].dtype == np.float32
    assert second["rgb"][0, 0, 0] == first["rgb"][0, 0, 0] + 1 and env.observation_space.contains(first)
    assert check_env(env) == [] and goal_kind(env) == ""


def test_an_image_alone_gets_its_camera_from_a_source() -> None:
    bare = Slider(lambda obs, info: (obs["rgb"], info))
    env = ContractEnv(bare, lambda env, obs, info: (K, np.eye(4)))
    bare.observation_space = spaces.Box(0, 255, (24, 32, 3), np.uint8)  # type: ignore[assignment]
    assert check_env(ContractEnv(bare, lambda env, obs, info: (K, np.eye(4)))) == []
    assert env.reset(seed=0)[0]["world_from_camera"].tolist() == np.eye(4).ravel().tolist()


def test_objects_of_the_truth_become_arrays() -> None:
    ids = np.zeros((24, 32), np.int64)
    ids[:2] = 5
    told = {"segmentation": ids, "objects": [{"id": 5, "colour": (1, 0, 0), "shape": "box", "position": (1, 2, 3)}]}
    env = ContractEnv(Slider(lambda obs, info: (obs, {"truth": told})))
    truth = env.reset(seed=0)[1]["truth"]
    assert set(truth) == {"segmentation", "object_pose"} and truth["object_pose"].tolist() == [[1, 2, 3, 1, 0, 0, 0]]
    assert env.scene.describe()["objects"] == [
        {"id": 5, "colour": [1.0, 0.0, 0.0], "shape": "box", "position": [1.0, 2.0, 3.0]}
    ]
    assert check_env(env) == []


def entry(name: str, value: Any) -> Callable[[Any, Any], Any]:
    return lambda obs, info: (obs | {name: value}, info)


def told(name: str, value: Any) -> Callable[[Any, Any], Any]:
    return lambda obs, info: (obs, {name: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda obs, info: ({"rgb": obs["rgb"]}, info), "frame 0 has no camera: expected intrinsics and world_from_camera"),
        (entry("rgb", np.zeros((3, 24, 32), np.uint8)), "rgb: frame 0 has no image: expected rgb [H, W, 3] uint8"),
        (entry("rgb", np.zeros((8, 8, 3), np.uint8)), "rgb: frame 0 is [8, 8, 3], but the observation space says [24, 32, 3]"),
        (entry("world_from_camera", np.eye(4) * 2), "world_from_camera: frame 0 is no rigid motion"),
        (entry("world_from_camera", np.diag([1, 1, -1, 1])), "world_from_camera: frame 0 is no rigid motion"),
        (entry("intrinsics", K / 32), "intrinsics: frame 0 is 0.75 0 0.5 "),
        (entry("intrinsics", K * np.nan), "intrinsics: frame 0 holds nan, expected finite numbers"),
        (entry("goal", np.zeros((8, 8, 1), np.uint8)), "goal: frame 0 is [8, 8, 1] uint8, expected numbers, or a picture"),
        (told("success", "no"), "info: success of frame 0 is 'no', expected true or false"),
        (told("shortest_path_m", -1.0), "info: shortest_path_m of frame 0 is '-1.0', expected a length"),
        (told("position", [1, 2, 3, 4]), "info: position of frame 0 is '[1, 2, 3, 4]', expected world xy [2]"),
        (told("tour", {"rgb": []}), "info: tour of frame 0 lacks intrinsics, world_from_camera, action"),
        (told("truth", {"depth": np.zeros((4, 4))}), "info: truth depth of frame 0 is [4, 4], expected [24, 32]"),
    ],
)
def test_each_fault_has_its_line(change: Callable[[Any, Any], Any], words: str) -> None:
    faults = check_env(ContractEnv(Slider(change)))
    assert faults and faults[0].startswith(words) and "\n" not in faults[0]


def test_actions_and_seeds_are_held_against_the_contract() -> None:
    unbounded, forgetful = Slider(), Slider()
    unbounded.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert check_env(ContractEnv(unbounded)) == [
        "action space Box(-inf, inf, (2,), float32): expected bounds, such as Box(-1, 1, (2,))"
    ]
    forgetful.reset = lambda seed=None, options=None: Slider.reset(forgetful, seed=None)  # type: ignore[method-assign]
    forgetful.np_random = np.random.default_rng(0)
    (line,) = check_env(ContractEnv(forgetful))
    assert line.startswith("world_from_camera: two resets with one seed begin at different places: expected reset(seed=) to")


def test_ours_keep_it() -> None:
    assert check_env(gym.make(liftwm_envs.ENV_IDS[0], truth=True)) == []


class Walker(Slider):
    """Turns left or right, or goes ahead, within 4 of the start."""

    def __init__(self, box: bool) -> None:
        super().__init__()
        self.action_space = (
            spaces.Box(np.array([0, -3], np.float32), np.array([0.5, 3], np.float32)) if box else spaces.Discrete(3)
        )
        self.xy, self.yaw, self.steps, self.seeds = np.zeros(2), 0.0, 0, []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        self.xy, self.yaw, self.steps = np.zeros(2), 0.0, 0
        return self._seen()

    def step(self, action: Any) -> Any:
        ahead, turn = action if isinstance(self.action_space, spaces.Box) else ((0, 0.3), (0, -0.3), (0.25, 0))[action]
        self.yaw += 0.1 * turn if isinstance(self.action_space, spaces.Box) else turn
        self.xy = np.clip(self.xy + ahead * np.array([np.cos(self.yaw), np.sin(self.yaw)]), -4, 4)
        self.steps += 1
        obs, info = self._seen()
        return obs, 0.0, self.steps == 25, False, info

    def _seen(self) -> Any:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        pose = np.array([[s, 0, c, self.xy[0]], [-c, 0, s, self.xy[1]], [0, -1, 0, 1], [0, 0, 0, 1]])
        return {"rgb": np.full((24, 32, 3), self.steps, np.uint8), "intrinsics": K, "world_from_camera": pose}, {}


@pytest.mark.parametrize("box", [False, True])
def test_wandering_holds_actions_and_finds_what_leads_ahead(box: bool) -> None:
    env = ContractEnv(Walker(box))
    actions: list[Any] = []
    for _ in range(2):
        policy, (obs, info) = Wander(env, seed=5), env.reset()
        for _ in range(300):
            actions.append(policy.act(obs, info))
            assert env.action_space.contains(actions[-1])
            obs, _, done, _, info = env.step(actions[-1])
            obs, info = env.reset() if done else (obs, info)
    numbers = np.array(actions, np.float64).reshape(600, -1)
    assert (numbers[:300] == numbers[300:]).all(), "the same seed wandered elsewhere"
    assert (numbers[1:] == numbers[:-1]).all(1).mean() > 0.6, "actions are not held"
    ahead = numbers[:, 0] == 0.5 if box else numbers[:, 0] == 2
    assert 0.3 < ahead.mean() < 0.85


def test_a_world_is_shown_before_its_task_begins() -> None:
    walker = Walker(False)
    env = ExploredTour(ContractEnv(walker), Wander, 40)
    obs, info = env.reset(seed=9)
    tour = info["tour"]
    assert len(tour["rgb"]) == 1 + 40 + 1 + 1, "the first frame, 40 steps, one start again after 25, the frame of the call"
    assert tour["action"].shape == (43, 3) and not tour["action"][[0, 26, 42]].any() and (tour["action"].sum(1) <= 1).all()
    assert all(np.array_equal(tour[key][-1], obs[key]) for key in obs) and walker.steps == 0
    assert env.reset(seed=9)[1]["tour"] is tour and walker.seeds == [9] * 4, "the same world was walked through twice"
    assert env.reset(seed=10)[1]["tour"] is not tour and check_env(env) == []
