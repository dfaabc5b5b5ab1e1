"""The task with motion: an object goes into a tunnel, is called while nothing shows it, and must be met where it comes out.

Who remembers where it was last seen stands at the wrong end: the time allowed runs out a few steps after the object has come
out at the other one, so the agent has to be on its way there while the tunnel hides it. Where the object is follows from its
`Track` (`liftwm_envs.rooms.motion`) and the step; this module only asks.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.navigation import distance_to_discs
from liftwm_envs.settings import LIMIT_EXTRA_STEPS, REACH_M
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.task import Task

WATCHED_FRAMES = 4  # of one way through the room, in which the object was seen: enough to tell where to and how fast it moves


class MovingOcclusionTask(Task):
    """One episode of MovingOcclusion: a moving object that was watched is called once its tunnel hides it.

    Only an object is called that the agent can meet: until it comes out there is the time for the way to the tunnel's end.
    """

    def _prepare(self) -> None:
        tracks = self.scene.tracks
        self.track: Track | None = None
        self.out_at = -1  # the step at which the called object has come out
        self._passage = np.array([track.passage(0) for track in tracks])
        self._watched = np.zeros(len(tracks), int)
        self._exits = np.zeros(len(tracks), int)  # when, and
        self._meeting = np.zeros((len(tracks), 2))  # where each object comes out next. [M, 2]

    @property
    def candidates(self) -> range:
        """Only what moves is called."""
        return range(len(self.scene.tracks))

    def update(self, simulation: Simulation, step: int, visible_px: NDArray) -> None:
        """As Task; counts in how many frames each moving object was seen since it last turned round."""
        passage = np.array([track.passage(step) for track in self.scene.tracks])
        self._watched[passage != self._passage] = 0
        self._passage = passage
        self._watched += visible_px[: len(passage)] >= self._seen_px
        super().update(simulation, step, visible_px)

    def _advance(self, simulation: Simulation, step: int) -> None:
        if step < self.tour_steps:
            return
        tracks = self.scene.tracks
        waited = step - self.tour_steps
        self._exits = np.array([track.next_exit(step) for track in tracks])
        self._meeting = np.array([track.place(at) for track, at in zip(tracks, self._exits, strict=True)])
        hidden = step - self._last_visible[: len(tracks)] >= self.settings.gap_steps[0]
        inside = np.array([not track.is_out(step) for track in tracks])
        ready = hidden & inside & (self._watched >= WATCHED_FRAMES)
        ready[ready] = [self._in_time(simulation, step, int(k)) for k in np.flatnonzero(ready)]
        if waited >= self.settings.max_delay_steps and not ready.any():
            self._put_off(simulation, step)
        self._call_if_ready(simulation, step, ready, waited)
        if self.goal is not None:
            index = self.goal.id - 1
            self.track, self.out_at = tracks[index], int(self._exits[index])
            self.limit_steps = max(self.limit_steps, self.out_at - step + LIMIT_EXTRA_STEPS)

    def _in_time(self, simulation: Simulation, step: int, index: int) -> bool:
        """Whether what Task allows for the way to the meeting place is over before the object comes out."""
        grid = self.scene.grid
        path = grid.path(grid.distance_field(self.region(index)), simulation.position())
        return bool(self._exits[index] - step >= self._time_limit(path, simulation))

    def _put_off(self, simulation: Simulation, step: int) -> None:
        """Meet each object where it comes out the first time that there is time to get there: any is going to be called."""
        for index, track in enumerate(self.scene.tracks):
            while not self._in_time(simulation, step, index):
                self._exits[index] = track.next_exit(int(self._exits[index]))
                self._meeting[index] = track.place(self._exits[index])

    def surface_distance(self, points: NDArray, index: int) -> NDArray[np.float64]:
        """To the object where it comes out next; fixed from the call on."""
        return distance_to_discs(points, np.array([[*self._meeting[index], self.scene.objects[index].radius_m]]))[..., 0]

    def is_success(self, position: NDArray, step: int) -> bool:
        """Whether the called object is out of its tunnel at `step`, and the camera at `position` [2] is near it in its room."""
        if self.goal is None or self.track is None or step < self.out_at or not self.track.is_out(step):
            return False
        near = math.dist(position.tolist(), self.track.place(step).tolist()) - self.goal.radius_m < REACH_M
        return near and self.scene.room_at(position) == self.goal.room
