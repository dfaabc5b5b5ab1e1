"""Policies without a world model: what they see of tours, what counts in their losses, and that everyone can open them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentDictRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.goals import instruction_of
from liftwm_agents.policies.action_table import TableActions
from liftwm_agents.policies.baselines import PLAYING, PixelEnv, PixelExtractor, TouredRecurrentPPO
from liftwm_agents.policies.features import WorldModelVecEnv
from liftwm_agents.policies.policy import PPOPolicy
from liftwm_agents.policies.policy_file import open_policy
from liftwm_agents.policies.readout import FeatureConfig
from liftwm_agents.policies.training import train_policy
from liftwm_agents.policies.training_envs import WatchedEnv
from tests.agents.oracle_model import OracleMemory
from tests.agents.test_policy import TourTap
from tests.agents.toy_env import TOUR_FRAMES, ToyRoom

SIZE = 36  # the smallest image that check_env does not warn of
MODEL = OracleMemory(image_size=SIZE, capacity=40_000, stride=2)
FEATURES = FeatureConfig(cells=16, extent_m=6.0, views=4, survey_places=1)


def toy(max_steps: int = 6) -> gym.Env:
    return TourTap(ToyRoom(SIZE, max_steps=max_steps), MODEL)


def make_toy() -> gym.Env:
    return toy()


def toured(table: bool = True) -> PixelEnv:
    env = TableActions(toy())
    return PixelEnv(env, watch_tour=True, table=env.table)


def test_the_tour_comes_first_frame_by_frame_and_its_actions_do_nothing() -> None:
    raw = toy()
    _, info = raw.reset(seed=3)
    env = toured()
    seen, told = env.reset(seed=3)
    assert "tour" not in told and told["touring"]
    for k in range(TOUR_FRAMES):
        np.testing.assert_array_equal(seen["image"], np.moveaxis(info["tour"]["rgb"][k], -1, 0))
        last = k == TOUR_FRAMES - 1
        assert seen["vector"][PLAYING] == float(last)
        assert bool(np.any(seen["vector"][1:10])) == last  # the goal is called with the last frame
        turn = seen["vector"][12:14]
        np.testing.assert_allclose(turn, [np.cos(0.3 * k), np.sin(0.3 * k)], atol=1e-5)
        np.testing.assert_allclose(seen["vector"][14:], info["tour"]["action"][k])
        if not last:
            seen, reward, terminated, truncated, told = env.step(1)
            assert reward == 0.0 and not terminated and not truncated and told["touring"]
    expected, reward, *_ = raw.step(np.array([1.0, 0.0], np.float32))
    seen, got, _, _, told = env.step(1)
    np.testing.assert_array_equal(seen["image"], np.moveaxis(expected["rgb"], -1, 0))
    assert got == pytest.approx(reward) and got != 0 and "touring" not in told
    np.testing.assert_allclose(seen["vector"][14:], [1.0, 0.0])


def test_a_stack_begins_with_the_last_frames_of_the_tour() -> None:
    raw = toy()
    _, info = raw.reset(seed=4)
    env = PixelEnv(toy(), stack=3)
    seen, told = env.reset(seed=4)
    expected = np.concatenate([np.moveaxis(frame, -1, 0) for frame in info["tour"]["rgb"][-3:]])
    np.testing.assert_array_equal(seen["image"], expected)
    assert seen["vector"][PLAYING] == 1.0 and "touring" not in told
    moved, *_ = env.step(np.array([1.0, 0.5], np.float32))
    np.testing.assert_array_equal(moved["image"][:6], expected[3:])


def recurrent(seed: int = 0) -> TouredRecurrentPPO:
    algorithm = TouredRecurrentPPO(
        "MultiInputLstmPolicy", DummyVecEnv([toured]), n_steps=64, batch_size=32, n_epochs=1, seed=seed,
        policy_kwargs={"features_extractor_class": PixelExtractor, "lstm_hidden_size": 8, "net_arch": [8]},
    )  # fmt: skip
    return algorithm


def test_only_played_steps_count_in_the_loss_of_a_recurrent_policy() -> None:
    one, other = recurrent(), recurrent()
    for algorithm in (one, other):
        torch.manual_seed(0)
        np.random.seed(0)
        algorithm.learn(1, callback=lambda *_: True)
    buffer = one.rollout_buffer
    played = int(buffer.observations["vector"][..., PLAYING].sum())
    assert 0 < played < 64
    assert sum(int(samples.mask.sum()) for samples in buffer.get(32)) == played
    for algorithm in (one, other):
        mutated = algorithm.rollout_buffer
        touring = mutated.observations["vector"].reshape(64, -1)[:, PLAYING] == 0
        if algorithm is other:
            mutated.advantages.reshape(-1)[touring] = 1e3
            mutated.returns.reshape(-1)[touring] = -1e3
        torch.manual_seed(1)
        np.random.seed(1)
        algorithm.train()
    for mine, theirs in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_gradients_reach_into_the_tour() -> None:
    algorithm = recurrent()
    algorithm.learn(1)
    (samples,) = (copy.copy(s) for s in list(algorithm.rollout_buffer.get(64))[:1])
    image = samples.observations["image"].float().requires_grad_()
    observations = {**samples.observations, "image": image}
    _, log_prob, _ = algorithm.policy.evaluate_actions(
        observations, samples.actions.long().flatten(), samples.lstm_states, samples.episode_starts
    )
    (log_prob * samples.mask).sum().backward()
    touring = samples.observations["vector"][:, PLAYING] == 0
    assert image.grad is not None and float(image.grad[touring].abs().sum()) > 0


def test_starts_forgotten_ahead_of_the_lstm_are_as_starts_found_step_by_step() -> None:
    algorithm = recurrent()
    algorithm.learn(1)
    buffer = algorithm.rollout_buffer
    given = np.arange(5, 64), np.zeros((64, 1), np.float32)  # an episode in flight, then others from their start
    ours = buffer._get_samples(*given)
    assert not bool(ours.episode_starts.any())
    whole = RecurrentDictRolloutBuffer._get_samples(buffer, *given)
    assert int(whole.episode_starts.sum()) >= 2 and len(whole.mask) == len(ours.mask)
    found = [
        algorithm.policy.evaluate_actions(s.observations, s.actions.long().flatten(), s.lstm_states, s.episode_starts)
        for s in (ours, whole)
    ]
    real = whole.mask > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.flatten()[real], other.flatten()[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 4])
def test_an_extractor_computes_its_network_whatever_the_memory_format_and_skips_padding(frames: int) -> None:
    torch.manual_seed(0)
    env = PixelEnv(toy(), stack=frames)
    extractor = PixelExtractor(env.observation_space)  # type: ignore[arg-type]
    image, vector = torch.rand(6, 3 * frames, SIZE, SIZE), torch.randn(6, env.observation_space["vector"].shape[0])  # type: ignore[index]
    image[4:], vector[4:] = 0, 0  # padding
    expected = extractor.join(torch.cat([extractor.convolutions(image), vector], dim=1))
    found = extractor({"image": image, "vector": vector})
    torch.testing.assert_close(found[:4], expected[:4], rtol=1e-5, atol=1e-5)
    assert not bool(found[4:].any()) and found.is_contiguous()
    weights = list(extractor.parameters())
    for one, other in zip(
        torch.autograd.grad(found[:4].square().sum(), weights),
        torch.autograd.grad(expected[:4].square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["pixels", "frame_stack", "recurrent", "imagined"])
def test_every_input_trains_saves_and_acts_as_it_was_trained(kind: Any, tmp_path: Path) -> None:
    config = TrainAgentConfig(
        input=kind, env="tests.agents.test_baselines:make_toy", run=str(tmp_path), steps=32, num_envs=1, imagined_envs=2,
        rollout_steps=16, batch_size=16, starts=2,
    )  # fmt: skip
    path = train_policy(config, MODEL, None, FEATURES)
    open_policy(path).save(path.with_name("policy.zip"))
    algorithm: Any = (RecurrentPPO if kind == "recurrent" else PPO).load(path.with_name("policy.zip"))
    assert algorithm.liftwm["input"] == kind and algorithm.liftwm["played"] >= 32
    policy, raw = PPOPolicy(MODEL, path), toy()
    obs, info = raw.reset(seed=9)
    policy.begin(info["tour"])
    env = reference(kind)
    seen, told = env.reset(seed=9)
    hidden, begins = None, np.ones(1, bool)
    for _ in range(6):
        while True:
            choice, hidden = algorithm.predict(seen, hidden, begins, deterministic=True)
            begins = np.zeros(1, bool)
            if not told.get("touring") or "vector" not in seen or seen["vector"][PLAYING]:
                break
            seen, *_, told = env.step(int(choice))
        action = policy.act(obs, info)
        np.testing.assert_array_equal(action, np.array([[0, 0], [1, 0], [0, 1], [0, -1], [1, 1], [1, -1]])[int(choice)])
        obs, *_, info = raw.step(action)
        seen, *_, told = env.step(int(choice))
    red = np.zeros((8, 8, 4), np.uint8) + np.array([230, 26, 26, 255], np.uint8)
    np.testing.assert_array_equal(first_action(policy, red), first_action(policy, instruction_of(red, 9)))


def first_action(policy: PPOPolicy, goal: np.ndarray) -> Any:
    """What a policy does first where the goal is called by this."""
    raw = toy()
    obs, info = raw.reset(seed=9)
    called = np.stack([np.zeros_like(goal)] * (TOUR_FRAMES - 1) + [goal])
    policy.begin({**info["tour"], "goal": called})
    return policy.act({**obs, "goal": goal}, info)


def reference(kind: str) -> gym.Env:
    """The environment as the policy's training saw it."""
    env = TableActions(toy())
    if kind == "imagined":
        return WatchedEnv(WorldModelVecEnv(DummyVecEnv([lambda: env]), MODEL, FEATURES, table=env.table))
    return PixelEnv(env, 4 if kind == "frame_stack" else 1, kind == "recurrent", env.table)


@pytest.mark.parametrize("kind", ["pixels", "frame_stack", "recurrent", "imagined"])
def test_check_env_is_clean(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(reference(kind), warn=True, skip_render_check=True)
