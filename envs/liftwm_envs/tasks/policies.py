"""Scripted policies that read the hidden state: the tour, the oracle, and the random floor.

A policy has `reset()` and `act(obs, info)`; it is made for one environment and follows it from reset to reset.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.tasks.driver import Driver
from liftwm_envs.tasks.watching import WATCH_SHARE, meet, watch_room, watch_show, watch_something

LOOK_AROUND_RAD = 2 * math.pi - math.radians(75)  # with the field of view, all directions


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
            return int(self._space.start + self._rng.integers(self._space.n))
        return self._rng.uniform(self._space.low, self._space.high).astype(np.float32)


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
