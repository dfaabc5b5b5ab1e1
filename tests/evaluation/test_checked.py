import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from embodied_liftwm.config import EnvOptions, EvaluateConfig, PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import ActingModel, CheckedModel
from embodied_liftwm.evaluation.cost import measure_cost
from embodied_liftwm.evaluation.navigation.arena import make_env
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, batches, rollout
from embodied_liftwm.evaluation.views.mean_colour import MeanColour
from embodied_liftwm.experiments.acting import planner_on
from tests.plain_model import PlainModel
from tests.scoring import evaluate_persistence, evaluate_views


class Faulty(MeanColour):
    """A floor whose view is spoiled."""

    def __init__(self, spoil):
        super().__init__(1.0)
        self.spoil = spoil

    def render(self, state, camera):
        return self.spoil(super().render(state, camera))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: dataclasses.replace(v, rgb=v.rgb * torch.nan), r"model mine: render: rgb holds NaN"),
        (lambda v: dataclasses.replace(v, depth=v.depth[:, None]), r"depth expected \[2, 32, 32\], got \[2, 1, 32, 32\]"),
        (lambda v: dataclasses.replace(v, rgb=v.rgb * 255), r"rgb expected within \[-0.5, 1.5\]"),
        (lambda v: dataclasses.replace(v, seen=None), r"seen expected a tensor \[2, 32, 32\], got NoneType"),
        (lambda v: dataclasses.replace(v, depth=-v.depth), r"depth expected within"),
    ],
)
def test_a_bad_view_is_named(episodes, spoil, message):
    with pytest.raises(UserError, match=message):
        evaluate_views([CheckedModel(Faulty(spoil), "mine")], episodes, 28, 1)


def test_a_state_must_keep_its_batch_axis(episodes):
    class Shrinks(MeanColour):
        def observe(self, state, observation):
            return super().observe(state, observation).index([0])

    with pytest.raises(UserError, match=r"observe: state.colour expected a batch axis of 2, got \[1, 3\]"):
        evaluate_views([CheckedModel(Shrinks(1.0), "mine")], episodes, 20, 1)


class Narrow(PlainModel):
    """Takes other arguments than the protocol has."""

    @torch.no_grad()
    def observe(self, state):
        return state

    def summarize(self, state):
        return len(3)


def test_a_method_that_takes_other_arguments_is_named(episodes):
    model = CheckedModel(Narrow(2.0), "mine")
    with pytest.raises(UserError, match=r"^model mine: Narrow.observe\(\) takes 2 pos.* 3 were given: see .*WorldModel at"):
        evaluate_views([model], episodes, 20, 1)
    with pytest.raises(TypeError, match="has no len"):  # its own affair
        model.summarize(model.initial_state(1), 1)


class LaterFaulty(PlainModel):
    """Nothing is wrong with the first views."""

    views = 0

    def __init__(self, spoil):
        super().__init__(2.0)
        self.spoil = spoil

    def render(self, state, camera):
        self.views += 1
        view = super().render(state, camera)
        return self.spoil(view) if self.views > 2 else view


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: dataclasses.replace(v, depth=v.depth * torch.nan), "depth holds NaN or infinity at .* while acting"),
        (lambda v: dataclasses.replace(v, depth=v.depth[:, :, 1:]), r"depth expected .* got \[6, 32, 31\] while acting"),
    ],
)
def test_a_fault_that_shows_only_when_an_agent_acts_is_named(spoil, message):
    env = make_env(EvaluateConfig(env="Revisit-S", env_options=EnvOptions(image_size=32)))
    model = LaterFaulty(spoil)
    planner = planner_on(PlannerConfig(), model, "cpu", env, 0)
    obs, info = env.reset(seed=5)
    planner.begin(info["tour"])
    with pytest.raises(UserError, match=f"model LaterFaulty: render: {message}"):
        for _ in range(40):
            obs, *_, info = env.step(planner.act(obs, info))
    env.close()
    assert model.views > 2


def test_whoever_acts_has_all_of_a_model_and_its_colours_as_they_are():
    bright = LaterFaulty(lambda v: dataclasses.replace(v, rgb=v.rgb + 2.0))
    bright.views = 9
    acting = ActingModel(bright)
    assert acting.image_size == 32 and acting.predict is not None and not hasattr(acting, "encode")
    state = acting.initial_state(1)
    assert float(acting.render(state, acting.ego_camera(state)).rgb.min()) >= 2.0
    assert acting.summarize(state).shape == (1, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda xyz, rgb, alpha: (xyz * torch.nan, rgb, alpha), "places holds NaN or infinity at 12 of 12 values while acting"),
        (lambda xyz, rgb, alpha: (xyz, rgb[:1], alpha), r"colours expected \[4, 3\], got \[1, 3\] while acting"),
        (lambda xyz, rgb, alpha: (xyz, rgb), None),
        (lambda xyz, rgb, alpha: (xyz, rgb, None), r"opacities expected a tensor \[4\], got NoneType while acting"),
    ],
)
def test_faulty_primitives_are_named_and_good_ones_handed_on(spoil, message):
    class Explicit(PlainModel):
        def primitives(self, state):
            kept = torch.ones(4, 3), torch.zeros(4, 3), torch.ones(4)
            return spoil(*kept) if state is None else kept

    acting = ActingModel(Explicit(2.0))
    assert float(acting.primitives(acting.initial_state(1))[0].sum()) == 12.0
    pattern = f": {message}" if message else r" returned a tuple, expected \(places, colours, opacities\) while acting"
    with pytest.raises(UserError, match=f"model Explicit: primitives{pattern}"):
        acting.primitives(None)
    assert not hasattr(ActingModel(PlainModel(2.0)), "primitives")


