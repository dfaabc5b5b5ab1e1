"""Goals of every kind, and who turns them into places."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.data.recorder import Recorder
from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import attributes_of, colour_of, goal_of, instruction_of, picture_colour, same_goal
from embodied_liftwm.protocols import AttributeGoal, Camera, Candidates, Goal, PictureGoal, PlaceGoal, PointGoal
from liftwm_agents.observations import instructed
from liftwm_agents.planning.belief import SpatialBelief
from liftwm_agents.planning.goal_finder import ColourVote, Remembered, find_goal_finder
from liftwm_agents.planning.perception import Points
from liftwm_agents.planning.planner import PlannerPolicy
from liftwm_agents.policies.training_envs import Instructed
from tests.agents.oracle_model import DepthTap, OracleMemory
from tests.agents.test_belief import Explicit, ball_behind_a_screen
from tests.agents.test_planner import BODY, NO_GOAL, RED, blob
from tests.agents.toy_env import ToyRoom

BLUE = AttributeGoal(torch.tensor([0.2, 0.2, 0.8, 1, 0, 0, 0, 0, 0]))
CODE = """
import torch
from embodied_liftwm.protocols import Candidates

class Corner:
    def find(self, model, state, goal):
        return Candidates(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([1.0]))

class Broken:
    def find(self, model, state, goal):
        return {}["here"]

class Loose:
    def find(self, model, state, goal):
        return [1.0, 1.0]

class Sure:
    def find(self, model, state, goal):
        return Candidates(torch.zeros(1, 3), torch.tensor([2.0]))

def corner(config):
    return Corner()

def broken(config):
    return Broken()

def loose(config):
    return Loose()

def sure(config):
    return Sure()

