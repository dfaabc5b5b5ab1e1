"""What a model stands between: initial weights, one that forgets at once, and one that is told the depth."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from embodied_liftwm.config import GaussiansConfig, ModelConfig, PatchesConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.views.bounds import (
    SOLID,
    TRUE_SPREAD,
    LastFrame,
    cell_depth,
    frame_warp,
    matching,
    untrained,
    with_true_depth,
)
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, rollout
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.memory.cloud.render import render_cloud
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from tests.scoring import evaluate_views

SMALL = ModelConfig(patches=PatchesConfig(budget=2048), gaussians=GaussiansConfig(budget=2048), latent_dim=4, stride=2, width=8)


def build(seed: int, size: int = 32):
    torch.manual_seed(seed)
    return build_model(SMALL, ModelShapes(size, 2, 9)).eval().requires_grad_(False)


@pytest.fixture
def model(tools):
    """An untrained model for the ray-cast rooms."""
    return build(0, tools.SIZE)


def test_a_model_that_forgets_at_once_is_one_that_knows_the_last_frame_alone(episodes, cloud, last_frame):
    found = [
        [asdict(row) | {"model": ""} for row in evaluate_views([CheckedModel(m, "m")], episodes, 20, 3)]
        for m in (LastFrame(cloud), last_frame)
    ]
    assert [list(row) for row in found[0]] == [list(row) for row in found[1]]
    np.testing.assert_equal(found[0], found[1])  # NaN equals NaN


def test_untrained_has_the_initial_weights_and_the_models_body(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    fresh, initial = untrained(model, 0).state_dict(), build(0).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(fresh[name], weight if name.startswith("ego_motion.") else initial[name]), name
    assert any(not torch.equal(fresh[name], other) for name, other in untrained(model, 1).state_dict().items())


def test_frame_warp_has_the_depth_of_the_model_and_learns_nothing_else(episodes, model):
    found, batch = frame_warp(model), EpisodeBatch(episodes, [0, 1])
    now = batch.observation([(0, 4), (1, 7)])
    with torch.no_grad():
        assert torch.equal(found.encode(now.rgb, now.camera).depth, model.encode(now.rgb, now.camera).depth)
        state = found.observe(found.initial_state(2), now)
        again = found.render(state, now.camera)
    assert not any(parameter.any() for parameter in found.decoder.head.parameters())
    assert float((again.rgb - now.rgb).abs().mean()) < 0.05 and float(again.seen.mean()) > 0.9


def test_matching_says_nothing_by_looks_and_knows_depth_where_frames_tell_it(episodes, model):
    found = matching(model)
    batch = EpisodeBatch(episodes, [0, 1])
    now = batch.observation([(0, 4), (1, 7)])
    alone = found.encode(now.rgb, now.camera, None)
    assert float(alone.depth.detach().std()) < 1e-5 and not alone.latents.any()  # a frame by itself: the same prior everywhere
    without = build_model(replace(SMALL, stereo_sources=0), ModelShapes(32, 2, 9))
    assert matching(without).config.stereo_sources == ModelConfig().stereo_sources
    named = [CheckedModel(LastFrame(found), "alone"), CheckedModel(found, "matched")]
    rows = evaluate_views(named, episodes, 20, 3)
    errors = {name: np.mean([row.abs_rel_seen for row in rows if row.model == name]) for name in ("alone", "matched")}
    assert errors["matched"] < 0.8 * errors["alone"]


def test_the_oracle_lifts_the_true_depth_and_all_else_is_the_models_own(episodes, model):
    batch = EpisodeBatch(episodes, [0, 1])
    now = batch.observation([(0, 4), (1, 7)])
    mine, told = (m.encode(now.rgb, now.camera, None) for m in (model, with_true_depth(model, episodes)))
    true = np.stack([episodes[0].truth.depth[4], episodes[1].truth.depth[7]]).astype(np.float32)
    assert torch.equal(told.depth, cell_depth(torch.from_numpy(true), SMALL.stride))
    assert torch.all(told.spread == TRUE_SPREAD) and torch.all(told.opacities >= SOLID)
    assert torch.equal(told.latents, mine.latents)
    assert not torch.equal(mine.depth, told.depth)
    assert torch.equal(model.encode(now.rgb, now.camera, None).depth, mine.depth)  # the model itself is as it was


def test_the_oracle_renders_nearer_to_the_truth(episodes, model):
    named = [CheckedModel(model, "own"), CheckedModel(with_true_depth(model, episodes), "oracle")]
    rows = evaluate_views(named, episodes, 20, 3)
    errors = {name: np.mean([row.abs_rel_seen for row in rows if row.model == name]) for name in ("own", "oracle")}
    assert errors["oracle"] < 0.6 * errors["own"]


def test_the_oracle_knows_no_other_frames(episodes, model):
    batch = EpisodeBatch(episodes[:1], [0])
    now = batch.observation([(0, 0)])
    oracle = with_true_depth(model, episodes)
    assert len(list(rollout(oracle, batch, 2))) == 3
    with pytest.raises(KeyError):
        oracle.observe(oracle.initial_state(1), replace(now, rgb=1.0 - now.rgb))


def of_memory(tools, memory):
    torch.manual_seed(0)
    return build_model(replace(SMALL, memory=memory), ModelShapes(tools.SIZE, 2, 9)).eval().requires_grad_(False)


@pytest.mark.parametrize("memory", ["rgb_cloud", "context"])
def test_memories_that_grow_can_forget_at_once(episodes, tools, memory):
    model, batch = of_memory(tools, memory), EpisodeBatch(episodes[:2], [0, 1])
    forgetful = LastFrame(model)
    *_, (_, state) = rollout(forgetful, batch, 4)
    alone = forgetful.observe(model.initial_state(2), batch.observation([(0, 3), (1, 3)]))
    theirs = alone.named_tensors()
    assert all(torch.equal(t, theirs[name]) for name, t in state.named_tensors().items())


def test_the_oracle_of_a_cloud_keeps_the_true_points_and_raw_context_has_none(episodes, tools):
    batch = EpisodeBatch(episodes[:1], [0])
    told = with_true_depth(of_memory(tools, "rgb_cloud"), episodes)
    now = batch.observation([(0, 2)])
    state = told.observe(told.initial_state(1), now)
    seen = render_cloud(state.world, now.camera)
    true = torch.from_numpy(episodes[0].truth.depth[2].astype(np.float32))
    right = (seen.depth[0] - true).abs() < 0.01 * true
    assert float(right[true > 0].float().mean()) > 0.9  # a voxel keeps one point alone
    context = with_true_depth(of_memory(tools, "context"), episodes)
    with pytest.raises(UserError, match="oracle: ContextWorldModel keeps no depth"):
        context.observe(context.initial_state(1), now)


def test_a_cells_depth_is_its_centres_on_a_plane_and_one_surfaces_at_an_edge():
    K = torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]])
    normal = torch.tensor([0.4, 0.3, -0.85])
    fine = 2.0 * normal[2] / (camera_rays(K, 16, 16) @ normal)
    centres = 2.0 * normal[2] / (camera_rays(K * torch.tensor([0.5, 0.5, 1.0])[:, None], 8, 8) @ normal)
    torch.testing.assert_close(cell_depth(fine, 2), centres, rtol=1e-3, atol=0)
    edge = torch.tensor([[[1.0, 3.0, 1.0, 3.0], [1.0, 3.0, 3.0, 3.0]]])
    assert cell_depth(edge, 2).tolist() == [[[1.0, 3.0]]]
    assert cell_depth(torch.tensor([[[2.0, 0.0], [2.0, 2.0]]]), 2).tolist() == [[[0.0]]]
