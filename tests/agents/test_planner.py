"""The planner and what it reads: goal, map, paths and MPPI."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import hue_likeness
from embodied_liftwm.protocols import AttributeGoal, Camera, Observation, View, WorldModel
from liftwm_agents.planning.action_plan import GaussianPlan, make_plan
from liftwm_agents.planning.belief import spread
from liftwm_agents.planning.body import Body
from liftwm_agents.planning.mapping import Grid, OccupancyMap, _closed, cost_to_go, frontier
from liftwm_agents.planning.perception import Panorama, heading_of, level_cameras, panorama
from liftwm_agents.planning.planner import PlannerPolicy
from liftwm_agents.planning.search import elite_weights, imagine_poses, improve_plan, path_integral_weights
from liftwm_envs.actions import ActionCodec, space_of
from liftwm_envs.wrappers import GuidedTour
from tests.agents.oracle_model import DepthTap, OracleMemory
from tests.agents.toy_env import ToyRoom

BODY = Body.of_height(0.75)
RED, NO_GOAL = AttributeGoal(torch.tensor([0.8, 0.2, 0.2, 1, 0, 0, 0, 0, 0])), AttributeGoal(torch.zeros(9))


def blob(rng: np.random.Generator, centre: list[float], colour: list[float], count: int = 200, radius: float = 0.12):
    points = np.array(centre) + rng.uniform(-radius, radius, (count, 3))
    shade = rng.uniform(0.7, 1.1, (count, 1))
    return points, np.clip(np.array(colour) * shade + rng.normal(0, 0.05, (count, 3)), 0, 1)


def test_likeness_of_hues_tolerates_shade() -> None:
    colours = torch.tensor([[0.56, 0.14, 0.14], [0.8, 0.27, 0.22], [0.2, 0.8, 0.2]])
    shaded, off, other = hue_likeness(colours, torch.tensor([0.8, 0.2, 0.2]))
    assert shaded > 0.7 and off > 0.4 and other < 1e-6


def test_level_cameras_turn_once_and_look_level() -> None:
    camera = level_cameras(np.array([[1.0, 2.0, 0.5]]), np.array([0.3]), 8, 8, 4)
    pose = camera.world_from_camera.numpy()
    np.testing.assert_allclose(np.linalg.det(pose[:, :3, :3]), 1.0, atol=1e-6)
    turns = np.angle(np.exp(1j * (heading_of(pose) - 0.3)))
    np.testing.assert_allclose(np.sort(turns % (2 * np.pi)), np.arange(4) * np.pi / 2, atol=1e-5)
    np.testing.assert_allclose(pose[:, 2, 1], -1.0, atol=1e-6)  # image down is world down


class WallModel(OracleMemory):
    """Renders a wall straight ahead at z-depth 2 m, whatever it is asked."""

    def render(self, state, camera: Camera) -> View:
        size = (len(camera.intrinsics), camera.height, camera.width)
        return View(torch.full((size[0], 3, *size[1:]), 0.5), torch.full(size, 2.0), torch.ones(size))


def test_panorama_back_projects_z_depth_into_the_world() -> None:
    model = WallModel(image_size=8)
    quarter = torch.tensor([[[4.0, 0.0, 4.0], [0.0, 4.0, 4.0], [0.0, 0.0, 1.0]]])  # four pictures close the turn
    state = dataclasses.replace(model.initial_state(1), intrinsics=quarter)
    seen = panorama(model, state, 4, np.array([[1.0, 2.0, 0.5]], dtype=np.float32), stride=2)
    assert seen.xyz.shape == (4, 4, 4, 3)
    planes = np.abs(seen.xyz[..., :2] - [1.0, 2.0]).max(axis=-1)
    np.testing.assert_allclose(planes, 2.0, atol=1e-5)  # four walls make a square of 2 m around the camera
    assert isinstance(model, WorldModel)


def room(low: float = -2.0, high: float = 2.0, cell_m: float = 0.1) -> Panorama:
    """A panorama of a square room seen from its centre: one level ring of wall points at 0.6 m."""
    yaw = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    reach = high / np.maximum(np.abs(np.cos(yaw)), np.abs(np.sin(yaw)))
    ring = np.stack([reach * np.cos(yaw), reach * np.sin(yaw), np.full_like(yaw, 0.6)], axis=-1)
    xyz = np.repeat(ring[None, None], 3, axis=1)  # three pixel rows of the same wall
    return Panorama(xyz, np.full(xyz.shape, 0.5), np.ones(xyz.shape[:3]), np.array([[0.0, 0.0, 0.5]]))


def test_map_is_free_inside_occupied_at_walls_unknown_beyond() -> None:
    occupancy = OccupancyMap(BODY)
    occupancy.update(room())
    grid = occupancy.grid()

    def at(x: float, y: float) -> tuple[bool, bool]:
        i, j = grid.nearest(np.array([x, y]))
        return bool(grid.free[i, j]), bool(grid.occupied[i, j])

    assert at(0.05, 0.05) == (True, False)
    assert at(1.45, -1.45) == (True, False)
    assert at(2.05, 0.55) == (False, True)
    assert at(2.75, 0.0) == (False, False)
    occupancy.stand(np.array([2.05, 0.55]))
    occupancy.bump(np.array([0.05, 0.05]))
    occupancy.update(room())
    grid = occupancy.grid()
    assert at(2.05, 0.55) == (True, False)  # what was felt outweighs what was seen
    assert at(0.05, 0.05) == (False, True)


def test_map_grows_where_it_is_told() -> None:
    occupancy = OccupancyMap(BODY)
    occupancy.update(room())
    occupancy.bump(np.array([-7.0, 9.0]))
    grid = occupancy.grid()
    i, j = grid.nearest(np.array([-7.0, 9.0]))
    assert grid.occupied[i, j]
    i, j = grid.nearest(np.array([0.0, 0.0]))
    assert grid.free[i, j]


def two_rooms() -> Grid:
    """4 m x 2 m of free cells; a wall at x = 2 with a door at y in [1.4, 2.0]."""
    free = np.ones((40, 20), dtype=bool)
    free[20, :14] = False
    return Grid(~free, free, np.zeros_like(free), np.zeros_like(free), np.zeros(2), 0.1, BODY)


def test_cost_to_go_leads_through_the_door() -> None:
    field = cost_to_go(two_rooms(), np.array([[3.0, 0.3]]))
    start, door, goal = field.at(np.array([[1.0, 0.3], [2.05, 1.8], [3.0, 0.3]]))[0]
    assert goal < 0.1
    assert door < start
    straight = 2.0
    through = np.hypot(1.05, 1.5) + np.hypot(0.95, 1.5)
    assert straight + 1.0 < start < through + 3.0
    touching = field.at(np.array([[2.05, 0.5], [1.0, 1.0]]))[1]
    np.testing.assert_allclose(touching, [1.0, 0.0], atol=1e-6)


def test_cost_outside_the_map_grows() -> None:
    field = cost_to_go(two_rooms(), np.array([[3.0, 0.3]]))
    near, far = field.at(np.array([[4.5, 0.3], [6.5, 0.3]]))[0]
    assert far - near == pytest.approx(6.0)


def test_frontier_lies_between_free_and_unknown() -> None:
    free = np.zeros((30, 30), dtype=bool)
    free[5:15, 5:15] = True
    edge = frontier(Grid(np.zeros_like(free), free, np.zeros_like(free), np.zeros_like(free), np.zeros(2), 0.1, BODY))
    assert len(edge) == 36  # the border cells of a 10 x 10 square
    assert edge.min() > 0.5 and edge.max() < 1.5


def test_spread_covers_the_tour() -> None:
    path = np.stack([np.linspace(0, 4, 50), np.zeros(50), np.zeros(50)], axis=-1)
    chosen = spread(path, 3, 0.5)
    np.testing.assert_allclose(np.sort(chosen[:, 0]), [0.0, 2.0, 4.0], atol=0.1)
    assert len(spread(np.zeros((5, 3)), 3, 0.5)) == 1


def drive_to(space: spaces.Space, target: torch.Tensor, steps: int, planner: str) -> float:
    """Distance that remains after `steps` of replanning in the model's own unicycle."""
    model = OracleMemory(image_size=8, capacity=4)
    state = model.initial_state(1)
    pose = level_cameras(np.zeros((1, 3)), np.zeros(1), 8, 8, 1).world_from_camera
    state = state.map(lambda t: pose if t.shape == (1, 4, 4) else t)
    config = PlannerConfig(planner=planner, num_samples=64, num_elites=8, temperature=0.05)
    plan = make_plan(space, config.horizon, config.noise)
    generator = torch.Generator().manual_seed(0)

    def cost(poses: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return (poses[:, :, :2, 3] - target).norm(dim=-1).mean(dim=1)

    for _ in range(steps):
        improve_plan(plan, model, state, cost, config, generator)
        state = model.imagine(state, plan.first()[None])
        plan.shift()
    return float((state.world_from_camera[0, :2, 3] - target).norm())


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(6)])
@pytest.mark.parametrize("target", [(1.5, 0.5), (-1.0, 1.0)])
@pytest.mark.parametrize("planner", ["mppi", "cem"])
def test_planners_reach_a_target_with_a_unicycle(space: spaces.Space, target: tuple[float, float], planner: str) -> None:
    assert drive_to(space, torch.tensor(target), steps=30, planner=planner) < 0.2


