"""Where a disc-shaped agent can go on a floor plan: occupancy, line of sight, geodesic distance. Numpy and scipy only.

Rectangles are (centre x, centre y, half length, half width, yaw) rows, discs are (x, y, radius) rows; metres and radians.
Geodesic distances are shortest paths on the 8-connected grid (at most 8 % above the Euclidean shortest path); paths are
pulled taut afterwards by line of sight.
"""

from __future__ import annotations

import math
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

CELL_M = 0.125
_STEPS = [(di, dj, math.hypot(di, dj)) for di in (-1, 0, 1) for dj in (-1, 0, 1) if di or dj]


def distance_to_rectangles(points: NDArray, rectangles: NDArray) -> NDArray[np.float64]:
    """Distance from points [..., 2] to each filled rectangle [R, 5]; 0 inside. [..., R]"""
    offset = points[..., None, :] - rectangles[:, :2]
    cos, sin = np.cos(rectangles[:, 4]), np.sin(rectangles[:, 4])
    along = np.abs(offset[..., 0] * cos + offset[..., 1] * sin) - rectangles[:, 2]
    across = np.abs(-offset[..., 0] * sin + offset[..., 1] * cos) - rectangles[:, 3]
    return np.sqrt(np.maximum(along, 0) ** 2 + np.maximum(across, 0) ** 2)


def distance_to_discs(points: NDArray, discs: NDArray) -> NDArray[np.float64]:
    """Distance from points [..., 2] to each filled disc [R, 3]; 0 inside. [..., R]"""
    offset = points[..., None, :] - discs[:, :2]
    return np.maximum(np.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2) - discs[:, 2], 0)


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
        self._x0, self._y0 = x0, y0
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
        def window(at: float, size: int) -> slice:
            return slice(max(int((at - reach) / CELL_M), 0), min(max(int((at + reach) / CELL_M) + 1, 0), size))

        return window(float(centre[0]) - self._x0, self.shape[0]), window(float(centre[1]) - self._y0, self.shape[1])

    def cell(self, point: ArrayLike) -> tuple[int, int]:
        """Index of the free cell nearest to a point."""
        x, y = (float(v) for v in point)  # type: ignore[union-attr, arg-type]
        i = min(max(int((x - self._x0) / CELL_M), 0), self.shape[0] - 1)
        j = min(max(int((y - self._y0) / CELL_M), 0), self.shape[1] - 1)
        if self.free[i, j]:
            return i, j
        away = np.where(self.free, ((self.centres - (x, y)) ** 2).sum(-1), np.inf)
        i, j = divmod(int(away.argmin()), self.shape[1])
        return i, j

    def keep_region_of(self, point: ArrayLike) -> None:
        """Leave free only what is reached from a point. Comes before the first distance field."""
        regions, _ = ndimage.label(self.free, np.ones((3, 3)))
        self.free &= regions == regions[self.cell(point)]

    def without(self, cells: NDArray[np.bool_]) -> Grid:
        """The same plan with some cells [cells] no longer free."""
        other = copy(self)
        other.__dict__.pop("_graph", None)
        other.free = self.free & ~cells
        return other

    @cached_property
    def _graph(self) -> tuple[NDArray[np.int32], csr_array]:
        """Number of every free cell (-1 elsewhere) [cells], and the lengths of the steps between them in metres."""
        count = int(self.free.sum())
        number = np.full(self.shape, -1, np.int32)
        number[self.free] = np.arange(count)
        rows, columns = self.shape
        # The border is never free, so every free cell has all eight neighbours.
        beside = [number[1 + di : rows - 1 + di, 1 + dj : columns - 1 + dj] for di, dj, _ in _STEPS]
        neighbours = np.stack(beside, -1)[self.free[1:-1, 1:-1]]
        open_ = neighbours >= 0
        lengths = np.broadcast_to([CELL_M * length for *_, length in _STEPS], neighbours.shape)[open_]
        starts = np.concatenate([[0], np.cumsum(open_.sum(1))]).astype(np.int32)
        return number, csr_array((lengths, neighbours[open_], starts), shape=(count, count))

    def distance_field(self, sources: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Metres from every free cell to the nearest of `sources` [cells] (Dijkstra); inf where none is reached."""
        number, graph = self._graph
        field = np.full(self.shape, np.inf)
        start = number[sources & self.free]
        if len(start):
            field[self.free] = dijkstra(graph, indices=start, min_only=True)
        return field

    def field_to(self, point: ArrayLike) -> NDArray[np.float64]:
        """Distance field of one point."""
        sources = np.zeros(self.shape, bool)
        sources[self.cell(point)] = True
        return self.distance_field(sources)

    def is_clear(self, start: NDArray, end: NDArray) -> bool:
        """Whether every cell on the straight line between two points is free."""
        return bool(self._are_clear(start, np.asarray(end)[None])[0])

    def _are_clear(self, start: NDArray, ends: NDArray) -> NDArray[np.bool_]:
        """`is_clear` for many ends [K, 2], sampled every half cell. [K]"""
        ways = ends - start
        spaces = np.maximum(1, np.ceil(np.hypot(ways[:, 0], ways[:, 1]) / (0.5 * CELL_M)))
        along = np.minimum(np.arange(spaces.max() + 1) / spaces[:, None], 1)
        points = start + ways[:, None] * along[..., None]
        index = ((points - self.origin) / CELL_M).astype(np.intp)
        np.clip(index, 0, np.subtract(self.shape, 1), out=index)  # the border is never free
        return self.free[index[..., 0], index[..., 1]].all(1)

    def descend(self, field: NDArray[np.float64], start: ArrayLike) -> NDArray[np.float64]:
        """Cell centres from `start` down a distance field to its source. [K, 2]"""
        width, rows = self.shape[1], field.ravel().tolist()
        i, j = self.cell(start)
        at = i * width + j
        cells = [at]
        steps = [di * width + dj for di, dj, _ in _STEPS]
        while 0 < rows[at] < math.inf:
            at = min([at + step for step in steps], key=rows.__getitem__)
            cells.append(at)
        return self.centres.reshape(-1, 2)[cells]

    def path(self, field: NDArray[np.float64], start: ArrayLike) -> NDArray[np.float64]:
        """`descend`, pulled taut by line of sight; begins at `start` itself. [K, 2]"""
        cells = self.descend(field, start)
        taut = [np.asarray(start, float)]
        at = 0
        while at < len(cells) - 1:
            clear = self._are_clear(cells[at], cells[at + 1 :])
            clear[0] = True
            at += len(clear) - int(clear[::-1].argmax())
            taut.append(cells[at])
        return np.array(taut)


def path_length(path: NDArray) -> float:
    """Metres along a polyline [K, 2]."""
    return float(np.hypot(*np.diff(path, axis=0).T).sum()) if len(path) > 1 else 0.0


def bounded_angle(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
