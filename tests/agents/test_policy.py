"""Policies on the state: the VecEnv wrapper, features, and PPO that trains, saves, resumes and acts."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from embodied_liftwm.commands import train_agent
from embodied_liftwm.config import EVAL_SEED_OFFSET, PlannerConfig, TrainAgentConfig
from embodied_liftwm.errors import UserError
from liftwm_agents.planning.planner import PlannerPolicy
from liftwm_agents.policies.features import BirdsEyeExtractor, WorldModelVecEnv
from liftwm_agents.policies.policy import PPOPolicy
from liftwm_agents.policies.policy_file import open_policy
from liftwm_agents.policies.readout import FeatureConfig
from liftwm_agents.policies.start_pool import TrainingSeeds
from liftwm_agents.policies.training import read_curve, train_policy
from tests.agents.oracle_model import DepthTap, OracleMemory
from tests.agents.toy_env import TOUR_FRAMES, ToyRoom

SIZE = 24
FEATURES = FeatureConfig(cells=16, extent_m=6.0, views=4, read_every=4, survey_places=1)
MODEL = OracleMemory(image_size=SIZE, capacity=20_000, stride=1)


class TourTap(DepthTap):
    """Also hands over the depth of the tour's frames."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = super().reset(**kwargs)
        for rgb, depth in zip(info["tour"]["rgb"], info["tour_depth"], strict=True):
            self._model.tell(rgb, depth)
        return obs, info


def toy(discrete: bool = False, max_steps: int = 40) -> gym.Env:
    return TourTap(ToyRoom(SIZE, discrete, max_steps), MODEL)


def make_toy() -> gym.Env:
    return toy()


def make_discrete_toy() -> gym.Env:
    return toy(discrete=True, max_steps=25)


def make_model() -> OracleMemory:
    return MODEL


def make_large_model() -> OracleMemory:
    model = OracleMemory(image_size=64)
    model.image_size = 64
    return model


def watched(num_envs: int = 2, max_steps: int = 40, discrete: bool = False) -> WorldModelVecEnv:
    venv = DummyVecEnv([lambda: toy(discrete, max_steps)] * num_envs)
    venv.seed(0)
    return WorldModelVecEnv(venv, MODEL, FEATURES)


def maps(obs: Any) -> np.ndarray:
    """The bird's-eye maps of the first environment, [8, 16, 16]."""
    return obs["birdseye"][0].reshape(8, 16, 16)


def rows(obs: Any, i: int) -> dict[str, np.ndarray]:
    return {key: value[i] for key, value in obs.items()}


@pytest.mark.parametrize("discrete", [False, True])
def test_observations_are_in_the_space(discrete: bool) -> None:
    env = watched(discrete=discrete, max_steps=3)
    obs = env.reset()
    for _ in range(4):
        assert all(env.observation_space.contains(rows(obs, i)) for i in range(2))
        obs, rewards, dones, infos = env.step(np.stack([env.action_space.sample() for _ in range(2)]))
        assert rewards.shape == dones.shape == (2,) and len(infos) == 2


