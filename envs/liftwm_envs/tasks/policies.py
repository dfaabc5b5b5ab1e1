"""Scripted policies that read the hidden state: the tour, the oracle, and the random floor.

A policy has `reset()` and `act(obs, info)`; it is made for one environment and follows it from reset to reset.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.cameras import yaw_of
from liftwm_envs.embodiments import EMBODIMENTS
from liftwm_envs.env import RoomEnv
from liftwm_envs.rooms.navigation import Grid, bounded_angle
from liftwm_envs.tasks.watching import WATCH_SHARE, meet, watch_room, watch_show, watch_something

LOOK_AROUND_RAD = 2 * math.pi - math.radians(75)  # with the field of view, all directions
_YAW_STEP_RAD = 0.3
_ARC_SPEED = 0.6


class Policy(Protocol):
    """What drives an environment of ours."""

    def reset(self) -> None:
        """Start anew; called after the environment's reset."""
        ...

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """An action of the environment's action space."""
        ...


class Driver:
    """Turns (forward, yaw rate) in [-1, 1] into an action of any of our embodiments and action spaces."""

    def __init__(self, env: RoomEnv) -> None:
        self.env = env
        self._table = EMBODIMENTS[env.embodiment_name].discrete_actions if env.action_kind == "discrete" else None
        self._base = env.embodiment_name == "base"

    def action(self, forward: float, yaw: float) -> Any:
        """The continuous action, or the nearest discrete one; a drone also holds its height."""
        if self._base:
            wanted = np.array([forward, yaw], np.float32)
        else:
            height = float(self.env.sim.camera_pose()[2, 3])
            wanted = np.array([forward, 0, np.clip(5 * (1.0 - height), -1, 1), 0, 0, yaw], np.float32)
        if self._table is None:
            return wanted
        if not self._base and abs(yaw) < 0.5:  # one axis at a time: drive unless the heading is off
            wanted[5] = 0.0
        elif not self._base:
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
        for _ in range(math.ceil(abs(angle) / _YAW_STEP_RAD)):
            yield self.action(0.0, math.copysign(1.0, angle))

    def look_around(self, angle: float) -> Generator[Any, None, None]:
        """Turn by an angle on a small arc: a camera that only turns sees no parallax, and so no depth."""
        for _ in range(math.ceil(abs(angle) / _YAW_STEP_RAD)):
            yield self.action(_ARC_SPEED, math.copysign(1.0, angle))

    def face(self, yaw: float) -> Generator[Any, None, None]:
        """Turn on the spot to a heading."""
        for _ in range(30):
            error = bounded_angle(yaw - self.yaw())
            if abs(error) < 0.16:
                return
            yield self.action(0.0, float(np.clip(error / _YAW_STEP_RAD, -1, 1)))

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
        return self.action(0.0, float(np.clip(self._error(np.subtract(point, self.position())) / _YAW_STEP_RAD, -1, 1)))

    def _error(self, offset: NDArray) -> float:
        return bounded_angle(math.atan2(offset[1], offset[0]) - self.yaw())

    def _towards(self, offset: NDArray) -> Any:
        error = self._error(offset)
        distance = math.hypot(offset[0], offset[1])
        forward = min(1.0, distance / 0.2) * math.cos(error) ** 2 if abs(error) < 0.6 else 0.0
        return self.action(forward, float(np.clip(error / _YAW_STEP_RAD, -1, 1)))


class ScriptedPolicy(ABC):
    """Follows `script()`, a generator of actions that starts again when it ends."""

    def __init__(self, env: Any, seed: int = 0) -> None:
        self.driver = Driver(env.unwrapped)
        self.seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget the script and re-seed."""
        self.rng = np.random.default_rng([self.seed, 17])
        self._running: Generator[Any, None, None] | None = None

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """The script's next action."""
        for _ in range(100):
            if self._running is None:
                self._running = self.script(info)
            action = next(self._running, None)
            if action is not None:
                return action
            self._running = None
        return self.driver.action(0.0, 1.0)

    @abstractmethod
    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """Yields one action a step."""


class TourPolicy(ScriptedPolicy):
    """Enters every room and looks around in it, nearest unvisited neighbour first; then roams from room to room.

    Where things move, it watches them first and between its ways, part of the time. Where there are cups, it watches each row
    of them, from before they come down until the last swap, when it comes to their room.
    """

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """One tour of all rooms, then random viewpoints without end."""
        scene = self.driver.env.scene
        for stop, room in enumerate(room_order(scene, self.driver.position())):
            if stop > 0:
                yield from self.driver.go_to(scene.rooms[room].centre)
            if scene.tracks:
                yield from watch_room(self.driver, self.rng)
            yield from watch_show(self.driver, room)
            yield from self.driver.look_around(LOOK_AROUND_RAD)
        while True:
            if scene.tracks and self.rng.random() < WATCH_SHARE:
                yield from watch_something(self.driver, self.rng)
                continue
            yield from self.driver.go_to(self._viewpoint())
            yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(1.0, LOOK_AROUND_RAD))

    def _viewpoint(self) -> NDArray[np.float64]:
        """A free place at least 1 m from here that the agent can reach."""
        grid, here = self.driver.env.scene.grid, self.driver.position()
        free = grid.centres[np.isfinite(grid.field_to(here))]
        far = free[np.hypot(*(free - here).T) > 1.0]
        return far[int(self.rng.integers(len(far)))]


class OraclePolicy(TourPolicy):
    """Tours until the goal is called, then drives the shortest way to it."""

    def reset(self) -> None:
        """Forget the script and re-seed."""
        super().reset()
        self._goal = 0

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """Drops what it does at each call."""
        if info["goal_object"] != self._goal:
            self._goal = info["goal_object"]
            self._running = None
        return super().act(obs, info)

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """The tour, or the way down the goal's distance field."""
        task = self.driver.env.task
        if task.field is None:
            return super().script(info)
        return meet(self.driver) if self.driver.env.scene.tracks else self.driver.descend(task.field, task.grid)


class RandomPolicy:
    """Uniform actions: the floor."""

    def __init__(self, env: Any, seed: int = 0) -> None:
        self._space, self.seed = env.action_space, seed
        self.reset()

    def reset(self) -> None:
        """Re-seed."""
        self._rng = np.random.default_rng([self.seed, 19])

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """An action drawn uniformly from the action space."""
        if hasattr(self._space, "n"):
            return int(self._rng.integers(self._space.n))
        return self._rng.uniform(-1, 1, self._space.shape).astype(np.float32)


def room_order(scene: Any, start: NDArray) -> list[int]:
    """All rooms, from that of `start`, each next one the nearest by straight line that has a door to a visited one."""
    first = min(scene.rooms, key=lambda room: float(np.hypot(*(room.centre - start)))).index
    order, left = [first], {room.index for room in scene.rooms} - {first}
    while left:
        here = scene.rooms[order[-1]].centre
        next_to = {b for door in scene.doors for a, b in (door.rooms, door.rooms[::-1]) if a in order} & left
        order.append(min(sorted(next_to), key=lambda room: float(np.hypot(*(scene.rooms[room].centre - here)))))
        left.remove(order[-1])
    return order
