"""An agent that returns to what it remembers: MPPI or CEM over `imagine`, on a map and a goal read out of the state.

It knows nothing of the world but what the model's state renders. `truth` is never read, nor any task metric in `info`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import goal_of
from embodied_liftwm.protocols import Goal, GoalFinder, PlaceGoal, PointGoal, WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.observations import is_last_frame, single, to_observation, told_by, tour_observations
from liftwm_agents.planning.action_plan import ActionPlan, make_plan
from liftwm_agents.planning.belief import SpatialBelief, ego_pose
from liftwm_agents.planning.body import known_of
from liftwm_agents.planning.goal_finder import find_goal_finder
from liftwm_agents.planning.mapping import CostField
from liftwm_agents.planning.objective import Belief, Objective, find_objective
from liftwm_agents.planning.search import improve_plan
from liftwm_envs.actions import ActionCodec, space_of

READ_EVERY = 4  # steps between readings of the state
SURVEY_PLACES = 8  # places of the tour from which the state is read when the goal is called
LEAST_CONFIDENCE = 0.01  # below, the goal counts as not found and the agent explores
ARRIVED, PATIENCE = 3.5, 8  # this near, in radii of the body, for so many steps and the call stands: it was not the goal
HALTED, STILL = 6.0, 0.5  # or, this near, as many steps within half a step: something is in the way that will not go away
BUMP_SHARE, BUMP_LEAST = 0.2, 0.4  # moving less than this share of what was imagined, if that was so much of a full step
BUMP_STEPS = 2  # so often in a row is a bump; once may be inertia


class PlannerPolicy:
    """Acts in an environment through a world model.

    Example:
        >>> policy = PlannerPolicy(model, PlannerConfig())      # doctest: +SKIP
        >>> obs, info = env.reset(seed=0)                       # doctest: +SKIP
        >>> policy.begin(info["tour"])                          # doctest: +SKIP
        >>> action = policy.act(obs, info)                      # doctest: +SKIP
    """

    def __init__(
        self,
        model: WorldModel,
        config: PlannerConfig,
        action_space: spaces.Space | None = None,
        device: str = "cpu",
        seed: int = 0,
        objective: Objective | None = None,
        finder: GoalFinder | None = None,
        environment: Any = None,
    ) -> None:
        """
        Args:
            model: any world model.
            config: see `PlannerConfig`.
            action_space: of the environment; None to infer it from the tour's actions.
            device: where the model's tensors live.
            seed: of the sampled action sequences.
            objective: prices imagined sequences; None for that of `config`.
            finder: looks for goals; None for that of `config`.
            environment: asked for what it says of the body (`body`) and of its goals (`goal_kind`), if it does; nothing else.

        Raises:
            UserError: there is no objective or goal finder of the name in `config`.
        """
        self._model, self._config, self._device, self._seed = model, config, device, seed
        self._given_space, self._objective = action_space, objective or find_objective(config)
        self._finder = finder or find_goal_finder(config)
        self._known = known_of(environment, config.body)
        self._goal_kind = told_by(environment, "goal_kind")
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self._space = self._given_space
        self._state: TensorTree = self._model.initial_state(1)
        self._belief = SpatialBelief(self._model, self._config.panorama_views, self._config.cell_m, self._known, self._finder)
        self._generator = torch.Generator().manual_seed(self._seed)
        self._plan: ActionPlan | None = None
        self._field: CostField | None = None
        self._last_action: np.ndarray | None = None
        self._expected_xy: np.ndarray | None = None
        self._last_xy: np.ndarray | None = None
        self._tour: Mapping[str, np.ndarray] | None = None
        self._goal: Goal | None = None  # of this moment
        self._given_goal: Goal | None = None  # by hand
        self._first, self._steps, self._arrived, self._held = True, 0, 0, 0
        self._visited: list[np.ndarray] = []
        self._plans, self._plan_seconds = 0, 0.0

    @torch.no_grad()
    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """Start an episode by watching its guided tour.

        Args:
            tour: `info["tour"]` of a GuidedTour: stacked arrays of every frame up to the call.
        """
        self.reset()
        if self._space is None:
            self._space = space_of(tour["action"])
        for observation in tour_observations(tour, self._device):
            self._state = self._model.observe(self._state, observation)
            self._visited.append(observation.camera.world_from_camera[0, :3, 3].cpu().numpy())
        self._tour, self._first = tour, False

    def set_goal(self, goal: Goal | None) -> None:
        """Go to this instead of what the environment says, until the next episode begins; None for that again."""
        self._given_goal = goal

    @torch.no_grad()
    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None) -> np.ndarray | int:
        """Observe, and choose the next action.

        Args:
            obs: the environment's observation.
            info: ignored; part of the common signature of all agents.

        Returns:
            An action of the environment's action space.
        """
        self._observe(obs)
        position, heading = ego_pose(self._model, self._state)
        self._feel(position, heading)
        self._goal = self._given_goal or self._told(obs)
        if self._belief.is_new(self._goal) or self._steps % READ_EVERY == 0 or self._field is None:
            self._read()
        started = time.perf_counter()
        self._replan()
        self._plans, self._plan_seconds = self._plans + 1, self._plan_seconds + time.perf_counter() - started
        self._steps += 1
        return self._take(position)

    def diagnostics(self) -> dict[str, Any]:
        """What the agent believes now.

        Returns:
            goal_xyz [3] or None (world), confidence in [0, 1], map (`Grid`), rejected [R, 2] world xy,
            plans_per_second (search alone, without observing and reading).
        """
        return {
            "goal_xyz": self._belief.goal_xyz,
            "confidence": self._belief.confidence,
            "map": self._belief.grid(),
            "rejected": self._belief.rejected,
            "plans_per_second": self._plans / self._plan_seconds if self._plans else float("nan"),
        }

    @property
    def state(self) -> TensorTree:
        """The world model's state, batch of one."""
        return self._state

    def _told(self, obs: Mapping[str, np.ndarray]) -> Goal:
        if "goal" not in obs:
            raise UserError("the observation has no goal: give one by set_goal()")
        return goal_of(obs["goal"], self._goal_kind)

    def _observe(self, obs: Mapping[str, np.ndarray]) -> None:
        if self._space is None:
            raise ValueError("PlannerPolicy: give action_space, or begin() with a tour, before act()")
        if self._last_action is None:
            self._last_action = np.zeros(spaces.flatdim(self._space), dtype=np.float32)
        if self._steps > 0 or not is_last_frame(self._tour, obs):
            observation = to_observation(single(obs), self._last_action[None], self._first, self._device)
            self._state = self._model.observe(self._state, observation)
        self._first = False

    def _feel(self, position: np.ndarray, heading: float) -> None:
        """Learn from the body: where it stands is free, what stops it is not, and a goal that is not there is not there."""
        if self._expected_xy is not None and self._last_xy is not None:
            wanted, moved = self._expected_xy - self._last_xy, position[:2] - self._last_xy
            length = float(np.linalg.norm(wanted))
            held = length > BUMP_LEAST * self._belief.body.step_m and float(np.linalg.norm(moved)) < BUMP_SHARE * length
            self._held = self._held + 1 if held else 0
            if self._held >= BUMP_STEPS:
                self._belief.bump(position, float(np.arctan2(wanted[1], wanted[0])))
                self._field = None
        self._belief.stand(position[None])
        self._visited.append(position)
        goal, body = self._belief.goal_xyz, self._belief.body
        away = np.inf if goal is None else float(np.linalg.norm(goal[:2] - position[:2]))
        still = STILL * body.step_m
        halted = len(self._visited) > PATIENCE and np.ptp(self._visited[-PATIENCE:], axis=0)[:2].max() < still
        self._arrived = self._arrived + 1 if away < (HALTED if halted else ARRIVED) * body.radius_m else 0
        if self._arrived >= PATIENCE and not isinstance(self._goal, PlaceGoal | PointGoal):  # a place is what it is
            self._belief.reject()
            self._field, self._arrived = None, 0

    def _read(self) -> None:
        """Look around in the state, find the goal, and price the ways to it."""
        assert self._goal is not None
        if self._belief.is_new(self._goal):
            self._arrived = 0
            self._belief.survey(self._state, np.stack(self._visited), SURVEY_PLACES)
        else:
            self._belief.look(self._state)
        self._belief.find(self._state, self._goal)
        self._field = self._belief.way(LEAST_CONFIDENCE)

    def _replan(self) -> None:
        config = self._config
        assert self._space is not None
        if self._plan is None:
            self._plan = make_plan(self._space, config.horizon, config.noise)
        else:
            self._plan.shift()
        assert self._goal is not None
        found = self._belief.goal_xyz, self._belief.confidence
        belief = Belief(self._model, self._state, self._goal, *found, self._field, self._belief.body)
        improve_plan(self._plan, self._model, self._state, partial(self._objective, belief), config, self._generator)

    def _take(self, position: np.ndarray) -> np.ndarray | int:
        """Commit to the first action of the plan, and expect what it does."""
        assert self._plan is not None and self._space is not None
        chosen = self._plan.first()
        device = self._model.ego_camera(self._state).world_from_camera.device
        imagined = self._model.imagine(self._state, chosen[None].to(device))
        self._expected_xy, self._last_xy = ego_pose(self._model, imagined)[0][:2], position[:2]
        codec = ActionCodec(self._space)
        action = codec.decode(chosen.numpy())
        self._last_action = codec.encode(action).copy()
        return action
