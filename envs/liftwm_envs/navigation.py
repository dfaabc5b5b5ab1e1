"""Where a disc-shaped agent can go on a floor plan: occupancy, line of sight, geodesic distance. Numpy only.

Rectangles are (centre x, centre y, half length, half width, yaw) rows, discs are (x, y, radius) rows; metres and radians.
Geodesic distances are shortest paths on the 8-connected grid (at most 8 % above the Euclidean shortest path); paths are
pulled taut afterwards by line of sight.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

CELL_M = 0.125
_STEPS = [(di, dj, math.hypot(di, dj)) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj]


def distance_to_rectangles(points: NDArray, rectangles: NDArray) -> NDArray[np.float64]:
    """Distance from points [..., 2] to each filled rectangle [R, 5]; 0 inside. [..., R]"""
    offset = points[..., None, :] - rectangles[:, :2]
    cos, sin = np.cos(rectangles[:, 4]), np.sin(rectangles[:, 4])
    along = np.abs(offset[..., 0] * cos + offset[..., 1] * sin) - rectangles[:, 2]
    across = np.abs(-offset[..., 0] * sin + offset[..., 1] * cos) - rectangles[:, 3]
    return np.hypot(np.maximum(along, 0), np.maximum(across, 0))


def distance_to_discs(points: NDArray, discs: NDArray) -> NDArray[np.float64]:
    """Distance from points [..., 2] to each filled disc [R, 3]; 0 inside. [..., R]"""
    offset = points[..., None, :] - discs[:, :2]
    return np.maximum(np.hypot(offset[..., 0], offset[..., 1]) - discs[:, 2], 0)


def segment_is_clear(start: ArrayLike, end: ArrayLike, rectangles: NDArray) -> bool:
    """Whether the straight segment between two points meets none of the rectangles (sampled every 4 cm)."""
    if len(rectangles) == 0:
        return True
    start, end = np.asarray(start, float), np.asarray(end, float)
    count = max(2, math.ceil(float(np.hypot(*(end - start))) / 0.04) + 1)
    points = start + (end - start) * np.linspace(0, 1, count)[:, None]
    return bool(distance_to_rectangles(points, rectangles).min() > 0)


class Grid:
    """Free space of an agent of radius `clearance` on a plan."""

    def __init__(self, bounds: ArrayLike, rectangles: NDArray, discs: NDArray, clearance: float) -> None:
        x0, y0, x1, y1 = (float(v) for v in np.asarray(bounds))
        self.origin = np.array([x0, y0])
        self.shape = (math.ceil((x1 - x0) / CELL_M), math.ceil((y1 - y0) / CELL_M))
        i, j = np.mgrid[0 : self.shape[0], 0 : self.shape[1]]
        self.centres = self.origin + (np.stack([i, j], -1) + 0.5) * CELL_M
        free = np.ones(self.shape, bool)
        for row in rectangles:
            window = self._window(row[:2], math.hypot(row[2], row[3]) + clearance)
            free[window] &= distance_to_rectangles(self.centres[window], row[None])[..., 0] > clearance
        for row in discs:
            window = self._window(row[:2], row[2] + clearance)
            free[window] &= distance_to_discs(self.centres[window], row[None])[..., 0] > clearance
        free[[0, -1], :] = False
        free[:, [0, -1]] = False
        self.free = free

    def _window(self, centre: NDArray, reach: float) -> tuple[slice, slice]:
        low = np.clip(((centre - reach - self.origin) / CELL_M).astype(int), 0, self.shape)
        high = np.clip(((centre + reach - self.origin) / CELL_M).astype(int) + 1, 0, self.shape)
        return slice(low[0], high[0]), slice(low[1], high[1])

    def cell(self, point: ArrayLike) -> tuple[int, int]:
        """Index of the free cell nearest to a point."""
        at = ((np.asarray(point, float) - self.origin) / CELL_M).astype(int)
        i, j = np.clip(at, 0, np.array(self.shape) - 1)
        if self.free[i, j]:
            return int(i), int(j)
        away = np.where(self.free, ((self.centres - np.asarray(point)) ** 2).sum(-1), np.inf)
        i, j = np.unravel_index(int(away.argmin()), self.shape)
        return int(i), int(j)

    def distance_field(self, sources: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Metres from every free cell to the nearest of `sources` [cells] (Dijkstra); inf where none is reached."""
        width = self.shape[1]
        steps = [(di * width + dj, cost * CELL_M) for di, dj, cost in _STEPS]
        free = self.free.ravel().tolist()
        distance = [math.inf] * len(free)
        queue = []
        for index in np.flatnonzero((sources & self.free).ravel()).tolist():
            distance[index] = 0.0
            queue.append((0.0, index))
        while queue:
            here, index = heapq.heappop(queue)
            if here > distance[index]:
                continue
            for step, cost in steps:  # the border is never free, so an index never wraps to a neighbouring row
                other = index + step
                if free[other] and here + cost < distance[other]:
                    distance[other] = here + cost
                    heapq.heappush(queue, (here + cost, other))
        return np.array(distance).reshape(self.shape)

    def field_to(self, point: ArrayLike) -> NDArray[np.float64]:
        """Distance field of one point."""
        sources = np.zeros(self.shape, bool)
        sources[self.cell(point)] = True
        return self.distance_field(sources)

    def is_clear(self, start: NDArray, end: NDArray) -> bool:
        """Whether every cell on the straight line between two points is free."""
        count = max(2, math.ceil(float(np.hypot(*(end - start))) / (0.5 * CELL_M)) + 1)
        points = start + (end - start) * np.linspace(0, 1, count)[:, None]
        index = ((points - self.origin) / CELL_M).astype(int)
        inside = (index >= 0).all() and (index < self.shape).all()
        return bool(inside and self.free[index[:, 0], index[:, 1]].all())

    def descend(self, field: NDArray[np.float64], start: ArrayLike) -> NDArray[np.float64]:
        """Cell centres from `start` down a distance field to its source. [K, 2]"""
        i, j = self.cell(start)
        cells = [(i, j)]
        while 0 < field[i, j] < math.inf:
            i, j = min(((i + di, j + dj) for di, dj, _ in _STEPS), key=lambda c: field[c])
            cells.append((i, j))
        index = np.array(cells)
        return self.centres[index[:, 0], index[:, 1]]

    def path(self, field: NDArray[np.float64], start: ArrayLike) -> NDArray[np.float64]:
        """`descend`, pulled taut by line of sight; begins at `start` itself. [K, 2]"""
        cells = self.descend(field, start)
        taut = [np.asarray(start, float)]
        at = 0
        while at < len(cells) - 1:
            reach = len(cells) - 1
            while reach > at + 1 and not self.is_clear(cells[at], cells[reach]):
                reach -= 1
            at = reach
            taut.append(cells[at])
        return np.array(taut)


def path_length(path: NDArray) -> float:
    """Metres along a polyline [K, 2]."""
    return float(np.hypot(*np.diff(path, axis=0).T).sum()) if len(path) > 1 else 0.0


def bounded_angle(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
