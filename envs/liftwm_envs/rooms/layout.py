"""A world from one seed: a floor plan, and what stands and moves in it. Pure numpy; the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.floor_plan import draw_floor_plan
from liftwm_envs.rooms.looks import Look, draw_looks
from liftwm_envs.rooms.navigation import Grid, distance_to_discs, distance_to_rectangles
from liftwm_envs.rooms.scene import (
    CLEARANCE_M,
    FOOTPRINT,
    SCREEN_MARGIN_M,
    WALL_THICKNESS_M,
    Door,
    Room,
    Scene,
    SceneObject,
    SceneOptions,
    Screen,
)
from liftwm_envs.rooms.shell_layout import place_shows
from liftwm_envs.rooms.shells import Show
from liftwm_envs.rooms.tracks import Lane, place_lanes, watched_start


def make_scene(seed: int, options: SceneOptions) -> Scene:
    """A world in which every room and every object can be reached; the same for the same seed and options, everywhere."""
    for attempt in range(200):
        scene = _try_scene(np.random.default_rng([seed, attempt]), seed, options)
        if scene is not None:
            return scene
    raise RuntimeError(f"no scene found for seed {seed} and {options}")


def _try_scene(rng: np.random.Generator, seed: int, options: SceneOptions) -> Scene | None:
    rooms, doors, walls = draw_floor_plan(rng, seed, options)
    count = int(rng.integers(options.objects[0], options.objects[1] + 1))
    looks = draw_looks(rng, count + options.cups, options.distractors)
    place = _place_with_movers if options.has_movers else _place_with_cups if options.cups else _place_objects
    contents = place(rng, rooms, doors, looks, options)
    if contents is None:
        return None
    solid = [w.rectangle for w in walls if w.bottom_m == 0] + [s.rectangle for s in contents.screens if not s.open_ended]
    rectangles = np.array(solid + [rectangle for lane in contents.lanes for rectangle in lane.rectangles])
    discs = np.array([(*o.position, o.radius_m) for o in contents.still]).reshape(-1, 3)
    discs = np.concatenate([discs, *(show.discs for show in contents.shows)])
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
    inside = (contents.objects, contents.screens, start, grid, tracks, contents.shows, options.variation)
    return Scene(seed, options.texture, bounds, rooms, doors, walls, *inside)


@dataclass(frozen=True)
class _Contents:
    """What stands and moves in the rooms of a scene, and the agent's start where that is not free."""

    objects: tuple[SceneObject, ...]
    screens: tuple[Screen, ...]
    lanes: tuple[Lane, ...] = ()
    start: tuple[float, float, float] | None = None
    shows: tuple[Show, ...] = ()

    @property
    def still(self) -> tuple[SceneObject, ...]:
        """The objects that do not move; those that do come first."""
        moving = sum(lane.track is not None for lane in self.lanes) + sum(len(show.slots) for show in self.shows)
        return self.objects[moving:]


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


def _place_with_movers(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...], looks: list[Look], options: SceneOptions
) -> _Contents | None:
    """Moving objects first, then those that stand still; the agent starts where it sees the first one move."""
    count = options.movers_in_all or options.movers * len(rooms)
    lanes = place_lanes(rng, rooms, doors, options, looks[:count])
    others = None if lanes is None else _place_objects(rng, rooms, doors, looks[count:], options, lanes)
    if lanes is None or others is None:
        return None
    watched = watched_start(rng, rooms, lanes[0], others.objects)
    if watched is None:
        return None
    lanes[0], start = watched
    movers = tuple(lane.item for lane in lanes if lane.item is not None)
    return _Contents(movers + others.objects, tuple(lane.screen for lane in lanes), tuple(lanes), start)


def _place_with_cups(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...], looks: list[Look], options: SceneOptions
) -> _Contents | None:
    """What cups are going to hide first, then what stands about."""
    placed = place_shows(rng, rooms, doors, options, looks[: options.cups])
    if placed is None:
        return None
    shows, hidden = placed
    others = _place_objects(rng, _without(rooms, shows), doors, looks[options.cups :], options, shows)
    if others is None:
        return None
    return _Contents(hidden + others.objects, (), shows=shows)


def _without(rooms: tuple[Room, ...], shows: tuple[Show, ...]) -> tuple[Room, ...]:
    """Rooms that no show needs: nothing stands between it and who watches."""
    return tuple(room for room in rooms if room.index not in {show.room for show in shows})


def _place_objects(
    rng: np.random.Generator,
    rooms: tuple[Room, ...],
    doors: tuple[Door, ...],
    looks: list[Look],
    options: SceneOptions,
    stages: Sequence[Lane | Show] = (),
) -> _Contents | None:
    """Objects spread over the rooms, clear of doors, of where others move and of the rooms' middles; at walls if screened."""
    order = rng.permutation(len(rooms))
    screened = options.screens
    first_id = 1 + sum(stage.movers for stage in stages)
    taken = np.array([stage.swept for stage in stages])
    objects: list[SceneObject] = []
    screens: list[Screen] = []
    for k, look in enumerate(looks):
        room = rooms[int(order[k % len(rooms)])]
        for _ in range(60):
            shape = look.draw_shape(rng)
            size = float(rng.uniform(0.22, 0.3) if screened else rng.uniform(0.25, 0.4))
            radius = FOOTPRINT[shape] * size
            position, inward = _spot(rng, room, radius, screened or rng.random() < 0.5)
            if _is_crowded(position, radius, room, doors, objects, 1.05 if screened else 0.62):
                continue
            if len(taken) and distance_to_rectangles(np.array(position), taken).min() < radius + 0.62:
                continue
            yaw = float(inward if shape == "box" and screened else rng.uniform(-np.pi, np.pi))
            item = SceneObject(first_id + k, shape, look.colour_name, size, position, yaw, room.index, int(rng.integers(3)))
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
