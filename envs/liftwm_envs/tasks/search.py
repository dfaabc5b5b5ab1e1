"""The task with many targets: objects are called one after another, each when the one before was reached.

Which ones, and so the shortest way along all of them, follows from the seed and the place of the first call alone, whatever the
agent does later: it is the same for every agent after the same tour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.navigation import path_length
from liftwm_envs.rooms.scene import SceneObject
from liftwm_envs.settings import MIN_CALL_M, REACH_M
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.task import Task, interpolate

_APART_M = 0.9  # from anywhere that reaches one target to the surface of the next, if both are in one room


@dataclass(frozen=True)
class _Leg:
    """The way to one target from where the one before counts as reached."""

    goal: SceneObject
    field: NDArray[np.float64]
    length_m: float
    end: NDArray[np.float64]


class SearchTask(Task):
    """One episode of Search: `settings.targets` objects that were seen in the tour are called in turn.

    From each call on there is the time for the way to that target, with less slack than in Task: in a room or two a searcher
    without memory would make up for a look around on long ways.
    """

    _LIMIT_FACTOR = 1.1
    _legs: tuple[_Leg, ...] = ()
    _reached = 0

    def _plan_ways(self, simulation: Simulation, here: NDArray) -> None:
        """The whole sequence, from the first object called."""
        legs: list[_Leg] = []
        for number in range(self.settings.targets):
            goal = self.goal if number == 0 else self._next_goal([leg.goal for leg in legs], here)
            assert goal is not None
            field = self.grid.distance_field(self.region(goal.id - 1))
            path = self.grid.path(field, here)
            legs.append(_Leg(goal, field, path_length(path), path[-1]))
            here = path[-1]
        self._legs = tuple(legs)
        self.shortest_path_m = sum(leg.length_m for leg in legs)
        self._call(simulation, self.called_at)

    def _next_goal(self, before: list[SceneObject], here: NDArray) -> SceneObject:
        """One that was seen and not called yet, if possible in another room than the last."""
        last, others = before[-1], [item for item in self.scene.objects if item not in before]
        seen = [item for item in others if self._was_seen[item.id - 1] and self._is_away(item, last, here)]
        elsewhere = [item for item in seen if item.room != last.room]
        if not seen:
            self.solvable_by_memory = False
        choice = elsewhere or seen or others
        return choice[int(self._rng.integers(len(choice)))]

    def _is_away(self, item: SceneObject, last: SceneObject, here: NDArray) -> bool:
        """Whether an object is out of reach from wherever the last one is reached."""
        if item.room != last.room:
            return True
        least = last.radius_m + REACH_M + _APART_M
        far = float(self.surface_distance(here, item.id - 1)) >= MIN_CALL_M
        return far and float(self.surface_distance(np.array(last.position), item.id - 1)) >= least

    def _call(self, simulation: Simulation, step: int) -> None:
        """The next target, and the time for the way to it from where the agent is."""
        leg = self._legs[self._reached]
        self.goal, self.field = leg.goal, leg.field
        path = self.grid.path(leg.field, simulation.position())
        self.limit_steps = step - self.called_at + self._time_limit(path, simulation)

    def visit(self, simulation: Simulation, step: int) -> None:
        """Count the target if it is reached, and call the next."""
        if self._reached < len(self._legs) and super().is_success(simulation.position(), step):
            self._reached += 1
            if self._reached < len(self._legs):
                self._call(simulation, step)

    def is_success(self, position: NDArray, step: int) -> bool:
        """Whether all targets have been reached."""
        return 0 < len(self._legs) == self._reached

    def targets_reached(self, success: bool) -> int:
        """How many of them."""
        return self._reached

    def distance_to_goal(self, position: NDArray) -> float:
        """Metres left along the sequence: to the present target, and from each to the next; inf before the call."""
        if not self._legs or self.field is None:
            return math.inf
        later = sum(leg.length_m for leg in self._legs[self._reached + 1 :])
        return interpolate(self.grid, self.field, position) + later
