"""What a world contains, before any simulator: rooms with doors, objects, screens. `layout` draws one from a seed.

World frame: metres, z up, floor at z = 0, the plan centred on the origin. Angles are counter-clockwise from world x.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.navigation import Grid
from liftwm_envs.rooms.shells import Show
from liftwm_envs.rooms.variation import USUAL, Variation

WALL_HEIGHT_M = 2.5
WALL_THICKNESS_M = 0.12
DOOR_WIDTH_M = 1.1
DOOR_HEIGHT_M = 2.05
SCREEN_HEIGHT_M = 1.5
SCREEN_MARGIN_M = 0.12
AGENT_RADIUS_M = 0.2
CLEARANCE_M = AGENT_RADIUS_M + 0.06

SHAPES = ("sphere", "box", "cylinder", "cone", "capsule", "tower")
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.08, 0.08),
    "green": (0.08, 0.62, 0.12),
    "blue": (0.10, 0.20, 0.92),
    "yellow": (0.95, 0.88, 0.08),
    "magenta": (0.92, 0.10, 0.85),
    "cyan": (0.08, 0.85, 0.92),
    "orange": (0.98, 0.48, 0.04),
    "purple": (0.42, 0.06, 0.66),
    "lime": (0.55, 0.98, 0.10),
    "pink": (1.00, 0.50, 0.68),
    "teal": (0.02, 0.42, 0.44),
    "brown": (0.46, 0.20, 0.03),
}
# Footprint radius as a multiple of `size`, and height likewise, by shape.
FOOTPRINT = {"sphere": 1.0, "box": 1.13, "cylinder": 0.85, "cone": 1.0, "capsule": 0.75, "tower": 1.0}
_HEIGHT = {"sphere": 2.0, "box": 1.7, "cylinder": 2.2, "cone": 2.6, "capsule": 2.8, "tower": 3.0}


@dataclass(frozen=True)
class Room:
    """A rectangular room; its number, and its interior x0, y0, x1, y1."""

    index: int
    interior: tuple[float, float, float, float]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of the floor. [2]"""
        x0, y0, x1, y1 = self.interior
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2])


@dataclass(frozen=True)
class Wall:
    """A solid stretch of wall from `start` to `end` (centre line) with the rooms on its left and right (None: outside)."""

    start: tuple[float, float]
    end: tuple[float, float]
    left: int | None
    right: int | None
    bottom_m: float = 0.0  # above 0: the lintel of a door

    @property
    def rectangle(self) -> tuple[float, float, float, float, float]:
        """Footprint as navigation wants it: centre, half length, half width, yaw."""
        (x0, y0), (x1, y1) = self.start, self.end
        half = 0.5 * WALL_THICKNESS_M
        return (x0 + x1) / 2, (y0 + y1) / 2, np.hypot(x1 - x0, y1 - y0) / 2 + half, half, np.arctan2(y1 - y0, x1 - x0)


@dataclass(frozen=True)
class Door:
    """A gap between two rooms."""

    rooms: tuple[int, int]
    centre: tuple[float, float]


@dataclass(frozen=True)
class SceneObject:
    """A coloured thing on the floor. `size` is its half extent; ids count from 1. A moving one starts at `position`."""

    id: int
    shape: str
    colour_name: str
    size: float
    position: tuple[float, float]
    yaw: float
    room: int
    grain: int

    @property
    def colour(self) -> NDArray[np.float32]:
        """RGB in [0, 1]. [3]"""
        return np.array(PALETTE[self.colour_name], np.float32)

    @property
    def radius_m(self) -> float:
        """Radius of the disc that its footprint lies in; the surface that tasks measure to."""
        return FOOTPRINT[self.shape] * self.size

    @property
    def height_m(self) -> float:
        """Top above the floor."""
        return _HEIGHT[self.shape] * self.size

    def one_hot_shape(self) -> NDArray[np.float32]:
        """[6]"""
        return np.eye(len(SHAPES), dtype=np.float32)[SHAPES.index(self.shape)]


