"""`train-agent loop=true` and `reproduce agents`: what is compared, on what, and that it goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from torch import Tensor

from embodied_liftwm import cli
from embodied_liftwm.commands.agent_loop import TABLE, LoopRow, collect_settings
from embodied_liftwm.config import EnvOptions, EvaluateConfig, ReproduceAgentsConfig, TrainAgentConfig
from embodied_liftwm.data.storage import scan
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import NavigationRow, oracle_agent, random_agent
from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.bounds import TRUE_SPREAD
from embodied_liftwm.experiments.agents import experiment as reproduce_agents
from embodied_liftwm.experiments.agents.aims import ALL, LONG, ORACLE_STATE, POOLED, AgentFigure, aim_lines, aims
from embodied_liftwm.experiments.agents.experiment import Agents, by_gap, figure, on_oracle_state
from embodied_liftwm.protocols import Camera
from liftwm_agents.observations import tour_observations
from liftwm_agents.policies.policy import TourThenPolicy
from tests.plain_model import PlainModel

CONFIG = ReproduceAgentsConfig(out="out", seeds=2, tasks=("Revisit-S", "Occlusion-M"))


def test_every_input_has_the_same_settings_but_what_its_name_says() -> None:
    it = Agents(CONFIG)
    found = [it.settings(row, seed) for seed in it.seeds for row in it.trained_rows(seed) if it.trained(row)]
    assert len(found) == 2 * 2 * 5 and len({config.run for config in found}) == len(found)
    common = [{k: v for k, v in asdict(c).items() if k not in ("input", "env", "seed", "run")} for c in found]
    assert all(other == common[0] for other in common)
    assert {config.seed for config in found} == {0, 1} and {config.env for config in found} == {"Revisit-S", "Occlusion-M"}
    names = [row for row in it.trained_rows(0) if not it.trained(row)]
    assert names == [f"{task}/{name}" for task in CONFIG.tasks for name in ("scripted", ORACLE_STATE)]
    assert all(it.trained(row) for row in it.trained_rows(1))
    assert it.files("Revisit-S/scripted", 0)["navigation"] == Path("out/agents/Revisit-S/scripted.csv")
    assert it.files("Revisit-S/state", 1)["navigation"] == Path("out/agents/Revisit-S/state-seed1.csv")


def test_a_figure_has_wilsons_interval() -> None:
    row = NavigationRow("state", 0, 0, 1.0, 0.8, 0.9, 10, 2.0, 1.6, 0.0, 0)
    found = figure("Revisit-S", "state", "0", ALL, 100, [row, replace(row, success=0.0, spl=0.0, soft_spl=0.3)])
    assert found == AgentFigure("Revisit-S", "state", "0", ALL, 100, 2, 0.5, found.low, found.high, 0.4, 0.6)
    z2 = 1.959963984540054**2
    half = np.sqrt(z2) / (1 + z2 / 2) * np.sqrt(0.25 / 2 + z2 / 16)
    np.testing.assert_allclose([found.low, found.high], [0.5 - half, 0.5 + half], rtol=1e-9)


def test_long_gaps_have_figures_of_their_own() -> None:
    row = NavigationRow("state", 0, 0, 1.0, 0.8, 0.9, 10, 2.0, 1.6, 0.0, 0, gap_steps=50)
    rows = [row, replace(row, success=0.0, gap_steps=49), replace(row, success=0.0, gap_steps=-1)]
    found = by_gap("Revisit-M", "state", "0", 100, rows)
    assert [(f.gap, f.episodes, f.success) for f in found] == [(ALL, 3, pytest.approx(1 / 3)), (LONG, 1, 1.0)]
    none = by_gap("Revisit-M", "state", "0", 100, rows[1:])[1]
    assert none.episodes == 0 and np.isnan(none.success)


def test_rows_without_a_gap_are_still_read(tmp_path: Path) -> None:
    row = NavigationRow("state", 0, 0, 1.0, 0.8, 0.9, 10, 2.0, 1.6, 0.0, 0, gap_steps=70)
    write_rows(tmp_path / "new.csv", [row])
    assert read_rows(tmp_path / "new.csv", NavigationRow) == [row]
    lines = [line.rpartition(",")[0] for line in (tmp_path / "new.csv").read_text().splitlines()]
    (tmp_path / "old.csv").write_text("\n".join(lines) + "\n")
    assert read_rows(tmp_path / "old.csv", NavigationRow) == [replace(row, gap_steps=-1)]
    (tmp_path / "older.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    with pytest.raises(UserError, match="bumps"):
        read_rows(tmp_path / "older.csv", NavigationRow)


def told(success: dict[str, float], gap: str = LONG, task: str = "Revisit-M") -> list[AgentFigure]:
    return [
        AgentFigure(task, agent, "" if agent.startswith("planner") else POOLED, gap, 100, 10, share, 0.0, 1.0, 0.0, 0.0)
        for agent, share in success.items()
    ]


def test_aims_are_held_against_long_gaps_and_the_best_memoryless_agent() -> None:
    long = {"state": 0.6, "pixels": 0.1, "frame_stack": 0.3, "recurrent": 0.45, "planner": 0.7, ORACLE_STATE: 0.8}
    figures = told(long) + told({name: 0.0 for name in long}, ALL)
    found = {aim.compared: (pytest.approx(aim.value), aim.reached) for aim in aims(figures)}
    assert found == {
        "state, frame_stack": (2.0, True), "state, recurrent": (15.0, False), f"planner, {ORACLE_STATE}": (-10.0, True)
    }  # fmt: skip
    nothing = aims(told({"state": 0.0, "pixels": 0.0}))
    assert [(aim.value, aim.reached) for aim in nothing] == [(0.0, False)]
    assert [aim.value for aim in aims(told({"state": 0.1, "pixels": 0.0}))] == [float("inf")]
    lines = aim_lines(figures)
    assert lines[1] == "  Revisit-M: state 60 %, best memory-less, frame stack 30 %: x 2.00, aim x 2, reached (10 episodes)"
    assert "-10.0 points, aim -10, reached" in lines[3] and "+15.0 points, aim +20, missed" in lines[2]


def test_aims_of_agents_that_were_not_judged_on_long_gaps_are_left_out() -> None:
    unseen = [replace(f, episodes=0, success=float("nan")) for f in told({"state": 0.0, "recurrent": 0.0})]
    assert aims(unseen) == [] and aims(told({"state": 0.5})) == []
    assert "nothing to compare" in aim_lines(unseen)[0]


class Lifts:
    """Lifts every frame of the tour and acts at random."""

    def __init__(self, planner: object, model: Any, device: str, env: gymnasium.Env, seed: int) -> None:
        self.model, self.acts, self.spreads = model, random_agent(env, seed), list[float]()

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        for seen in tour_observations(tour):
            self.spreads.append(float(self.model.encode(seen.rgb, seen.camera).spread.median()))
        self.acts.begin(tour)

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        return self.acts.act(obs, info)


def test_on_the_oracles_state_every_frame_has_its_true_depth_and_the_episodes_are_the_same(monkeypatch: Any) -> None:
    agents = list[Lifts]()

    def make(*given: Any) -> Lifts:
        agents.append(Lifts(*given))
        return agents[-1]

    monkeypatch.setattr(reproduce_agents, "planner_on", make)
    judging = EvaluateConfig(model="base", env="Revisit-S", navigation_episodes=1)
    (row,) = on_oracle_state(judging)
    (other,) = evaluate_navigation({"oracle": oracle_agent}, judging).rows
    assert (row.agent, row.episode, row.seed) == (ORACLE_STATE, 0, other.seed)
    assert (row.shortest_m, row.gap_steps) == (other.shortest_m, other.gap_steps) and row.gap_steps > 0
    np.testing.assert_allclose(agents[0].spreads, TRUE_SPREAD, rtol=1e-6)
    assert len(agents[0].spreads) > row.gap_steps


@pytest.mark.parametrize("model", ["tests.plain_model:make_model", "tests.agents.test_agent_experiments:make_depthless"])
def test_a_model_without_depth_has_no_oracle_state(model: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(reproduce_agents, "planner_on", Lifts)
    small = EnvOptions(image_size=32)
    assert on_oracle_state(EvaluateConfig(model=model, env="Revisit-S", env_options=small)) == []


class Depthless(PlainModel):
    """Encodes to something, as the recurrent baseline does."""

    def encode(self, rgb: Tensor, camera: Camera) -> Tensor:
        return rgb


def make_depthless() -> Depthless:
    return Depthless(2.0)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"input": "pixels", "loop": True}, "input=pixels: loop=true trains a world model"),
        ({"input": "imagined", "way": False}, "input=imagined needs the way"),
        ({"fresh": 1.5}, "fresh=1.5: must be at most 1"),
        ({"eval_seed": 2**20}, "reported figures use seeds from 1048576 on"),
        ({"rounds": 0}, "rounds=0: must be at least 1"),
    ],
)
def test_mistakes_are_named(words: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        TrainAgentConfig(**words)


def test_both_arms_explore_the_same_episodes_of_training_scenes() -> None:
    config = TrainAgentConfig(loop=True, seed=5)
    one, other = (collect_settings(config, Path(name), 4) for name in ("loop", "fixed"))
    assert replace(one, out=other.out) == other and one.first_seed == 5 and one.split == "train"


def test_collecting_drives_the_tour_that_everyone_gets_and_then_hands_over() -> None:
    import gymnasium as gym

    from liftwm_envs.wrappers import GuidedTour

    class Spy:
        tour: dict[str, np.ndarray]

        def begin(self, tour: dict[str, np.ndarray]) -> None:
            self.tour = tour

        def act(self, obs: dict[str, np.ndarray], info: dict[str, object]) -> np.ndarray:
            return np.array([0.0, 1.0], np.float32)

    make = {"disable_env_checker": True, "image_size": 16}
    _, told = GuidedTour(gym.make("liftwm_envs:liftwm/Revisit-S-v0", **make)).reset(seed=7)
    env = gym.make("liftwm_envs:liftwm/Revisit-S-v0", **make)
    obs, info = env.reset(seed=7)
    spy = Spy()
    policy = TourThenPolicy(env, spy)  # type: ignore[arg-type]
    while not hasattr(spy, "tour"):
        obs, *_, info = env.step(policy.act(obs, info))
    for key, frames in told["tour"].items():
        np.testing.assert_array_equal(spy.tour[key], frames, err_msg=key)


LOOP = ("loop=true", "env_options.image_size=32", "steps=8", "rollout_steps=4", "batch_size=4", "num_envs=1", "rounds=2",
        "round_episodes=2", "episode_steps=100", "eval_episodes=1", "starts=1", "world.steps=2",
        "world.model.patches.budget=64", "world.model.stride=4", "world.model.width=8", "world.model.planes=4",
        "world.batch_size=1", "world.context=2",
        "world.targets=1", "world.span=4", "world.save_every=1", "world.threads=1")  # fmt: skip


@pytest.mark.slow
def test_the_loop_runs_and_goes_on_where_it_was(tmp_path: Path) -> None:
    words = ["train-agent", f"run={tmp_path}", *LOOP]
    assert cli.main([*words, "rounds=1"]) == 0
    first = read_rows(tmp_path / TABLE, LoopRow)
    assert [(row.arm, row.round, row.episodes) for row in first] == [("loop", 1, 2), ("fixed", 1, 2)]
    assert cli.main(words) == 0
    rows = read_rows(tmp_path / TABLE, LoopRow)
    assert rows[:2] == first
    assert [(row.arm, row.round, row.model_steps, row.steps) for row in rows[2:]] == [("loop", 2, 4, 8), ("fixed", 2, 4, 8)]
    assert len(scan(tmp_path / "loop/data")) == 4 == len(scan(tmp_path / "fixed/data"))


@pytest.mark.slow
def test_agents_are_compared_and_not_trained_twice(tmp_path: Path) -> None:
    words = ["reproduce", "agents", "--preset", "debug", f"out={tmp_path}/out", f"results={tmp_path}/results", "processes=1"]
    assert cli.main(words) == 0
    table = tmp_path / "results/agents.csv"
    rows = read_rows(table, AgentFigure)
    whole = [row for row in rows if row.gap == ALL]
    assert [row.agent for row in whole] == [
        "oracle", ORACLE_STATE, "planner", "random", "state", "state", "recurrent", "recurrent"
    ]  # fmt: skip
    assert {row.episodes for row in whole} == {1} and len(rows) == 2 * len(whole)
    written = (tmp_path / "out/agents/Revisit-S/state-seed0/policy.safetensors").stat().st_mtime_ns
    assert cli.main(words) == 0
    assert (tmp_path / "out/agents/Revisit-S/state-seed0/policy.safetensors").stat().st_mtime_ns == written
