"""How scripts drive: turns, ways around obstacles, and waiting, as generators that yield one action a step."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.cameras import yaw_of
from liftwm_envs.embodiments import EMBODIMENTS
from liftwm_envs.env import RoomEnv
from liftwm_envs.rooms.navigation import Grid, bounded_angle
from liftwm_envs.settings import STEP_M, STEP_RAD

_ARC_SPEED = 0.6


class Driver:
    """Turns (forward, yaw rate) in [-1, 1] into an action of any of our embodiments and action spaces."""

    def __init__(self, env: RoomEnv) -> None:
        self.env = env
        self._table = EMBODIMENTS[env.embodiment_name].discrete_actions if env.action_kind == "discrete" else None
        self._wheels = env.embodiment_name == "wheels"

    def action(self, forward: float, yaw: float) -> Any:
        """The continuous action, or the nearest discrete one; a drone also holds its height."""
        if self._wheels:
            wanted = np.array([forward, yaw], np.float32)
        else:
            height = float(self.env.sim.camera_pose()[2, 3])
            rise = np.clip(5 * (self.env.sim.embodiment.camera_height_m - height), -1, 1)
            wanted = np.array([forward, 0, rise, 0, 0, yaw], np.float32)
        if self._table is None:
            return wanted
        if not self._wheels and abs(yaw) < 0.5:  # one axis at a time: drive unless the heading is off
            wanted[5] = 0.0
        elif not self._wheels:
            wanted[0] = 0.0
        return int(((self._table - wanted) ** 2).sum(1).argmin())

    def position(self) -> NDArray[np.float64]:
        """In the plan. [2]"""
        return self.env.sim.position()

    def yaw(self) -> float:
        """Heading, radians."""
        return yaw_of(self.env.sim.camera_pose())

    # Scripts are generators: each yields one action a step and returns when it is done.
    def turn(self, angle: float) -> Generator[Any, None, None]:
        """Turn on the spot by an angle, positive to the left."""
        for _ in range(math.ceil(abs(angle) / STEP_RAD)):
            yield self.action(0.0, math.copysign(1.0, angle))

    def look_around(self, angle: float) -> Generator[Any, None, None]:
        """Turn by an angle on a small arc: a camera that only turns sees no parallax, and so no depth."""
        for _ in range(math.ceil(abs(angle) / STEP_RAD)):
            yield self.action(_ARC_SPEED, math.copysign(1.0, angle))

    def face(self, yaw: float) -> Generator[Any, None, None]:
        """Turn on the spot to a heading."""
        for _ in range(30):
            error = bounded_angle(yaw - self.yaw())
            if abs(error) < 0.16:
                return
            yield self.action(0.0, float(np.clip(error / STEP_RAD, -1, 1)))

    def go_to(self, point: ArrayLike) -> Generator[Any, None, None]:
        """Drive to a point of the plan around obstacles."""
        yield from self.descend(self.env.scene.grid.field_to(point))

    def descend(self, field: NDArray[np.float64], grid: Grid | None = None) -> Generator[Any, None, None]:
        """Drive down a distance field (of `grid`, else of the scene's) to its source; plans anew when stuck."""
        grid = grid or self.env.scene.grid
        for _ in range(8):
            stuck, last = 0, self.position()
            for target in grid.path(field, last)[1:]:
                while stuck < 6:
                    here = self.position()
                    offset = target - here
                    if offset @ offset < 0.12**2:
                        break
                    stuck = stuck + 1 if abs(here - last).max() < 0.02 and abs(self._error(offset)) < 0.3 else 0
                    last = here
                    yield self._towards(offset)
            if stuck < 6:
                return
            for _ in range(3):  # back out of what holds it
                yield self.action(-1.0, 0.0) if self._table is None else self.action(0.0, 1.0)

    def step_towards(self, point: ArrayLike) -> Any:
        """The next action of the shortest way to a point."""
        grid = self.env.scene.grid
        way = grid.path(grid.field_to(point), self.position())
        return self._towards(way[min(1, len(way) - 1)] - self.position())

    def wait_facing(self, point: ArrayLike) -> Any:
        """Turn to a point on the spot."""
        return self.action(0.0, float(np.clip(self._error(np.subtract(point, self.position())) / STEP_RAD, -1, 1)))

    def _error(self, offset: NDArray) -> float:
        return bounded_angle(math.atan2(offset[1], offset[0]) - self.yaw())

    def _towards(self, offset: NDArray) -> Any:
        error = self._error(offset)
        distance = math.hypot(offset[0], offset[1])
        forward = min(1.0, distance / STEP_M) * math.cos(error) ** 2 if abs(error) < 0.6 else 0.0
        return self.action(forward, float(np.clip(error / STEP_RAD, -1, 1)))
