"""How cups hide objects and swap places: a `Show` is a closed form of the steps since it began.

Opaque cups, all alike, hang over a row of objects. They come down, each over one object, and then two at a time swap places on
opposite halves of an ellipse, each with what is under it. `liftwm_envs.rooms.shell_layout` draws shows into rooms,
`Simulation.start_show` begins one, `liftwm_envs.tasks.shells` says when and asks where things are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CUP_RADIUS_M, CUP_HEIGHT_M = 0.27, 0.66
SLOT_M = 0.95  # from one cup to the next
HANG_M = 1.75  # a cup's rim over the floor before it comes down: room for any agent below, and for the cup under the ceiling
ASIDE_M = 0.68  # how far cups go aside at most while they swap: clear of a cup that they pass
LOWER_STEPS, SWAP_STEPS, PAUSE_STEPS = 6, 16, 2


@dataclass(frozen=True)
class Swap:
    """The cups at two places of a row swap; `side` (1 or -1) is where the one from `first` passes."""

    first: int
    second: int
    side: int


@dataclass(frozen=True)
class Show:
    """A row of cups and what they do.

    Args:
        room: where.
        first_id: id of the object under the first cup; the others' follow.
        slots: places of the row, metres in the plan; cup `k` comes down at slot `k`.
        yaw: from the wall behind the row into the room.
        swaps: one after another.
    """

    room: int
    first_id: int
    slots: tuple[tuple[float, float], ...]
    yaw: float
    swaps: tuple[Swap, ...]

    def describe(self) -> dict[str, Any]:
        """As JSON-able data: `swaps` are pairs of places in `slots`, in order."""
        return {
            "room": self.room,
            "objects": [self.first_id + k for k in range(len(self.slots))],
            "slots": [list(slot) for slot in self.slots],
            "swaps": [[swap.first, swap.second] for swap in self.swaps],
            "cup_radius": CUP_RADIUS_M,
        }

    @property
    def movers(self) -> int:
        """How many objects move in it."""
        return len(self.slots)

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of the row. [2]"""
        return np.mean(self.slots, axis=0)

    @property
    def discs(self) -> NDArray[np.float64]:
        """Footprints of the cups at rest. [C, 3]"""
        return np.array([(*slot, CUP_RADIUS_M) for slot in self.slots])

    @property
    def swept(self) -> tuple[float, float, float, float, float]:
        """The rectangle that cups pass over, as navigation wants it."""
        half_row = math.dist(self.slots[0], self.slots[-1]) / 2
        x, y = self.centre.tolist()
        return x, y, ASIDE_M + CUP_RADIUS_M, half_row + CUP_RADIUS_M, self.yaw

    @property
    def duration_steps(self) -> int:
        """Until the last cup is at rest."""
        return self.swap_begins(len(self.swaps))

    def swap_begins(self, number: int) -> int:
        """Steps from the beginning to that of a swap."""
        return LOWER_STEPS + PAUSE_STEPS + number * (SWAP_STEPS + PAUSE_STEPS)

    def swap_at(self, elapsed: int) -> int | None:
        """Number of the swap under way after so many steps, None in between."""
        number, phase = divmod(elapsed - self.swap_begins(0), SWAP_STEPS + PAUSE_STEPS)
        return number if 0 <= number < len(self.swaps) and 0 < phase < SWAP_STEPS else None

    def slots_after(self, swaps: int) -> NDArray[np.intp]:
        """The place in the row of each cup after the first `swaps` swaps. [C]"""
        at = np.arange(len(self.slots))
        for swap in self.swaps[:swaps]:
            first, second = at == swap.first, at == swap.second
            at[first], at[second] = swap.second, swap.first
        return at

    def places(self, elapsed: float) -> NDArray[np.float64]:
        """Where each cup's centre is in the plan, so many (fractions of) control steps after the beginning. [C, 2]"""
        slots = np.array(self.slots)
        since = elapsed - self.swap_begins(0)
        number = min(max(math.floor(since / (SWAP_STEPS + PAUSE_STEPS)), 0), len(self.swaps))
        at = self.slots_after(number)
        places = slots[at]
        phase = min(max((since - number * (SWAP_STEPS + PAUSE_STEPS)) / SWAP_STEPS, 0.0), 1.0)
        if number < len(self.swaps) and phase > 0:
            swap = self.swaps[number]
            places[at == swap.first], places[at == swap.second] = _half_ellipses(
                slots[swap.first], slots[swap.second], phase, swap
            )
        return places

    def height(self, elapsed: float) -> float:
        """Of the cups' rims over the floor, metres."""
        return HANG_M * (1.0 - min(max(elapsed / LOWER_STEPS, 0.0), 1.0))


def _half_ellipses(first: NDArray, second: NDArray, phase: float, swap: Swap) -> tuple[NDArray, NDArray]:
    """Where the two cups of a swap are at a phase in [0, 1]: opposite each other about the middle between their slots."""
    middle, half = (first + second) / 2, (second - first) / 2
    radius = float(np.hypot(*half))
    across = swap.side * min(radius, ASIDE_M) / radius * np.array([-half[1], half[0]])
    offset = -math.cos(math.pi * phase) * half + math.sin(math.pi * phase) * across
    return middle + offset, middle - offset


def cup_pixels(points: NDArray, places: ArrayLike) -> NDArray[np.intp]:
    """How many of a frame's points [H, W, 3] (world, metres) lie on cups that stand on the floor at `places` [C, 2]. [C]"""
    z = points[..., 2]
    near = points[(z > 0.03) & (z < CUP_HEIGHT_M + 0.02)][:, :2]
    return np.array([np.count_nonzero(np.hypot(*(near - place).T) < CUP_RADIUS_M + 0.02) for place in np.asarray(places)])
