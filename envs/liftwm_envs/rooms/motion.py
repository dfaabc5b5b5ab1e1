"""How objects move: back and forth on a straight line, at constant speed, whatever happens around them.

A `Track` is a closed form: the place at any time follows from the time alone, so an episode is exact from its seed and nothing
pushes an object off its line. `tracks` draws tracks into rooms, `Simulation.step` carries each object's mocap body along its
track, `tasks.moving` asks the track when the object comes out. Time is in control steps since the reset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Track:
    """A line in the plan with a tunnel over its middle; the object turns round at both ends, in the open.

    Args:
        object_id: what moves on it.
        start, end: where the object's centre turns round, metres in the plan.
        speed_m: metres a control step.
        offset_m: how far along its way from `start` to `end` and back it is at step 0.
        covered: from where to where the tunnel reaches, metres from `start`.
    """

    object_id: int
    start: tuple[float, float]
    end: tuple[float, float]
    speed_m: float
    offset_m: float
    covered: tuple[float, float]

    def describe(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "object": self.object_id,
            "ends": [list(self.start), list(self.end)],
            "speed": self.speed_m,
            "offset": self.offset_m,
            "covered": list(self.covered),
        }

    @property
    def length_m(self) -> float:
        """From one end to the other."""
        return math.dist(self.start, self.end)

    @property
    def direction(self) -> NDArray[np.float64]:
        """Unit vector from `start` to `end`. [2]"""
        return np.subtract(self.end, self.start) / self.length_m

    def along(self, step: ArrayLike) -> NDArray[np.float64]:
        """Metres from `start` at (fractions of) control steps [...]: a triangle wave. [...]"""
        way = (self.offset_m + self.speed_m * np.asarray(step, float)) % (2 * self.length_m)
        return np.minimum(way, 2 * self.length_m - way)

    def place(self, step: ArrayLike) -> NDArray[np.float64]:
        """The object's centre in the plan at (fractions of) control steps [...]. [..., 2]"""
        return np.asarray(self.start) + self.along(step)[..., None] * self.direction

    def passage(self, step: int) -> int:
        """How many times it has turned round."""
        return int((self.offset_m + self.speed_m * step) // self.length_m)

    def is_out(self, step: ArrayLike) -> NDArray[np.bool_]:
        """Whether its centre is outside the tunnel at steps [...]. [...]"""
        along = self.along(step)
        return (along < self.covered[0]) | (along > self.covered[1])

    def next_exit(self, step: int) -> int:
        """The first step after `step` at which it has just come out of the tunnel."""
        out = self.is_out(np.arange(step, step + math.ceil(4 * self.length_m / self.speed_m)))
        return step + 1 + int((out[1:] & ~out[:-1]).argmax())

    def last_entry(self, step: int) -> int:
        """The last step before `step` at which it was out and about to go in; negative if that was before step 0."""
        out = self.is_out(np.arange(step, step - math.ceil(4 * self.length_m / self.speed_m), -1))
        return step - 1 - int((out[1:] & ~out[:-1]).argmax())
