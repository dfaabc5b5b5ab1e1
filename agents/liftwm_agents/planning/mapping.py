"""A top-down map of what the state believes is free, occupied or unknown, and the way through it.

The map is a grid of log odds in the world frame (the standard occupancy filter: Moravec and Elfes 1985; Thrun, Burgard,
Fox 2005, chapter 9). Each rendered picture is level, so an image column is a vertical plane and acts as one beam of a
range finder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from liftwm_agents.planning.body import Body
from liftwm_agents.planning.perception import Panorama

# Of the camera's height above the floor:
FLOOR = 0.2  # points below are floor,
FLOOR_SLOPE = 0.05  # and this much more of their range: believed depth is worst far away
CEILING = 1.6  # points above do not block a body: it carries its camera near its top
WALL = (32 / 15, 2.6)  # only walls are: furniture and screens reach twice the camera's height, the lintels of doors begin above
WALL_TOP, WALL_BOTTOM = 0.82, 0.83  # lower worlds: walls are looked for below this share of the highest, above this one of that
RANGE = 8.0  # believed points farther than this are not mapped: the floor is seen at 7 degrees there
# Of the body's radius:
CELL = 0.5  # edge of a cell, where nothing says it: gaps are told to a quarter of the body
WALKED = 0.7  # around each place where it has been, nothing stands: no more than it covered
WALL_BLUR = 1.0  # what is so near to a wall belongs to it
MARGIN = 5.0  # around what was read, so that ways may lead around it
BUMP = 1.0  # around what was bumped into, something stands
GAP = 3.0  # so wide a strip of the unknown between obstacles is taken for obstacle too; doors let a body through with room
REACH = 3.25  # around a target, where what stands is it, or hides it
CLEAR = 1.25  # beside the body, what comes nearer costs some more
# Of nothing:
ALIKE = 0.06  # of their range: neighbouring pixels that differ by less are one obstacle
TOUCHING = 60.0  # price of a length with something in the body's middle
WITHIN_WALL = 150.0  # and of a length within a wall, on top: what lies behind one is not near
UNKNOWN = 2.5  # and of a length of unknown cells; free ones cost 1
HIT, MISS, LIMIT = 0.9, 0.45, 3.0  # log odds of one reading, and their bound


@dataclass(frozen=True)
class Grid:
    """A snapshot of the map. Cell [i, j] covers world x in origin[0] + [i, i + 1] * cell_m, y likewise."""

    occupied: np.ndarray  # [X, Y] bool
    free: np.ndarray  # [X, Y] bool; neither means unknown
    walked: np.ndarray  # [X, Y] bool; the agent has been there: free, whatever stands near
    wall: np.ndarray  # [X, Y] bool; occupied up to where only walls reach
    origin: np.ndarray  # [2] world xy of the lower corner
    cell_m: float
    body: Body  # who is to find a way

    def cells(self, xy: np.ndarray) -> np.ndarray:
        """Fractional index of world positions; whole numbers are cell centres. [..., 2]"""
        return (xy - self.origin) / self.cell_m - 0.5

    def nearest(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of the cell that holds, or lies nearest to, world positions. Two of [...]"""
        index = np.clip(np.rint(self.cells(xy)).astype(int), 0, np.array(self.free.shape) - 1)
        return index[..., 0], index[..., 1]

    def centres(self) -> np.ndarray:
        """World xy of every cell centre. [X, Y, 2]"""
        index = np.stack(np.meshgrid(*map(np.arange, self.free.shape), indexing="ij"), axis=-1)
        return self.origin + (index + 0.5) * self.cell_m


