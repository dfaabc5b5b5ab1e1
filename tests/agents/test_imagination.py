"""Imagined episodes: they begin as the real ones, walls of the map hold, and coming nearer to the goal is rewarded."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from embodied_liftwm.errors import UserError
from liftwm_agents.policies.features import WorldModelVecEnv
from liftwm_agents.policies.imagination import BELIEVED_REACH_M, ImaginedVecEnv
from liftwm_agents.policies.readout import FeatureConfig, Watched, watch_start
from tests.agents.oracle_model import OracleMemory
from tests.agents.test_policy import TourTap
from tests.agents.toy_env import HALF_ROOM_M, ToyRoom

SIZE = 24
MODEL = OracleMemory(image_size=SIZE, capacity=20_000, stride=1)
FEATURES = FeatureConfig(cells=16, extent_m=6.0, views=4, survey_places=1)


def watched(seed: int, model: OracleMemory = MODEL, size: int = SIZE) -> Watched:
    env = TourTap(ToyRoom(size), model)
    obs, info = env.reset(seed=seed)
    return watch_start(model, FEATURES, obs, info, 2)


def dream(*starts: Watched, model: OracleMemory = MODEL) -> ImaginedVecEnv:
    order = iter([starts[0], *starts * 50])
    return ImaginedVecEnv(model, lambda: next(order), gym.spaces.Box(-1.0, 1.0, (2,), np.float32), len(starts), FEATURES)


def test_it_begins_with_what_the_real_episode_shows() -> None:
    venv = DummyVecEnv([lambda: TourTap(ToyRoom(SIZE), MODEL)])
    venv.seed(2)
    real, imagined = WorldModelVecEnv(venv, MODEL, FEATURES).reset(), dream(watched(2)).reset()
    assert isinstance(real, dict) and isinstance(imagined, dict)
    for key in real:
        np.testing.assert_allclose(imagined[key], real[key], atol=1e-6)


def test_driving_along_the_way_comes_within_reach_and_pays_the_way() -> None:
    env = dream(watched(2), watched(3))
    obs = env.reset()
    left = [row.left_m for row in env._rows]
    total, ended = np.zeros(2), np.zeros(2, bool)
    for _ in range(60):
        cos, sin = obs["vector"][:, 13], obs["vector"][:, 14]
        actions = np.stack([(cos > 0.8).astype(np.float32), np.clip(np.arctan2(sin, cos) / 0.3, -1, 1)], axis=1)
        obs, rewards, dones, infos = env.step(actions)
        total += rewards * ~ended
        for i in np.flatnonzero(dones & ~ended):
            assert infos[i]["success"] and not infos[i]["TimeLimit.truncated"]
            assert infos[i]["episode"]["r"] == pytest.approx(total[i], abs=1e-4)
            assert env.observation_space.contains({key: value for key, value in infos[i]["terminal_observation"].items()})
            assert left[i] - 1.0 < total[i] - 1.0 <= left[i] + 1e-6  # the way, but for the last bit within reach, and 1
        ended |= dones
        if ended.all():
            return
    raise AssertionError("the goal was not reached")


def test_walls_of_the_map_hold_what_imagination_lets_through() -> None:
    model = OracleMemory(image_size=56, capacity=80_000, stride=1)  # walls without gaps take a finer picture
    for seed in range(20):  # the map is open around the goal: drive away from it
        start = watched(seed, model, 56)
        env = dream(start, model=model)
        obs = env.reset()
        if obs["vector"][0, 9] < -0.5:
            break
    env._rows[0].limit = 10**6
    env._rows[0].place = np.array([99.0, 99.0])  # nothing to reach
    ahead = np.array([[1.0, 0.0]], np.float32)
    state, bumps = start.state, 0
    for _ in range(30):
        _, rewards, _, infos = env.step(ahead)
        assert abs(rewards[0]) <= 0.4
        bumps += infos[0]["bump"]
        state = model.imagine(state, torch.from_numpy(ahead))
    free = model.ego_camera(state).world_from_camera[0, :2, 3]
    held = model.ego_camera(env._states).world_from_camera[0, :2, 3]
    assert float(free.abs().max()) > HALF_ROOM_M + 1.0
    assert float(held.abs().max()) < HALF_ROOM_M and bumps > 5
    np.testing.assert_allclose(env._rows[0].position[:2], held, atol=1e-6)


def test_time_runs_out_and_counts_as_truncation() -> None:
    env = dream(watched(2))
    env.reset()
    limit, still = env._rows[0].limit, np.zeros((1, 2), np.float32)
    for step in range(1, limit + 1):
        _, _, dones, infos = env.step(still)
        assert bool(dones[0]) == (step == limit)
    assert infos[0]["TimeLimit.truncated"] and not infos[0]["success"]
    assert limit >= 1.4 * BELIEVED_REACH_M / 0.2


def test_a_model_that_never_shows_a_goal_is_refused() -> None:
    blind = watched(2)
    blind.reader.belief.goal_xyz = None
    with pytest.raises(UserError, match="showed no goal after any of 200 tours"):
        dream(*[blind] * 5)
