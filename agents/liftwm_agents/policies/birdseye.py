"""What was read out of a world model's state as a raster on the ground, and the part of it around an agent.

The raster is made when the state is read and sampled at every step: making it takes milliseconds, sampling it less
than one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from liftwm_agents.planning.mapping import CostField, Grid

CHANNELS = ("free", "occupied", "seen", "goal", "red", "green", "blue", "way")
"""Of a bird's-eye map: what the body may cross and what it may not; the largest `View.seen` there; how much it looks like the
goal; the mean colour of what stands there; and the way still to go: 0.5 as long as from here, 0 for 5 m less, 1 for 5 m
more."""
HEADROOM_M = 1.8  # what hangs higher is not on the map
WAY_RANGE_M = 10.0  # difference of ways between 0 and 1
AHEAD_M = 0.8  # how far along the way its direction is taken


@dataclass(frozen=True)
class Raster:
    """All channels in the world frame, on the cells of a `Grid`."""

    channels: np.ndarray  # [len(CHANNELS) - 1, X, Y] float32 in [0, 1]; the way depends on where the agent is
    grid: Grid
    field: CostField | None  # metres to go; None where there is neither a goal nor anything unknown

    def around(self, position: np.ndarray, heading: float, cells: int, extent_m: float) -> np.ndarray:
        """The square around an agent; row 0 is ahead, column 0 is left.

        Args:
            position: world, metres. [2] or more
            heading: radians.
            cells: a side.
            extent_m: edge of the square, metres.

        Returns:
            [len(CHANNELS), cells, cells] float32 in [0, 1].
        """
        edge = extent_m / cells
        steps = (np.arange(cells) + 0.5) * edge - 0.5 * extent_m
        ahead, left = np.meshgrid(-steps, -steps, indexing="ij")
        cos, sin = np.cos(heading), np.sin(heading)
        world = position[:2] + np.stack([cos * ahead - sin * left, sin * ahead + cos * left], axis=-1)
        shape = np.array(self.grid.free.shape)
        inside = np.all((world >= self.grid.origin) & (world < self.grid.origin + shape * self.grid.cell_m), axis=-1)
        i, j = self.grid.nearest(world)
        shown = np.where(inside, self.channels[:, i, j], 0.0)
        return np.concatenate([shown, self._way(position, i, j, inside)[None]]).astype(np.float32)

    def _way(self, position: np.ndarray, i: np.ndarray, j: np.ndarray, inside: np.ndarray) -> np.ndarray:
        if self.field is None:
            return np.full(i.shape, 0.5)
        here = self.field.cost[self.grid.nearest(position[:2])]
        return np.where(inside, np.clip(0.5 + (self.field.cost[i, j] - here) / WAY_RANGE_M, 0.0, 1.0), 1.0)

    def next_place(self, position: np.ndarray) -> tuple[np.ndarray, float] | None:
        """World xy some AHEAD_M along the way from a position, and the metres to go at the map's prices; None without a way."""
        if self.field is None:
            return None
        cost, (rows, columns) = self.field.cost, self.field.cost.shape
        i, j = (int(k) for k in self.grid.nearest(position[:2]))
        here = float(cost[i, j])
        for _ in range(round(AHEAD_M / self.grid.cell_m)):
            low_i, low_j = max(i - 1, 0), max(j - 1, 0)
            around = cost[low_i : min(i + 2, rows), low_j : min(j + 2, columns)]
            di, dj = divmod(int(around.argmin()), around.shape[1])
            i, j = low_i + di, low_j + dj
        return self.grid.origin + (np.array([i, j]) + 0.5) * self.grid.cell_m, here


def make_raster(
    grid: Grid,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    evidence: tuple[np.ndarray, np.ndarray],
    field: CostField | None,
    edge_m: float,
) -> Raster:
    """Put a map and the points behind it onto one raster.

    Args:
        grid: free and occupied cells.
        points: world positions [P, 3] in metres, colours [P, 3] and `seen` [P], both in [0, 1].
        evidence: of the goal: world positions [M, 3], votes in [0, 1] [M].
        field: metres to go on the cells of `grid`.
        edge_m: of the coarser cells that it will be sampled at: nothing thin may fall between them.
    """
    wide = max(1, round(edge_m / grid.cell_m))
    xyz, rgb, seen = (values[points[0][:, 2] < HEADROOM_M] for values in points)
    known = _largest(grid, xyz, seen)
    weight = np.stack([_sum(grid, xyz, seen * column) for column in (np.ones_like(seen), *rgb.T)])
    weight = ndimage.uniform_filter(weight, size=(0, wide, wide), mode="constant")
    colour = weight[1:] / np.maximum(weight[0], 1e-6)
    spread = [ndimage.maximum_filter(layer, size=wide) for layer in (grid.occupied, known, _largest(grid, *evidence))]
    layers = [grid.free & ~grid.occupied, *spread, *np.clip(colour, 0.0, 1.0)]
    return Raster(np.stack(layers).astype(np.float32), grid, field)


def _index(grid: Grid, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of the cell of each point that lies on the grid [K], and which points do [P]."""
    shape = grid.free.shape
    cells = np.floor((xyz[:, :2] - grid.origin) / grid.cell_m).astype(np.int64)
    inside = np.all((cells >= 0) & (cells < shape), axis=1)
    return cells[inside, 0] * shape[1] + cells[inside, 1], inside


def _largest(grid: Grid, xyz: np.ndarray, values: np.ndarray) -> np.ndarray:
    index, inside = _index(grid, xyz)
    raster = np.zeros(grid.free.size)
    np.maximum.at(raster, index, values[inside])
    return raster.reshape(grid.free.shape)


def _sum(grid: Grid, xyz: np.ndarray, values: np.ndarray) -> np.ndarray:
    index, inside = _index(grid, xyz)
    return np.bincount(index, values[inside], grid.free.size).reshape(grid.free.shape)
