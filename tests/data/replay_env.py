"""An environment that shows what the arrays of a file hold, sound or not: `env=replay_env:make_env`, the file in REPLAY."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np


class ReplayEnv(gym.Env):
    """Frame by frame; the faulty arrays under the seed FAULTY, the sound ones under all others."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self) -> None:
        with np.load(os.environ["REPLAY"]) as stored:
            self.faulty = dict(stored)
        with np.load(os.environ["REPLAY_SOUND"]) as stored:
            self.sound = dict(stored)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.t = (self.faulty if seed == int(os.environ.get("FAULTY", "0")) else self.sound), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._observe(), self.shown["reward"][self.t - 1], False, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        names = ("rgb", "world_from_camera", "goal")
        return {name: self.shown[name][self.t] for name in names} | {"intrinsics": self.shown["intrinsics"]}


def make_env() -> gym.Env:
    return ReplayEnv()