def test_a_missing_method_is_named():
    with pytest.raises(UserError, match=r"model mine: a object without initial_state"):
        CheckedModel(object(), "mine")


def test_another_image_size_or_body_is_refused(cloud):
    model = CheckedModel(cloud, "mine", "runs/mine")
    model.fits((32, 32), 2, 9, "the dataset")
    with pytest.raises(UserError, match="the dataset has images of 64x64, model runs/mine is for 32x32"):
        model.fits((64, 64), 2, 9, "the dataset")
    for_drones = CheckedModel(MeanColour(1.0), "mine")
    for_drones.model.shapes = SimpleNamespace(action_dim=6, goal_dim=9)
    with pytest.raises(UserError, match="the task has action_dim 2, model mine is for 6"):
        for_drones.fits((64, 64), 2, 9, "the task")


def test_a_model_of_another_body_is_told_neither_actions_nor_goals(cloud, episodes):
    told = []

    class Listening(MeanColour):
        def observe(self, state, observation):
            told.append((observation.action, observation.goal))
            return super().observe(state, observation)

    model, batch = CheckedModel(Listening(1.0), "mine"), EpisodeBatch([episodes[0]], [0])
    sizes = episodes[0].action.shape[1], episodes[0].goal.shape[1]
    assert not model.watch_only(*sizes)  # it says nothing of sizes
    model.model.shapes = SimpleNamespace(action_dim=sizes[0] + 4, goal_dim=sizes[1])
    assert model.watch_only(*sizes)
    model.observe(model.initial_state(1), batch.observation([(0, 1)]))
    assert [tuple(t.shape) for t in told[0]] == [(1, sizes[0] + 4), (1, sizes[1])] and not any(t.any() for t in told[0])


def test_truth_is_asked_for(episodes):
    bare = [dataclasses.replace(episode, truth=None) for episode in episodes]
    with pytest.raises(UserError, match="episode 0 has no truth"):
        evaluate_persistence([CheckedModel(MeanColour(1.0), "mine")], bare)


def test_batches_never_leave_one_alone(episodes):
    parts = batches([episodes[0]] * 17, size=8)
    assert [len(p) for p in parts] == [6, 6, 5] and [i for p in parts for i in p.indices] == list(range(17))
    assert all(min(len(p) for p in batches([episodes[0]] * n, size=3)) > 1 for n in range(2, 20))


def test_an_episode_that_is_over_keeps_its_state(episodes, tools):
    short = tools.make_episode(tools.WORLDS[1], tools.turn_away(5))
    states = dict(rollout(CheckedModel(MeanColour(1.0), "mine"), EpisodeBatch([episodes[0], short], [0, 1])))
    assert states[3].frames.flatten().tolist() == [3, 3]
    assert states[30].frames.flatten().tolist() == [30, 5]
    assert torch.equal(states[30].colour[1], states[5].colour[1])


def test_observations_are_what_the_agent_perceived(episodes):
    batch = EpisodeBatch(episodes, [0, 1])
    seen = batch.observation([(1, 3), (0, 0)])
    assert seen.is_first.tolist() == [False, True]
    assert np.array_equal((seen.rgb[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8), episodes[1].rgb[3])
    assert np.array_equal(seen.camera.world_from_camera[0].numpy(), episodes[1].world_from_camera[3])
    marked = dataclasses.replace(episodes[0], action=np.arange(58, dtype=np.float32).reshape(29, 2))
    led_here = EpisodeBatch([marked], [0]).observation([(0, 0), (0, 1), (0, 29)]).action
    assert led_here.tolist() == [[0, 0], [0, 1], [56, 57]]


def test_cost_is_measured_on_every_frame(episodes):
    rows = measure_cost([CheckedModel(MeanColour(1.0), "mine")], episodes[0])
    assert [row.frame for row in rows] == list(range(30)) and all(row.observe_ms > 0 for row in rows)
    assert {row.state_bytes for row in rows} == {16}
    assert [row.frame for row in rows if not np.isnan(row.render_ms)] == [0, 8, 16, 24]
