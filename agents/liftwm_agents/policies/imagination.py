"""Training in imagination: a VecEnv whose step is `WorldModel.imagine`. No simulator runs and nothing is observed.

An episode begins where a guided tour ended, in the state that the world model was left with. What is learned here is what the
model believes, so everything is taken from there:

- *Motion*: `imagine` moves the believed camera.
- *Walls*: `imagine` knows none and would drive through them. The occupancy map read off the state stops it: where a step would
  bring the body deeper into what is occupied, it slides along one axis of the map, or stays; heading and time go on.
- *Reward*: the metres by which the believed way became shorter, at the map's prices and bounded to what a step can do, and 1
  for coming within reach of the place believed, as in the environment's `progress`.
- *End*: within reach; or after the time that tasks allow (docs/tasks.md), for the believed way.

A tour whose goal is not found in the state teaches nothing here: another is drawn, and such tours are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree, concatenate
from liftwm_agents.planning.belief import ego_pose
from liftwm_agents.planning.mapping import CostField
from liftwm_agents.planning.perception import heading_of
from liftwm_agents.policies.readout import FeatureConfig, Features, Watched, feature_space
from liftwm_envs.actions import ActionCodec
from liftwm_envs.settings import LIMIT_EXTRA_STEPS, LIMIT_FACTOR, REACH_M, STEP_M, STEP_RAD

BELIEVED_REACH_M = REACH_M + 0.15  # from the middle of the place believed: tasks count from the surface
MOST_PROGRESS_M = 0.4  # of a step: a way that leaves the map's phantom walls would else be worth metres
BLOCKED = 0.1  # share of the base's depth in something, of `CostField.touching`, from which the body is stopped
_ALONG = np.array([0.25, 0.5, 0.75, 1.0])  # where on a step the body is tried
UNSEEN_STARTS = 200  # tours in a row without a goal in the state: then there is nothing to learn from


@dataclass
class _Row:
    """One imagined episode."""

    start: Watched
    field: CostField
    place: np.ndarray  # of the goal as believed, world xy
    position: np.ndarray  # [3]
    heading: float
    left_m: float  # of the way
    steps: int = 0
    limit: int = 0
    total: float = 0.0  # rewards so far


class ImaginedVecEnv(VecEnv):
    """Episodes inside a world model, with the features and rewards of the real ones."""

    def __init__(
        self,
        model: WorldModel,
        draw: Callable[[], Watched],
        action_space: spaces.Space,
        num_envs: int,
        config: FeatureConfig | None = None,
        table: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """
        Args:
            model: the world model; never changed.
            draw: gives the watched tour that the next episode begins after.
            action_space: of the policy.
            num_envs: episodes imagined at once.
            config: what is read of the state; a way is needed, for it is the reward.
            table: the action behind each choice, where the policy chooses among `table_for`. [K, A]
            device: where the model's tensors live.

        Raises:
            UserError: features without a way.
        """
        self._model, self._draw, self._config = model, draw, config or FeatureConfig()
        if not self._config.way:
            raise UserError("input=imagined needs way=true: the way that becomes shorter is its reward")
        self._codec, self._device = ActionCodec(action_space, table), device
        self.unseen = 0  # starts passed over since their goal was not found
        goal_dim = len(self._draw_seen().goal)
        super().__init__(num_envs, feature_space(model, goal_dim, self._config), action_space)
        self._rows: list[_Row] = []
        self._states: TensorTree = model.initial_state(num_envs)

    @torch.no_grad()
    def reset(self) -> VecEnvObs:
        """New episodes everywhere."""
        self._rows = [self._begin() for _ in range(self.num_envs)]
        self._states = concatenate([row.start.state for row in self._rows])
        self._reset_seeds()
        self._reset_options()
        return self._observe()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = torch.as_tensor(np.stack([self._codec.encode(a) for a in actions]), device=self._device)

    @torch.no_grad()
    def step_wait(self) -> VecEnvStepReturn:
        """Imagine, stop at walls, reward; where an episode ended, its last features are in `terminal_observation`."""
        imagined = self._model.imagine(self._states, self._actions)
        poses = self._model.ego_camera(imagined).world_from_camera.cpu().numpy()
        bumped = [self._move(row, pose) for row, pose in zip(self._rows, poses, strict=True)]
        self._states = place_ego(self._model, imagined, np.stack([row.position for row in self._rows]))
        outcomes = [self._judge(row) for row in self._rows]
        seen = self._observe()
        infos: list[dict[str, Any]] = [
            {"success": reached, "bump": bump} for bump, (_, reached, _) in zip(bumped, outcomes, strict=True)
        ]
        for i, (_, reached, late) in enumerate(outcomes):
            if reached or late:
                infos[i] |= {"terminal_observation": {key: value[i] for key, value in seen.items()}}
                infos[i] |= {"TimeLimit.truncated": late and not reached}
                infos[i] |= {"episode": {"r": self._rows[i].total, "l": self._rows[i].steps, "t": 0.0}}
                self._replace(i)
        fresh = self._observe() if any(reached or late for _, reached, late in outcomes) else seen
        rewards = np.array([reward for reward, _, _ in outcomes], dtype=np.float32)
        return fresh, rewards, np.array([reached or late for _, reached, late in outcomes]), infos

    def _draw_seen(self) -> Watched:
        """A start whose goal the state shows."""
        for _ in range(UNSEEN_STARTS):
            start = self._draw()
            reader = start.reader
            if reader.belief.goal_xyz is not None and reader.raster.field is not None:
                return start
            self.unseen += 1
        raise UserError(f"the world model showed no goal after any of {UNSEEN_STARTS} tours: nothing can be imagined on it")

    def _begin(self) -> _Row:
        start = self._draw_seen()
        reader = start.reader
        goal, field = reader.belief.goal_xyz, reader.raster.field
        assert goal is not None and field is not None
        position, heading = ego_pose(self._model, start.state)
        left = float(field.at(position[None, :2])[0][0])
        turn = abs(math.remainder(math.atan2(goal[1] - position[1], goal[0] - position[0]) - heading, 2 * math.pi))
        limit = math.ceil(LIMIT_FACTOR * (left / STEP_M + turn / STEP_RAD)) + LIMIT_EXTRA_STEPS
        return _Row(start, field, goal[:2], position, heading, left, limit=limit)

    def _move(self, row: _Row, pose: np.ndarray) -> bool:
        """Let a body follow the imagined camera as far as the map lets it; returns whether it was stopped."""
        wanted, here = pose[:3, 3].astype(np.float64), row.position
        row.heading = float(heading_of(pose))
        slides = (wanted, [wanted[0], here[1], wanted[2]], [here[0], wanted[1], wanted[2]], here)
        ways = np.array(slides)
        along = here[:2] + (ways[:, None, :2] - here[:2]) * _ALONG[:, None]
        touching = row.field.at(along)[1].max(axis=1)  # a wall is thinner than a step is long
        free = (touching <= BLOCKED) | (touching <= touching[-1] + 1e-6)  # out of what it stands in, it may
        first = int(np.argmax(free))
        row.position = ways[first]
        return first > 0

    def _judge(self, row: _Row) -> tuple[float, bool, bool]:
        """Reward, within reach, out of time."""
        row.steps += 1
        left = float(row.field.at(row.position[None, :2])[0][0])
        reached = bool(np.linalg.norm(row.position[:2] - row.place) < BELIEVED_REACH_M) and left < 2 * BELIEVED_REACH_M
        reward = float(np.clip(row.left_m - left, -MOST_PROGRESS_M, MOST_PROGRESS_M)) + float(reached)
        row.left_m, row.total = left, row.total + reward
        return reward, reached, row.steps >= row.limit

    def _replace(self, i: int) -> None:
        self._rows[i] = self._begin()
        chosen = torch.zeros(self.num_envs, dtype=torch.bool, device=self._device)
        chosen[i] = True
        self._states = self._rows[i].start.state.expand(self.num_envs).where(chosen, self._states)

    def _observe(self) -> dict[str, np.ndarray]:
        found: list[Features] = [row.start.reader.features(row.position, row.heading, row.start.goal) for row in self._rows]
        return {key: np.stack([features[key] for features in found]) for key in found[0]}

    # -- what stable-baselines3 asks of any VecEnv -----------------------------------------------------------------------------
    def close(self) -> None:
        """There is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same of every row."""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("imagined episodes have no attributes of their own")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError(f"imagined episodes have no method {method_name}")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """They count their own returns, so that no `Monitor` is missed."""
        return [True for _ in self._get_indices(indices)]


def place_ego(model: WorldModel, state: TensorTree, positions: np.ndarray) -> TensorTree:
    """The same states with their believed cameras at other places.

    The camera's pose is the tensor of the state that `ego_camera` hands out; a model that hands out another keeps its own
    motion, and only what is read at these places knows of walls.

    Args:
        model: whose states.
        state: batch of B.
        positions: camera centres, world, metres. [B, 3]
    """
    pose = model.ego_camera(state).world_from_camera

    def moved(tensor: Tensor) -> Tensor:
        if tensor is not pose:
            return tensor
        tensor = tensor.clone()
        tensor[:, :3, 3] = torch.as_tensor(positions, dtype=tensor.dtype, device=tensor.device)
        return tensor

    return state.map(moved)
