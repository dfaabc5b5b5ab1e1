"""The planner's cost against its formula, and a user's in its place."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import AttributeGoal
from liftwm_agents.planning.body import Body
from liftwm_agents.planning.mapping import TOUCHING, CostField, Grid
from liftwm_agents.planning.objective import CONTROL, NOSE, Belief, find_objective, metres_to_go
from liftwm_agents.planning.perception import level_cameras
from liftwm_agents.planning.planner import PlannerPolicy
from tests.agents.oracle_model import DepthTap, OracleMemory
from tests.agents.toy_env import ToyRoom

BODY = Body.of_height(0.75)
CODE = """
import torch

def turning(config):
    def price(belief, poses, actions):
        assert belief.goal.attributes.shape == (9,) and config.horizon == poses.shape[1]
        return -actions[:, :, 1].sum(1)
    return price

def fails(config):
    def price(belief, poses, actions):
        return {}["here"]
    return price

def short(config):
    return lambda belief, poses, actions: torch.zeros(3)

def unknown(config):
    return lambda belief, poses, actions: torch.full((len(poses),), torch.nan)

def nothing(config): ...
"""


@pytest.fixture(autouse=True)
def _written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "objectives_here", raising=False)
    (tmp_path / "objectives_here.py").write_text(CODE)


def believed(field: CostField | None) -> Belief:
    model = OracleMemory(image_size=8, capacity=4)
    return Belief(model, model.initial_state(1), AttributeGoal(torch.zeros(9)), None, 0.0, field, BODY)


def along_x(xs: list[float]) -> torch.Tensor:
    """Level poses that look along x. [1, T, 4, 4]"""
    places = np.stack([np.array(xs), np.full(len(xs), 0.5), np.full(len(xs), 0.75)], axis=-1)
    return level_cameras(places, np.zeros(len(xs)), 8, 8, 1).world_from_camera[None]


def test_the_planners_own_is_the_mean_way_along_and_the_way_left_at_its_nose_and_what_it_touches() -> None:
    x = np.repeat(np.arange(40)[:, None] * 0.1 + 0.05, 10, axis=1)
    none = np.zeros((40, 10), dtype=bool)
    touching = np.where(x > 2.0, 0.5, 0.0)
    field = CostField(4.0 - x, touching, Grid(none, ~none, none, none, np.zeros(2), 0.1, BODY))
    poses, actions = along_x([0.5, 0.7, 0.9]), torch.full((1, 3, 2), 0.5)
    expected = (3.5 + 3.3 + 3.1) / 3 + (3.1 - NOSE * BODY.radius_m) + CONTROL * 0.25
    assert float(metres_to_go(believed(field), poses, actions)) == pytest.approx(expected, abs=1e-4)
    inside = along_x([2.5, 2.7, 2.9])
    paid = TOUCHING * 0.5 * np.cumsum([0.0, 0.2, 0.2, NOSE * BODY.radius_m])
    expected = (1.5 + 1.3 + 1.1) / 3 + paid[:3].mean() + (1.1 - NOSE * BODY.radius_m) + paid[3] + CONTROL * 0.25
    assert float(metres_to_go(believed(field), inside, actions)) == pytest.approx(expected, rel=1e-3)


def test_with_nowhere_to_go_it_turns_on_the_spot() -> None:
    turning = level_cameras(np.zeros((3, 3)), np.array([0.0, 0.3, 0.6]), 8, 8, 1).world_from_camera[None]
    none = torch.zeros(1, 3, 2)
    assert float(metres_to_go(believed(None), turning, none)) == pytest.approx(-0.6, abs=1e-5)
    assert float(metres_to_go(believed(None), along_x([0.0, 0.2, 0.4]), none)) == pytest.approx(0.4, abs=1e-5)


def test_a_users_objective_is_what_the_planner_acts_on() -> None:
    model = OracleMemory(image_size=24, capacity=4000)
    env = DepthTap(ToyRoom(24, max_steps=10), model)
    config = PlannerConfig(num_samples=32, horizon=4, panorama_views=4, objective="objectives_here:turning")
    policy = PlannerPolicy(model, config, spaces.Box(-1.0, 1.0, (2,), np.float32))
    obs, info = env.reset(seed=0)
    policy.begin({key: value[-1:] for key, value in info["tour"].items()})  # the call alone
    actions = []
    for _ in range(3):
        actions.append(policy.act(obs, info))
        obs, *_ = env.step(actions[-1])
    assert min(action[1] for action in actions) > 0.5


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("turnin", "has no 'turnin': did you mean 'turning'?"),
        (
            "nothing",
            r"planner.objective=objectives_here:nothing returned None, expected a function of \(belief, poses, actions\)",
        ),
        ("fails", "planner.objective=objectives_here:fails: objectives_here.py:12 .*: KeyError: 'here'"),
        ("short", r"priced 2 sequences as \[3\], expected finite prices \[2\]"),
        ("unknown", r"priced 2 sequences as \[2\], expected finite prices \[2\]"),
    ],
)
def test_faults_of_a_users_objective_are_one_line(name: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        objective = find_objective(PlannerConfig(objective=f"objectives_here:{name}"))
        objective(believed(None), along_x([0.0, math.pi]).repeat(2, 1, 1, 1), torch.zeros(2, 2, 2))
