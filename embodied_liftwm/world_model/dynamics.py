"""Dynamics: how the ego camera moves under an action, and what the task gives for it.

Motion is a twist in the camera's own frame, so what was learned in one corner of a room holds in every other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.se3 import se3_exp
from embodied_liftwm.protocols import Prediction
from embodied_liftwm.tensor_tree import TensorTree

TWIST_UNIT = 0.2
"""Twists are learned in units of 0.2 m and 0.2 rad, about one step of a slow robot."""


@dataclass(frozen=True)
class EgoState(TensorTree):
    """Where the agent believes it is, how it moves, and what it was told to do."""

    world_from_camera: Tensor  # [B, 4, 4]
    twist: Tensor  # [B, 6] motion of the last step in the camera's frame, (m, rad)
    intrinsics: Tensor  # [B, 3, 3] pixels
    goal: Tensor  # [B, G] zeros before it is given


@dataclass(frozen=True)
class AgentState(TensorTree):
    """A model's state begins with the agent in it; the memory follows."""

    ego: EgoState


class NextTwist(NamedTuple):
    """A distribution over the next twist."""

    mean: Tensor  # [B, 6] metres and radians in the camera's frame
    scale: Tensor  # [B, 6] Laplace scale


class EgoMotion(nn.Module):
    """Action and last motion -> next motion."""

    def __init__(self, action_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(action_dim + 6, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.head = nn.Linear(hidden, 12)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, action: Tensor, twist: Tensor) -> NextTwist:
        """Predict the step that follows `action` [B, A] after a step of `twist` [B, 6]."""
        out = self.head(self.net(torch.cat([action, twist / TWIST_UNIT], dim=-1)))
        return NextTwist(out[..., :6] * TWIST_UNIT, TWIST_UNIT * (1e-3 + F.softplus(out[..., 6:] - 2.0)))

    def move(self, ego: EgoState, action: Tensor) -> EgoState:
        """Advance the believed camera by the expected motion."""
        twist = self(action, ego.twist).mean
        return EgoState(ego.world_from_camera @ se3_exp(twist), twist, ego.intrinsics, ego.goal)


class TaskHeads(nn.Module):
    """Reward and continuation from what the state says of itself."""

    def __init__(self, summary_dim: int, goal_dim: int, hidden: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(summary_dim + goal_dim, hidden), nn.SiLU())
        self.head = nn.Linear(hidden, 2)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([0.0, 3.0]))

    def forward(self, summary: Tensor, goal: Tensor) -> Prediction:
        """Predict from `summary` [B, F] and `goal` [B, G]."""
        reward, continuation = self.head(self.net(torch.cat([summary, goal], dim=-1))).unbind(-1)
        return Prediction(reward, torch.sigmoid(continuation))