class OccupancyMap:
    """Accumulates panoramas; grows where they reach."""

    def __init__(self, body: Body, cell_m: float = 0.0) -> None:
        """
        Args:
            body: what lengths are measured in.
            cell_m: edge of a cell; 0 for half the body's radius.
        """
        self.body = body
        self.cell_m = cell_m or CELL * body.radius_m
        self._margin = round(MARGIN * body.radius_m / self.cell_m)
        self._corner = np.zeros(2, dtype=int)  # index, in cells from the world's origin, of log_odds[0, 0]
        self._log_odds = np.zeros((1, 1), dtype=np.float32)
        self._wall = np.zeros((1, 1), dtype=np.float32)  # log odds of a wall
        self._felt = np.zeros((1, 1), dtype=np.int8)  # 1 where the agent stood, -1 where it bumped: surer than any picture

    def update(self, panorama: Panorama) -> None:
        """Take in readings, place by place: cells where beams end are occupied, cells that they cross are free."""
        _, place = np.unique(panorama.origin, axis=0, return_inverse=True)
        for k in range(place.max() + 1):
            self._take(_beams(panorama.of(place.reshape(-1) == k), self.body, self.cell_m))

    def _take(self, beams: Beams) -> None:
        """What was read from one place has one vote a cell."""
        every = np.concatenate(beams)
        if len(every) == 0:
            return
        self._grow(every.min(axis=0), every.max(axis=0))
        hit, tall, miss = (self._count(cells) for cells in beams)
        self._log_odds = _vote(self._log_odds, (hit >= 2) & (hit > miss), miss > 0)
        self._wall = _vote(self._wall, (tall >= 2) & (tall > miss), miss > 0)

    def _count(self, cells: np.ndarray) -> np.ndarray:
        """How often each cell is named. [n, 2] -> [X, Y]"""
        count = np.zeros(self._log_odds.shape)
        np.add.at(count, tuple((cells - self._corner).T), 1.0)
        return count

    def stand(self, xy: np.ndarray) -> None:
        """The agent is at `xy` [2] (world, metres): nothing else is."""
        self._feel(xy, 1, WALKED * self.body.radius_m)

    def bump(self, xy: np.ndarray) -> None:
        """Something at `xy` [2] (world, metres) stopped the agent."""
        self._feel(xy, -1, BUMP * self.body.radius_m)

    def grid(self) -> Grid:
        """The present map."""
        walked, bumped = self._felt > 0, self._felt < 0
        wall = (self._wall > 0.5) & ~walked
        occupied = ((self._log_odds > 0.5) & ~walked) | bumped | wall
        free = ((self._log_odds < -0.2) | walked) & ~(bumped | wall)
        occupied |= _closed(occupied, GAP * self.body.radius_m / self.cell_m) & ~free
        return Grid(occupied, free, walked, wall, self._corner * self.cell_m, self.cell_m, self.body)

    def _feel(self, xy: np.ndarray, what: int, reach_m: float) -> None:
        reach = max(1, round(reach_m / self.cell_m))
        cell = np.floor(np.asarray(xy) / self.cell_m).astype(int)
        self._grow(cell - reach, cell + reach)
        i, j = cell - self._corner
        self._felt[i - reach : i + reach + 1, j - reach : j + reach + 1] = what

    def _grow(self, low: np.ndarray, high: np.ndarray) -> None:
        """Pad so that cells `low` to `high` lie inside with a margin."""
        top = self._corner + self._log_odds.shape
        before = np.maximum(self._corner - (low - self._margin), 0)
        after = np.maximum(high + self._margin + 1 - top, 0)
        if before.any() or after.any():
            padding = list(zip(before, after, strict=True))
            self._log_odds, self._wall = np.pad(self._log_odds, padding), np.pad(self._wall, padding)
            self._felt = np.pad(self._felt, padding)
            self._corner = self._corner - before


class Beams(NamedTuple):
    """What pictures from one place say of cells, each in cells from the world's origin, once for every pixel or beam."""

    hits: np.ndarray  # [n, 2] an obstacle to a base
    tall: np.ndarray  # [n, 2] a wall
    crossed: np.ndarray  # [n, 2] seen through


def _beams(panorama: Panorama, body: Body, cell_m: float) -> Beams:
    eye, farthest_m = body.camera_height_m, RANGE * body.camera_height_m
    highest = min(WALL[1] * eye, WALL_TOP * body.top_m)
    lowest = min(WALL[0] * eye, WALL_BOTTOM * highest)
    offset = panorama.xyz[..., :2] - panorama.origin[:, None, None, :2]
    distance = np.linalg.norm(offset, axis=-1)
    height = panorama.xyz[..., 2] - body.floor_m
    near = (panorama.seen > 0.5) & (distance < farthest_m)
    obstacle = near & (height > FLOOR * eye + FLOOR_SLOPE * distance) & (height < CEILING * eye)
    obstacle = _supported(obstacle, distance)
    tall = _supported(near & (height > lowest) & (height < highest), distance)
    first = np.where(obstacle, distance, np.inf).min(axis=1)
    farthest = np.where(near, distance, 0.0).max(axis=1)
    reach = np.minimum(first - 1.5 * cell_m, farthest)
    direction = np.where(near[..., None], offset / np.maximum(distance, 1e-6)[..., None], 0.0).sum(axis=1)
    direction = direction / np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
    steps = np.arange(0.0, farthest_m, cell_m)
    along = panorama.origin[:, None, None, :2] + direction[:, :, None] * steps[:, None]
    crossed = along[(steps < reach[..., None]) & near.any(axis=1)[..., None]]
    cells = (
        np.floor(points / cell_m).astype(int) for points in (panorama.xyz[obstacle][:, :2], panorama.xyz[tall][:, :2], crossed)
    )
    return Beams(*cells)


