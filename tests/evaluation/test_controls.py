"""Controls: what they change, what they leave, and that an agent which acts on its memory falls to the floor without it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import EvaluateConfig, PlannerConfig
from embodied_liftwm.evaluation.permanence.control_figures import show_controls, summarize_controls
from embodied_liftwm.evaluation.permanence.controls import (
    CLEARED,
    DEPTH,
    ODOMETRY,
    ORACLE,
    OTHER,
    OWN,
    SWAPPED,
    Control,
    ControlRow,
    Controls,
    place_error,
    run_controls,
)
from embodied_liftwm.evaluation.permanence.suites import Chart, Table
from embodied_liftwm.evaluation.permanence.tampered import OtherGoal, SwappedMemory, with_noisy_depth
from embodied_liftwm.evaluation.views.bounds import KnownDepth
from liftwm_agents.observations import tour_observations
from liftwm_agents.planning.planner import PlannerPolicy
from tests.agents.oracle_model import OracleMemory
from tests.agents.toy_env import BALL, ToyRoom

SIZE, STEPS = 24, 15
CONFIG = EvaluateConfig(workers=1)


class JudgedRoom(ToyRoom):
    """The toy room, with what an arena asks of an environment, and a second object that the goal may be confused with."""

    def __init__(self, model: OracleMemory) -> None:
        super().__init__(SIZE, max_steps=STEPS)
        self._model = model
        blue = SimpleNamespace(id=2, colour=(0.1, 0.1, 0.9), one_hot_shape=lambda: np.eye(6)[0])
        red = SimpleNamespace(id=1, colour=tuple(BALL), one_hot_shape=lambda: np.eye(6)[0])
        self.scene = SimpleNamespace(objects=[red, blue], describe=lambda: {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(seed=seed)
        for rgb, depth in zip(info["tour"]["rgb"], info["tour_depth"], strict=True):
            self._model.tell(rgb, depth)
        self._start_m = self._distance()
        return obs, info | self._judged(obs)

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        self._model.tell(obs["rgb"], info["truth"]["depth"])
        return obs, reward, terminated, truncated, info | self._judged(obs)

    def _judged(self, obs: dict[str, np.ndarray]) -> dict[str, Any]:
        pose = np.tile(np.array([0, 0, 0, 1, 0, 0, 0.0]), (2, 1))
        pose[0, :3] = self._ball
        truth = {"object_pose": pose, "world_from_camera": obs["world_from_camera"]}
        return {
            "position": self._xy.copy(), "distance_to_goal": self._distance(), "shortest_path_m": self._start_m,
            "goal_object": 1, "truth": truth | {"depth": self._look()[1]},
        }  # fmt: skip


def planner(model: Any, device: str, env: gym.Env, seed: int) -> PlannerPolicy:
    return PlannerPolicy(model, PlannerConfig(num_samples=64, panorama_views=4), env.action_space, device, seed)


def rows_of(
    model: OracleMemory, seeds: Sequence[int], chosen: Sequence[Control], noises: list[float] | None = None
) -> list[ControlRow]:
    def make_env(known: KnownDepth, noise: float) -> gym.Env:
        if noises is not None:
            noises.append(noise)
        return JudgedRoom(model)

    return run_controls(lambda: Controls("model", "Toy-S", planner, make_env, lambda: model, CONFIG), seeds, CONFIG, "", chosen)


def test_without_its_own_memory_the_planner_falls_to_the_floor() -> None:
    model = OracleMemory(image_size=SIZE, capacity=20_000, stride=1)
    chosen = [Control(name) for name in (OWN, SWAPPED, CLEARED, OTHER)]
    seeds = (6, 7, 8, 10, 12)  # of two neighbours, the ball lies in two corners; it is not in view at the call
    rows = rows_of(model, seeds, chosen)
    success = {name: sum(row.success for row in rows if row.control == name) for name in (OWN, SWAPPED, CLEARED, OTHER)}
    assert success[OWN] >= 4
    assert max(success[SWAPPED], success[CLEARED], success[OTHER]) <= 1, success
    own = [row for row in rows if row.control == OWN]
    assert max(row.place_error_m for row in own) < 0.4 and all(row.believed for row in own)
    swapped = [row.place_error_m for row in rows if row.control == SWAPPED]
    assert min(swapped) > 2.0


def test_doses_reach_the_environment_and_what_needs_an_encoder_is_left_out() -> None:
    model, noises = OracleMemory(image_size=SIZE, capacity=20_000, stride=1), []
    chosen = [Control(ORACLE), Control(DEPTH, 0.1), Control(ODOMETRY, 0.03), Control(OWN)]
    rows = rows_of(model, range(1), chosen, noises)
    assert [(row.control, row.dose) for row in rows] == [(ODOMETRY, 0.03), (OWN, 0.0)]
    assert noises == [0.03, 0.0]


def test_swapped_memory_shows_the_other_scene_from_the_present_camera() -> None:
    model = OracleMemory(image_size=SIZE, capacity=20_000, stride=1)
    states, tours = [], []
    for seed in (0, 1):
        tour = JudgedRoom(model).reset(seed=seed)[1]["tour"]
        states.append(watch(model, tour))
        tours.append(tour)
    mixed = watch(SwappedMemory(model, states[1]), tours[0])
    assert torch.equal(mixed.world_from_camera, states[0].world_from_camera)
    count = int(states[1].valid.sum())
    assert torch.equal(mixed.points[:, :count], states[1].points[:, :count])
    assert not torch.equal(mixed.points[:, :count], states[0].points[:, :count])


def watch(model: Any, tour: dict[str, np.ndarray]) -> Any:
    state = model.initial_state(1)
    for observation in tour_observations(tour):
        state = model.observe(state, observation)
    return state


class Lifted(NamedTuple):
    depth: Tensor


class Encodes:
    """As much of a model as noise of depth needs."""

    def encode(self, rgb: Tensor, camera: Any, *sources: Any) -> Lifted:
        return Lifted(torch.full((len(rgb), 16, 16), 2.0))


def test_noisy_depth_has_the_deviation_asked_for_and_hangs_on_the_frame_alone() -> None:
    frames = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = with_noisy_depth(Encodes(), 0.1, seed=3)
    logs = (noisy.encode(frames, None).depth / 2.0).log()
    assert float(logs.mean(dim=(1, 2)).std()) == pytest.approx(0.1, rel=0.15)
    assert float(logs.std(dim=(1, 2)).mean()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(noisy.encode(frames[7:8], None).depth[0], noisy.encode(frames, None).depth[7])
    assert torch.equal(Encodes().encode(frames, None).depth, torch.full((200, 16, 16), 2.0))


def test_place_error_forgives_a_drift_of_the_whole_frame() -> None:
    true_pose, drifted = np.eye(4), np.eye(4)
    true_pose[:3, 2] = drifted[:3, 2] = [1, 0, 0]
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    drifted[:3, :3] = turn @ true_pose[:3, :3]
    drifted[:3, 3] = [5.0, -2.0, 0.0]
    goal = np.array([2.0, 1.0, 0.3])
    assert place_error(turn @ goal + drifted[:3, 3], drifted, goal, true_pose) == pytest.approx(0.0, abs=1e-6)
    assert place_error(goal + [0.3, 0.4, 9.0], true_pose, goal, true_pose) == pytest.approx(0.5)


def test_the_misled_agent_hears_of_another_object_from_the_call_on() -> None:
    heard: list[np.ndarray] = []
    agent = SimpleNamespace(
        begin=lambda tour: heard.append(tour["goal"]), act=lambda obs, info: heard.append(obs["goal"]), diagnostics=dict
    )
    misled = OtherGoal(agent, np.array([0.0, 1.0]))
    misled.begin({"goal": np.array([[0, 0], [0, 0], [1, 0.5]])})
    misled.act({"goal": np.array([1, 0.5])}, {})
    np.testing.assert_array_equal(heard[0], [[0, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(heard[1], [0, 1])


def test_figures_and_what_is_shown_of_them() -> None:
    make = partial(ControlRow, "model", "Revisit-S", spl=0.5, believed=1.0)
    rows = [make(e, e, control=OWN, dose=0.0, success=float(e > 0), place_error_m=0.1 * e) for e in range(4)]
    rows += [make(e, e, control=ODOMETRY, dose=0.03, success=0.0, place_error_m=float("nan")) for e in range(4)]
    summary = summarize_controls(rows, 100, 0)
    assert summary["model"][OWN]["0"]["success"]["mean"] == 0.75
    assert summary["model"][OWN]["0"]["place_error_m"]["mean"] == pytest.approx(0.15)
    assert summary["model"][ODOMETRY]["0.03"]["place_error_m"]["mean"] is None
    tables, charts = ([part for part in show_controls(summary) if isinstance(part, kind)] for kind in (Table, Chart))
    assert [column.path for column in tables[0].columns][:1] == [(OWN, "0", "success")]
    assert [chart.title for chart in charts] == ["odometry noise: success"]
    assert [estimate["mean"] for estimate in charts[0].lines["model"]] == [0.75, None, 0.0, None]
