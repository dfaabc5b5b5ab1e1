"""A small environment that is not ours: an image and a camera, drawn from its seed. `env=toy_camera_env:make_env`."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 32


class ToyEnv(gym.Env):
    """A camera that slides along x over a noisy picture; ends by itself after a number of steps that the seed decides."""

    def __init__(self, discrete: bool = False, height: int = SIZE, width: int = SIZE) -> None:
        self.height, self.width = height, width
        self.observation_space = gym.spaces.Dict(
            {
                "rgb": gym.spaces.Box(0, 255, (height, width, 3), np.uint8),
                "intrinsics": gym.spaces.Box(-np.inf, np.inf, (9,), np.float32),
                "world_from_camera": gym.spaces.Box(-np.inf, np.inf, (16,), np.float32),
            }
        )
        self.action_space = gym.spaces.Discrete(3) if discrete else gym.spaces.Box(-1, 1, (2,), np.float32)
        self.pause_s = float(os.environ.get("TOY_PAUSE_S", "0"))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.picture = self.np_random.integers(0, 256, (self.height, 4 * self.width, 3), dtype=np.uint8)
        self.left = int(self.np_random.integers(4, 12))
        self.x = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        time.sleep(self.pause_s)
        self.left -= 1
        self.x += 1 + int(np.sum(np.asarray(action) > 0))
        done = self.left == 0
        return self._observe(), float(done), done, False, {"success": done}

    def _observe(self) -> dict[str, np.ndarray]:
        pose = np.eye(4, dtype=np.float32)
        pose[0, 3] = self.x
        k = np.array([self.width, 0, self.width / 2, 0, self.width, self.height / 2, 0, 0, 1], np.float32)
        return {"rgb": self.picture[:, self.x : self.x + self.width], "intrinsics": k, "world_from_camera": pose.ravel()}


class ImageOnly(gym.ObservationWrapper):
    """The same without its camera."""

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        return observation["rgb"]


def make_env() -> gym.Env:
    return ToyEnv()


def make_tall() -> gym.Env:
    return ToyEnv(height=128, width=96)


def make_wide() -> gym.Env:
    return ToyEnv(height=32, width=48)


def make_discrete() -> gym.Env:
    return ToyEnv(discrete=True)


def make_image_only() -> gym.Env:
    return ImageOnly(ToyEnv())


def make_with_source() -> tuple[gym.Env, Any]:
    """Image and camera source apart, the pose in whole metres."""

    def source(env: gym.Env, observation: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        seen = env.unwrapped._observe()
        return seen["intrinsics"], seen["world_from_camera"]

    return ImageOnly(ToyEnv()), source


def make_robot() -> gym.Env:
    """With joint angles beside its frames."""

    class Angles(gym.ObservationWrapper):
        def __init__(self) -> None:
            super().__init__(ToyEnv())
            self.observation_space = gym.spaces.Dict({**self.env.observation_space, "joints": gym.spaces.Box(-1, 1, (7,))})

        def observation(self, observation: Any) -> Any:
            return observation | {"joints": np.zeros(7, np.float32)}

    return Angles()


def make_logged() -> gym.Env:
    """Slow, and leaves the seed of every reset in the file `resets` of the current folder."""

    class Logged(ToyEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.pause_s = 0.01
            with open("resets", "a") as log:
                log.write(f"{seed}\n")
            return super().reset(seed=seed, options=options)

    return Logged()


def make_mortal() -> gym.Env:
    """Kills its process on the first step, as a machine out of memory would."""

    class Mortal(ToyEnv):
        def step(self, action: Any) -> Any:
            os.kill(os.getpid(), 9)

    return Mortal()


def make_buggy() -> gym.Env:
    class Buggy(ToyEnv):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError("a bug of the environment")

    return Buggy()


class OldStep(ToyEnv):
    """`step` as it was before Gymnasium."""

    def step(self, action: Any) -> Any:
        obs, reward, done, _, info = super().step(action)
        return obs, reward, done, info


class OldReset(ToyEnv):
    def reset(self) -> Any:
        return super().reset()[0]


class LostReset(ToyEnv):
    """Knows its way into two episodes."""

    begun = 0

    def reset(self, **named: Any) -> Any:
        self.begun += 1
        np.zeros((2, 3))[0].reshape(3 if self.begun < 3 else 4)
        return super().reset(**named)