def nothing(config): ...
"""


def look(points: Points, goal: Goal) -> Candidates:
    model = OracleMemory(image_size=8, capacity=4)
    return ColourVote().find(Remembered(model, points, BODY), model.initial_state(1), goal)


def scene() -> Points:
    """A red ball, a green one and a reddish wall."""
    rng = np.random.default_rng(0)
    wall = np.stack([rng.uniform(-3, 3, 4000), np.full(4000, 2.0), rng.uniform(0, 2, 4000)], axis=-1)
    parts = [
        blob(rng, [1.0, -1.0, 0.3], [0.85, 0.25, 0.2]),
        blob(rng, [-2.0, 1.0, 0.3], [0.2, 0.7, 0.3]),
        (wall, np.tile([0.6, 0.3, 0.25], (4000, 1))),
    ]
    xyz, rgb = (np.concatenate(part) for part in zip(*parts, strict=True))
    return xyz, rgb, np.ones(len(xyz))


def picture(colour: tuple[float, float, float], masked: bool) -> np.ndarray:
    """A ball before the reddish wall, as an environment shows it. [48, 48, 3 or 4] uint8"""
    rng, (v, u) = np.random.default_rng(3), np.mgrid[:48, :48]
    on = np.hypot(u - 24, v - 24) < 14
    rgb = np.where(on[..., None], colour, (0.6, 0.3, 0.25)) * rng.uniform(0.7, 1.0, (48, 48, 1))
    layers = np.concatenate([rgb, on[..., None]], axis=-1) if masked else rgb
    return np.rint(255 * layers).astype(np.uint8)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("colour", "place"), [((0.85, 0.2, 0.2), [1.0, -1.0, 0.3]), ((0.2, 0.7, 0.3), [-2.0, 1.0, 0.3])])
def test_a_picture_leads_to_what_it_shows(colour: tuple[float, float, float], place: list[float], masked: bool) -> None:
    goal = goal_of(picture(colour, masked))
    assert isinstance(goal, PictureGoal) and (goal.mask is not None) == masked
    found = look(scene(), goal)
    assert np.linalg.norm(found.xyz[0].numpy() - place) < 0.1 and found.probability[0] > 0.3


def test_a_picture_is_told_as_the_colour_of_what_it_shows_and_nothing_else() -> None:
    goal = goal_of(picture((0.85, 0.2, 0.2), True))
    said = attributes_of(goal, 9)
    np.testing.assert_allclose(said[:3] / said[:3].sum(), np.array([0.85, 0.2, 0.2]) / 1.25, atol=0.02)
    assert said.shape == (9,) and not said[3:].any()
    assert attributes_of(RED, 9) is RED.attributes
    assert not attributes_of(PlaceGoal(torch.ones(3)), 9).any()
    empty = PictureGoal(torch.rand(3, 8, 8), torch.zeros(8, 8))
    assert colour_of(empty) is None and colour_of(PictureGoal(torch.zeros(3, 8, 8))) is None
    assert picture_colour(torch.full((3, 1, 1), 0.5), None) is not None  # a crop of one pixel


def test_candidates_are_ranked_and_their_probabilities_leave_room_for_none() -> None:
    xyz, rgb, _ = scene()
    more, colours = blob(np.random.default_rng(4), [-1.0, -2.0, 0.3], [0.75, 0.3, 0.25])
    found = look((np.concatenate([xyz, more]), np.concatenate([rgb, colours]), np.ones(len(xyz) + len(more))), RED)
    assert np.linalg.norm(found.xyz[0].numpy() - [1.0, -1.0, 0.3]) < 0.1
    assert np.linalg.norm(found.xyz[1].numpy() - [-1.0, -2.0, 0.3]) < 0.1
    assert bool((found.probability.diff() <= 0).all()) and 0.3 < float(found.probability.sum()) < 1.0


def test_nothing_is_found_where_nothing_was_seen_or_called() -> None:
    xyz, rgb = blob(np.random.default_rng(1), [1.0, -1.0, 0.3], [0.8, 0.2, 0.2])
    assert not len(look((xyz, rgb, np.zeros(len(xyz))), RED).xyz)
    assert not len(look((xyz, rgb, np.ones(len(xyz))), NO_GOAL).xyz)
    assert not len(look((np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)), RED).xyz)


def test_a_new_goal_is_looked_for_wherever_an_older_one_was_not() -> None:
    model = OracleMemory(image_size=8, capacity=4)
    belief, state = SpatialBelief(model, 4), model.initial_state(1)
    belief.body = BODY
    parts = [
        blob(np.random.default_rng(2), [x, 0.0, 0.3], colour) for x, colour in ((1.0, [0.8, 0.2, 0.2]), (-1.0, [0.2, 0.2, 0.8]))
    ]
    xyz, rgb = (np.concatenate(part) for part in zip(*parts, strict=True))
    belief._survey = [(xyz, rgb, np.ones(len(xyz)))]
    for goal, side in ((RED, 1.0), (BLUE, -1.0)):
        belief.locate(state, goal)
        assert belief.goal_xyz is not None and abs(belief.goal_xyz[0] - side) < 0.1
        belief.reject()
        belief.locate(state, goal)
        assert belief.goal_xyz is None  # rejected for this goal
    belief.locate(state, RED)
    assert belief.goal_xyz is not None  # and for no other


def test_the_next_best_takes_the_place_of_what_was_rejected_and_is_as_sure_as_if_it_were_alone() -> None:
    model = OracleMemory(image_size=8, capacity=4)
    belief, state, rng = SpatialBelief(model, 4), model.initial_state(1), np.random.default_rng(2)
    belief.body = BODY
    parts = [blob(rng, [x, 0.0, 0.3], colour) for x, colour in ((1.0, [0.8, 0.2, 0.2]), (-1.0, [0.75, 0.3, 0.25]))]
    second = (*parts[1], np.ones(len(parts[1][0])))
    xyz, rgb = (np.concatenate(part) for part in zip(*parts, strict=True))
    belief._survey = [(xyz, rgb, np.ones(len(xyz)))]
    belief.locate(state, RED)
    belief.reject()
    belief.locate(state, RED)
    assert belief.goal_xyz is not None and abs(belief.goal_xyz[0] + 1.0) < 0.1
    assert belief.confidence == pytest.approx(float(look(second, RED).probability[0]), rel=1e-6)


def test_a_point_of_an_earlier_frame_is_the_surface_there_and_a_place_is_itself() -> None:
    model, state = ball_behind_a_screen(Explicit)
    camera = model.ego_camera(state)  # at [2, 0, 0.75], looks along x, away from the box
    behind = Camera(camera.intrinsics, camera.world_from_camera.clone(), camera.height, camera.width)
    behind.world_from_camera[:, :2, :3] *= -1  # turned about: it looks at the box
    found = ColourVote().find(model, state, PointGoal(torch.tensor([24.0, 24.0]), behind))
    assert abs(float(found.xyz[0, 0]) - 0.4) < 0.05 and abs(float(found.xyz[0, 1])) < 0.1
    with pytest.raises(UserError, match=r"goal at pixel \[50.0, 4.0\]: the frame has 48 x 48"):
        ColourVote().find(model, state, PointGoal(torch.tensor([50.0, 4.0]), camera))
    place = ColourVote().find(model, state, PlaceGoal(torch.tensor([1.0, 2.0, 0.0])))
    assert place.xyz.tolist() == [[1.0, 2.0, 0.0]] and place.probability.tolist() == [1.0]


def test_goals_of_environments_are_read_by_their_shape_and_kind() -> None:
    assert same_goal(goal_of(np.array([0.0, 1.0, 0.0])), AttributeGoal(torch.tensor([0.0, 1.0, 0.0])))
    assert same_goal(goal_of(np.array([3.0, 4.0]), "place"), PlaceGoal(torch.tensor([3.0, 4.0, 0.0])))
    assert not same_goal(goal_of(picture((1.0, 0.0, 0.0), True)), goal_of(picture((1.0, 0.0, 0.0), False)))
    assert same_goal(None, None) and not same_goal(RED, None) and not same_goal(RED, BLUE)
    with pytest.raises(UserError, match=r"goal: expected numbers \[G\] or a picture .*, got \[8, 8, 3\] float64"):
        goal_of(np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match=r"goal: expected a place \[2 or 3\], got \[9\]"):
        goal_of(np.zeros(9), "place")


def test_a_goal_given_by_hand_is_gone_to_instead_of_the_one_that_is_called() -> None:
    model = OracleMemory(image_size=24, capacity=20_000, stride=1)
    env = DepthTap(ToyRoom(24, max_steps=80), model)
    policy = PlannerPolicy(model, PlannerConfig(num_samples=64, panorama_views=4), env.action_space)
    obs, info = env.reset(seed=1)
    for frame, depth in zip(info["tour"]["rgb"], info["tour_depth"], strict=True):
        model.tell(frame, depth)
    policy.begin(info["tour"])
    free = np.array([-1.0, 1.0])
    policy.set_goal(PlaceGoal(torch.tensor([*free, 0.0])))
    for _ in range(40):
        obs, *_ = env.step(policy.act(obs))
    assert np.linalg.norm(np.reshape(obs["world_from_camera"], (4, 4))[:2, 3] - free) < 0.5
    assert not len(policy.diagnostics()["rejected"])  # it waits where it was sent


@pytest.fixture
def _written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "finders_here", raising=False)
    (tmp_path / "finders_here.py").write_text(CODE)


@pytest.mark.usefixtures("_written")
def test_a_users_finder_says_where_the_goal_is() -> None:
    model, state = ball_behind_a_screen(Explicit)
    finder = find_goal_finder(PlannerConfig(goal_finder="finders_here:corner"))
    belief = SpatialBelief(model, 4, finder=finder)
    belief.locate(state, RED)
    assert belief.goal_xyz is not None and belief.goal_xyz.tolist() == [1.0, 1.0, 0.0] and belief.confidence == 1.0


@pytest.mark.usefixtures("_written")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("corne", "has no 'corne': did you mean 'corner'?"),
        (
            "nothing",
            r"planner.goal_finder=finders_here:nothing returned None, expected an object with find",
        ),
        ("broken", "planner.goal_finder=finders_here:broken: finders_here.py:11 .*: KeyError: 'here'"),
        ("loose", r"found \[1.0, 1.0\], expected Candidates of xyz \[K, 3\] and probability \[K\]"),
        ("sure", r"found places that are not finite, or probabilities beyond \[0, 1\]"),
    ],
)
def test_faults_of_a_users_finder_are_one_line(name: str, line: str) -> None:
    model, state = ball_behind_a_screen(Explicit)
    with pytest.raises(UserError, match=line):
        find_goal_finder(PlannerConfig(goal_finder=f"finders_here:{name}")).find(model, state, RED)


class PicturedRoom(ToyRoom):
    """Calls its ball by a picture."""

    def __init__(self) -> None:
        super().__init__(24, max_steps=10)
        space = dict(self.observation_space.spaces)  # type: ignore[attr-defined]
        self.observation_space = spaces.Dict({**space, "goal": spaces.Box(0, 255, (48, 48, 4), np.uint8)})

    def _look(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        obs, depth = super()._look()
        return {**obs, "goal": picture((0.9, 0.1, 0.1), True) * np.uint8(self._called)}, depth


def test_policies_and_data_are_told_the_colour_of_a_picture() -> None:
    env = Instructed(PicturedRoom())
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and obs["goal"].shape == (3,)
    np.testing.assert_allclose(obs["goal"] / obs["goal"].sum(), np.array([0.9, 0.1, 0.1]) / 1.1, atol=0.02)
    assert info["tour"]["goal"].shape == (22, 3) and not info["tour"]["goal"][:-1].any()
    np.testing.assert_array_equal(env.step(env.action_space.sample())[0]["goal"], obs["goal"])
    numbers = {"goal": np.zeros(9)}
    assert instructed(numbers, 3)["goal"] is numbers["goal"]
    recorder, bare = Recorder(PicturedRoom()), PicturedRoom()
    shown, _ = bare.reset(seed=0)
    recorder.add(shown, {})
    np.testing.assert_array_equal(recorder._arrays["goal"][0], instruction_of(shown["goal"], 3))


def test_the_planner_goes_to_what_a_picture_shows() -> None:
    model = OracleMemory(image_size=24, capacity=20_000, stride=1)
    env = DepthTap(PicturedRoom(), model)
    env.unwrapped._max_steps = 60  # type: ignore[attr-defined]
    policy = PlannerPolicy(model, PlannerConfig(num_samples=64, panorama_views=4), env.action_space)
    obs, info = env.reset(seed=0)
    for frame, depth in zip(info["tour"]["rgb"], info["tour_depth"], strict=True):
        model.tell(frame, depth)
    policy.begin(info["tour"])
    done = False
    while not done:
        obs, _, reached, late, _ = env.step(policy.act(obs))
        done = reached or late
    assert reached
