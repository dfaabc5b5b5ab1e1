"""What a plan is to be cheap in. The planner's own objective is the way still to go; yours takes its place:

liftwm evaluate model=base planner.objective=my_package:make_objective

def make_objective(config):               # PlannerConfig; once an agent
    def price(belief, poses, actions):    # `Objective`: any function or object that can be called so
        return -poses[:, -1, 2, 3]        # as high as it goes
    return price
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, users_code
from embodied_liftwm.protocols import Goal, WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.body import Body
from liftwm_agents.planning.mapping import TOUCHING, CostField

NOSE = 1.5  # radii of the body: a pose is judged by where it is and by what lies this far ahead
CONTROL, TILT = 0.02, 1.0  # prices in `Body.unit_m`: full action, leaving level flight


@dataclass(frozen=True)
class Belief:
    """What an agent believes when it plans: all that an objective may read."""

    model: WorldModel
    state: TensorTree  # of the model, batch of one: render it, summarize it
    goal: Goal  # what is looked for
    goal_xyz: np.ndarray | None  # where that is in the world; None while it is not found. [3]
    confidence: float  # of the place, in [0, 1]
    field: CostField | None  # how far it still is, to the goal or else to the border of the unknown; None with nowhere to go
    body: Body  # what lengths are measured in


class Objective(Protocol):
    """Prices imagined action sequences; the planner takes the cheap ones."""

    def __call__(self, belief: Belief, poses: Tensor, actions: Tensor) -> Tensor:
        """Price of each sequence; MPPI's `temperature` is in the same unit.

        Args:
            belief: as it is now, before the first action.
            poses: world_from_camera after every step. [S, T, 4, 4]
            actions: discrete ones one-hot. [S, T, A]

        Returns:
            Finite numbers. [S]
        """
        ...


def metres_to_go(belief: Belief, poses: Tensor, actions: Tensor) -> Tensor:
    """The planner's own: how far it still is along the way and at its end; touching, tilting and acting cost some more.

    Counted in `Body.unit_m`, a metre in our rooms: prices, and MPPI's temperature, are the same in a world of any size.
    """
    control, unit = CONTROL * (actions**2).mean(dim=(1, 2)), belief.body.unit_m
    if belief.field is None:  # nowhere to go: turn and look
        facing = torch.atan2(poses[:, :, 1, 2], poses[:, :, 0, 2])
        turned = torch.atan2(torch.sin(facing[:, 1:] - facing[:, :-1]), torch.cos(facing[:, 1:] - facing[:, :-1]))
        moved = (poses[:, -1, :2, 3] - poses[:, 0, :2, 3]).norm(dim=-1)
        return moved / unit - turned.sum(dim=1).abs()
    xy = poses[:, :, :2, 3]
    nose = xy[:, -1] + NOSE * belief.body.radius_m * poses[:, -1, :2, 2]
    path = torch.cat([xy, nose[:, None]], dim=1).double().numpy()
    cost, touching = belief.field.at(path)
    # Touching is paid for ever after: a sequence must not gain by passing through a wall within the horizon.
    stride = np.linalg.norm(np.diff(path, axis=1, prepend=path[:, :1]), axis=-1)
    total = cost + TOUCHING * np.cumsum(touching * stride, axis=1)
    price = torch.from_numpy((total[:, :-1].mean(axis=1) + total[:, -1]) / unit).float()
    tilt = poses[:, :, 2, 2].abs().mean(dim=1) + (poses[:, :, 2, 3] - poses[:, :1, 2, 3]).abs().mean(dim=1) / unit
    return price + control + TILT * tilt


def find_objective(config: PlannerConfig) -> Objective:
    """The objective of a configuration.

    Raises:
        UserError: there is no such function, or it does not return what can be called; later, what that returns are no prices.
    """
    return _Users(config) if config.objective else metres_to_go


class _Users:
    """An objective of the user's, whose faults are told in their own line."""

    def __init__(self, config: PlannerConfig) -> None:
        self._label = f"planner.objective={config.objective}"
        self._price: Any = call_function(config.objective, self._label, config)
        if isinstance(self._price, type) or not callable(self._price):
            raise UserError(f"{self._label} returned {self._price!r:.60}, expected a function of (belief, poses, actions)")

    def __call__(self, belief: Belief, poses: Tensor, actions: Tensor) -> Tensor:
        with users_code(self._label, self._price):
            prices = self._price(belief, poses, actions)
        if not isinstance(prices, Tensor) or prices.shape != poses.shape[:1] or not bool(prices.isfinite().all()):
            got = f"{list(prices.shape)}" if isinstance(prices, Tensor) else type(prices).__name__
            raise UserError(f"{self._label} priced {len(poses)} sequences as {got}, expected finite prices [{len(poses)}]")
        return prices.detach().float().cpu()
