"""A world that is none of ours: a painted room with two balls, ray-cast. `env=tests.evaluation.ball_room:make_env`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from tests.evaluation.conftest import World, pose_at

COLOURS = np.array([[0.95, 0.1, 0.1], [0.1, 0.9, 0.2]])
TURN, STEP = 0.3, 0.2
SCALE = 2
"""Frames are twice the size of those that the world is cast at."""


class BallRoom(gym.Env):
    """Turn left, turn right, go ahead; the first ball is to be reached. Tells what `tells` names."""

    def __init__(self, tells: tuple[str, ...] = ("depth", "segmentation", "world_from_camera", "objects", "success")) -> None:
        box = gym.spaces.Box
        self.tells, self.action_space = tells, gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Dict(
            rgb=box(0, 255, (64, 64, 3), np.uint8), intrinsics=box(-np.inf, np.inf, (9,), np.float32),
            world_from_camera=box(-np.inf, np.inf, (16,), np.float32), goal=box(0, 1, (9,), np.float32),
        )  # fmt: skip

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        angle = self.np_random.uniform(0, 2 * np.pi)
        around = angle + np.array([0.0, np.pi])
        self.world = World(1.7 * np.stack([np.cos(around), np.sin(around), [0.5, 0.5]], axis=1) + [0, 0, 0.3], COLOURS)
        self.xy, self.yaw = np.zeros(2), float(angle + np.pi / 2)  # both balls are behind the edges of the picture
        return self._look()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.yaw += {0: TURN, 1: -TURN}.get(int(action), 0.0)
        ahead = self.xy + STEP * np.array([np.cos(self.yaw), np.sin(self.yaw)])
        if action == 2 and np.abs(ahead).max() < 1.9 and np.linalg.norm(self.world.balls[:, :2] - ahead, axis=1).min() > 0.6:
            self.xy = ahead
        obs, info = self._look()
        return obs, 0.0, self._success(), False, info

    def _success(self) -> bool:
        return bool(np.linalg.norm(self.world.balls[0, :2] - self.xy) < 1.0)

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        pose = pose_at(self.yaw, (self.xy[0], self.xy[1]))
        colour, depth, ids = (np.repeat(np.repeat(part, SCALE, 0), SCALE, 1) for part in self.world.cast(pose))
        objects = [
            {"id": k + 1, "position": ball, "colour": COLOURS[k], "shape": "sphere"} for k, ball in enumerate(self.world.balls)
        ]
        truth = {"depth": depth, "segmentation": ids, "world_from_camera": pose, "objects": objects}
        told = {name: value for name, value in truth.items() if name in self.tells}
        info: dict[str, Any] = {"truth": told} if told else {}
        info |= {"success": self._success(), "goal_object": 1} if "success" in self.tells else {}
        k = np.array([32, 0, 32, 0, 32, 32, 0, 0, 1], np.float32)
        goal = np.concatenate([COLOURS[0], np.eye(6)[0]]).astype(np.float32)
        rgb = np.round(255 * colour).astype(np.uint8)
        return {"rgb": rgb, "intrinsics": k, "world_from_camera": pose.ravel(), "goal": goal}, info


class Known(BallRoom):
    """The same, with the way to the ball."""

    def oracle_action(self) -> int:
        offset = self.world.balls[0, :2] - self.xy
        turn = (np.arctan2(offset[1], offset[0]) - self.yaw + np.pi) % (2 * np.pi) - np.pi
        return 2 if abs(turn) < 0.2 else 0 if turn > 0 else 1


def make_env() -> gym.Env:
    return Known()


def make_pictures() -> gym.Env:
    return BallRoom(("depth", "segmentation"))


def make_silent() -> gym.Env:
    return BallRoom(())
