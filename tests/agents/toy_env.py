"""The smallest world that a camera-carrying agent can live in: a square room with one coloured ball, ray-cast in numpy.

It has the observation dict, the tour and the `info` of the real environments, and takes no simulator.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.agents.oracle_model import BASE_MOVES, STEP_M, TURN_RAD

HALF_ROOM_M, EYE_M, BALL_M, TOUR_FRAMES = 2.0, 0.75, 0.3, 22
BALL = np.array([0.9, 0.1, 0.1])
WALLS = np.array([[0.5, 0.5, 0.55], [0.6, 0.6, 0.55]])


class ToyRoom(gym.Env):
    """Drive to the ball. The tour turns once on the spot; then the ball is called."""

    def __init__(self, size: int = 24, discrete: bool = False, max_steps: int = 40) -> None:
        box = spaces.Box
        self.observation_space = spaces.Dict(
            rgb=box(0, 255, (size, size, 3), np.uint8),
            intrinsics=box(-np.inf, np.inf, (9,), np.float32),
            world_from_camera=box(-np.inf, np.inf, (16,), np.float32),
            goal=box(0, 1, (9,), np.float32),
        )
        self.action_space = spaces.Discrete(6) if discrete else box(-1.0, 1.0, (2,), np.float32)
        self._size, self._max_steps = size, max_steps
        focal = 0.5 * size / np.tan(np.radians(40))
        self._Ks = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._ball = np.array([*self.np_random.choice([-1.4, 1.4], 2) + self.np_random.uniform(-0.2, 0.2, 2), BALL_M])
        self._xy, self._yaw, self._steps = np.zeros(2), float(self.np_random.uniform(-np.pi, np.pi)), 0
        frames, depths, turn = [], [], 1.0
        for k in range(TOUR_FRAMES):
            self._called = k == TOUR_FRAMES - 1
            obs, depth = self._look()
            frames.append(obs)
            depths.append(depth)
            self._yaw += TURN_RAD * turn * (not self._called)
        tour = {key: np.stack([frame[key] for frame in frames]) for key in frames[0]}
        left = np.eye(6)[2] if isinstance(self.action_space, spaces.Discrete) else np.array([0.0, turn])
        tour["action"] = np.stack([np.zeros_like(left), *[left] * (TOUR_FRAMES - 1)]).astype(np.float32)
        return obs, {"tour": tour, "tour_depth": depths, "truth": {"depth": depth}, "success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        moves = BASE_MOVES[int(action)].numpy() if isinstance(self.action_space, spaces.Discrete) else np.asarray(action)
        before = self._distance()
        self._yaw += TURN_RAD * float(moves[1])
        target = self._xy + STEP_M * float(moves[0]) * np.array([np.cos(self._yaw), np.sin(self._yaw)])
        if np.abs(target).max() < HALF_ROOM_M - 0.2 and np.linalg.norm(target - self._ball[:2]) > BALL_M + 0.2:
            self._xy = target
        self._steps += 1
        success = self._distance() < BALL_M + 0.4
        obs, depth = self._look()
        info = {"success": bool(success), "truth": {"depth": depth}}
        return obs, before - self._distance(), bool(success), self._steps >= self._max_steps, info

    def _distance(self) -> float:
        return float(np.linalg.norm(self._xy - self._ball[:2]))

    def _look(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        cos, sin = np.cos(self._yaw), np.sin(self._yaw)
        pose = np.eye(4, dtype=np.float32)
        pose[:3, :3] = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])
        pose[:3, 3] = [*self._xy, EYE_M]
        rgb, depth = self._cast(pose)
        goal = np.array([*BALL, 1, 0, 0, 0, 0, 0]) * self._called
        flat = {"intrinsics": self._Ks.reshape(-1), "world_from_camera": pose.reshape(-1), "goal": goal.astype(np.float32)}
        return {"rgb": rgb, **flat}, depth

    def _cast(self, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest of ball, floor, ceiling and walls along each pixel's ray; depth is along the optical axis."""
        v, u = np.meshgrid(np.arange(self._size) + 0.5, np.arange(self._size) + 0.5, indexing="ij")
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(self._Ks).T @ pose[:3, :3].T
        eye = pose[:3, 3]
        bounds = np.array([HALF_ROOM_M, HALF_ROOM_M, 0.0])
        high = np.where(rays > 0, bounds + [0, 0, 2.5], -bounds)
        to_side = (high - eye) / np.where(np.abs(rays) < 1e-9, 1e-9, rays)
        side = to_side.argmin(axis=-1)
        depth = to_side.min(axis=-1)
        checks = (np.floor((eye + depth[..., None] * rays) / 0.5).sum(axis=-1) % 2).astype(int)
        rgb = np.where(side[..., None] == 2, [0.35, 0.35, 0.3], WALLS[checks])
        offset = eye - self._ball
        a, b, c = (rays**2).sum(-1), 2 * rays @ offset, offset @ offset - BALL_M**2
        inside = b**2 - 4 * a * c
        to_ball = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a), np.inf)
        hit = (to_ball > 0) & (to_ball < depth)
        rgb = np.where(hit[..., None], BALL, rgb)
        return (255 * rgb).astype(np.uint8), np.where(hit, to_ball, depth)
