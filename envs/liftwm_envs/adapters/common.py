"""What all adapters share: the observation, and the shortest way to a goal on a plan of walls."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.rooms.navigation import CELL_M, Grid
from liftwm_envs.tasks.task import interpolate


def observation_space(size: tuple[int, int], goal: int = 0) -> spaces.Dict:
    """Of frames of `size` (height, width), and of a goal of so many attributes in [0, 1]."""
    return spaces.Dict(
        {
            "rgb": spaces.Box(0, 255, (*size, 3), np.uint8),
            "intrinsics": spaces.Box(0.0, 1e5, (9,), np.float32),
            "world_from_camera": spaces.Box(-1e4, 1e4, (16,), np.float32),
            "goal": spaces.Box(0.0, 1.0, (goal,), np.float32),
        }
    )


def observation(rgb: NDArray, intrinsics: NDArray, pose: NDArray, goal: ArrayLike = ()) -> dict[str, NDArray]:
    """An observation of frame [H, W, 3], intrinsics [3, 3], OpenCV pose world_from_camera [4, 4], and goal [G]."""
    return {
        "rgb": rgb,
        "intrinsics": np.asarray(intrinsics, np.float32).ravel(),
        "world_from_camera": np.asarray(pose, np.float32).ravel(),
        "goal": np.asarray(goal, np.float32),
    }


class Way:
    """Shortest way of a disc-shaped agent to within reach of a goal, between walls without thickness.

    Lengths are those of paths on a grid of 0.125 units, as in our own tasks: at most 8 % above the shortest.
    """

    def __init__(self, walls: NDArray, discs: NDArray, radius: float, start: ArrayLike, goal: ArrayLike, reach: float) -> None:
        """
        Args:
            walls: segments in the plan. [S, 2, 2]
            discs: other obstacles, (x, y, radius). [D, 3]
            radius: of the agent.
            start, goal: where the agent is, and the goal. [2]
            reach: how near to the goal the agent has to come.
        """
        middle, along = walls.mean(1), np.diff(walls, axis=1)[:, 0]
        half, yaw = 0.5 * np.hypot(*along.T), np.arctan2(along[:, 1], along[:, 0])
        rectangles = np.column_stack([middle, half, np.zeros(len(walls)), yaw])
        corners = walls.reshape(-1, 2)
        bounds = [*(corners.min(0) - 2 * CELL_M), *(corners.max(0) + 2 * CELL_M)]
        self._grid = Grid(bounds, rectangles, discs, radius)
        self._grid.keep_region_of(start)
        near = np.hypot(*np.moveaxis(self._grid.centres - np.asarray(goal), -1, 0)) < reach
        self._field = self._grid.distance_field(near)

    def length_from(self, position: NDArray) -> float:
        """Length of the way from a position [2] in the plan; inf where there is none."""
        return float(interpolate(self._grid, self._field, position))
