"""The tasks: when the goal is called, what it is, and when it is reached.

A task watches an episode from outside the agent. In the `tour` phase the agent is free to look around; then one object is
called (the `call` phase) that it has seen but does not see now, and it must go there before the time is up. Only memory of the
tour tells where that is: the time allowed is the oracle's with a little slack.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.navigation import CELL_M, Grid, bounded_angle, distance_to_discs, distance_to_rectangles, path_length
from liftwm_envs.rooms.scene import CLEARANCE_M, Scene, SceneObject
from liftwm_envs.settings import (
    LIMIT_EXTRA_STEPS,
    LIMIT_FACTOR,
    MIN_CALL_M,
    REACH_M,
    SEEN_PX,
    STEP_M,
    STEP_RAD,
    TaskSettings,
)
from liftwm_envs.simulation import Simulation

_BEYOND_M = REACH_M + 1.5  # from an object's centre, never within reach: objects and the screens around them are smaller
REGION_M = REACH_M - 0.15  # what paths lead to: safely within reach


class Task:
    """One episode of Revisit: the goal is called once some object was seen, is out of view and is far enough away."""

    _LIMIT_FACTOR = LIMIT_FACTOR

    def __init__(
        self, settings: TaskSettings, scene: Scene, rng: np.random.Generator, image_size: tuple[int, int], pace: float = 1.0
    ) -> None:
        """`pace` stretches the time limit for agents that cannot turn and drive at once."""
        self.settings, self.scene, self._rng, self._pace = settings, scene, rng, pace
        self.tour_steps = settings.tour_steps[len(scene.rooms)]
        if settings.extra_tour_steps:
            self.tour_steps += int(rng.integers(settings.extra_tour_steps + 1))
        self.goal: SceneObject | None = None
        self.failed = False  # whether the episode is lost before its time is up
        self.grid = scene.grid  # where ways to the goal lead
        self.solvable_by_memory = True
        self.shortest_path_m = math.inf
        self.called_at, self.limit_steps = -1, -1
        self.gap = -1  # steps at the call since the goal was last in view
        self.field: NDArray[np.float64] | None = None
        self._seen_px = max(1, round(SEEN_PX * math.prod(image_size) / 64**2))
        count = len(scene.objects)
        self._was_seen = np.zeros(count, bool)
        self._last_visible = np.full(count, -(10**6))
        self._prepare()

    def _prepare(self) -> None:
        """What a task keeps beside, once scene and settings are known."""

    def _drawn_gap(self) -> int:
        least, most = self.settings.gap_steps
        return int(self._rng.integers(least, most + 1))

    @property
    def candidates(self) -> range:
        """Indices of the objects that may be called."""
        return range(len(self.scene.objects))

    @property
    def phase(self) -> str:
        """ "tour" before the goal is called, "call" after."""
        return "tour" if self.goal is None else "call"

    def looks(self, step: int) -> bool:
        """Whether what the frame after `step` of the tour shows matters; if not, `update` may be given zeros."""
        return True

    def update(self, simulation: Simulation, step: int, visible_px: NDArray) -> None:
        """Take note of what the frame after `step` shows [O]; call the goal when it is time. Only for the tour phase."""
        self._was_seen |= visible_px >= self._seen_px
        self._last_visible[visible_px > 0] = step
        self._advance(simulation, step)

    def _advance(self, simulation: Simulation, step: int) -> None:
        if step >= self.tour_steps:
            hidden = step - self._last_visible >= self.settings.gap_steps[0]
            self._call_if_ready(simulation, step, self._was_seen & hidden, step - self.tour_steps)

    def _call_if_ready(self, simulation: Simulation, step: int, ready: NDArray[np.bool_], waited: int) -> None:
        """Call one of the `ready` objects that is far enough; after the longest wait, any object."""
        here = simulation.position()
        chosen = self._far_enough(here, ready)
        if not chosen and waited < self.settings.max_delay_steps:
            return
        if not chosen:
            self.solvable_by_memory = False
            chosen = [k for k in self.candidates if self.surface_distance(here, k) > REACH_M] or [0]
        elsewhere = [k for k in chosen if self.scene.objects[k].room != self.scene.room_at(here)]
        chosen = elsewhere or chosen  # what was left behind in another room asks most of memory
        self.goal = self.scene.objects[chosen[int(self._rng.integers(len(chosen)))]]
        self.called_at = step
        self.gap = step - int(self._last_visible[self.goal.id - 1]) if self._last_visible[self.goal.id - 1] >= 0 else -1
        self._plan_ways(simulation, here)

    def _plan_ways(self, simulation: Simulation, here: NDArray) -> None:
        """The way to the goal just called, and the time for it."""
        assert self.goal is not None
        self.field = self.grid.distance_field(self.region(self.goal.id - 1))
        path = self.grid.path(self.field, here)
        self.shortest_path_m = path_length(path)
        self.limit_steps = self._time_limit(path, simulation)

    def _far_enough(self, here: NDArray, ready: NDArray[np.bool_]) -> list[int]:
        """Indices of ready objects whose way is at least MIN_CALL_M; the straight distance settles most cases."""
        indices = [int(k) for k in np.flatnonzero(ready)]
        far = [k for k in indices if self.surface_distance(here, k) >= MIN_CALL_M]
        if far or not indices:
            return far
        field = self.scene.grid.field_to(here)
        return [k for k in indices if field[self.region(k) & self.scene.grid.free].min(initial=0.0) + REGION_M >= MIN_CALL_M]

    def _time_limit(self, path: NDArray, simulation: Simulation) -> int:
        """Steps allowed: the oracle's (turn, then drive), times the factor, and a few."""
        forward = simulation.camera_pose()[:2, 2]
        turn = 0.0
        heading = math.atan2(forward[1], forward[0])
        for leg in np.diff(path, axis=0):
            towards = math.atan2(leg[1], leg[0])
            turn += abs(bounded_angle(towards - heading))
            heading = towards
        return math.ceil(self._pace * self._LIMIT_FACTOR * (path_length(path) / STEP_M + turn / STEP_RAD)) + LIMIT_EXTRA_STEPS

    def surface_distance(self, points: NDArray, index: int) -> NDArray[np.float64]:
        """Metres in the plan from points [..., 2] to the surface that counts. [...]"""
        item = self.scene.objects[index]
        return distance_to_discs(points, np.array([[*item.position, item.radius_m]]))[..., 0]

    def region(self, index: int) -> NDArray[np.bool_]:
        """Grid cells from which the object counts as reached: near it, in its room (not through a wall)."""
        centres = self.scene.grid.centres
        x0, y0, x1, y1 = self.scene.rooms[self.scene.objects[index].room].interior
        inside = (centres[..., 0] > x0) & (centres[..., 0] < x1) & (centres[..., 1] > y0) & (centres[..., 1] < y1)
        return inside & (self.surface_distance(centres, index) < REGION_M)

    def is_success(self, position: NDArray, step: int) -> bool:
        """Whether the camera at `position` [2] has reached the called goal at `step`; only where things move, time matters."""
        if self.goal is None:
            return False
        if math.dist(position.tolist(), self.goal.position) > _BEYOND_M:
            return False
        near = float(self.surface_distance(position, self.goal.id - 1)) < REACH_M
        return near and self.scene.room_at(position) == self.goal.room

    def visit(self, simulation: Simulation, step: int) -> None:
        """Take note of where the agent has come to, once for every step of the call phase; most tasks need not."""

    def targets_reached(self, success: bool) -> int:
        """How many called objects were reached so far, where the last step was a `success` or not."""
        return int(success)

    def distance_to_goal(self, position: NDArray) -> float:
        """Geodesic metres to where the goal counts as reached; inf before the call."""
        return math.inf if self.field is None else interpolate(self.grid, self.field, position)