def test_weights_of_mppi_and_cem() -> None:
    costs = torch.tensor([3.0, 1.0, 2.0, 5.0])
    expected = np.exp(-np.array([3.0, 1.0, 2.0, 5.0]) / 0.5)
    np.testing.assert_allclose(path_integral_weights(costs, 0.5).numpy(), expected / expected.sum(), rtol=1e-5)
    assert elite_weights(costs, 2).tolist() == [0.0, 0.5, 0.5, 0.0]
    assert elite_weights(costs, 9).tolist() == [0.25] * 4


def test_cem_refits_mean_and_spread_and_starts_the_next_plan_wide_again() -> None:
    plan = make_plan(spaces.Box(-1.0, 1.0, (2,), np.float32), horizon=3, noise=0.6)
    assert isinstance(plan, GaussianPlan)
    samples = torch.rand(8, 3, 2, generator=torch.Generator().manual_seed(0)) * 0.9
    costs = torch.arange(8.0)
    plan.improve(samples, elite_weights(costs, 4), refit=True)
    elites = samples[:4].numpy()
    np.testing.assert_allclose(plan.mean.numpy(), elites.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(plan.sigma.numpy(), np.maximum(elites.std(axis=0), 0.06), rtol=1e-4)
    plan.shift()
    np.testing.assert_allclose(plan.sigma.numpy(), 0.6, rtol=1e-6)


def test_planner_config_refuses_what_no_search_can_use() -> None:
    with pytest.raises(UserError, match="num_elites=200: must be at most planner.num_samples=128"):
        PlannerConfig(planner="cem", num_elites=200)
    with pytest.raises(UserError, match="horizon"):
        PlannerConfig(horizon=0)


def test_imagined_states_share_memory_with_the_state() -> None:
    model = OracleMemory(image_size=8, capacity=1000)
    state = model.initial_state(1)
    assert state.expand(64).points.data_ptr() == state.points.data_ptr()
    assert imagine_poses(model, state, torch.zeros(64, 3, 2)).shape == (64, 3, 4, 4)


def test_actions_are_encoded_and_inferred() -> None:
    discrete, continuous = spaces.Discrete(6), spaces.Box(-1.0, 1.0, (2,), np.float32)
    codec = ActionCodec(discrete)
    np.testing.assert_array_equal(codec.encode(2), [0, 0, 1, 0, 0, 0])
    tour = np.stack([np.zeros(6), *(codec.encode(a) for a in (1, 4, 0))])
    assert space_of(tour) == discrete
    assert [codec.decode(codec.encode(a)) for a in range(6)] == [*range(6)]
    rows = ActionCodec(spaces.Discrete(2, start=3), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert rows.width == 2 and rows.encode(4).tolist() == [1.0, 0.0] and rows.decode(np.array([0.9, 0.2])) == 4
    assert space_of(np.array([[0, 0], [0.5, 1.0]], dtype=np.float32)) == continuous


def test_oracle_memory_renders_what_it_observed() -> None:
    rng = np.random.default_rng(0)
    model = OracleMemory(image_size=16, stride=1, capacity=1000)
    rgb = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    model.tell(rgb, np.full((16, 16), 2.0))
    camera = level_cameras(np.zeros((1, 3)), np.zeros(1), 16, 16, 1)
    image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    state = model.observe(model.initial_state(1), Observation(image, camera, torch.zeros(1, 2), torch.ones(1, dtype=bool)))
    view = model.render(state, camera)
    assert torch.allclose(view.depth, torch.full((1, 16, 16), 2.0), atol=1e-4)
    assert view.seen.min() == 1.0


def revisit_success(model: OracleMemory, episodes: int) -> list[bool]:
    """Outcome of the planner in Revisit-S, training scenes."""
    env = GuidedTour(DepthTap(gym.make("liftwm_envs:liftwm/Revisit-S-v0", truth=True, disable_env_checker=True), model))
    policy = PlannerPolicy(model, PlannerConfig())
    outcomes = []
    for seed in range(episodes):
        obs, info = env.reset(seed=seed)
        policy.begin(info["tour"])
        done = False
        while not done:
            obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
            done = terminated or truncated
        outcomes.append(bool(info["success"]))
    env.close()
    return outcomes


def test_planner_returns_where_memory_tells_and_not_without() -> None:
    remembers = OracleMemory(capacity=100_000)
    forgets = OracleMemory(capacity=1024)  # the present frame alone
    assert sum(revisit_success(remembers, 10)) >= 7
    assert sum(revisit_success(forgets, 6)) <= 3


def test_a_goal_behind_a_wall_is_not_near() -> None:
    free = two_rooms().free
    wall = ~free
    grid = Grid(wall, free, np.zeros_like(free), wall, np.zeros(2), 0.1, BODY)
    goal = np.array([[2.3, 0.3]])  # a step behind the wall at x = 2, whose door is at y = 1.7
    beside, through = cost_to_go(grid, goal).at(np.array([[1.8, 0.3], [2.05, 1.8]]))[0]
    assert beside > through + 1.0
    low = Grid(wall, free, np.zeros_like(free), np.zeros_like(free), np.zeros(2), 0.1, BODY)
    assert cost_to_go(low, goal).at(np.array([[1.8, 0.3]]))[0][0] < 1.5  # of a screen the near side is as good


def test_walls_are_told_from_lower_things_by_their_height() -> None:
    low, high = room(), room()
    high.xyz[..., 2] = 1.8
    occupancy = OccupancyMap(BODY)
    occupancy.update(low)
    assert not occupancy.grid().wall.any()
    occupancy.update(high)
    grid = occupancy.grid()
    i, j = grid.nearest(np.array([2.05, 0.55]))
    assert grid.wall[i, j] and grid.occupied[i, j]


def test_one_wrong_pixel_ends_no_beam_and_two_do() -> None:
    def free_behind(pixels: int) -> bool:
        seen = room()
        seen.xyz[0, :pixels, 360] = [1.0, 0.0, 0.6]  # the column that looks along x
        seen.xyz[0, pixels:, 360] = [2.0, 0.0, 0.6]
        occupancy = OccupancyMap(BODY, 0.005)  # columns are 1.3 cm apart at 1.5 m
        occupancy.update(seen)
        grid = occupancy.grid()
        return bool(grid.free[grid.nearest(np.array([[1.5, -0.0025], [1.5, 0.0025]]))].any())

    assert free_behind(1) and not free_behind(2)


def test_what_was_not_seen_is_unknown_and_drawn_to() -> None:
    whole, half = room(), room()
    half.seen[:, :, 360:] = 0.4  # imagined: the half of the room at y > 0
    edges = []
    for reading in (whole, half):
        occupancy = OccupancyMap(BODY)
        occupancy.update(reading)
        edges.append(frontier(occupancy.grid()))
    assert len(edges[0]) == 0
    assert len(edges[1]) > 10 and np.abs(edges[1][:, 1]).max() < 0.3


def test_unknown_gaps_between_obstacles_are_filled_but_no_door() -> None:
    occupied = np.zeros((60, 30), dtype=bool)
    occupied[:, 15] = True
    occupied[10:15, 15] = occupied[30:41, 15] = False  # half a metre, and a door
    closed = _closed(occupied, 6)
    assert closed[:25, 15].all() and not closed[35, 15]


def test_an_object_that_the_tour_never_showed_is_searched_for_and_found() -> None:
    model = OracleMemory(image_size=24, capacity=20_000, stride=1)
    policy, found, hidden = PlannerPolicy(model, PlannerConfig(num_samples=64, panorama_views=4)), 0, 0
    for seed in range(5):
        env = DepthTap(ToyRoom(24, max_steps=80), model)
        obs, info = env.reset(seed=seed)
        policy.begin({key: value[-1:] for key, value in info["tour"].items()})  # the call alone
        done, unknown = False, True
        for step in range(80):
            obs, _, terminated, _, info = env.step(policy.act(obs))
            unknown &= step > 0 or policy.diagnostics()["goal_xyz"] is None
            if terminated:
                done = True
                break
        hidden, found = hidden + unknown, found + (unknown and done)
    assert hidden >= 3 and found >= hidden - 1