@dataclass(frozen=True)
class Screen:
    """A folding screen of three panels and a lid that boxes an object in against a wall; or, open-ended, a tunnel along it.

    `yaw` points from the wall into the room. `half_width` runs along the wall, `half_depth` away from it. A tunnel stands from
    the start and lacks the two panels at its ends; `object_id` is what moves through it, 0 for an empty one.
    """

    id: int
    object_id: int
    centre: tuple[float, float]
    yaw: float
    half_width: float
    half_depth: float
    height_m: float = SCREEN_HEIGHT_M
    open_ended: bool = False

    @property
    def rectangle(self) -> tuple[float, float, float, float, float]:
        """Footprint as navigation wants it."""
        return *self.centre, self.half_depth, self.half_width, self.yaw


@dataclass(frozen=True)
class Scene:
    """One world, complete: `liftwm_envs.build` turns it into a MuJoCo model."""

    seed: int
    texture: str
    bounds: tuple[float, float, float, float]
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    walls: tuple[Wall, ...]
    objects: tuple[SceneObject, ...]
    screens: tuple[Screen, ...]
    start: tuple[float, float, float]  # x, y, yaw of the agent
    grid: Grid = field(repr=False, compare=False)
    tracks: tuple[Track, ...] = ()  # of the objects with the first ids; the others stand still
    shows: tuple[Show, ...] = ()  # of the objects with the first ids: cups that hide them and swap
    variation: Variation = USUAL

    @property
    def wall_rectangles(self) -> NDArray[np.float64]:
        """Footprints of walls that reach the floor. [R, 5]"""
        return np.array([wall.rectangle for wall in self.walls if wall.bottom_m == 0])

    def room_at(self, point: NDArray) -> int | None:
        """The room whose interior holds a point, None in a doorway."""
        for room in self.rooms:
            x0, y0, x1, y1 = room.interior
            if x0 <= point[0] <= x1 and y0 <= point[1] <= y1:
                return room.index
        return None

    def describe(self) -> dict[str, Any]:
        """The plan as JSON-able data: what reports draw. Walls are centre lines x0, y0, x1, y1; `tracks` where things move."""
        return {
            "seed": self.seed,
            "bounds": [float(v) for v in self.bounds],
            "walls": [[float(v) for v in (*w.start, *w.end)] for w in self.walls if w.bottom_m == 0],
            "rooms": [{"id": r.index, "interior": [float(v) for v in r.interior]} for r in self.rooms],
            "doors": [{"rooms": list(d.rooms), "centre": [float(v) for v in d.centre]} for d in self.doors],
            "screens": [
                {"id": s.id, "object": s.object_id, "rectangle": [float(v) for v in s.rectangle], "height": s.height_m}
                for s in self.screens
            ],
            "objects": [
                {
                    "id": o.id,
                    "shape": o.shape,
                    "colour": [float(v) for v in o.colour],
                    "colour_name": o.colour_name,
                    "size": float(o.size),
                    "radius": float(o.radius_m),
                    "position": [float(v) for v in o.position],
                    "room": o.room,
                }
                for o in self.objects
            ],
            "start": [float(v) for v in self.start],
            **({"tracks": [t.describe() for t in self.tracks]} if self.tracks else {}),
            **({"shows": [s.describe() for s in self.shows]} if self.shows else {}),
            **({"variation": asdict(self.variation)} if self.variation != USUAL else {}),
        }


@dataclass(frozen=True)
class SceneOptions:
    """What a task asks of its scenes."""

    rooms: tuple[int, ...] = (1, 2)  # 1 to 9; one is drawn
    objects: tuple[int, int] = (4, 8)  # at least, at most; as many as PALETTE has colours
    screens: bool = False
    texture: str = "rich"
    room_side_m: tuple[float, float] = (4.0, 5.5)
    movers: int = 0  # how many objects of each room move, each through a tunnel
    empty_tunnels: int = 0  # more tunnels in each room
    movers_in_all: int = 0  # instead: how many move in whichever rooms have the walls for it; empty tunnels are in all, too
    cups: int = 0  # how many more objects stand in rows, to be hidden by cups
    cups_a_room: int = 3
    swaps: tuple[int, int] = (1, 2)  # at least, at most, in each row
    distractors: bool = False  # no object is told by its colour or its shape alone
    held_out_doors: bool = False  # training and evaluation have other door graphs; for a square grid of rooms
    variation: Variation = USUAL

    @property
    def has_movers(self) -> bool:
        """Whether something slides through tunnels."""
        return self.movers > 0 or self.movers_in_all > 0
