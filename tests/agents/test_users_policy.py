"""Policies of the user's: made for each episode, told the tour if they care, and blamed by their own line."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from embodied_liftwm.environments.users_policy import UsersPolicy
from embodied_liftwm.errors import UserError

CODE = """
import numpy as np

class Follower:
    def __init__(self, env, seed):
        self.seed, self.seen = seed, 0
    def begin(self, tour):
        self.seen = len(tour["rgb"])
    def act(self, obs, info):
        return self.seed, self.seen, obs + info["x"]

def make_function(env, seed):
    return lambda obs, info: (seed, obs)

def clumsy(env, seed):
    def act(obs, info):
        return obs["rgb"]
    return act

def none(env, seed): ...
def number(env, seed): return 3
def kind(env, seed): return Follower
def narrow(env): ...
"""
ENV = gym.Env()


@pytest.fixture(autouse=True)
def _written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "policies_here", raising=False)
    (tmp_path / "policies_here.py").write_text(CODE)


def test_it_is_made_anew_for_every_episode() -> None:
    policy = UsersPolicy("policies_here:Follower", ENV, 5)
    policy.reset()
    assert policy.act(1, {"x": 2}) == (5, 0, 3)
    policy.begin({"rgb": np.zeros(4)})
    assert policy.act(1, {"x": 2}) == (5, 4, 3)
    policy.reseed(100)
    assert policy.act(0, {"x": 0}) == (105, 0, 0)


def test_a_function_does() -> None:
    policy = UsersPolicy("policies_here:make_function", ENV, 7)
    policy.reset()
    policy.begin({"rgb": np.zeros(4)})
    assert policy.act(1, {}) == (7, 1)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("none", "returned None, expected an object with act"),
        ("number", "returned 3, expected an object with act"),
        ("kind", "returned the class Follower, expected an object with act"),
        ("narrow", r"policies_here.py:\d+: TypeError: narrow\(\) takes 1 positional argument but 2 were given"),
        ("clumsy", r"policies_here.py:\d+ \(return obs\[\"rgb\"\]\): TypeError: 'int' object is not subscriptable"),
    ],
)
def test_what_is_wrong_with_one_is_a_line(name: str, line: str) -> None:
    policy = UsersPolicy(f"policies_here:{name}", ENV, 0)
    with pytest.raises(UserError, match=f"^policy=policies_here:{name}:? ?{line}"):
        policy.reset()
        policy.act(1, {})


def test_one_that_is_not_there_is_named_before_any_work() -> None:
    with pytest.raises(UserError, match="has no 'make_functio': did you mean 'make_function'?"):
        UsersPolicy("policies_here:make_functio", ENV, 0)
