"""A world that is none of ours, from `make_env` to a report with navigation: `python examples/your_environment.py`, minutes.

The class is the stranger's world: a room of 6 x 6 m with stripes on its walls and a red ball, drawn by casting rays in numpy.
What each part of it has to be is on one page: docs/your_environment.md.
"""

import gymnasium as gym
import numpy as np

from embodied_liftwm.cli import main


class Room(gym.Env):
    """Turn left, turn right or go ahead, to the ball."""

    observation_space = gym.spaces.Dict(rgb=gym.spaces.Box(0, 255, (48, 64, 3), np.uint8), goal=gym.spaces.Box(0, 1, (3,)))
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        (self.ball, self.at), self.yaw = self.np_random.uniform(-2.2, 2.2, (2, 2)), self.np_random.uniform(0, 6.3)
        return self.look()

    def step(self, action):
        self.yaw += (0.3, -0.3, 0.0)[action]
        self.at = np.clip(self.at + 0.25 * (action == 2) * np.array([np.cos(self.yaw), np.sin(self.yaw)]), -2.6, 2.6)
        obs, info = self.look()
        return obs, float(info["success"]), info["success"], False, info

    def look(self):
        c, s, (x, y), (v, u) = np.cos(self.yaw), np.sin(self.yaw), self.at, np.mgrid[:48, :64] + 0.5
        pose = np.array([[s, 0, c, x], [-c, 0, s, y], [0, -1, 0, 1], [0, 0, 0, 1]])  # x right, y down, z ahead; world z up
        rays = np.stack([(u - 32) / 40, (v - 24) / 40, np.ones_like(u)], -1) @ pose[:3, :3].T + 1e-9
        ends = (np.where(rays > 0, [3, 3, 2.5], [-3, -3, 0]) - pose[:3, 3]) / rays  # along each ray, to walls, floor, ceiling
        rgb = 130 + 60 * np.sin(5 * (pose[:3, 3] + ends.min(-1, keepdims=True) * rays))
        ball = np.array([*self.ball, 0.4]) - pose[:3, 3]
        nearest = (rays @ ball / (rays**2).sum(-1))[..., None]
        rgb[(np.linalg.norm(nearest * rays - ball, axis=-1) < 0.4) & (nearest[..., 0] > 0)] = 220, 30, 30
        left = max(float(np.hypot(*ball[:2])) - 0.7, 0.0)
        camera = {"intrinsics": [40, 0, 32, 0, 40, 24, 0, 0, 1], "world_from_camera": pose}
        seen = {"rgb": rgb.astype(np.uint8), "goal": [0.86, 0.12, 0.12], **camera}
        return seen, {"success": left == 0, "shortest_path_m": left, "distance_to_goal": left}


COMMANDS = (
    "collect env=your_environment:Room episodes=12 out=data/room",
    "collect env=your_environment:Room episodes=3 split=eval out=data/room-eval",
    "train --preset debug data=data/room steps=60 run=runs/room",
    "evaluate model=runs/room data=data/room-eval env=your_environment:Room navigation_episodes=5 out=runs/room-report",
)

if __name__ == "__main__":
    for command in COMMANDS:
        if main(command.split()):
            raise SystemExit(2)
