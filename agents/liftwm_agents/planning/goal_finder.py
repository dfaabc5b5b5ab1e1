"""Where a goal may be: from what is looked for to ranked places. The planner's own finder votes by colour, or yours finds:

liftwm evaluate model=base planner.goal_finder=my_package:make_finder

def make_finder(config):                      # PlannerConfig; once an agent
    return MyFinder()                         # has find(model, state, goal) -> Candidates: `protocols.GoalFinder`
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import BodyConfig, PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import colour_of, goal_places, hue_likeness
from embodied_liftwm.plugins import call_function, users_code
from embodied_liftwm.protocols import Candidates, Goal, GoalFinder, PlaceGoal, PointGoal, WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.body import Body, measure_body
from liftwm_agents.planning.perception import Points, held_points, panorama

VOXEL = 0.25  # radii of the body: points closer than this are one piece of evidence, however many pixels show them
LOWEST, HIGHEST = 0.027, 2.0  # camera heights above the floor: objects are looked for between, not in the floor nor above walls
CLUSTER = 1.75  # radii of the body: about the radius of the largest object
VOTERS = 2048  # among which a goal is looked for: of 256, walls of its hue show their best pieces alone (experiments.md, 49)
PLACES = 8  # candidates at most
SUREST = 0.999  # of a candidate: the others must not become impossible
VIEWS, STRIDE = 6, 2  # of a model that keeps no primitives, where nobody looked around for it


class Remembered:
    """A world model as planners give it to goal finders: it also says what was found in its state, and how large a body is."""

    def __init__(self, model: WorldModel, points: Points, body: Body) -> None:
        """
        Args:
            model: any world model.
            points: what its state keeps, or what pictures of it showed.
            body: what lengths are measured in.
        """
        self._model, self._points, self.body = model, points, body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def primitives(self, state: Any) -> tuple[Tensor, Tensor, Tensor]:
        """As `ExplicitModel.primitives`, of the state as it was last read."""
        xyz, rgb, seen = (torch.from_numpy(np.ascontiguousarray(values)) for values in self._points)
        return xyz, rgb, seen


class ColourVote:
    """Looks for compact clusters of the goal's colour, be it said or shown; points and places need no looking for."""

    def find(self, model: WorldModel, state: Any, goal: Goal) -> Candidates:
        """As `GoalFinder.find`."""
        if isinstance(goal, PlaceGoal):
            return Candidates(goal.xyz[None].double(), torch.ones(1, dtype=torch.float64))
        if isinstance(goal, PointGoal):
            return shown_at(model, state, goal)
        points, body = _remembered(model, state)
        xyz, votes = (torch.from_numpy(values)[None] for values in colour_evidence(points, goal, body))
        found = goal_places(xyz, torch.ones_like(votes), votes, PLACES, CLUSTER * body.radius_m, VOTERS)
        sure = found.confidence[0].clamp_max(SUREST)
        none_before = torch.cat([torch.ones_like(sure[:1]), (1.0 - sure).cumprod(0)[:-1]])
        there = sure > 0
        return Candidates(found.xyz[0][there], (sure * none_before)[there])


def _remembered(model: WorldModel, state: TensorTree) -> tuple[Points, Body]:
    """Points of a state and the body there; of a bare model they are found from where it believes to stand."""
    points = held_points(model, state)
    points = panorama(model, state, VIEWS, None, STRIDE).points() if points is None else points
    if isinstance(model, Remembered):
        return points, model.body
    eye = model.ego_camera(state).world_from_camera[:1, :3, 3].cpu().numpy()
    return points, measure_body(eye, points[0], BodyConfig())


