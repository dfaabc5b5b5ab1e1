"""What one agent believes about its surroundings, read out of a world model's state: a map and the place of the goal.

Reading is expensive (pictures are rendered), so it happens when the goal is called, from several places of the tour, for
the goal may be in a room that cannot be seen from here; and every few steps afterwards, from where the agent stands.

The map comes from pictures, for only they show what is free. The goal is looked for in the primitives of the state where its
model has any (`protocols.ExplicitModel`): no screen stands before them. Otherwise pictures have to do for that too. Who looks
is a `GoalFinder`; what its places turned out not to be is remembered here.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from embodied_liftwm.config import BodyConfig
from embodied_liftwm.goals import same_goal
from embodied_liftwm.protocols import Candidates, Goal, GoalFinder, WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.body import Body, measure_body
from liftwm_agents.planning.goal_finder import CLUSTER, ColourVote, Remembered, colour_evidence
from liftwm_agents.planning.mapping import CostField, Grid, OccupancyMap, cost_to_go, frontier, low_obstacles
from liftwm_agents.planning.perception import Points, heading_of, held_points, panorama

RECENT_READINGS = 3
SURE, PEEK_PLACES = 0.3, 24  # below this confidence the state is read from so many places behind what stands about, too
PEEK_HEIGHT = 2 / 3  # of the camera's: of one among what stands on the floor
APART, PEEK_APART = 2.5, 2.0  # radii of the body between places of a survey, and between those
BUMP_AHEAD = 1.75  # radii: what stopped the body is so far from its middle
STRIDE = 2  # every second pixel of a picture is read: a quarter of the points tell as much


class SpatialBelief:
    """Map and goal of one agent in one episode."""

    def __init__(
        self,
        model: WorldModel,
        views: int,
        cell_m: float = 0.0,
        known: BodyConfig | None = None,
        finder: GoalFinder | None = None,
    ) -> None:
        """
        Args:
            model: the world model whose state is read.
            views: pictures of a full turn.
            cell_m: edge of a map cell; 0 for half the body's radius.
            known: what of the body is not to be measured.
            finder: looks for goals; None for the colour vote.
        """
        self._model, self._views, self._cell_m = model, views, cell_m
        self._known, self._finder = known or BodyConfig(), finder or ColourVote()
        self.body = Body.of_height(self._known.camera_height_m or 1.0)  # until the first survey
        self.map = OccupancyMap(self.body, cell_m)
        self.goal_xyz: np.ndarray | None = None  # [3] world
        self.confidence = 0.0  # in [0, 1]
        self.rejected = np.zeros((0, 2))  # places that turned out not to be the goal, world xy
        self._goal: Goal | None = None  # the last one that was looked for
        self._surveyed = False
        self._survey: list[Points] = []
        self._recent: deque[Points] = deque(maxlen=RECENT_READINGS)
        self._held: Points | None = None  # primitives, as last read

    def survey(self, state: TensorTree, positions: np.ndarray, places: int) -> None:
        """Read the state from several places at once and keep what was found, instead of what an earlier survey found.

        Args:
            state: batch of one.
            positions: where the camera has been, in the world. [P, 3]
            places: how many of them to look from.
        """
        self._held = held_points(self._model, state)
        if not self._surveyed:
            self._measure(state, positions)
        chosen = spread(positions, places, APART * self.body.radius_m)
        found = panorama(self._model, state, self._views, chosen, STRIDE)
        self.map.update(found)
        self.stand(positions)
        self._survey = [found.points()]

    def _measure(self, state: TensorTree, positions: np.ndarray) -> None:
        """Measure the body where an episode begins, and begin its map."""
        around = panorama(self._model, state, self._views, None, STRIDE).points() if self._held is None else self._held
        self.body, self._surveyed = measure_body(positions, around[0], self._known), True
        self.map = OccupancyMap(self.body, self._cell_m)

    def look_behind(self, state: TensorTree, places: int) -> None:
        """Read the state from within what stands in the rooms: what a screen hides from all sides may still be remembered.

        The map is left as it is, for no free space is seen from there.

        Args:
            state: batch of one.
            places: how many at most.
        """
        standing = low_obstacles(self.map.grid())
        if len(standing):
            heights = np.full((len(standing), 1), self.body.floor_m + PEEK_HEIGHT * self.body.camera_height_m)
            chosen = spread(np.concatenate([standing, heights], axis=1), places, PEEK_APART * self.body.radius_m)
            self._survey.append(panorama(self._model, state, self._views, chosen, STRIDE).points())

    def look(self, state: TensorTree) -> None:
        """Read the state from the believed present position."""
        found = panorama(self._model, state, self._views, None, STRIDE)
        self.map.update(found)
        self._recent.append(found.points())
        self._held = held_points(self._model, state)

    def stand(self, positions: np.ndarray) -> None:
        """Where the agent is, or has been, is free. [P, 3] world"""
        for position in positions:
            self.map.stand(position[:2])

    def bump(self, position: np.ndarray, heading_rad: float) -> None:
        """Something blocked the way ahead, whatever the state shows."""
        ahead = np.array([np.cos(heading_rad), np.sin(heading_rad)]) * BUMP_AHEAD * self.body.radius_m
        self.map.bump(position[:2] + ahead)

    def reject(self) -> None:
        """The goal was not where it was believed to be."""
        if self.goal_xyz is not None:
            self.rejected = np.concatenate([self.rejected, self.goal_xyz[None, :2]])
        self.goal_xyz, self.confidence = None, 0.0

    def is_new(self, goal: Goal) -> bool:
        """Whether another goal than this was looked for last."""
        return not same_goal(goal, self._goal)

    def locate(self, state: TensorTree, goal: Goal) -> None:
        """Search what was read for the goal. What was rejected of another goal may be this one."""
        if self.is_new(goal):
            self._goal, self.rejected = goal, np.zeros((0, 2))
        found = self._finder.find(Remembered(self._model, self._clues(), self.body), state, goal)
        self.goal_xyz, self.confidence = self._best_of(found)

    def _best_of(self, found: Candidates) -> tuple[np.ndarray | None, float]:
        """The best place that was not rejected, and how probable it is now that those are ruled out."""
        xyz, probability = found.xyz.numpy(), found.probability.numpy()
        apart = np.linalg.norm(xyz[:, None, :2] - self.rejected, axis=-1)
        ruled_out = (apart <= 2.0 * CLUSTER * self.body.radius_m).any(axis=1)
        left = np.where(ruled_out, 0.0, probability)
        if not left.any():
            return None, 0.0
        best = int(left.argmax())
        return xyz[best], float(min(1.0, left[best] / max(1e-3, 1.0 - probability[ruled_out].sum())))

    def find(self, state: TensorTree, goal: Goal) -> None:
        """As `locate`; where a new goal is left unsure by pictures, which are all there is, look behind things."""
        unsure = self.is_new(goal) and self._held is None
        self.locate(state, goal)
        if unsure and self.confidence < SURE:
            self.look_behind(state, PEEK_PLACES)
            self.locate(state, goal)

    def way(self, least_confidence: float = 0.0) -> CostField | None:
        """How far it still is to the goal; while it is not found so surely, to the border of the unknown; None without one."""
        grid = self.grid()
        if self.goal_xyz is not None and self.confidence >= least_confidence:
            return cost_to_go(grid, self.goal_xyz[None, :2])
        edge = frontier(grid)
        return cost_to_go(grid, edge, reach_m=0.0) if len(edge) else None

    def evidence(self, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        """Votes for where the goal's colour is: positions [M, 3], weights [M]."""
        return colour_evidence(self._clues(), goal, self.body)

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


def spread(positions: np.ndarray, count: int, at_least_m: float) -> np.ndarray:
    """Choose places that are far from one another: farthest-point sampling from the last one.

    Args:
        positions: [P, 3] world
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