def _supported(chosen: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Those of the chosen pixels that have a chosen neighbour as far away: one alone is noise. [V, H, W] bool"""
    ranges = np.pad(np.where(chosen, distance, np.inf), ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    inner, found = ranges[:, 1:-1, 1:-1], np.zeros_like(chosen)
    for other in (ranges[:, :-2, 1:-1], ranges[:, 2:, 1:-1], ranges[:, 1:-1, :-2], ranges[:, 1:-1, 2:]):
        found |= chosen & np.isfinite(other) & (np.abs(np.where(chosen, inner, 0.0) - other) < ALIKE * distance)
    return found


def _vote(log_odds: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    change = np.where(yes, HIT, np.where(no, -MISS, 0.0))
    return np.clip(log_odds + change, -LIMIT, LIMIT).astype(np.float32)


def _closed(occupied: np.ndarray, gap_cells: float) -> np.ndarray:
    """Obstacles, and the gaps of so many cells between them along either axis. [X, Y] bool"""
    reach = round(gap_cells) + 1
    closed = occupied.copy()
    for line in ((reach, 1), (1, reach)):
        closed |= ndimage.binary_closing(occupied, np.ones(line, dtype=bool))
    return closed


@dataclass(frozen=True)
class CostField:
    """How far it is from anywhere, at the price of the cells crossed."""

    cost: np.ndarray  # [X, Y] metres
    touching: np.ndarray  # [X, Y] how deep the body would stand in something: 1 at its middle, 0 when clear
    grid: Grid

    def at(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cost and collision at world positions, bilinear; outside the map the straight way back is added.

        Args:
            xy: world, metres. [..., 2]

        Returns:
            Cost in metres [...], collision in [0, 1] [...].
        """
        cells = self.grid.cells(xy)
        inside = np.clip(cells, 0, np.array(self.cost.shape) - 1)
        outside = np.linalg.norm(cells - inside, axis=-1) * self.grid.cell_m
        where = np.moveaxis(inside, -1, 0)
        cost = ndimage.map_coordinates(self.cost, where, order=1, mode="nearest")
        return cost + 3.0 * outside, ndimage.map_coordinates(self.touching, where, order=1, mode="nearest")


def cost_to_go(grid: Grid, targets: np.ndarray, reach_m: float | None = None) -> CostField:
    """Shortest priced paths to the nearest target by Dijkstra's algorithm on the 8-connected grid.

    Nothing is forbidden, only dear: a phantom wall in the map must not seal a door. Cells within `reach_m` of a target are
    cleared, for the target itself is an obstacle, or stands behind a screen; walls are not, for what is behind a wall is in
    another room.

    Args:
        grid: the map.
        targets: world xy, metres; at least one. [K, 2]
        reach_m: radius around targets that stays open; None for REACH of the body's radius.

    Returns:
        `CostField` on the grid.
    """
    targets, radius = np.atleast_2d(targets), grid.body.radius_m
    reach_m = REACH * radius if reach_m is None else reach_m
    i, j = grid.nearest(targets)
    elsewhere = np.ones(grid.free.shape, dtype=bool)
    elsewhere[i, j] = False
    away = ndimage.distance_transform_edt(elsewhere) * grid.cell_m
    occupied = grid.occupied & ((away > reach_m) | grid.wall)
    clearance = np.full(occupied.shape, np.inf)
    if occupied.any():
        clearance = ndimage.distance_transform_edt(~occupied) * grid.cell_m
    # Graded, not all or nothing: cells make gaps up to two cells narrower than they are.
    touching = np.where(grid.walked, 0.0, np.clip(1.0 - clearance / radius, 0.0, 1.0) ** 2)
    price = np.where(grid.free | (away <= reach_m), 1.0, UNKNOWN) + WITHIN_WALL * grid.wall
    price = price + TOUCHING * touching + 2.0 * np.clip(1.0 - (clearance - radius) / (CLEAR * radius), 0.0, 1.0)
    sources = np.unique(i * grid.free.shape[1] + j)
    cost = dijkstra(_graph(price, grid.cell_m), directed=False, indices=sources, min_only=True)
    return CostField(cost.reshape(price.shape), touching, grid)


def _graph(price: np.ndarray, cell_m: float) -> coo_matrix:
    """Edges between neighbouring cells, priced by the mean of the two."""
    index = np.arange(price.size).reshape(price.shape)
    rows, columns, weights = [], [], []
    pairs = (
        (np.s_[1:, :], np.s_[:-1, :], 1.0),
        (np.s_[:, 1:], np.s_[:, :-1], 1.0),
        (np.s_[1:, 1:], np.s_[:-1, :-1], 2**0.5),
        (np.s_[1:, :-1], np.s_[:-1, 1:], 2**0.5),
    )
    for here, there, length in pairs:
        rows.append(index[here].ravel())
        columns.append(index[there].ravel())
        weights.append((0.5 * (price[here] + price[there]) * length * cell_m).ravel())
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return coo_matrix(entries, shape=(price.size, price.size)).tocsr()


def frontier(grid: Grid) -> np.ndarray:
    """Free cells that touch the unknown: where exploring may go on. World xy, metres. [K, 2]"""
    unknown = ~(grid.free | grid.occupied)
    beside = max(1, round(grid.body.radius_m / grid.cell_m))
    open_free = grid.free & ~ndimage.binary_dilation(grid.occupied, iterations=beside)
    edge = open_free & ndimage.binary_dilation(unknown)
    return grid.centres()[edge]


def low_obstacles(grid: Grid) -> np.ndarray:
    """Occupied cells that are no wall and not the blur of one: objects, screens, and what those enclose. World xy. [K, 2]"""
    away = np.full(grid.wall.shape, np.inf)
    if grid.wall.any():
        away = ndimage.distance_transform_edt(~grid.wall) * grid.cell_m
    return grid.centres()[grid.occupied & (away >= WALL_BLUR * grid.body.radius_m)]
