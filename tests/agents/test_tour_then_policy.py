"""In worlds that are none of ours a guide tours for a while, or the world gives the tour; then the learned policy acts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from liftwm_agents.policies.policy import TourThenPolicy


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
