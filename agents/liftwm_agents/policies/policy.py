"""Learned policies that act like the planner: on what a world model remembers, on pixels, or recurrent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.observations import KEYS, instructed, single
from liftwm_agents.policies.action_table import table_for
from liftwm_agents.policies.baselines import BESIDE_GOAL, PixelObservation, episode_frames
from liftwm_agents.policies.policy_file import about_of, open_policy
from liftwm_agents.policies.readout import BELIEF_DIM, FeatureConfig, FeatureReader, Features, follow, watch_start
from liftwm_agents.policies.start_pool import Start
from liftwm_envs.actions import ActionCodec, Policy


class PPOPolicy:
    """A trained policy that acts like the planner: `begin` with the tour, then `act`."""

    def __init__(
        self,
        model: WorldModel,
        source: str | Path | OnPolicyAlgorithm,
        device: str = "cpu",
        features: FeatureConfig | None = None,
        deterministic: bool = True,
        trust: bool = False,
        space: spaces.Space | None = None,
    ) -> None:
        """
        Args:
            model: the world model that the policy was trained on; those on pixels and recurrent ones make no use of it.
            source: `policy.safetensors`, the run folder that holds it, or an algorithm in training.
            device: where the model's tensors live.
            features: what is read of the state; None for what it was trained on.
            deterministic: take the most probable action instead of a sample.
            trust: open a zip of stable-baselines3 too, which runs what is in it.
            space: of the environment's actions; None where they are in [-1, 1], or choices.

        Raises:
            UserError: no such file, a damaged or foreign one, a zip without `trust`, or another model's summary.
        """
        self._algorithm = source if isinstance(source, OnPolicyAlgorithm) else open_policy(Path(source), trust=trust)
        about = about_of(self._algorithm)
        self._space, self._deterministic, self._envs = self._algorithm.action_space, deterministic, space
        self._recurrent = about["input"] == "recurrent"
        self._sight: _StateSight | _PixelSight
        if about["input"] in ("state", "imagined"):
            self._sight = _StateSight(model, features or FeatureConfig(**about["features"]), device)
        else:
            self._sight = _PixelSight(self._algorithm.observation_space)
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._tour: Mapping[str, np.ndarray] | None = None
        self._start: Start | None = None
        self._codec, self._chooses_rows = ActionCodec(self._space), False
        self._last_action: np.ndarray | None = None
        self._hidden: Any = None

    def begin(self, tour: Mapping[str, np.ndarray], start: Start | None = None) -> None:
        """Start an episode with its guided tour, `info["tour"]`; it is watched with the first observation.

        Args:
            tour: stacked frames and actions.
            start: of a pool, to watch the same tour only once.

        Raises:
            UserError: the policy chooses among other actions than the environment takes.
        """
        self.reset()
        self._tour, self._start = instructed(tour, self._instruction(tour["action"].shape[1])), start
        width = tour["action"].shape[1]
        if spaces.flatdim(self._space) == width:
            return
        table = table_for(width, self._envs)
        if not isinstance(self._space, spaces.Discrete) or len(table) != int(self._space.n):
            raise UserError(
                f"the policy acts in {self._space}, the environment takes {width} numbers: evaluate with the env_options "
                "(embodiment, action) that it was trained with"
            )
        self._codec, self._chooses_rows = ActionCodec(self._space, table), True

    @torch.no_grad()
    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None) -> np.ndarray | int:
        """Observe, and choose the next action. `info` is ignored. Of a picture the policy is told the colour."""
        obs = instructed(obs, self._instruction(self._codec.width))
        if self._last_action is None:
            first = {key: obs[key] for key in KEYS}
            *before, seen = self._sight.begin(self._tour, self._start, first, self._codec.width)
            for k, frame in enumerate(before if self._recurrent else ()):
                self._predict(frame, k == 0)
            action = self._predict(seen, not before)
        else:
            action = self._predict(self._sight.add(obs, self._last_action), False)
        self._last_action = self._codec.encode(action)
        if self._chooses_rows:
            return self._last_action.copy()
        return int(action) if isinstance(self._space, spaces.Discrete) else action

    def _instruction(self, action_dim: int) -> int:
        """Numbers of the instructions that it was trained on, whose actions have `action_dim`."""
        space = self._algorithm.observation_space
        assert isinstance(space, spaces.Dict) and space["vector"].shape is not None
        return space["vector"].shape[0] - (BELIEF_DIM if isinstance(self._sight, _StateSight) else BESIDE_GOAL + action_dim)

    def _predict(self, seen: dict[str, np.ndarray], first: bool) -> np.ndarray:
        try:
            action, self._hidden = self._algorithm.predict(
                seen, state=self._hidden, episode_start=np.array([first]), deterministic=self._deterministic
            )  # type: ignore[assignment]
        except ValueError as error:
            raise UserError(f"the policy was trained on another model's features: {error}") from error
        return action


class _StateSight:
    """How a policy sees an episode through a world model."""

    def __init__(self, model: WorldModel, config: FeatureConfig, device: str) -> None:
        self._model, self._config, self._device = model, config, device
        self._reader = FeatureReader(model, config)
        self._state: TensorTree = model.initial_state(1)

    def begin(
        self, tour: Mapping[str, np.ndarray] | None, start: Start | None, first: Mapping[str, np.ndarray], action_dim: int
    ) -> list[Features]:
        """What it sees of the tour, and last of all the first frame that it acts on."""
        watched = watch_start(self._model, self._config, first, {"tour": tour, "start": start}, action_dim, self._device)
        self._state, self._reader = watched.state, watched.reader
        return [self._reader.read(self._state, first)]

    def add(self, obs: Mapping[str, np.ndarray], action: np.ndarray) -> Features:
        """What it sees after a step of `action` [A]."""
        (self._state,) = follow(self._model, [self._state], [self._reader], single(obs), action[None], self._device)
        return self._reader.read(self._state, obs)


class _PixelSight:
    """And how without one; methods as there."""

    def __init__(self, space: spaces.Space) -> None:
        assert isinstance(space, spaces.Dict)
        image = space["image"].shape
        assert image is not None
        self._stack = image[0] // 3
        self._view = PixelObservation(self._stack, 0)

    def begin(
        self, tour: Mapping[str, np.ndarray] | None, start: Start | None, first: Mapping[str, np.ndarray], action_dim: int
    ) -> list[dict[str, np.ndarray]]:
        self._view = PixelObservation(self._stack, action_dim)
        return list(episode_frames(self._view, tour, first))

    def add(self, obs: Mapping[str, np.ndarray], action: np.ndarray) -> dict[str, np.ndarray]:
        return self._view.add(obs, action, True)


class TourThenPolicy:
    """The tour up to the call, which the learned policy watches; the policy from there: `train-agent loop=true`."""

    def __init__(self, env: gym.Env, policy: PPOPolicy, guide: Policy | None = None, steps: int = 0) -> None:
        """
        Args:
            env: stands reset.
            policy: acts after the call.
            guide: who tours; None for the scripted tour of our environments, whose phases say when it ends.
            steps: of the tour of others, unless they give one at reset.
        """
        from liftwm_envs.tasks.policies import TourPolicy

        self._codec, self._policy = ActionCodec(env.action_space), policy
        self._guide, self._steps = guide or TourPolicy(env), steps if guide else None
        self.reset()

    def reset(self) -> None:
        """Start an episode."""
        self._guide.reset()
        self._frames: list[dict[str, np.ndarray]] = []
        self._actions = [np.zeros(self._codec.width, np.float32)]
        self._called = False

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """An action of the environment's action space."""
        if not self._called:
            self._frames.append({key: np.asarray(obs[key]) for key in KEYS})
            if self._touring(info):
                action = self._guide.act(obs, info)
                self._actions.append(self._codec.encode(action))
                return action
            self._called = True
            tour = {key: np.stack([frame[key] for frame in self._frames]) for key in KEYS}
            self._policy.begin(info.get("tour") or tour | {"action": np.stack(self._actions)})
        return self._policy.act(obs, info)

    def _touring(self, info: dict[str, Any]) -> bool:
        if self._steps is None:
            return bool(info["phase"] == "tour")
        return "tour" not in info and len(self._frames) <= self._steps
