"""Draws rows of objects, to be hidden by cups, into rooms: each row along a wall, with room for swaps and for watching them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.looks import Look
from liftwm_envs.rooms.navigation import distance_to_rectangles
from liftwm_envs.rooms.scene import Door, Room, SceneObject, SceneOptions
from liftwm_envs.rooms.shells import SLOT_M, Show, Swap

_SIZE_M = (0.17, 0.2)  # any shape of it fits under a cup
_WALL_M = 1.1  # from the wall to the row
_END_M = 0.8  # from the next wall to the end of the row
_DOOR_M = 0.7  # from doors to what cups pass over


def place_shows(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...], options: SceneOptions, looks: list[Look]
) -> tuple[tuple[Show, ...], tuple[SceneObject, ...]] | None:
    """Rows of at most `cups_a_room` cups, each in another room, and the objects under them; None where they do not fit."""
    rows = math.ceil(len(looks) / options.cups_a_room)
    order = [rooms[int(k)] for k in rng.permutation(len(rooms))]
    shows: list[Show] = []
    items: list[SceneObject] = []
    for mine in np.array_split(np.arange(len(looks)), rows):
        show = None
        while show is None and order:
            show = _draw_show(rng, order.pop(0), doors, options, int(mine[0]) + 1, len(mine))
        if show is None:
            return None
        shows.append(show)
        items += [_item(rng, show, k, looks[index]) for k, index in enumerate(mine.tolist())]
    return tuple(shows), tuple(items)


def _draw_show(
    rng: np.random.Generator, room: Room, doors: tuple[Door, ...], options: SceneOptions, first_id: int, count: int
) -> Show | None:
    """A row along a wall of a room, clear of doors; None if none is found."""
    swaps = tuple(_draw_swap(rng, count) for _ in range(int(rng.integers(options.swaps[0], options.swaps[1] + 1))))
    for _ in range(20):
        slots, yaw = _draw_slots(rng, room, count)
        show = Show(room.index, first_id, slots, yaw, swaps)
        centres = np.array([door.centre for door in doors]).reshape(-1, 2)
        if slots and distance_to_rectangles(centres, np.array([show.swept])).min(initial=math.inf) > _DOOR_M:
            return show
    return None


def _draw_slots(rng: np.random.Generator, room: Room, count: int) -> tuple[tuple[tuple[float, float], ...], float]:
    """Places in a row along a wall, none if it is too long, and the direction from that wall into the room."""
    yaw = math.pi / 2 * int(rng.integers(4))
    x0, y0, x1, y1 = room.interior
    inward = np.array([round(math.cos(yaw)), round(math.sin(yaw))])
    along = np.array([-inward[1], inward[0]])
    depth, width = (x1 - x0, y1 - y0) if inward[0] else (y1 - y0, x1 - x0)
    free = width - 2 * _END_M - (count - 1) * SLOT_M
    if free < 0:
        return (), yaw
    begin = -width / 2 + _END_M + rng.uniform(0, free)
    origin: NDArray = room.centre - inward * (depth / 2 - _WALL_M)
    places = origin + along * (begin + SLOT_M * np.arange(count))[:, None]
    return tuple((float(x), float(y)) for x, y in places), yaw


def _draw_swap(rng: np.random.Generator, count: int) -> Swap:
    first, second = rng.choice(count, 2, replace=False)
    return Swap(int(first), int(second), int(rng.choice([-1, 1])))


def _item(rng: np.random.Generator, show: Show, index: int, look: Look) -> SceneObject:
    shape, size, yaw = look.draw_shape(rng), float(rng.uniform(*_SIZE_M)), float(rng.uniform(-np.pi, np.pi))
    number = show.first_id + index
    return SceneObject(number, shape, look.colour_name, size, show.slots[index], yaw, show.room, int(rng.integers(3)))
