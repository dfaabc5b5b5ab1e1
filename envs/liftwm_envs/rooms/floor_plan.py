"""Rooms on a grid, the walls between them, and the doors: which layouts training may see, and which are held out."""

from __future__ import annotations

import zlib

import numpy as np

from liftwm_envs.rooms.scene import DOOR_HEIGHT_M, DOOR_WIDTH_M, WALL_THICKNESS_M, Door, Room, SceneOptions, Wall

EVALUATION_SEEDS = range(2**30, 2**31)
"""Seeds below are for training; from the end on, for teachers, which are trained too."""
_HELD_OUT = 4  # one of so many door graphs is for evaluation


def draw_floor_plan(
    rng: np.random.Generator, seed: int, options: SceneOptions
) -> tuple[tuple[Room, ...], tuple[Door, ...], tuple[Wall, ...]]:
    """Rooms, doors and walls; with `held_out_doors`, of a door graph for this seed's use."""
    shortest, longest = (side * options.variation.room_scale for side in options.room_side_m)
    while True:
        rooms, edges = _make_rooms(rng, int(rng.choice(options.rooms)), (shortest, longest))
        doors, walls = _make_walls(rng, rooms, edges)
        if not options.held_out_doors or is_held_out(len(rooms), doors) == (seed in EVALUATION_SEEDS):
            return rooms, doors, walls


def is_held_out(rooms: int, doors: tuple[Door, ...]) -> bool:
    """Whether a door graph is for evaluation alone, by a hash that is the same for its turned and mirrored images."""
    return zlib.crc32(repr(canonical_doors(rooms, doors)).encode()) % _HELD_OUT == 0


def canonical_doors(rooms: int, doors: tuple[Door, ...]) -> list[tuple[int, int]]:
    """The doors as pairs of room numbers, sorted: the least of the eight images of a square grid of rooms."""
    side = round(rooms**0.5)
    if side * side != rooms:
        raise ValueError(f"{rooms} rooms are no square grid")
    images = []
    for mirrored in (False, True):
        grid = np.arange(rooms).reshape(side, side)
        for turns in range(4):
            number = np.rot90(grid.T if mirrored else grid, turns).ravel()
            images.append(sorted((min(a, b), max(a, b)) for a, b in (number[list(door.rooms)].tolist() for door in doors)))
    return min(images)


def _make_rooms(rng: np.random.Generator, count: int, side_m: tuple[float, float]) -> tuple[tuple[Room, ...], list]:
    """Rooms fill a near-square grid row by row. Also returns every grid edge with the rooms on its two sides."""
    columns = int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    xs = np.concatenate([[0], np.cumsum(rng.uniform(*side_m, columns))])
    ys = np.concatenate([[0], np.cumsum(rng.uniform(*side_m, rows))])
    xs, ys = xs - xs[-1] / 2, ys - ys[-1] / 2
    if count == 2 and rng.random() < 0.5:
        rows, columns, xs, ys = columns, rows, ys, xs
    half = WALL_THICKNESS_M / 2
    rooms, index = [], {}
    for number in range(count):
        i, j = number % columns, number // columns
        rooms.append(Room(number, (xs[i] + half, ys[j] + half, xs[i + 1] - half, ys[j + 1] - half)))
        index[i, j] = number
    edges = []
    for j in range(rows):
        for i in range(columns + 1):
            edges.append(((xs[i], ys[j]), (xs[i], ys[j + 1]), index.get((i - 1, j)), index.get((i, j))))
    for j in range(rows + 1):
        for i in range(columns):
            edges.append(((xs[i], ys[j]), (xs[i + 1], ys[j]), index.get((i, j)), index.get((i, j - 1))))
    return tuple(rooms), [e for e in edges if e[2] is not None or e[3] is not None]


def _make_walls(rng: np.random.Generator, rooms: tuple[Room, ...], edges: list) -> tuple[tuple[Door, ...], tuple[Wall, ...]]:
    """A random spanning tree of shared walls gets doors, so does a third of the other shared walls."""
    group = {room.index: room.index for room in rooms}
    doors, walls = [], []
    for k in rng.permutation(len(edges)):
        start, end, left, right = edges[k]
        if left is None or right is None or (group[left] == group[right] and rng.random() > 1 / 3):
            walls.append(Wall(start, end, left, right))
            continue
        old, new = group[right], group[left]
        group = {room: new if g == old else g for room, g in group.items()}
        doors.append(_cut_door(rng, start, end, left, right, walls))
    return tuple(doors), tuple(walls)


def _cut_door(rng: np.random.Generator, start: tuple, end: tuple, left: int, right: int, walls: list[Wall]) -> Door:
    """Append the two stretches beside a door and its lintel to `walls`."""
    a, b = np.array(start), np.array(end)
    length = float(np.hypot(*(b - a)))
    along = (b - a) / length
    at = rng.uniform(1.0, length - 1.0)
    low, high = a + along * (at - DOOR_WIDTH_M / 2), a + along * (at + DOOR_WIDTH_M / 2)
    trim = along * WALL_THICKNESS_M / 2  # rectangles overhang their ends by half a thickness
    walls.append(Wall(start, tuple(low - trim), left, right))
    walls.append(Wall(tuple(high + trim), end, left, right))
    walls.append(Wall(tuple(low), tuple(high), left, right, bottom_m=DOOR_HEIGHT_M))
    return Door((left, right), tuple(a + along * at))
