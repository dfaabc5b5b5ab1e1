"""A world from one seed: rooms on a grid, doors, objects, screens. Pure numpy; the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.navigation import Grid, distance_to_discs, distance_to_rectangles
from liftwm_envs.scene import (
    CLEARANCE_M,
    DOOR_HEIGHT_M,
    DOOR_WIDTH_M,
    FOOTPRINT,
    PALETTE,
    SCREEN_MARGIN_M,
    SHAPES,
    WALL_THICKNESS_M,
    Door,
    Room,
    Scene,
    SceneObject,
    SceneOptions,
    Screen,
    Wall,
)
from liftwm_envs.tracks import Lane, place_lanes, watched_start


def make_scene(seed: int, options: SceneOptions) -> Scene:
    """A world in which every room and every object can be reached; the same for the same seed and options, everywhere."""
    for attempt in range(200):
        scene = _try_scene(np.random.default_rng([seed, attempt]), seed, options)
        if scene is not None:
            return scene
    raise RuntimeError(f"no scene found for seed {seed} and {options}")


def _try_scene(rng: np.random.Generator, seed: int, options: SceneOptions) -> Scene | None:
    rooms, edges = _make_rooms(rng, int(rng.choice(options.rooms)), options.room_side_m)
    doors, walls = _make_walls(rng, rooms, edges)
    count = int(rng.integers(options.objects[0], options.objects[1] + 1))
    names = [str(name) for name in rng.permutation(list(PALETTE))[:count]]
    place = _place_with_movers if options.movers else _place_objects
    contents = place(rng, rooms, doors, names, options)
    if contents is None:
        return None
    solid = [w.rectangle for w in walls if w.bottom_m == 0] + [s.rectangle for s in contents.screens if not s.open_ended]
    rectangles = np.array(solid + [rectangle for lane in contents.lanes for rectangle in lane.rectangles])
    discs = np.array([(*o.position, o.radius_m) for o in contents.still]).reshape(-1, 3)
    interiors = np.array([r.interior for r in rooms])
    bounds = (*(interiors[:, :2].min(0) - WALL_THICKNESS_M), *(interiors[:, 2:].max(0) + WALL_THICKNESS_M))
    grid = Grid(bounds, rectangles, discs, CLEARANCE_M)
    start = contents.start
    if start is None:
        room = rooms[int(rng.integers(len(rooms)))]
        start = (*(room.centre + rng.uniform(-0.3, 0.3, 2)), rng.uniform(-np.pi, np.pi))
    middles = [grid.cell(room.centre) for room in rooms]
    grid.keep_region_of(start[:2])  # pockets between obstacles are no places to go
    if not all(grid.free[middle] for middle in middles) or not _all_reached(grid.centres[grid.free], contents, discs):
        return None
    tracks = tuple(lane.track for lane in contents.lanes if lane.track is not None)
    return Scene(seed, options.texture, bounds, rooms, doors, walls, contents.objects, contents.screens, start, grid, tracks)


@dataclass(frozen=True)
class _Contents:
    """What stands and moves in the rooms of a scene, and the agent's start where that is not free."""

    objects: tuple[SceneObject, ...]
    screens: tuple[Screen, ...]
    lanes: tuple[Lane, ...] = ()
    start: tuple[float, float, float] | None = None

    @property
    def still(self) -> tuple[SceneObject, ...]:
        """The objects that do not move."""
        return self.objects[sum(lane.track is not None for lane in self.lanes) :]


def _all_reached(free: NDArray, contents: _Contents, discs: NDArray) -> bool:
    """Whether every object, or the screen that closes it in, and every line of a moving one has a free cell beside it."""
    if contents.lanes:
        lines = distance_to_rectangles(free, np.array([lane.swept for lane in contents.lanes]))
        gaps = np.concatenate([lines, distance_to_discs(free, discs)], 1)
    elif contents.screens:
        gaps = distance_to_rectangles(free, np.array([s.rectangle for s in contents.screens]))
    else:
        gaps = distance_to_discs(free, discs)
    return bool(gaps.min(0).max() <= 0.45)


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


