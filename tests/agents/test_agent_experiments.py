"""`train-agent loop=true` and `reproduce agents`: what is compared, on what, and that it goes on where it was."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands.agent_loop import TABLE, LoopRow, collect_settings
from embodied_liftwm.commands.reproduce_agents import AgentFigure, cells, figure, settings
from embodied_liftwm.config import AgentsConfig, ReproduceConfig, TrainAgentConfig
from embodied_liftwm.data.storage import scan
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.arena import NavigationRow
from embodied_liftwm.evaluation.rows import read_rows
from liftwm_agents.collecting_policy import TourThenPolicy

CONFIG = ReproduceConfig(out="out", seeds=2, agents=AgentsConfig(tasks=("Revisit-S", "Occlusion-M")))


def test_every_input_has_the_same_settings_but_what_its_name_says() -> None:
    found = [settings(CONFIG, cell) for cell in cells(CONFIG) if cell.input]
    assert len(found) == 2 * 2 * 5 and len({config.run for config in found}) == len(found)
    common = [{k: v for k, v in asdict(c).items() if k not in ("input", "env", "seed", "run")} for c in found]
    assert all(other == common[0] for other in common)
    assert {config.seed for config in found} == {0, 1} and {config.env for config in found} == {"Revisit-S", "Occlusion-M"}
    assert [cell.name for cell in cells(CONFIG)][:2] == ["scripted", "scripted"]


def test_a_figure_has_wilsons_interval() -> None:
    row = NavigationRow("state", 0, 0, 1.0, 0.8, 0.9, 10, 2.0, 1.6, 0.0, 0)
    found = figure("Revisit-S", "state", "0", 100, [row, replace(row, success=0.0, spl=0.0, soft_spl=0.3)])
    assert found == AgentFigure("Revisit-S", "state", "0", 100, 2, 0.5, found.low, found.high, 0.4, 0.6)
    z2 = 1.959963984540054**2
    half = np.sqrt(z2) / (1 + z2 / 2) * np.sqrt(0.25 / 2 + z2 / 16)
    np.testing.assert_allclose([found.low, found.high], [0.5 - half, 0.5 + half], rtol=1e-9)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"input": "pixels", "loop": True}, "input=pixels: loop=true trains a world model"),
        ({"input": "imagined", "way": False}, "input=imagined needs the way"),
        ({"fresh": 1.5}, "fresh=1.5: must be in"),
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
        "round_episodes=2", "episode_steps=100", "eval_episodes=1", "starts=1", "world.steps=2", "world.model.budget=64",
        "world.model.stride=4", "world.model.width=8", "world.model.planes=4", "world.batch_size=1", "world.context=2",
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
    assert [row.agent for row in rows] == ["oracle", "planner", "random", "state", "state", "recurrent", "recurrent"]
    assert {row.episodes for row in rows} == {1}
    written = (tmp_path / "out/agents/Revisit-S/state-seed0/policy.zip").stat().st_mtime_ns
    assert cli.main(words) == 0
    assert (tmp_path / "out/agents/Revisit-S/state-seed0/policy.zip").stat().st_mtime_ns == written
