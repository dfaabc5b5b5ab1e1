"""The scale of a world belongs to its episode: the same pictures of a world twice as large give depths twice as large."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import embodied_liftwm
from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.episode_belief import REACH, RELIANCES, drifted, expected, in_units, unknown
from liftwm_envs.tasks.policies import OraclePolicy

STEPS = 16


@pytest.fixture(scope="module")
def model():
    found = embodied_liftwm.load("base")
    found.config = replace(found.config, scale_prior=0.8)
    return found


@pytest.fixture(scope="module")
def tour():
    """Observations and true depths of a room as its guide walks through it."""
    env = gymnasium.make("liftwm_envs:liftwm/Revisit-S-v0", disable_env_checker=True, truth=True)
    obs, info = env.reset(seed=3)
    guide, seen = OraclePolicy(env.unwrapped, 0), []
    guide.reset()
    for _ in range(STEPS):
        seen.append((obs, info["truth"]["depth"].astype(np.float32)))
        obs, _, terminated, truncated, info = env.step(guide.act(obs, info))
        assert not terminated and not truncated
    env.close()
    return seen


def frame_of(model, seen, size: float, rows: int = 1, first: tuple[bool, ...] = (False,)) -> Observation:
    """An observation of the tour in a world scaled by `size`."""
    obs, depth = seen
    pose = torch.from_numpy(obs["world_from_camera"].reshape(1, 4, 4)).clone()
    pose[:, :3, 3] *= size
    camera = Camera(torch.from_numpy(obs["intrinsics"].reshape(1, 3, 3)), pose, *depth.shape)
    rgb = torch.from_numpy(obs["rgb"]).movedim(-1, 0)[None] / 255.0
    one = Observation(
        rgb, camera, torch.zeros(1, model.shapes.action_dim), torch.tensor([False]), torch.from_numpy(obs["goal"])[None]
    )
    many = {f: getattr(one, f).expand(rows, *getattr(one, f).shape[1:]) for f in ("rgb", "action", "goal")}
    return replace(one, camera=camera.map(lambda t: t.expand(rows, *t.shape[1:])), is_first=torch.tensor(first), **many)


def errors(model, tour, size: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean relative errors of depth at each frame, of the frame itself and of the map, and doubts of the scale."""
    state, found = model.initial_state(1), []
    for step, seen in enumerate(tour):
        now, true = frame_of(model, seen, size, first=(step == 0,)), size * seen[1]
        said = model.look(model.initial_state(1) if step == 0 else state, now)[1].depth
        lifted = torch.nn.functional.interpolate(said[None], size=true.shape)[0, 0].numpy()
        state = model.observe(state, now)
        shown = model.render(state, now.camera).depth[0].numpy()
        wrong = [float((np.abs(depth - true) / true)[true > 0].mean()) for depth in (lifted, shown)]
        found.append([*wrong, float(expected(state.episode, model.log_planes).doubt)])
    return tuple(np.array(found).T)


@torch.no_grad()
def test_a_world_of_another_size_gets_depths_of_that_size(model, tour):
    home = errors(model, tour, 1.0)[0]
    lifted, shown, doubts = errors(model, tour, 2.0)
    assert lifted[0] > 0.3 and doubts[0] > 0.6 and doubts[12] < 0.1
    assert lifted[12:].mean() < 1.2 * home[12:].mean() and shown[12] < 0.2


@torch.no_grad()
def test_a_frame_without_parallax_is_unsure(model, tour):
    now = frame_of(model, tour[0], 1.0, first=(True,))
    spread = model.look(model.initial_state(1), now)[1].spread
    model.config = replace(model.config, scale_prior=0.0)
    sure = model.look(model.initial_state(1), now)[1].spread
    model.config = replace(model.config, scale_prior=0.8)
    assert (spread > 0.7).all() and sure.median() < 0.3


def test_a_belief_is_a_histogram_over_reliances_and_shifts_of_planes():
    planes = torch.linspace(-2.0, 2.0, 41)
    before = expected(unknown(3, 0.5, planes), planes)
    torch.testing.assert_close(before.unit, torch.ones(3))
    torch.testing.assert_close(before.doubt, torch.full((3,), 0.5), atol=0.01, rtol=0)
    sure = torch.full((1, len(RELIANCES), 2 * REACH + 1), -torch.inf)
    sure[0, 1, REACH + 5] = 0.0
    found, later = expected(sure, planes), expected(drifted(sure), planes)
    for each in found, later:
        torch.testing.assert_close(each.unit, torch.tensor([0.5]).exp())
        torch.testing.assert_close(each.reliance, torch.tensor([RELIANCES[1]]))
    assert found.doubt == 0.0 and 0.0 < later.doubt < 0.03


@torch.no_grad()
def test_looks_that_are_wrong_are_relied_on_less(model, tour):
    """A network that takes what is near for what is far, and the other way round, knows nothing of this world."""
    reliance, encoder = [], model.encoder.forward

    def mistaken(rgb, camera, matches, sources=None):
        found = encoder(rgb, camera, matches, sources)
        return found._replace(log_belief=found.log_belief.flip(1)) if matches is None else found

    for forward in (encoder, mistaken):
        model.encoder.forward, state = forward, model.initial_state(1)
        for step, seen in enumerate(tour):
            state = model.observe(state, frame_of(model, seen, 1.0, first=(step == 0,)))
        reliance.append(float(expected(state.episode, model.log_planes).reliance))
    model.encoder.forward = encoder
    assert reliance[1] < 0.5 < reliance[0]


def test_poses_in_units_keep_their_rotation():
    pose = torch.eye(4).repeat(2, 3, 1, 1)
    pose[..., :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    found = in_units(pose, torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(found[:, 0, :3, 3], torch.tensor([[0.5, 1.0, 1.5], [2.0, 4.0, 6.0]]))
    torch.testing.assert_close(found[..., :3], pose[..., :3])
    torch.testing.assert_close(found[..., 3, 3], torch.ones(2, 3))


@torch.no_grad()
def test_rows_begin_anew_each_for_itself(model, tour):
    state = model.initial_state(2)
    for step, first in ((0, (True, True)), (STEPS - 1, (False, True))):
        state = model.observe(state, frame_of(model, tour[step], 1.0, 2, first))
    fresh = drifted(unknown(1, 0.8, model.log_planes))
    torch.testing.assert_close(state.episode[1:], fresh)
    assert not torch.allclose(state.episode[:1], fresh)


@pytest.mark.parametrize("other", [{"stereo_sources": 0}, {"movers": 64}, {"memory": "context"}])
def test_what_cannot_learn_of_scale_is_refused(other):
    with pytest.raises(UserError, match="model.scale_prior=0.5: needs frames to match"):
        ModelConfig(scale_prior=0.5, **other)
