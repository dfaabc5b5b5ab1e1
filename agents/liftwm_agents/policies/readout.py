"""What a learned policy sees of a world model's state: an egocentric bird's-eye map and a vector.

The map (what is free, occupied and seen, its colours, where the goal's colour is, and the way there) is read out of the state
by rendering it; the vector holds the instruction, the believed way to the goal, and the model's own summary.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces

from embodied_liftwm.goals import goal_of
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree, concatenate
from liftwm_agents.observations import KEYS, is_last_frame, single, to_observation, tour_observations
from liftwm_agents.planning.belief import SpatialBelief, ego_pose
from liftwm_agents.planning.perception import heading_of
from liftwm_agents.policies.birdseye import CHANNELS, Raster, make_raster

BELIEF_DIM = 7  # cosine, sine and distance of the believed goal, confidence; cosine, sine and length of the way there
DISTANCE_SCALE_M = 5.0
Features = dict[str, np.ndarray]


@dataclass(frozen=True)
class FeatureConfig:
    """What is read, and how often."""

    cells: int = 32  # cells a side of the bird's-eye map
    extent_m: float = 8.0  # edge of the map, metres; the agent stands in its middle and faces up
    views: int = 5  # pictures of a full turn
    watch_every: int = 1  # steps between frames that the model observes; in between `imagine` carries its state on
    read_every: int = 8  # steps between readings of the state
    survey_places: int = 6  # places of the tour that are read when an episode begins
    cell_m: float = 0.1  # edge of a cell of the world-frame map underneath
    way: bool = True  # show the shortest way through the map to the place believed, or to the unknown


class FeatureReader:
    """Features of one agent. The state itself belongs to the caller."""

    def __init__(self, model: WorldModel, config: FeatureConfig) -> None:
        self._model, self._config = model, config
        self.belief = SpatialBelief(model, config.views, config.cell_m)
        self._raster: Raster | None = None
        self._summary = np.zeros(0)
        self._steps = 0

    def begin(self, state: TensorTree, positions: np.ndarray, goal: np.ndarray) -> None:
        """Start an episode: survey the state (batch of one) from where the agent has been, and look for the goal.

        Args:
            state: batch of one.
            positions: where the camera has been, world, metres. [P, 3]
            goal: the instruction. [G]
        """
        self.belief = SpatialBelief(self._model, self._config.views, self._config.cell_m)
        self._steps = 0
        self.belief.survey(state, positions, self._config.survey_places)
        self._find(state, goal)
        self._summarize(state)

    def copy(self) -> FeatureReader:
        """A reader that goes on from here by itself; nothing that either does changes the other."""
        twin = FeatureReader(self._model, self._config)
        twin.belief = copy.deepcopy(self.belief, {id(self._model): self._model})
        twin._raster, twin._steps, twin._summary = self._raster, self._steps, self._summary
        return twin

    @property
    def raster(self) -> Raster:
        """The map as it was last read.

        Raises:
            ValueError: before `begin`.
        """
        if self._raster is None:
            raise ValueError("FeatureReader: begin() comes first")
        return self._raster

    @property
    def watches(self) -> bool:
        """Whether the model is to observe the next frame."""
        return self._steps % self._config.watch_every == 0

    def read(self, state: TensorTree, frame: Mapping[str, np.ndarray]) -> Features:
        """Features of a state, which is read anew every few steps.

        Args:
            state: batch of one.
            frame: what the environment gave, with `goal` [G] and the pose that the agent is told, `world_from_camera` [16].

        Returns:
            birdseye [8 * cells * cells] float32 in [0, 1], `CHANNELS` outermost, flat since stable-baselines3 takes three axes
            for a picture of bytes; vector [G + BELIEF_DIM] and summary [F] float32.
        """
        goal, told = np.asarray(frame["goal"]), np.asarray(frame["world_from_camera"], np.float64).reshape(4, 4)
        position, heading = ego_pose(self._model, state) if self.watches else (told[:3, 3], float(heading_of(told)))
        self.belief.stand(position[None])
        if self._steps and self.watches:
            self._summarize(state)
        if self._steps and (self.belief.is_new(goal_of(goal)) or self._steps % self._config.read_every == 0):
            self.belief.look(state)
            self._find(state, goal)
        self._steps += 1
        return self.features(position, heading, goal)

    def features(self, position: np.ndarray, heading: float, goal: np.ndarray) -> Features:
        """Features of a pose on the map as it was last read.

        Args:
            position: believed camera position, world, metres. [3]
            heading: radians.
            goal: the instruction. [G]
        """
        way = self._place(position, heading), self._way(position, heading)
        vector = np.concatenate([goal, *way]).astype(np.float32)
        birdseye = self.raster.around(position, heading, self._config.cells, self._config.extent_m)
        return {"birdseye": birdseye.reshape(-1), "vector": vector, "summary": self._summary}

    def _summarize(self, state: TensorTree) -> None:
        """Ask the model what it says of a state; it is shown until the next frame is watched."""
        self._summary = self._model.summarize(state)[0].detach().cpu().numpy().astype(np.float32)

    def _find(self, state: TensorTree, instruction: np.ndarray) -> None:
        """Look for the goal in what was read, and make the raster anew."""
        goal = goal_of(instruction)
        self.belief.find(state, goal)
        way = self.belief.way() if self._config.way else None
        edge_m = self._config.extent_m / self._config.cells
        self._raster = make_raster(self.belief.grid(), self.belief.points(), self.belief.evidence(goal), way, edge_m)

    def _place(self, position: np.ndarray, heading: float) -> np.ndarray:
        """Direction relative to the heading, distance and confidence of the goal; zeros while it is not found. [4]"""
        goal = self.belief.goal_xyz
        return np.zeros(4) if goal is None else np.append(_towards(goal, position, heading), self.belief.confidence)

    def _way(self, position: np.ndarray, heading: float) -> np.ndarray:
        """Direction in which the way goes on, and its length; zeros without one. [3]"""
        found = self.raster.next_place(position)
        if found is None:
            return np.zeros(3)
        place, length = found
        return np.append(_towards(place, position, heading)[:2], min(length / DISTANCE_SCALE_M, 4.0))


def _towards(place: np.ndarray, position: np.ndarray, heading: float) -> np.ndarray:
    """Cosine and sine of the bearing, 1 to the left, and the distance, at most 2 x 5 m. [3]"""
    east, north = place[:2] - position[:2]
    bearing = np.arctan2(north, east) - heading
    return np.array([np.cos(bearing), np.sin(bearing), min(float(np.hypot(east, north)) / DISTANCE_SCALE_M, 2.0)])


def feature_space(model: WorldModel, goal_dim: int, config: FeatureConfig) -> spaces.Dict:
    """The observation space of the features."""
    summary = int(model.summarize(model.initial_state(1)).shape[1])
    return spaces.Dict(
        {
            "birdseye": spaces.Box(0.0, 1.0, (len(CHANNELS) * config.cells**2,), np.float32),
            "vector": spaces.Box(-np.inf, np.inf, (goal_dim + BELIEF_DIM,), np.float32),
            "summary": spaces.Box(-np.inf, np.inf, (summary,), np.float32),
        }
    )


@dataclass(frozen=True)
class Watched:
    """A tour, watched to the call: what a start of the pool remembers. Use copies of the reader."""

    state: TensorTree  # batch of one
    reader: FeatureReader
    goal: np.ndarray  # the instruction. [G]


def watch_start(
    model: WorldModel,
    config: FeatureConfig,
    obs: Mapping[str, np.ndarray],
    info: Mapping[str, object],
    action_dim: int,
    device: str | torch.device = "cpu",
) -> Watched:
    """Watch the tour of an episode that begins, and survey the state; once only where the episode's start is of a pool.

    Args:
        model: the world model.
        config: what is read.
        obs: the observation that reset returned.
        info: its info, with `tour` and `start` where there are any.
        action_dim: A of the actions that the model is told.
        device: where the model's tensors live.
    """
    start: object = info.get("start")
    kept = getattr(start, "memory", None)
    if isinstance(kept, Watched):
        return Watched(kept.state, kept.reader.copy(), kept.goal)
    tour = info.get("tour")
    assert tour is None or isinstance(tour, Mapping)
    state, positions = watch(model, tour, obs, action_dim, device)
    reader, goal = FeatureReader(model, config), np.array(obs["goal"])
    reader.begin(state, positions, goal)
    if start is not None:
        start.memory = Watched(state, reader.copy(), goal)  # type: ignore[attr-defined]
    return Watched(state, reader, goal)


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


@torch.no_grad()
def follow(
    model: WorldModel,
    states: list[TensorTree],
    readers: list[FeatureReader],
    frames: Mapping[str, np.ndarray],
    actions: np.ndarray,
    device: str | torch.device = "cpu",
) -> list[TensorTree]:
    """States after one more step: frames that are to be watched are observed, all at once; over others `imagine` carries.

    Args:
        model: the world model.
        states: of B agents, each a batch of one.
        readers: theirs, which say what is watched.
        frames: what the environments gave. [B, ...]
        actions: that led there, as the model is told them. [B, A]
        device: where the model's tensors live.
    """
    after = list(states)
    watched = [i for i, reader in enumerate(readers) if reader.watches]
    if watched:
        seen = to_observation({key: np.asarray(frames[key])[watched] for key in KEYS}, actions[watched], False, device)
        observed = model.observe(concatenate([states[i] for i in watched]), seen)
        for k, i in enumerate(watched):
            after[i] = observed.index(slice(k, k + 1))
    for i in set(range(len(states))) - set(watched):
        after[i] = model.imagine(states[i], torch.as_tensor(actions[i : i + 1], dtype=torch.float32, device=device))
    return after
