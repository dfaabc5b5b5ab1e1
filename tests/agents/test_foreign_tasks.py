"""Tasks in worlds that are none of ours: a guide tours for a while, or the world gives the tour; then the policy acts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from liftwm_agents.observations import KEYS
from liftwm_agents.policies.policy import TourThenPolicy
from liftwm_agents.policies.training_envs import check_task, make_task

HERE = Path(__file__).parent


def look(k: int) -> dict[str, np.ndarray]:
    return {
        name: np.full(size, k, np.float32)
        for name, size in {"rgb": 3, "intrinsics": 9, "world_from_camera": 16, "goal": 0}.items()
    }


@pytest.mark.parametrize("given", [False, True])
def test_who_acts_when(given: bool) -> None:
    begun: list[Any] = []
    learned: Any = SimpleNamespace(begin=begun.append, act=lambda obs, info: 2)
    guide: Any = SimpleNamespace(reset=lambda: None, act=lambda obs, info: 1)
    env: Any = SimpleNamespace(action_space=gym.spaces.Discrete(3))
    policy = TourThenPolicy(env, learned, guide, steps=4)
    info = {"tour": {"rgb": np.zeros(9), "action": np.zeros((9, 3))}} if given else {}
    acted = [policy.act(look(k), info if k == 0 else {}) for k in range(7)]
    assert acted == ([2] * 7 if given else [1] * 4 + [2] * 3)
    (tour,) = begun
    if given:
        assert tour is info["tour"]
    else:
        assert tour["rgb"][:, 0].tolist() == [0, 1, 2, 3, 4] and tour["action"].tolist() == [[0, 0, 0]] + [[0, 1, 0]] * 4


@pytest.mark.parametrize("name", ["toy_camera_env:make_with_source", "toy_camera_env:make_robot"])
def test_policies_are_trained_where_the_camera_has_a_source_and_robots_have_joints(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    env = make_task(TrainAgentConfig(env=name, tour_steps=6, max_steps=2))
    obs, info = env.reset(seed=3)
    assert set(obs) == set(KEYS) == set(env.observation_space.spaces)  # type: ignore[attr-defined]
    assert env.observation_space.contains(obs) and len(info["tour"]["rgb"]) >= 8
    assert [env.step(env.action_space.sample())[3] for _ in range(2)] == [False, True], "max_steps ends the episode"
    find_env(name).hold_to_contract(env, 0)


def test_an_environment_that_breaks_the_contract_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    config = TrainAgentConfig(env="toy_camera_env:make_image_only", tour_steps=2)
    with pytest.raises(UserError, match=r"frame 0 has no camera: .*liftwm doctor env=toy_camera_env:make_image_only lists all"):
        check_task(config, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="tour=stroll: expected wander or my_policy:make_policy"):
        make_task(TrainAgentConfig(env="toy_camera_env:make_env", tour="stroll"))