@torch.no_grad()
def shown_at(model: WorldModel, state: TensorTree, goal: PointGoal) -> Candidates:
    """What a frame showed at a pixel, by the depth that the state has there now.

    Raises:
        UserError: a pixel outside the frame.
    """
    camera = goal.camera.to(model.ego_camera(state).world_from_camera.device)
    column, row = (int(value) for value in goal.pixel.floor())
    if not (0 <= column < camera.width and 0 <= row < camera.height):
        raise UserError(f"a goal at pixel {goal.pixel.tolist()}: the frame has {camera.width} x {camera.height}")
    view = model.render(state, camera)
    depth, seen = view.depth[0, row, column], view.seen[0, row, column]
    ray = torch.linalg.inv(camera.intrinsics[0]) @ torch.cat([goal.pixel.to(depth), depth.new_ones(1)])
    pose, there = camera.world_from_camera[0], (depth > 0).reshape(1)
    place = pose[:3, :3] @ (ray * depth) + pose[:3, 3]
    return Candidates(place[None][there].double().cpu(), seen.reshape(1)[there].double().cpu())


def colour_evidence(points: Points, goal: Goal, body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Where the goal's colour is: one weighted vote a voxel.

    Args:
        points: what is looked through.
        goal: of any kind; places have no colour.
        body: what lengths are measured in.

    Returns:
        World positions [M, 3] between LOWEST and HIGHEST, and votes in [0, 1] [M]; empty without a colour.
    """
    xyz, rgb, seen = points
    colour, height = colour_of(goal), (xyz[:, 2] - body.floor_m) / body.camera_height_m
    keep = (height > LOWEST) & (height < HIGHEST) & (seen > 0.2)
    if colour is None or not keep.any():
        return np.zeros((0, 3)), np.zeros(0)
    places, shown, surest = voxelize(xyz[keep], rgb[keep], seen[keep], VOXEL * body.radius_m)
    votes = surest * hue_likeness(torch.from_numpy(shown), colour.double().cpu()).numpy()
    strong = votes > 0.1
    return places[strong], votes[strong]


def voxelize(points: np.ndarray, rgb: np.ndarray, seen: np.ndarray, edge_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average points within cells, weighted by `seen`.

    Args:
        points: world. [P, 3]
        rgb: [P, 3]
        seen: [P]
        edge_m: of a cell.

    Returns:
        Mean position [M, 3], mean colour [M, 3], largest `seen` [M].
    """
    cells = np.floor(points / edge_m).astype(np.int64) + (1 << 19)
    keys = (cells[:, 0] << 40) | (cells[:, 1] << 20) | cells[:, 2]
    _, index = np.unique(keys, return_inverse=True)
    weight = np.bincount(index, seen)
    means = [np.bincount(index, seen * column) / weight for column in (*points.T, *rgb.T)]
    highest = np.zeros(len(weight))
    np.maximum.at(highest, index, seen)
    return np.stack(means[:3], axis=-1), np.stack(means[3:], axis=-1), highest


def find_goal_finder(config: PlannerConfig) -> GoalFinder:
    """The goal finder of a configuration.

    Raises:
        UserError: there is no such function, or what it returns has no `find`; later, what that returns are no candidates.
    """
    return _Users(config) if config.goal_finder else ColourVote()


class _Users:
    """A goal finder of the user's, whose faults are told in their own line."""

    def __init__(self, config: PlannerConfig) -> None:
        self._label = f"planner.goal_finder={config.goal_finder}"
        self._finder: Any = call_function(config.goal_finder, self._label, config)
        if not callable(getattr(self._finder, "find", None)):
            raise UserError(f"{self._label} returned {self._finder!r:.60}, expected an object with find(model, state, goal)")

    def find(self, model: WorldModel, state: Any, goal: Goal) -> Candidates:
        with users_code(self._label, self._finder.find):
            found = self._finder.find(model, state, goal)
        if not isinstance(found, Candidates) or found.xyz.shape != (*found.probability.shape, 3):
            raise UserError(f"{self._label} found {found!r:.60}, expected Candidates of xyz [K, 3] and probability [K]")
        xyz, probability = found.xyz.detach().double().cpu(), found.probability.detach().double().cpu()
        if not bool(xyz.isfinite().all()) or not bool(((probability >= 0) & (probability <= 1)).all()):
            raise UserError(f"{self._label} found places that are not finite, or probabilities beyond [0, 1]")
        return Candidates(xyz, probability)
