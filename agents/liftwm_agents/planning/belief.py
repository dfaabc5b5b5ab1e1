"""What one agent believes about its surroundings, read out of a world model's state: a map and the place of the goal.

Reading is expensive (pictures are rendered), so it happens when the goal is called, from several places of the tour, for
the goal may be in a room that cannot be seen from here; and every few steps afterwards, from where the agent stands.

The map comes from pictures, for only they show what is free. The goal is looked for in the primitives of the state where its
model has any (`protocols.ExplicitModel`): no screen stands before them. Otherwise pictures have to do for that too.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.mapping import CostField, Grid, OccupancyMap, cost_to_go, frontier, low_obstacles
from liftwm_agents.planning.perception import Points, goal_evidence, heading_of, held_points, locate_goal, panorama

RECENT_READINGS = 3
SURE, PEEK_PLACES = 0.3, 24  # below this confidence the state is read from so many places behind what stands about, too
PEEK_HEIGHT_M = 0.5  # of a camera among what stands on the floor
PEEK_APART_M = 0.4
STRIDE = 2  # every second pixel of a picture is read: a quarter of the points tell as much
BUMP_AHEAD_M = 0.35  # what stopped the body is so far from its middle


class SpatialBelief:
    """Map and goal of one agent in one episode."""

    def __init__(self, model: WorldModel, views: int, cell_m: float) -> None:
        """
        Args:
            model: the world model whose state is read.
            views: pictures of a full turn.
            cell_m: edge of a map cell, metres.
        """
        self._model, self._views = model, views
        self.map = OccupancyMap(cell_m)
        self.goal_xyz: np.ndarray | None = None  # [3] world, metres
        self.confidence = 0.0  # in [0, 1]
        self.rejected = np.zeros((0, 2))  # places that turned out not to be the goal, world xy
        self._goal = np.zeros(0)  # the last one that was looked for
        self._survey: list[Points] = []
        self._recent: deque[Points] = deque(maxlen=RECENT_READINGS)
        self._held: Points | None = None  # primitives, as last read

    def survey(self, state: TensorTree, positions: np.ndarray, places: int) -> None:
        """Read the state from several places at once and keep what was found, instead of what an earlier survey found.

        Args:
            state: batch of one.
            positions: where the camera has been, in the world, metres. [P, 3]
            places: how many of them to look from.
        """
        found = panorama(self._model, state, self._views, spread(positions, places), STRIDE)
        self.map.update(found)
        self.stand(positions)
        self._survey, self._held = [found.points()], held_points(self._model, state)

    def look_behind(self, state: TensorTree, places: int) -> None:
        """Read the state from within what stands in the rooms: what a screen hides from all sides may still be remembered.

        The map is left as it is, for no free space is seen from there.

        Args:
            state: batch of one.
            places: how many at most.
        """
        standing = low_obstacles(self.map.grid())
        if len(standing):
            heights = np.full((len(standing), 1), PEEK_HEIGHT_M)
            chosen = spread(np.concatenate([standing, heights], axis=1), places, PEEK_APART_M)
            self._survey.append(panorama(self._model, state, self._views, chosen, STRIDE).points())

    def look(self, state: TensorTree) -> None:
        """Read the state from the believed present position."""
        found = panorama(self._model, state, self._views, None, STRIDE)
        self.map.update(found)
        self._recent.append(found.points())
        self._held = held_points(self._model, state)

    def stand(self, positions: np.ndarray) -> None:
        """Where the agent is, or has been, is free. [P, 3] world, metres."""
        for position in positions:
            self.map.stand(position[:2])

    def bump(self, position: np.ndarray, heading_rad: float) -> None:
        """Something blocked the way ahead, whatever the state shows."""
        ahead = np.array([np.cos(heading_rad), np.sin(heading_rad)]) * BUMP_AHEAD_M
        self.map.bump(position[:2] + ahead)

    def reject(self) -> None:
        """The goal was not where it was believed to be."""
        if self.goal_xyz is not None:
            self.rejected = np.concatenate([self.rejected, self.goal_xyz[None, :2]])
        self.goal_xyz, self.confidence = None, 0.0

    def is_new(self, goal: np.ndarray) -> bool:
        """Whether another goal than this [G] was looked for last."""
        return not np.array_equal(goal, self._goal)

    def locate(self, goal: np.ndarray) -> None:
        """Search what was read for the goal [G]. What was rejected of another goal may be this one."""
        if self.is_new(goal):
            self._goal, self.rejected = np.array(goal), np.zeros((0, 2))
        self.goal_xyz, self.confidence = locate_goal(*self._clues(), goal, self.rejected)

    def find(self, state: TensorTree, goal: np.ndarray) -> None:
        """As `locate`; where a new goal is left unsure by pictures, which are all there is, look behind things."""
        unsure = self.is_new(goal) and self._held is None
        self.locate(goal)
        if unsure and self.confidence < SURE:
            self.look_behind(state, PEEK_PLACES)
            self.locate(goal)

    def way(self, least_confidence: float = 0.0) -> CostField | None:
        """Metres still to go to the goal; while it is not found so surely, to the border of the unknown; None without one."""
        grid = self.grid()
        if self.goal_xyz is not None and self.confidence >= least_confidence:
            return cost_to_go(grid, self.goal_xyz[None, :2])
        edge = frontier(grid)
        return cost_to_go(grid, edge, reach_m=0.0) if len(edge) else None

    def evidence(self, goal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Votes for the goal's place: positions [M, 3], weights [M]."""
        return goal_evidence(*self._clues(), goal)

    def grid(self) -> Grid:
        """The present map."""
        return self.map.grid()

    def _clues(self) -> Points:
        """Where the goal is looked for."""
        return self.points() if self._held is None else self._held

    def points(self) -> Points:
        """Everything that was read of pictures."""
        readings = [*self._survey, *self._recent]
        if not readings:
            return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)
        xyz, rgb, seen = (np.concatenate(parts) for parts in zip(*readings, strict=True))
        return xyz, rgb, seen


def spread(positions: np.ndarray, count: int, at_least_m: float = 0.5) -> np.ndarray:
    """Choose places that are far from one another: farthest-point sampling from the last one.

    Args:
        positions: [P, 3] world, metres.
        count: how many at most.
        at_least_m: stop when every place has a chosen one this near.

    Returns:
        [K, 3], K <= count.
    """
    chosen = [len(positions) - 1]
    distance = np.linalg.norm(positions - positions[-1], axis=-1)
    while len(chosen) < count and distance.max() > at_least_m:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(positions - positions[chosen[-1]], axis=-1))
    return positions[chosen]


def ego_pose(model: WorldModel, state: TensorTree) -> tuple[np.ndarray, float]:
    """Believed camera position [3] and heading, radians, of a state of batch one."""
    pose = model.ego_camera(state).world_from_camera[0].detach().cpu().numpy()
    return pose[:3, 3].astype(np.float64), float(heading_of(pose))
