"""The task with cups: what each hides must be followed through their swaps, and the right one found after a gap.

A show begins when the agent, in its room, has had all objects of the row in view for some frames. Unwatched, it begins when the
time for that is over. Where each object is follows from its `Show` (`liftwm_envs.rooms.shells`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.cameras import back_project
from liftwm_envs.rooms.navigation import Grid, distance_to_rectangles
from liftwm_envs.rooms.scene import CLEARANCE_M
from liftwm_envs.rooms.shells import CUP_RADIUS_M, SWAP_STEPS, Show, cup_pixels
from liftwm_envs.settings import REACH_M
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.task import Task

LOOKED_AT_FRAMES = 4  # in which an object was seen before its cup came down, else nobody can know
AUDIENCE_FRAMES = 6  # a show begins when its whole row has been in view for so many frames running
WATCHED_FRAMES = SWAP_STEPS // 2  # of a swap, in which both of its cups were in view, else nobody can know
WRONG_STEPS = 2  # at another cup so many steps running, and the episode is lost
_BESIDE_M = 0.2  # more than reach: how far ways keep from cups that are not the goal's


class ShellGameTask(Task):
    """One episode of ShellGame: an object under a cup is called; the agent has one guess."""

    def _prepare(self) -> None:
        scene, self.gap_steps = self.scene, self._drawn_gap()
        self.over_at = -1  # the step at which the last show was over
        hidden = sum(len(show.slots) for show in scene.shows)
        self._looked_at = np.zeros(hidden, int)  # frames
        self._audience = np.zeros(len(scene.shows), int)  # frames running in which all of a row was in view
        self._watched = [np.zeros(len(show.swaps), int) for show in scene.shows]  # frames of each swap
        self._rooms = np.array([show.room for show in scene.shows for _ in show.slots])
        self._places = np.zeros((hidden, 2))  # of the cups by now
        self._wrong_steps = 0

    @property
    def candidates(self) -> range:
        """Only what cups hide is called."""
        return range(len(self._places))

    def looks(self, step: int) -> bool:
        """Until the last show is over: nothing that could be called is to be seen after."""
        return self.over_at < 0

    def update(self, simulation: Simulation, step: int, visible_px: NDArray) -> None:
        """As Task; begins shows, and counts in how many frames each swap was seen."""
        self._places = np.concatenate([show.places(simulation.elapsed(k)) for k, show in enumerate(self.scene.shows)])
        in_view = visible_px[: len(self._places)] >= self._seen_px
        self._looked_at += in_view
        for number, show in enumerate(self.scene.shows):
            if simulation.elapsed(number) >= 0:
                self._watch(simulation, number, show)
            elif self._has_audience(simulation, number, show, in_view) or step >= self.tour_steps:
                self._begin_if_clear(simulation, number, show)
        super().update(simulation, step, visible_px)

    def _has_audience(self, simulation: Simulation, number: int, show: Show, in_view: NDArray[np.bool_]) -> bool:
        all_in_view = in_view[show.first_id - 1 : show.first_id - 1 + len(show.slots)].all()
        here = self.scene.room_at(simulation.position()) == show.room
        self._audience[number] = self._audience[number] + 1 if all_in_view and here else 0
        return bool(self._audience[number] >= AUDIENCE_FRAMES)

    def _begin_if_clear(self, simulation: Simulation, number: int, show: Show) -> None:
        """Start a show unless the agent is in the cups' way, or another show is on."""
        gap = float(distance_to_rectangles(simulation.position(), np.array([show.swept]))[0])
        on = any(0 <= simulation.elapsed(k) < other.duration_steps for k, other in enumerate(self.scene.shows))
        if gap > CLEARANCE_M + 0.1 and not on:
            simulation.start_show(number)

    def _watch(self, simulation: Simulation, number: int, show: Show) -> None:
        """Count the frame if both cups of the swap under way are in it."""
        elapsed = simulation.elapsed(number)
        swap = show.swap_at(elapsed)
        if swap is not None:
            at = show.slots_after(swap)
            pair = (at == show.swaps[swap].first) | (at == show.swaps[swap].second)
            points = back_project(simulation.depth, simulation.intrinsics, simulation.camera_pose())
            pixels = cup_pixels(points, show.places(elapsed)[pair])
            self._watched[number][swap] += bool((pixels >= self._seen_px).all())

    def _advance(self, simulation: Simulation, step: int) -> None:
        shows = self.scene.shows
        if self.over_at < 0 and all(simulation.elapsed(k) >= show.duration_steps for k, show in enumerate(shows)):
            self.over_at = step
        if self.over_at >= 0 and step >= self.over_at + self.gap_steps:
            followed = [frames.min(initial=SWAP_STEPS) >= WATCHED_FRAMES for frames in self._watched]
            ready = self._looked_at >= LOOKED_AT_FRAMES
            ready &= np.repeat(followed, [len(show.slots) for show in shows])
            self._call_if_ready(simulation, step, ready, step - self.over_at - self.gap_steps)

    def _far_enough(self, here: NDArray, ready: NDArray[np.bool_]) -> list[int]:
        """As Task, if a way keeps out of reach of the other cups; none while the agent is near any: that would be a guess."""
        if self._cup_distances(here).min() < REACH_M + _BESIDE_M:
            return []
        return [k for k in super()._far_enough(here, ready) if self._has_way(here, k)]

    def _has_way(self, here: NDArray, index: int) -> bool:
        grid = self.grid_to(index)
        return bool(np.isfinite(grid.distance_field(self.region(index))[grid.cell(here)]))

    def _plan_ways(self, simulation: Simulation, here: NDArray) -> None:
        """As Task, but the way keeps out of reach of the other cups."""
        assert self.goal is not None
        self.grid = self.grid_to(self.goal.id - 1)
        super()._plan_ways(simulation, here)

    def grid_to(self, index: int) -> Grid:
        """Where one can go without being near another cup than the one over an object."""
        away = self._cup_distances(self.scene.grid.centres)
        return self.scene.grid.without((away.argmin(-1) != index) & (away.min(-1) < REACH_M + _BESIDE_M))

    def cup_at(self, point: ArrayLike) -> int:
        """Index of the object whose cup is nearest to a point of the plan by now."""
        return int(self._cup_distances(np.asarray(point)).argmin())

    def place(self, index: int) -> NDArray[np.float64]:
        """Where the cup over an object is by now. [2]"""
        return self._places[index].copy()

    def _cup_distances(self, points: NDArray) -> NDArray[np.float64]:
        """Metres from points [..., 2] to the surface of each cup where it is by now. [..., C]"""
        offset = np.asarray(points)[..., None, :] - self._places
        return np.maximum(np.hypot(offset[..., 0], offset[..., 1]) - CUP_RADIUS_M, 0)

    def surface_distance(self, points: NDArray, index: int) -> NDArray[np.float64]:
        """To the cup over the object, where it is by now."""
        return self._cup_distances(points)[..., index]

    def region(self, index: int) -> NDArray[np.bool_]:
        """As Task; cells that are nearer to another cup do not count."""
        return super().region(index) & (self._cup_distances(self.scene.grid.centres).argmin(-1) == index)

    def reached_cup(self, position: NDArray) -> int | None:
        """Index of the object whose cup the camera at `position` [2] has reached: the nearest in the room, if near enough."""
        away = self._cup_distances(position)
        nearest = int(away.argmin())
        there = self.scene.room_at(position) == self._rooms[nearest]
        return nearest if there and away[nearest] < REACH_M else None

    def visit(self, simulation: Simulation, step: int) -> None:
        """Count the steps at a wrong cup."""
        assert self.goal is not None
        reached = self.reached_cup(simulation.position())
        self._wrong_steps = 0 if reached in (None, self.goal.id - 1) else self._wrong_steps + 1
        self.failed = self._wrong_steps >= WRONG_STEPS

    def is_success(self, position: NDArray, step: int) -> bool:
        """Whether the camera at `position` [2] has reached the cup that hides the called object."""
        return self.goal is not None and self.reached_cup(position) == self.goal.id - 1
