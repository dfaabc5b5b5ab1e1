"""What a learned policy sees of a world model's state: an egocentric bird's-eye map and a vector.

The map (what is free, occupied, known, and where the goal's colour is) is read out of the state by rendering it; the vector
holds the instruction, the believed way to the goal, and the model's own summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from scipy import ndimage

from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.belief import SpatialBelief, ego_pose
from liftwm_agents.observations import is_last_frame, single, to_observation, tour_observations

BELIEF_DIM = 4  # cosine, sine and distance of the believed goal, confidence
DISTANCE_SCALE_M = 5.0
Features = dict[str, np.ndarray]


@dataclass(frozen=True)
class FeatureConfig:
    """What is read, and how often."""

    cells: int = 32  # cells a side of the bird's-eye map
    extent_m: float = 8.0  # edge of the map, metres; the agent stands in its middle and faces up
    views: int = 5  # pictures of a full turn
    read_every: int = 4  # steps between readings of the state
    survey_places: int = 6  # places of the tour that are read when an episode begins
    cell_m: float = 0.1  # edge of a cell of the world-frame map underneath


class FeatureReader:
    """Features of one agent. The state itself belongs to the caller."""

    def __init__(self, model: WorldModel, config: FeatureConfig) -> None:
        self._model, self._config = model, config
        self._belief = self._new_belief()
        self._steps = 0

    def begin(self, state: TensorTree, positions: np.ndarray) -> None:
        """Start an episode: survey the state (batch of one) from where the agent has been, [P, 3] world, metres."""
        self._belief, self._steps = self._new_belief(), 0
        self._belief.survey(state, positions, self._config.survey_places)

    def read(self, state: TensorTree, goal: np.ndarray) -> Features:
        """Features of a state.

        Args:
            state: batch of one.
            goal: the instruction. [G]

        Returns:
            birdseye [4, cells, cells] float32 in [0, 1]; vector [G + BELIEF_DIM + F] float32.
        """
        position, heading = ego_pose(self._model, state)
        self._belief.stand(position[None])
        if self._steps % self._config.read_every == 0:
            if self._steps:
                self._belief.look(state)
            self._belief.locate(goal)
        self._steps += 1
        summary = self._model.summarize(state)[0].detach().cpu().numpy()
        vector = np.concatenate([goal, self._believed_way(position, heading), summary]).astype(np.float32)
        return {"birdseye": self._birdseye(position, heading, goal), "vector": vector}

    def _new_belief(self) -> SpatialBelief:
        return SpatialBelief(self._model, self._config.views, self._config.cell_m)

    def _believed_way(self, position: np.ndarray, heading: float) -> np.ndarray:
        """Direction relative to the heading, distance, confidence; zeros while the goal is not found. [BELIEF_DIM]"""
        goal = self._belief.goal_xyz
        if goal is None:
            return np.zeros(BELIEF_DIM)
        east, north = goal[:2] - position[:2]
        bearing = np.arctan2(north, east) - heading
        distance = min(float(np.hypot(east, north)) / DISTANCE_SCALE_M, 2.0)
        return np.array([np.cos(bearing), np.sin(bearing), distance, self._belief.confidence])

    def _birdseye(self, position: np.ndarray, heading: float, goal: np.ndarray) -> np.ndarray:
        """Free, occupied, known, goal: [4, cells, cells] float32; row 0 is ahead, column 0 is left."""
        config, grid = self._config, self._belief.grid()
        edge = config.extent_m / config.cells
        steps = (np.arange(config.cells) + 0.5) * edge - 0.5 * config.extent_m
        ahead, left = np.meshgrid(-steps, -steps, indexing="ij")
        cos, sin = np.cos(heading), np.sin(heading)
        world = position[:2] + np.stack([cos * ahead - sin * left, sin * ahead + cos * left], axis=-1)
        inside = np.all((world >= grid.origin) & (world < grid.origin + np.array(grid.free.shape) * grid.cell_m), axis=-1)
        index = grid.nearest(world)
        wide = max(1, round(edge / grid.cell_m))  # a thin wall must not fall between the coarser samples
        free = grid.free[index] & inside
        occupied = ndimage.maximum_filter(grid.occupied, size=wide)[index] & inside
        similarity = np.zeros_like(ahead)
        xyz, votes = self._belief.evidence(goal)
        offset = xyz[:, :2] - position[:2]
        row = np.floor((0.5 * config.extent_m - offset @ [cos, sin]) / edge).astype(int)
        column = np.floor((0.5 * config.extent_m - offset @ [-sin, cos]) / edge).astype(int)
        shown = (row >= 0) & (row < config.cells) & (column >= 0) & (column < config.cells)
        np.maximum.at(similarity, (row[shown], column[shown]), votes[shown])
        return np.stack([free & ~occupied, occupied, free | occupied, similarity]).astype(np.float32)


def feature_space(model: WorldModel, goal_dim: int, config: FeatureConfig) -> spaces.Dict:
    """The observation space of the features."""
    summary = int(model.summarize(model.initial_state(1)).shape[1])
    return spaces.Dict(
        {
            "birdseye": spaces.Box(0.0, 1.0, (4, config.cells, config.cells), np.float32),
            "vector": spaces.Box(-np.inf, np.inf, (goal_dim + BELIEF_DIM + summary,), np.float32),
        }
    )


@torch.no_grad()
def watch(
    model: WorldModel,
    tour: Mapping[str, np.ndarray] | None,
    first: Mapping[str, np.ndarray],
    action_dim: int,
    device: str | torch.device = "cpu",
) -> tuple[TensorTree, np.ndarray]:
    """Watch a guided tour, if there is one, and the first frame after it.

    Args:
        model: the world model.
        tour: stacked frames, or None.
        first: the observation that reset returned, be it the tour's last frame or the one after.
        action_dim: A.
        device: where the model's tensors live.

    Returns:
        The state, batch of one, and every camera position on the way, [K, 3] world, metres.
    """
    state, positions = model.initial_state(1), []
    for observation in tour_observations(tour, device) if tour else ():
        state = model.observe(state, observation)
        positions.append(observation.camera.world_from_camera[0, :3, 3].cpu().numpy())
    if not is_last_frame(tour, first):
        none = np.zeros((1, action_dim), dtype=np.float32)
        observation = to_observation(single(first), none, not positions, device)
        state = model.observe(state, observation)
        positions.append(observation.camera.world_from_camera[0, :3, 3].cpu().numpy())
    return state, np.stack(positions)