def test_tour_is_watched_and_the_goal_behind_is_known() -> None:
    env = watched(num_envs=1)
    obs = env.reset()
    points = int(env._states[0].valid.sum())
    assert points == TOUR_FRAMES * SIZE * SIZE
    room: ToyRoom = env.venv.envs[0].unwrapped
    east, north = room._ball[:2] - room._xy
    bearing = np.arctan2(north, east) - room._yaw
    cos, sin, distance, confidence = obs["vector"][0, 9:13]
    np.testing.assert_allclose([cos, sin], [np.cos(bearing), np.sin(bearing)], atol=0.15)
    assert confidence > 0.3 and abs(distance * 5.0 - np.hypot(east, north)) < 0.4
    ahead, left = np.hypot(east, north) * np.array([np.cos(bearing), np.sin(bearing)])
    row, column = int((3.0 - ahead) / 0.375), int((3.0 - left) / 0.375)
    goal_channel = maps(obs)[3]
    assert goal_channel[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max() > 0.5
    assert maps(obs)[0, 8, 8] == 1.0  # where it stands is free
    assert maps(obs)[1].sum() > 10  # and there are walls


def test_only_the_ended_row_starts_anew_and_keeps_its_last_features() -> None:
    env = watched(max_steps=5)
    env.reset()
    env.venv.envs[1].unwrapped._max_steps = 100
    still = np.zeros((2, 2), dtype=np.float32)
    for _ in range(4):
        _, _, dones, _ = env.step(still)
        assert not dones.any()
    before = [int(state.valid.sum()) for state in env._states]
    obs, _, dones, infos = env.step(still)
    after = [int(state.valid.sum()) for state in env._states]
    assert dones.tolist() == [True, False]
    assert after[0] == TOUR_FRAMES * SIZE * SIZE < before[0]
    assert after[1] == before[1] + SIZE * SIZE
    terminal = infos[0]["terminal_observation"]
    assert env.observation_space.contains(terminal)
    assert not np.array_equal(terminal["vector"], obs["vector"][0])
    assert infos[0]["TimeLimit.truncated"] and "terminal_observation" not in infos[1]


def test_frames_that_are_not_watched_move_the_agent_on_its_map_all_the_same() -> None:
    seen, points = {}, {}
    for every in (1, 3):
        venv = DummyVecEnv([lambda: toy(False, 40)])
        venv.seed(0)
        env = WorldModelVecEnv(venv, MODEL, replace(FEATURES, watch_every=every, read_every=100))
        env.reset()
        driven = np.array([[[0.4, 0.7]]] * 5, np.float32)
        seen[every] = [env.step(action)[0]["vector"][0] for action in driven]
        points[every] = int(env._states[0].valid.sum()) // SIZE**2 - TOUR_FRAMES
    assert points == {1: 5, 3: 1}  # of frames 1 to 5, the third
    np.testing.assert_allclose(seen[3], seen[1], atol=1e-5)
    assert np.abs(seen[1][0] - seen[1][4]).max() > 0.1


def test_a_goal_that_is_called_on_the_way_is_looked_for_at_once_and_behind_things(monkeypatch: pytest.MonkeyPatch) -> None:
    env = watched(num_envs=1)
    first = env.reset()["vector"][0]
    reader, state = env._readers[0], env._states[0]
    pose = {"world_from_camera": state.world_from_camera[0].numpy().reshape(-1)}
    ball, nothing = {**pose, "goal": first[:9]}, {**pose, "goal": np.eye(9, dtype=np.float32)[2]}
    searched: list[int] = []
    monkeypatch.setattr(reader.belief, "look_behind", lambda state, places: searched.append(places))
    assert reader.read(state, ball)["vector"][12] == first[12] > 0.3 and not searched  # it was found when it was called
    assert (
        reader.read(state, nothing)["vector"][12] < 0.05 and len(searched) == 1
    )  # though no reading was due, and nothing is blue
    assert reader.read(state, ball)["vector"][12] > 0.3


def test_the_way_on_the_map_leads_to_the_goal() -> None:
    env = watched(num_envs=1)
    obs = env.reset()
    place, way = obs["vector"][0, 9:13], obs["vector"][0, 13:16]
    assert way[:2] @ place[:2] > 0.8  # nothing stands between: the way is straight, but for the cells it is made of
    assert 0.5 * place[2] < way[2] < 2.0 * place[2]
    assert np.sign(maps(obs)[7, :8].mean() - maps(obs)[7, 8:].mean()) == -np.sign(place[0])
    red, seen = maps(obs)[4], maps(obs)[2]
    assert seen.max() == 1.0
    goal = np.unravel_index(maps(obs)[3].argmax(), (16, 16))
    assert red[goal] > maps(obs)[5][goal] + 0.2  # the ball is red


def test_a_policy_that_sees_no_way_is_told_none() -> None:
    venv = DummyVecEnv([toy])
    venv.seed(0)
    obs = WorldModelVecEnv(venv, MODEL, replace(FEATURES, way=False)).reset()
    assert np.all(obs["vector"][0, 13:16] == 0) and np.all(maps(obs)[7] == 0.5)
    assert np.any(obs["vector"][0, 9:13])


def test_model_of_another_image_size_is_refused() -> None:
    with pytest.raises(UserError, match="64 x 64, the environment gives 24 x 24"):
        WorldModelVecEnv(DummyVecEnv([toy]), make_large_model(), FEATURES)
    with pytest.raises(UserError, match="must be a Dict with rgb"):
        WorldModelVecEnv(DummyVecEnv([lambda: gym.make("CartPole-v1")]), MODEL, FEATURES)


def test_extractor_reads_both_parts() -> None:
    space = spaces.Dict(
        birdseye=spaces.Box(0, 1, (8 * 16 * 16,), np.float32),
        vector=spaces.Box(-np.inf, np.inf, (15,), np.float32),
        summary=spaces.Box(-np.inf, np.inf, (5,), np.float32),
    )
    extractor = BirdsEyeExtractor(space, map_dim=8)
    seen = {"birdseye": torch.rand(3, 8 * 16 * 16), "vector": torch.randn(3, 15), "summary": 100 * torch.randn(3, 5)}
    out = extractor(seen)
    assert out.shape == (3, 8 + 15) and extractor.features_dim == 8 + 15
    assert torch.equal(out[:, 8:], seen["vector"]) and float(out[:, :8].detach().abs().max()) < 8.0
    for key in ("birdseye", "summary"):
        assert not torch.equal(out[:, :8], extractor(seen | {key: 1 - seen[key]})[:, :8])


def test_training_scenes_never_come_from_the_evaluation_half() -> None:
    seeds: list[int] = []

    class Spy(gym.Wrapper):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            assert seed is not None
            seeds.append(seed)
            return self.env.reset(seed=seed)

    first, second = (TrainingSeeds(Spy(ToyRoom(8)), seed) for seed in (3, 3))
    for _ in range(3):
        first.reset()
    for _ in range(3):
        second.reset()
    assert seeds[:3] == seeds[3:] and len(set(seeds)) == 3
    assert all(0 <= seed < EVAL_SEED_OFFSET for seed in seeds)


def config(run: Path, steps: int) -> TrainAgentConfig:
    return TrainAgentConfig(
        env="tests.agents.test_policy:make_toy", run=str(run), steps=steps, num_envs=2, rollout_steps=16, batch_size=16,
        discrete=False, starts=4, fresh=0.5,
    )  # fmt: skip


def test_ppo_trains_saves_resumes_and_acts(tmp_path: Path) -> None:
    seen: list[int] = []
    path = train_policy(config(tmp_path, 64), MODEL, lambda row: seen.append(row.steps), FEATURES)
    assert seen == [32, 64]
    first = open_policy(path).policy.state_dict()
    train_policy(config(tmp_path, 96), MODEL, lambda row: seen.append(row.steps), FEATURES)
    assert seen == [32, 64, 96]
    resumed = open_policy(tmp_path)
    assert resumed.num_timesteps == 96
    assert any(not torch.equal(value, first[name]) for name, value in resumed.policy.state_dict().items())
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 96
    assert list((tmp_path / "tensorboard").rglob("events*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "policy.safetensors", "tensorboard"]
    train_policy(config(tmp_path, 96), MODEL, lambda row: seen.append(row.steps), FEATURES)
    assert seen == [32, 64, 96]  # nothing remained to be done

    env, policy = toy(), PPOPolicy(MODEL, tmp_path, features=FEATURES)
    obs, info = env.reset(seed=1)
    policy.begin(info["tour"])
    for _ in range(3):
        action = policy.act(obs, info)
        assert env.action_space.contains(action)
        obs, _, _, _, info = env.step(action)


def test_the_curve_has_real_and_imagined_returns(tmp_path: Path) -> None:
    settings = replace(config(tmp_path, 64), evaluate_every=32, eval_episodes=2)
    train_policy(settings, MODEL, None, FEATURES)
    rows = read_curve(tmp_path)
    assert [row.steps for row in rows] == [32, 64]
    assert all(row.episodes == 2 and row.imagined_episodes == 2 for row in rows)
    assert all(np.isfinite([row.success, row.mean_return, row.imagined_success, row.imagined_return]).all() for row in rows)
    assert json.loads((tmp_path / "metrics.json").read_text())["held_out"]["steps"] == 64
    train_policy(replace(settings, steps=96), MODEL, None, FEATURES)
    assert [row.steps for row in read_curve(tmp_path)] == [32, 64, 96]


def test_wrapper_and_policy_see_the_same_features(tmp_path: Path) -> None:
    train_policy(config(tmp_path, 32), MODEL, None, FEATURES)
    algorithm = open_policy(tmp_path)
    venv = WorldModelVecEnv(DummyVecEnv([toy]), MODEL, FEATURES)
    venv.seed(5)
    obs = venv.reset()
    env, policy = toy(), PPOPolicy(MODEL, tmp_path, features=FEATURES)
    raw, info = env.reset(seed=5)
    policy.begin(info["tour"])
    for _ in range(6):
        expected, _ = algorithm.predict(obs, deterministic=True)
        action = policy.act(raw, info)
        np.testing.assert_allclose(action, expected[0], atol=1e-5)
        obs, *_ = venv.step(expected)
        raw, *_ = env.step(action)


def test_bad_zip_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no policy at"):
        PPOPolicy(MODEL, tmp_path)
    (tmp_path / "policy.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match="not a stable-baselines3 zip"):
        PPOPolicy(MODEL, tmp_path)
    with pytest.raises(UserError, match="not a stable-baselines3 zip"):
        train_policy(config(tmp_path, 32), MODEL, None, FEATURES)


def test_policy_of_another_model_is_refused(tmp_path: Path) -> None:
    train_policy(config(tmp_path, 32), MODEL, None, FEATURES)
    wider = replace(FEATURES, cells=32)
    with pytest.raises(UserError, match="another model, task or number"):
        train_policy(config(tmp_path, 64), MODEL, None, wider)
    env, policy = toy(), PPOPolicy(MODEL, tmp_path, features=wider)
    obs, info = env.reset(seed=1)
    policy.begin(info["tour"])
    with pytest.raises(UserError, match="another model's features"):
        policy.act(obs, info)


@pytest.mark.slow
def test_ppo_learns_to_drive_to_the_ball(tmp_path: Path) -> None:
    success: list[float] = []
    settings = replace(
        config(tmp_path, 3072),
        env="tests.agents.test_policy:make_discrete_toy",
        num_envs=4,
        rollout_steps=64,
        learning_rate=1e-3,
    )
    train_policy(settings, MODEL, lambda row: success.append(row.success_rate), FEATURES)
    assert success[1] < 0.35
    assert success[-1] > 0.5  # of the last 100 episodes; 0.65 when written


def test_command_trains_and_refuses_a_model_that_does_not_fit(tmp_path: Path) -> None:
    settings = replace(config(tmp_path / "agent", 32), model="tests.agents.test_policy:make_model")
    assert train_agent.run(settings) == 0
    assert open_policy(tmp_path / "agent").num_timesteps == 32
    assert "rollout_steps: 16" in (tmp_path / "agent" / "config.yaml").read_text()
    with pytest.raises(UserError, match="holds a run with learning_rate"):
        train_agent.run(replace(settings, learning_rate=0.1))
    elsewhere = replace(settings, run=str(tmp_path / "other"))
    with pytest.raises(UserError, match="set env_options.image_size=64"):
        train_agent.run(replace(elsewhere, model="tests.agents.test_policy:make_large_model"))
    with pytest.raises(UserError, match="unknown env"):
        train_agent.run(replace(elsewhere, run=str(tmp_path / "third"), env="Revisitt-S"))


def interrupted(monkeypatch: pytest.MonkeyPatch, settings: TrainAgentConfig, rollout: int) -> str:
    """What `train-agent` says when Ctrl-C is pressed in a rollout, counted from 0."""
    collect, begun = PPO.collect_rollouts, []

    def collect_until(*given: Any, **named: Any) -> bool:
        if len(begun) == rollout:
            signal.raise_signal(signal.SIGINT)
        begun.append(rollout)
        return collect(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as told:
        patch.setattr(PPO, "collect_rollouts", collect_until)
        train_agent.run(settings)
    return str(told.value)


def test_an_interrupted_command_says_what_is_kept_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    settings = replace(config(tmp_path, 64), model="tests.agents.test_policy:make_model")
    assert interrupted(monkeypatch, settings, 0).startswith("no step was kept in")
    first = config(tmp_path, 64).num_envs * settings.rollout_steps
    assert interrupted(monkeypatch, settings, 1) == f"{first} steps are kept in {tmp_path}: the same command continues there"
    assert train_agent.run(settings) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] >= 64
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("policy*")}
    capsys.readouterr()
    assert train_agent.run(settings) == 0
    assert before and before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("policy*")}
    assert "already trained to step 64: nothing to do; more steps= continue it" in capsys.readouterr().out


@pytest.mark.parametrize("discrete", [False, True])
def test_planner_returns_to_the_ball_it_saw_on_the_tour(discrete: bool) -> None:
    policy = PlannerPolicy(MODEL, PlannerConfig(num_samples=64, panorama_views=4))
    solved = 0
    for seed in range(4):
        env = toy(discrete)
        obs, info = env.reset(seed=seed)
        policy.begin(info["tour"])
        done = False
        while not done:
            action = policy.act(obs, {})
            assert env.action_space.contains(action)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        solved += info["success"]
    assert solved >= 3
    found = policy.diagnostics()
    assert found["confidence"] > 0.3 and found["plans_per_second"] > 0
