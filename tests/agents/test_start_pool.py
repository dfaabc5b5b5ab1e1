"""Starts: drawn from training scenes, toured and watched once, and the same every time they come back."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from embodied_liftwm.config import EVAL_SEED_OFFSET
from embodied_liftwm.protocols import Observation
from liftwm_agents.policies.action_table import TableActions, table_for
from liftwm_agents.policies.features import WorldModelVecEnv
from liftwm_agents.policies.readout import FeatureConfig
from liftwm_agents.policies.start_pool import StartPool, TrainingSeeds
from tests.agents.oracle_model import CloudState, OracleMemory
from tests.agents.test_policy import TourTap
from tests.agents.toy_env import TOUR_FRAMES, ToyRoom

SIZE = 24
FEATURES = FeatureConfig(cells=16, extent_m=6.0, views=4, survey_places=1)


class Counting(OracleMemory):
    """Counts the frames that it observes."""

    observed = 0

    def observe(self, state: CloudState, observation: Observation) -> CloudState:
        self.observed += 1
        return super().observe(state, observation)


def test_a_pool_keeps_the_newest_and_draws_from_training_scenes() -> None:
    pool, again = StartPool(3, 0.5, seed=1), StartPool(3, 0.5, seed=1)
    drawn = [pool.draw() for _ in range(400)]
    assert [start.seed for start in drawn] == [again.draw().seed for _ in range(400)]
    assert all(0 <= start.seed < EVAL_SEED_OFFSET for start in drawn)
    first_seen = {id(start): i for i, start in reversed(list(enumerate(drawn)))}
    share = len(first_seen) / len(drawn)
    assert 0.43 < share < 0.57  # of 400 fair coins: five standard deviations are 0.125
    order = sorted(first_seen, key=first_seen.__getitem__)
    for i, start in enumerate(drawn):
        known = [key for key in order if first_seen[key] <= i]
        assert id(start) in known[-3:]


def test_no_pool_is_a_new_scene_every_time() -> None:
    pool = StartPool(0, 0.0, seed=1)
    assert len({pool.draw().seed for _ in range(50)}) == 50


def test_each_draw_is_played_a_few_times_in_a_row() -> None:
    one, many = StartPool(8, 0.5, seed=1), StartPool(8, 0.5, seed=1, repeats=3)
    once, thrice = ([start.seed for start in (pool.draw() for _ in range(n))] for pool, n in ((one, 20), (many, 60)))
    assert thrice == [seed for seed in once for _ in range(3)]


def test_going_back_to_the_call_is_as_good_as_a_new_tour() -> None:
    from liftwm_envs.wrappers import GuidedTour

    def make(repeats: int) -> TrainingSeeds:
        made = gym.make("liftwm_envs:liftwm/Revisit-S-v0", disable_env_checker=True, image_size=16, reward="progress")
        return TrainingSeeds(GuidedTour(made), 5, starts=1, fresh=0.0, repeats=repeats)

    def play(env: TrainingSeeds) -> list[np.ndarray]:
        obs, info = env.reset()
        frames = [*obs.values(), info["tour"]["rgb"]]
        for action in np.array([[1.0, 0.3]] * 4, np.float32):
            obs, reward, _, _, info = env.step(action)
            frames += [*obs.values(), np.array(reward), info["position"]]
        return frames

    gone_back, toured = make(repeats=3), make(repeats=1)
    for _ in range(3):
        for ours, theirs in zip(play(gone_back), play(toured), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_tour_is_watched_once_and_gives_the_same_features_again() -> None:
    model = Counting(SIZE, capacity=20_000, stride=1)
    venv = DummyVecEnv([lambda: TrainingSeeds(TourTap(ToyRoom(SIZE, max_steps=3), model), 5, starts=1, fresh=0.0)])
    env = WorldModelVecEnv(venv, model, FEATURES)
    first = env.reset()
    assert model.observed == TOUR_FRAMES
    still, firsts = np.zeros((1, 2), np.float32), []
    for step in range(1, 7):
        obs, _, dones, _ = env.step(still)
        assert model.observed == TOUR_FRAMES + step
        if dones[0]:
            firsts.append(obs)
    assert len(firsts) == 2
    for again in firsts:
        for key, value in first.items():
            np.testing.assert_array_equal(again[key], value)


def test_choices_become_the_actions_of_the_table() -> None:
    class Spy(ToyRoom):
        taken: np.ndarray

        def step(self, action: np.ndarray) -> tuple:  # type: ignore[type-arg]
            self.taken = action
            return super().step(action)

    spy = Spy(SIZE)
    env = TableActions(spy)
    env.reset(seed=0)
    for choice, action in enumerate([[0, 0], [1, 0], [0, 1], [0, -1], [1, 1], [1, -1]]):
        env.step(choice)
        np.testing.assert_array_equal(spy.taken, action)
    assert isinstance(env.action_space, gym.spaces.Discrete) and env.action_space.n == 6
    drone = table_for(6)
    assert drone.shape == (13, 6) and np.abs(drone).sum(axis=1).tolist() == [0.0] + [1.0] * 12
    assert len({tuple(row) for row in drone.tolist()}) == 13
    crane = gym.spaces.Box(np.array([0, -3], np.float32), np.array([0.5, 3], np.float32))
    assert table_for(2, crane).tolist() == [[0, 0], [0.5, 0], [0, 3], [0, -3], [0.5, 3], [0.5, -3]]
