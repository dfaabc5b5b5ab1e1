"""Agents on a world model: the planner, and learned policies, as commands and experiments let them act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embodied_liftwm
from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.environments.users_policy import UsersPolicy
from embodied_liftwm.evaluation.checked import ActingModel
from embodied_liftwm.plugins import is_function_name
from liftwm_agents.planning.planner import PlannerPolicy
from liftwm_agents.policies.policy import PPOPolicy


def planner_on(planner: PlannerConfig, model: Any, device: str, env: Any, seed: int) -> Any:
    """The planner, on the state of a model, whose outputs are checked."""
    checked = model if isinstance(model, ActingModel) else ActingModel(model)
    return PlannerPolicy(checked, planner, env.action_space, device, seed, environment=env)


def policy_agent(source: str, path: str, device: str, env: Any, seed: int, *, trust: bool = False) -> Any:
    """A policy of the user's, or one of `liftwm train-agent` on a model loaded in this very process."""
    if is_function_name(path) and not Path(path).exists():
        return UsersPolicy(path, env, seed)
    return PPOPolicy(
        ActingModel(embodied_liftwm.load(source, device), source), path, device, trust=trust, space=env.action_space
    )
