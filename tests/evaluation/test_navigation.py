import dataclasses
from functools import partial

import numpy as np
import pytest

from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import Arena, oracle_agent, random_agent, soft_spl, spl
from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation

CONFIG = EvaluateConfig(env="Revisit-S", navigation_episodes=3, workers=1)


def test_spl_by_hand():
    assert spl(True, 4.0, 5.0) == pytest.approx(0.8)
    assert spl(True, 4.0, 3.9) == 1.0  # the path of an agent with a body can undercut a path on a grid
    assert spl(False, 4.0, 5.0) == 0.0


def test_soft_spl_by_hand():
    assert soft_spl(1.0, 4.0, 5.0) == pytest.approx(0.75 * 0.8)
    assert soft_spl(6.0, 4.0, 5.0) == 0.0  # farther than at the start
    assert soft_spl(0.0, 4.0, 4.0) == 1.0


def test_the_oracle_solves_what_random_does_not():
    result = evaluate_navigation({"oracle": oracle_agent, "random": random_agent}, CONFIG)
    by_agent = {name: [row for row in result.rows if row.agent == name] for name in ("oracle", "random")}
    assert [row.seed for row in by_agent["oracle"]] == [row.seed for row in by_agent["random"]]
    assert len(by_agent["oracle"]) + sum(map(len, result.removed.values())) == 3
    assert all(row.seed >= EVAL_SEED_OFFSET for row in result.rows)
    assert all(row.success == 1.0 and row.spl > 0.6 for row in by_agent["oracle"])
    assert np.mean([row.soft_spl for row in by_agent["random"]]) < np.mean([row.soft_spl for row in by_agent["oracle"]])
    assert [row.shortest_m for row in by_agent["oracle"]] == [row.shortest_m for row in by_agent["random"]]
    trace = next(t for t in result.traces if t.agent == "oracle")
    assert trace.success and len(trace.path) == by_agent["oracle"][0].steps + 1
    assert len(trace.tour) > 20 and trace.goal_object in [o["id"] for o in trace.scene["objects"]]


def test_pictures_call_the_same_objects():
    called = dataclasses.replace(CONFIG, navigation_episodes=1)
    said, shown = (
        evaluate_navigation({"oracle": oracle_agent}, dataclasses.replace(called, goal=goal))
        for goal in ("attributes", "picture")
    )
    assert said.rows == shown.rows and said.rows[0].success


def test_pictures_of_what_calls_otherwise_are_refused():
    config = dataclasses.replace(CONFIG, env="tests.agents.toy_camera_env:make_env", goal="picture")
    with pytest.raises(UserError, match="goal=picture: env=tests.agents.toy_camera_env:make_env calls things in its own way"):
        evaluate_navigation({"random": random_agent}, config)


def test_processes_change_nothing():
    agents = {"random": random_agent}
    alone = evaluate_navigation(agents, CONFIG)
    spread = evaluate_navigation(agents, dataclasses.replace(CONFIG, workers=2))
    assert alone.rows == spread.rows and alone.traces == spread.traces


def broken_agent(env, seed):
    raise UserError("no model at runs/nowhere")


def test_an_agent_that_cannot_be_made_says_why():
    with pytest.raises(UserError, match="no model at runs/nowhere"):
        evaluate_navigation({"planner": broken_agent}, dataclasses.replace(CONFIG, workers=2))


class Posing:
    """An environment of one step, whose info is chosen."""

    def __init__(self, **info):
        self.info = {"success": False, "solvable_by_memory": True} | info

    def reset(self, seed):
        return {}, self.info


@pytest.mark.parametrize(
    ("info", "reason"), [({"success": True}, "solved at the start"), ({"solvable_by_memory": False}, "unsolvable by memory")]
)
def test_starts_that_test_nothing_are_removed(info, reason):
    arena = Arena.__new__(Arena)
    arena.env, arena.agents = Posing(**info), {"random": None}
    outcome = arena.play(0, 7)
    assert outcome.removed == reason and outcome.rows == ()


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="unknown env 'Revist-S': did you mean 'Revisit-S'"):
        evaluate_navigation({"random": random_agent}, dataclasses.replace(CONFIG, env="Revist-S", workers=2))


def test_random_differs_from_episode_to_episode():
    actions = []
    arena = Arena({"random": partial(random_agent)}, CONFIG)
    for seed in (1, 2):
        arena.agents["random"].reseed(seed)
        actions.append(arena.agents["random"].act({}, {}))
    arena.env.close()
    assert not np.array_equal(*actions)
