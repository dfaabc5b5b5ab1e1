"""Draws what moves, and what hides it, into rooms: each mover runs along a wall, through a tunnel that stands against it.

The tunnel is a screen in front of the line with a lid, open at both ends; with the wall behind, it hides the object. Some
tunnels are empty, and all look alike, so that seeing a tunnel does not tell what is in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.looks import Look
from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.navigation import distance_to_rectangles, segment_is_clear
from liftwm_envs.rooms.scene import FOOTPRINT, SCREEN_MARGIN_M, SHAPES, Door, Room, SceneObject, SceneOptions, Screen

_SIZE_M = (0.22, 0.3)
_HIDDEN_RUN_M = (0.8, 1.2)  # of the centre, with the whole object inside the tunnel
_HIDDEN_STEPS = (17, 38)
_SPEED_M = (0.02, 0.06)  # a control step
_OPEN_M = 0.5  # of the line, at least, before and after the tunnel with the whole object outside
_CORNER_M = 0.5  # from the surface of an object that turns round to the wall before it: an agent stands there unhurt
_APART_M = 1.0  # between what moves, tunnels and doors


@dataclass(frozen=True)
class Lane:
    """A stretch of wall taken by a tunnel, and by the line of what moves in it."""

    screen: Screen
    swept: tuple[float, float, float, float, float]  # rectangle that the object passes over; the tunnel's if none
    track: Track | None
    item: SceneObject | None

    @property
    def rectangles(self) -> tuple[tuple[float, float, float, float, float], ...]:
        """What is no place for an agent."""
        return self.swept, self.screen.rectangle

    @property
    def movers(self) -> int:
        """How many objects move on it."""
        return int(self.track is not None)


def place_lanes(
    rng: np.random.Generator, rooms: tuple[Room, ...], doors: tuple[Door, ...], options: SceneOptions, looks: list[Look]
) -> list[Lane] | None:
    """The movers, the objects with the first ids, then empty tunnels; None where they do not fit.

    As many in each room; or, with `movers_in_all`, one room after another in random order that has a wall left for one.
    `looks` has one for each mover. All keep `_APART_M` from each other and from doors.
    """
    lanes: list[Lane] = []
    order = [rooms[int(k)] for k in rng.permutation(len(rooms))]
    empty = options.empty_tunnels * (1 if options.movers_in_all else len(rooms))
    for k in range(len(looks) + empty):
        at = k % len(rooms)
        choice = order[at:] + order[:at] if options.movers_in_all else order[at : at + 1]
        look = looks[k] if k < len(looks) else None
        lane = next(filter(None, (_draw_fitting(rng, room, k + 1, look, doors, lanes) for room in choice)), None)
        if lane is None:
            return None
        lanes.append(lane)
    return lanes


def _draw_fitting(
    rng: np.random.Generator, room: Room, number: int, look: Look | None, doors: tuple[Door, ...], others: list[Lane]
) -> Lane | None:
    """A lane in a room, clear of doors and other lanes; None if none is found."""
    for _ in range(80):
        lane = _draw(rng, room, number, look)
        if lane is not None and _fits(lane, doors, others):
            return lane
    return None


def _draw(rng: np.random.Generator, room: Room, number: int, look: Look | None) -> Lane | None:
    """A lane along a wall of a room, without a look at what else is there; without a look, one of an empty tunnel."""
    shape = look.draw_shape(rng) if look else SHAPES[int(rng.integers(len(SHAPES)))]
    size = float(rng.uniform(*_SIZE_M))
    radius = FOOTPRINT[shape] * size
    origin, along, inward, wall_m = _wall(room, int(rng.integers(4)), radius + SCREEN_MARGIN_M)
    hidden_m = float(rng.uniform(*_HIDDEN_RUN_M))
    tunnel_m = hidden_m + 2 * radius
    low, high = radius + _CORNER_M, wall_m - radius - _CORNER_M  # where its centre may be
    least = tunnel_m + 2 * (radius + _OPEN_M)
    if high - low < least:
        return None
    length = float(rng.uniform((least + high - low) / 2, high - low)) if look else tunnel_m
    begin = float(rng.uniform(low, high - length))
    open_m = 0.0 if look is None else float(rng.uniform(radius + _OPEN_M, length - tunnel_m - radius - _OPEN_M))
    yaw, middle = math.atan2(*inward[::-1]), origin + along * (begin + open_m + tunnel_m / 2)
    screen = Screen(number, number if look else 0, _pair(middle), yaw, tunnel_m / 2, radius + SCREEN_MARGIN_M, open_ended=True)
    if look is None:
        return Lane(screen, screen.rectangle, None, None)
    ends = [_pair(origin + along * at) for at in (begin, begin + length)]
    item = SceneObject(number, shape, look.colour_name, size, ends[0], 0.0, room.index, 0)
    swept = (*_pair(origin + along * (begin + length / 2)), radius, length / 2 + radius, yaw)
    return Lane(screen, swept, *_set_off(rng, item, ends, (open_m, open_m + tunnel_m), hidden_m))


def _set_off(
    rng: np.random.Generator, item: SceneObject, ends: list[tuple[float, float]], covered: tuple[float, float], hidden_m: float
) -> tuple[Track, SceneObject]:
    """The track between two ends, from either on, and the object at a random place of it."""
    length = math.dist(*ends)
    speed = float(np.clip(hidden_m / rng.uniform(*_HIDDEN_STEPS), *_SPEED_M))
    if rng.random() < 0.5:
        ends, covered = ends[::-1], (length - covered[1], length - covered[0])
    track = Track(item.id, ends[0], ends[1], speed, float(rng.uniform(0, 2 * length)), covered)
    yaw = float(rng.uniform(-np.pi, np.pi))
    return track, replace(item, position=_pair(track.place(0)), yaw=yaw, grain=int(rng.integers(3)))


def _wall(room: Room, side: int, gap: float) -> tuple[NDArray, NDArray, NDArray, float]:
    """The line at `gap` before a wall: its origin, its direction, the way into the room, its length."""
    x0, y0, x1, y1 = room.interior
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    return [
        (np.array([x0 + gap, y0]), north, east, y1 - y0),
        (np.array([x0, y0 + gap]), east, north, x1 - x0),
        (np.array([x1 - gap, y0]), north, -east, y1 - y0),
        (np.array([x0, y1 - gap]), east, -north, x1 - x0),
    ][side]


def _fits(lane: Lane, doors: tuple[Door, ...], others: list[Lane]) -> bool:
    rectangle = np.array([lane.swept])
    if doors and distance_to_rectangles(np.array([door.centre for door in doors]), rectangle).min() < _APART_M:
        return False
    outline = _outline(lane.swept)
    taken = np.array([other.swept for other in others])
    return len(others) == 0 or bool(distance_to_rectangles(outline, taken).min() > _APART_M)


def _outline(rectangle: tuple[float, float, float, float, float]) -> NDArray[np.float64]:
    """Points of a rectangle's middle line, ends included, a hand apart. [K, 2]"""
    x, y, half_depth, half_width, yaw = rectangle
    at = np.linspace(-half_width, half_width, max(2, math.ceil(half_width / 0.05)))
    across = np.linspace(-half_depth, half_depth, 5)
    cos, sin = math.cos(yaw), math.sin(yaw)
    local = np.stack(np.meshgrid(across, at, indexing="ij"), -1).reshape(-1, 2)
    return local @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def watched_start(
    rng: np.random.Generator, rooms: tuple[Room, ...], lane: Lane, others: tuple[SceneObject, ...]
) -> tuple[Lane, tuple[float, float, float]] | None:
    """The lane with its mover in the open, on its way to the tunnel, and a start of the agent that looks at it.

    The start is near the middle of the mover's room; None where another object stands in between.
    """
    track, item = lane.track, lane.item
    assert track is not None and item is not None
    offset = float(rng.uniform(0, 0.5 * (track.covered[0] - item.radius_m)))
    track = replace(track, offset_m=offset)
    here = rooms[item.room].centre + rng.uniform(-0.3, 0.3, 2)
    there = track.place(0)
    boxes = np.array([(*o.position, o.radius_m, o.radius_m, 0.0) for o in others]).reshape(-1, 5)
    if not segment_is_clear(here, there, boxes):
        return None
    yaw = math.atan2(there[1] - here[1], there[0] - here[0]) + float(rng.uniform(-0.2, 0.2))
    return replace(lane, track=track, item=replace(item, position=_pair(there))), (float(here[0]), float(here[1]), yaw)


def _pair(point: NDArray) -> tuple[float, float]:
    return float(point[0]), float(point[1])