def _place_with_movers(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...], names: list[str], options: SceneOptions
) -> _Contents | None:
    """Moving objects first, then those that stand still; the agent starts where it sees the first one move."""
    count = options.movers * len(rooms)
    lanes = place_lanes(rng, rooms, doors, options, names[:count])
    others = None if lanes is None else _place_objects(rng, rooms, doors, names[count:], options, lanes)
    if lanes is None or others is None:
        return None
    watched = watched_start(rng, rooms, lanes[0], others.objects)
    if watched is None:
        return None
    lanes[0], start = watched
    movers = tuple(lane.item for lane in lanes if lane.item is not None)
    return _Contents(movers + others.objects, tuple(lane.screen for lane in lanes), tuple(lanes), start)


def _place_objects(
    rng: np.random.Generator,
    rooms: tuple[Room, ...],
    doors: tuple[Door, ...],
    names: list[str],
    options: SceneOptions,
    lanes: Sequence[Lane] = (),
) -> _Contents | None:
    """Objects of distinct colours spread over the rooms, clear of doors, lanes and the rooms' middles; at walls if screened."""
    order = rng.permutation(len(rooms))
    screened = options.screens
    first_id = 1 + sum(lane.track is not None for lane in lanes)
    taken = np.array([lane.swept for lane in lanes])
    objects: list[SceneObject] = []
    screens: list[Screen] = []
    for k, name in enumerate(names):
        room = rooms[int(order[k % len(rooms)])]
        for _ in range(60):
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            size = float(rng.uniform(0.22, 0.3) if screened else rng.uniform(0.25, 0.4))
            radius = FOOTPRINT[shape] * size
            position, inward = _spot(rng, room, radius, screened or rng.random() < 0.5)
            if _is_crowded(position, radius, room, doors, objects, 1.05 if screened else 0.62):
                continue
            if len(taken) and distance_to_rectangles(np.array(position), taken).min() < radius + 0.62:
                continue
            yaw = float(inward if shape == "box" and screened else rng.uniform(-np.pi, np.pi))
            item = SceneObject(first_id + k, shape, name, size, position, yaw, room.index, int(rng.integers(3)))
            objects.append(item)
            if screened:
                screens.append(_screen_for(item, room, inward))
            break
        else:
            return None
    return _Contents(tuple(objects), tuple(screens))


def _spot(rng: np.random.Generator, room: Room, radius: float, at_wall: bool) -> tuple[tuple[float, float], float]:
    """A place on the floor, and the direction from its wall into the room."""
    x0, y0, x1, y1 = room.interior
    gap = radius + (SCREEN_MARGIN_M if at_wall else 0.65)
    end = radius + 0.55
    if not at_wall:
        return (float(rng.uniform(x0 + gap, x1 - gap)), float(rng.uniform(y0 + gap, y1 - gap))), 0.0
    side = int(rng.integers(4))
    x, y = float(rng.uniform(x0 + end, x1 - end)), float(rng.uniform(y0 + end, y1 - end))
    return [((x0 + gap, y), 0.0), ((x, y0 + gap), np.pi / 2), ((x1 - gap, y), np.pi), ((x, y1 - gap), -np.pi / 2)][side]


def _is_crowded(
    position: tuple[float, float], radius: float, room: Room, doors: tuple[Door, ...], objects: list[SceneObject], gap: float
) -> bool:
    here = np.array(position)
    if np.hypot(*(here - room.centre)) < radius + 0.85:
        return True
    if any(np.hypot(*(here - door.centre)) < radius + 1.0 for door in doors):
        return True
    return any(o.room == room.index and np.hypot(*(here - o.position)) < radius + o.radius_m + gap for o in objects)


def _screen_for(item: SceneObject, room: Room, inward: float) -> Screen:
    """The screen that, with the wall behind the object, closes it in."""
    depth = 2 * (item.radius_m + SCREEN_MARGIN_M)
    normal = np.array([np.cos(inward), np.sin(inward)])
    wall_to_centre = depth / 2 - (item.radius_m + SCREEN_MARGIN_M)
    centre = np.array(item.position) + normal * wall_to_centre
    middle = (float(centre[0]), float(centre[1]))
    half_width = item.radius_m + SCREEN_MARGIN_M
    return Screen(item.id, item.id, middle, float(inward), half_width, half_depth=depth / 2)