class OcclusionTask(Task):
    """One episode of Occlusion: screens rise around every object, and after a while one of those looked at before is called."""

    def _prepare(self) -> None:
        self.hidden_at = -1
        self.gap_steps = self._drawn_gap()
        self._rectangles = np.array([screen.rectangle for screen in self.scene.screens])

    def looks(self, step: int) -> bool:
        """Not once the screens rise."""
        return step <= self.tour_steps

    def update(self, simulation: Simulation, step: int, visible_px: NDArray) -> None:
        """As Task; what is seen once the screens rise no longer counts."""
        super().update(simulation, step, visible_px if self.looks(step) else np.zeros_like(visible_px))

    def _advance(self, simulation: Simulation, step: int) -> None:
        if step < self.tour_steps:
            return
        if self.hidden_at < 0:
            self._raise_screens(simulation, step)
        elif step >= self.hidden_at + self.gap_steps:
            self._call_if_ready(simulation, step, self._was_seen, step - self.hidden_at - self.gap_steps)

    def _raise_screens(self, simulation: Simulation, step: int) -> None:
        """Lift each screen that the agent is clear of, so that it is never boxed in; done when all are up."""
        gaps = distance_to_rectangles(simulation.position(), self._rectangles)
        for screen, gap in zip(self.scene.screens, gaps, strict=True):
            if gap > CLEARANCE_M + 0.1:
                simulation.lift_screen(screen.id)
        if all(simulation.screen_is_up(screen.id) for screen in self.scene.screens):
            self.hidden_at = step

    def surface_distance(self, points: NDArray, index: int) -> NDArray[np.float64]:
        """To the outline of the screen around the object."""
        return distance_to_rectangles(points, self._rectangles[index : index + 1])[..., 0]


def interpolate(grid: Grid, field: NDArray[np.float64], position: NDArray) -> float:
    """A distance field between cell centres: the best of the surrounding cells, each with the way to its centre."""
    i, j = grid.cell(position)  # free, and so never on the border
    x, y = ((float(v) - o) / CELL_M - 0.5 for v, o in zip(position, grid.origin, strict=True))
    rows = field[i - 1 : i + 2, j - 1 : j + 2].tolist()
    ways = (
        value + CELL_M * math.hypot(i - 1 + di - x, j - 1 + dj - y)
        for di, row in enumerate(rows)
        for dj, value in enumerate(row)
    )
    return min(ways)
