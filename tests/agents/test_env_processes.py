"""Environments in processes of their own are stepped as others, and blamed for what they raise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from liftwm_agents.policies.env_processes import EnvProcesses

sys.path.insert(0, str(Path(__file__).parent))
import toy_camera_env as toy


def test_an_environment_that_fails_is_blamed_by_its_line() -> None:
    envs = EnvProcesses([toy.make_env, toy.make_buggy])
    assert envs.reset()["rgb"].shape == (2, 32, 32, 3)
    with pytest.raises(UserError, match=r"^\S*toy_camera_env.py:\d+ \(raise Zero.*\): ZeroDivisionError: a bug of the env"):
        envs.step(np.zeros((2, 2), np.float32))
    envs.close()
    assert not any(process.is_alive() for process in envs.processes)


def test_one_that_is_killed_or_cannot_be_made_is_told() -> None:
    envs = EnvProcesses([toy.make_mortal])
    envs.reset()
    with pytest.raises(UserError, match="the process of an environment died"):
        envs.step(np.zeros((1, 2), np.float32))
    envs.close()
    with pytest.raises(UserError, match="unknown env 'nothing-here'"):
        EnvProcesses([lambda: find_env("nothing-here")])
