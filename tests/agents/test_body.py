"""Lengths come from the body and the episode: of a world of another size the planner makes the same map."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from embodied_liftwm.config import BodyConfig, PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import Camera, View
from liftwm_agents.planning.body import Body, known_of, measure_body
from liftwm_agents.planning.mapping import OccupancyMap, cost_to_go
from liftwm_agents.planning.perception import Panorama
from liftwm_agents.planning.planner import PlannerPolicy
from tests.agents.oracle_model import STEP_M, DepthTap, OracleMemory
from tests.agents.test_planner import room
from tests.agents.toy_env import ToyRoom


def surroundings(eye: float, floor: float) -> np.ndarray:
    """Points of a floor and of walls as high as 3.3 eyes. [M, 3]"""
    rng = np.random.default_rng(0)
    ground = np.stack([*rng.uniform(-4, 4, (2, 2000)), rng.normal(0, 0.02, 2000)], axis=-1)
    walls = np.stack([np.full(4000, 4.0), rng.uniform(-4, 4, 4000), rng.uniform(0, 3.3, 4000)], axis=-1)
    return eye * np.concatenate([ground, walls]) + [0, 0, floor]


def tour(eye: float, floor: float) -> np.ndarray:
    """Full steps, half ones and turns on the spot. [P, 3]"""
    moves = eye * STEP_M / 0.75 * np.array([1.0] * 10 + [0.5] * 5 + [0.0] * 10)
    return np.stack([np.cumsum(moves), np.zeros(25), np.full(25, floor + eye)], axis=-1)


@pytest.mark.parametrize("eye", [0.75, 1.5, 41.0])
@pytest.mark.parametrize("floor", [0.0, 3.0, -2.0])
def test_a_body_is_measured_on_its_tour_and_on_the_floor_below(eye: float, floor: float) -> None:
    floor = floor * eye
    body = measure_body(tour(eye, floor), surroundings(eye, floor), BodyConfig())
    assert body.camera_height_m == pytest.approx(eye, rel=0.05)
    assert body.floor_m == pytest.approx(floor, abs=0.05 * eye)
    assert body.radius_m == pytest.approx(eye * 4 / 15, rel=0.05)
    assert body.step_m == pytest.approx(eye * 4 / 15, rel=1e-6)
    assert body.top_m == pytest.approx(3.25 * eye, rel=0.03)


def test_a_floor_near_zero_is_at_zero_and_what_is_said_is_not_measured() -> None:
    believed = surroundings(0.75, 0.05)
    assert measure_body(tour(0.75, 0.0), believed, BodyConfig()).floor_m == 0.0
    said = measure_body(tour(0.75, 0.0), believed, BodyConfig(0.6, 0.3, 0.4))
    assert (said.camera_height_m, said.radius_m, said.step_m) == (0.6, 0.3, 0.4)
    assert said.floor_m == pytest.approx(0.15)
    blind = measure_body(np.array([[0.0, 0.0, 1.5]]), np.zeros((0, 3)), BodyConfig())
    assert dataclasses.replace(blind, top_m=np.inf) == Body.of_height(1.5)


def test_an_environment_says_what_it_knows_and_a_configuration_more() -> None:
    env = gym.Wrapper(ToyRoom())
    assert known_of(env, BodyConfig()) == BodyConfig()
    env.unwrapped.body = {"radius_m": 0.4}  # type: ignore[attr-defined]
    assert known_of(env, BodyConfig(step_m=0.1)) == BodyConfig(radius_m=0.4, step_m=0.1)
    assert known_of(env, BodyConfig(radius_m=0.1)).radius_m == 0.1
    env.unwrapped.body = {"width": 0.4}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="the environment's body: expected a mapping of camera_height_m, radius_m, step_m"):
        known_of(env, BodyConfig())


@pytest.mark.parametrize("size", [2.0, 0.5])
def test_the_map_of_a_world_of_another_size_is_the_same_map(size: float) -> None:
    def explored(scale: float) -> OccupancyMap:
        seen = room()
        seen.xyz[:, :, :90, 2] = 1.8  # a quarter of the wall is seen up to where only walls are
        grown = Panorama(seen.xyz * scale, seen.rgb, seen.seen, seen.origin * scale)
        made = OccupancyMap(Body.of_height(0.75 * scale))
        made.update(grown)
        made.stand(scale * np.array([0.3, 0.3]))
        made.bump(scale * np.array([1.0, -1.0]))
        return made

    ours, theirs = explored(1.0).grid(), explored(size).grid()
    assert ours.wall.any() and ours.free.any()
    for name in ("occupied", "free", "walked", "wall"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    target = np.array([[1.5, 0.5]])
    np.testing.assert_allclose(cost_to_go(theirs, size * target).cost, size * cost_to_go(ours, target).cost, rtol=1e-6)


class Scaled(OracleMemory):
    """Remembers a toy room as one of another size: poses and depth are scaled on the way in and its own moves with them."""

    def __init__(self, size: float) -> None:
        super().__init__(image_size=24, capacity=20_000, stride=1)
        self._scale = size

    def tell(self, rgb: np.ndarray, depth: np.ndarray) -> None:
        super().tell(rgb, np.asarray(depth, dtype=np.float32) * self._scale)

    def imagine(self, state, action):  # type: ignore[no-untyped-def]
        before = state.world_from_camera
        moved = super().imagine(state, action)
        pose = moved.world_from_camera.clone()
        pose[:, :3, 3] = before[:, :3, 3] + self._scale * (pose[:, :3, 3] - before[:, :3, 3])
        return dataclasses.replace(moved, world_from_camera=pose)

    def render(self, state, camera: Camera) -> View:  # type: ignore[no-untyped-def]
        shrunk = camera.world_from_camera.clone()
        shrunk[:, :3, 3] /= self._scale
        points = torch.cat([state.points[..., :3] / self._scale, state.points[..., 3:]], dim=-1)
        small = super().render(
            dataclasses.replace(state, points=points), Camera(camera.intrinsics, shrunk, camera.height, camera.width)
        )
        return dataclasses.replace(small, depth=small.depth * self._scale)


def decisions(size: float, steps: int = 10) -> np.ndarray:
    """What the planner does in a toy room of a size, told of it by poses alone. [steps, 2]"""
    model = Scaled(size)
    env = DepthTap(ToyRoom(24, max_steps=80), model)
    policy = PlannerPolicy(model, PlannerConfig(num_samples=32, panorama_views=4), env.action_space)
    obs, info = env.reset(seed=1)
    for frame, depth in zip(info["tour"]["rgb"], info["tour_depth"], strict=True):
        model.tell(frame, depth)
    policy.begin({**info["tour"], "world_from_camera": scaled_poses(info["tour"]["world_from_camera"], size)})
    actions = []
    for _ in range(steps):
        actions.append(policy.act({**obs, "world_from_camera": scaled_poses(obs["world_from_camera"], size)}))
        obs, *_ = env.step(actions[-1])
    return np.array(actions)


def scaled_poses(poses: np.ndarray, size: float) -> np.ndarray:
    """[..., 16] with positions `size` times as far."""
    grown = np.array(poses).reshape(-1, 4, 4)
    grown[:, :3, 3] *= size
    return grown.reshape(np.shape(poses)).astype(np.float32)


@pytest.mark.parametrize("size", [2.0, 0.5])
def test_the_planner_acts_alike_in_a_world_of_another_size(size: float) -> None:
    np.testing.assert_allclose(decisions(size), decisions(1.0), atol=2e-3)
