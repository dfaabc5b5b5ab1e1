"""LiftWM on an RGB cloud: what goes into the encoder again, and what is asked of a frame before it is written."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from embodied_liftwm.config import ContextConfig, ModelConfig, RgbCloudConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.cloud.render import render_cloud
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.decoders.picture import cells_of, filled, observed_cells
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.summary import GOAL_FEATURES
from tests.toy_room import render
from tests.training.small import disturb
from tests.world_model.test_models import CONFIG, SIZE, observations, same, watch


@pytest.fixture
def model() -> LiftWM:
    torch.manual_seed(0)
    built = build_model(replace(CONFIG, memory="rgb_cloud", latent_dim=12), ModelShapes(SIZE, 2, 9))
    assert isinstance(built, LiftWM)
    return built.eval()


def told_the_depth(model: LiftWM, count: int):
    """A state after frames whose depth was known."""
    state = model.initial_state(1)
    for observation in observations()[:count]:
        _, depth = render(observation.camera.world_from_camera[0].numpy(), SIZE, 0)
        world = state.world.add(torch.from_numpy(depth)[None].float(), observation.rgb, observation.camera)
        state = replace(state, world=world, ego=model.move_ego(state.ego, observation))
    return state


def test_what_was_seen_is_decoded_in_its_colours_before_anything_is_learned(model: LiftWM) -> None:
    seen = observations()
    with torch.no_grad():
        view = model.render(told_the_depth(model, 4), seen[2].camera)
    assert float(-10 * (view.rgb - seen[2].rgb).square().mean().log10()) > 24.0
    assert float(view.seen.mean()) > 0.9
    _, depth = render(seen[2].camera.world_from_camera[0].numpy(), SIZE, 0)
    assert float(((view.depth[0] - torch.from_numpy(depth)).abs() / torch.from_numpy(depth)).median()) < 0.05


def test_what_was_not_seen_is_known_not_to_be(model: LiftWM) -> None:
    first = observations()[0]
    away = replace(first.camera, world_from_camera=first.camera.world_from_camera.clone())
    away.world_from_camera[:, :3, (0, 2)] *= -1.0  # turned about
    state = told_the_depth(model, 1)
    assert float(render_cloud(state.world, away).visible.mean()) == 0.0
    assert float(model.render(state, away).seen.max()) < 0.5 < float(model.render(state, first.camera).seen.min())


def test_what_it_imagined_stays_imagined(model: LiftWM) -> None:
    seen = observations()
    state = told_the_depth(model, 1)
    away = replace(seen[0].camera, world_from_camera=seen[0].camera.world_from_camera.clone())
    away.world_from_camera[:, :3, (0, 2)] *= -1.0  # turned about
    with torch.no_grad():
        after, view = model.generate(state, away)
        assert float(view.seen.max()) < 0.5 and float(render_cloud(after.world, away).visible.mean()) > 0.9
        assert float(model.render(after, away).seen.max()) < 0.5
        assert float(model.render(after, seen[0].camera).seen.min()) > 0.5
        back, _ = model.generate(after, seen[0].camera)
        assert float(model.render(back, seen[0].camera).seen.mean()) > 0.9  # what it shows of what was observed
        torch.testing.assert_close(model.ego_camera(back).world_from_camera, seen[0].camera.world_from_camera)


def test_the_share_of_a_cell_that_was_observed_is_of_what_is_visible_of_it() -> None:
    visible = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])
    observed = torch.tensor([[[1.0, 0.5, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]])
    view = Read(torch.zeros(1, 3, 2, 4), visible, visible, observed=observed)
    torch.testing.assert_close(observed_cells(view, 2), torch.tensor([[[0.5, 0.0]]]))


def test_a_picture_is_encoded_again_so_that_the_image_teaches_the_encoder(model: LiftWM) -> None:
    disturb(model)
    seen = observations()
    state = watch(model, seen[:3])
    assert not any(t.requires_grad for t in state.world.named_tensors().values())
    model.render(state, seen[1].camera).rgb.square().mean().backward()
    assert model.encoder.stem.weight.grad is not None and model.encoder.colours.weight.grad is not None
    head = model.encoder.head.weight.grad
    assert head is not None and bool((head[: CONFIG.planes] == 0).all()) and bool((head != 0).any())  # depth learns elsewhere


def test_holes_are_given_the_colour_of_what_lies_about_and_the_rest_is_as_it_was() -> None:
    rgb, visible = torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32)
    visible[:, 10, 10] = 0.0
    visible[:, :, 20:] = 0.0
    rgb = rgb * visible.unsqueeze(1)
    picture = filled(Read(rgb, visible, visible))
    torch.testing.assert_close(picture[:, :, :10, :20], rgb[:, :, :10, :20], atol=0, rtol=0)
    around = rgb[0, :, 9:12, 9:12].sum((1, 2)) / 8
    torch.testing.assert_close(picture[0, :, 10, 10], around)
    torch.testing.assert_close(picture[0, :, 15, 20], rgb[0, :, 14:17, 19].mean(1))
    torch.testing.assert_close(picture[0, :, 15, 23], rgb[0, :, 11:20, 19].mean(1))
    assert bool((picture[:, :, :, 24:] == 0.5).all())


def test_a_cell_is_as_far_as_the_middle_of_what_is_seen_in_it() -> None:
    depth = torch.tensor([[[1.0, 5.0, 2.0, 0.0], [1.2, 9.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 7.0]]])
    visible = (depth > 0).float()
    share, found = cells_of(Read(torch.zeros(1, 3, 4, 4), visible, depth), 2)
    assert share.tolist() == [[[1.0, 0.25], [0.0, 0.75]]]
    torch.testing.assert_close(found, torch.tensor([[[1.2, 2.0], [0.0, 4.0]]]))


def test_a_frame_without_a_place_is_refused_and_the_state_untouched(model: LiftWM) -> None:
    seen = observations()
    state = watch(model, seen[:3])
    copy = state.map(torch.clone)
    lost = replace(seen[3].camera, world_from_camera=seen[3].camera.world_from_camera.clone())
    lost.world_from_camera[0, 1, 3] = math.nan
    with pytest.raises(UserError, match="world_from_camera of row 0 is not finite"):
        model.observe(state, replace(seen[3], camera=lost))
    encoding = model.encode(seen[3].rgb, seen[3].camera)
    flat = torch.zeros_like(encoding.depth)
    with pytest.raises(UserError, match="expected depths above 0 m, got 0"):
        model.write(state, encoding._replace(depth=flat), seen[3])
    assert same(state, copy)


def test_rows_that_forget_do_so_alone(model: LiftWM) -> None:
    first, second = watch(model, observations(1)), watch(model, observations(2))
    pair = first.index([0, 0]).where(torch.tensor([True, False]), second.index([0, 0]))
    for row, alone in ((0, first), (1, second)):
        kept = int(alone.world.count)
        assert int(pair.world.count[row]) == kept
        assert torch.equal(pair.world.points[row, :kept], alone.world.points[0, :kept])
    torch.testing.assert_close(pair.keyframes.rgb[1:], second.keyframes.rgb)


def test_points_to_draw_and_the_goal_by_its_colour(model: LiftWM) -> None:
    state = told_the_depth(model, 3)
    points, rgb, opacities = model.primitives(state)
    assert len(points) == len(rgb) == len(opacities) == int(state.world.count)
    assert bool((points.abs() < torch.tensor([2.01, 2.01, 2.6])).all())  # the walls of the room
    colour = state.world.rgb[0, 5]
    told = replace(state, ego=replace(state.ego, goal=torch.cat([colour, torch.ones(6)])[None]))
    assert float(model.summarize(told)[0, -GOAL_FEATURES + 3]) > float(model.summarize(state)[0, -GOAL_FEATURES + 3])


def test_settings_that_it_cannot_heed_are_refused() -> None:
    for memory in ("rgb_cloud", "context"):
        with pytest.raises(UserError, match=f"frame_moves_depth=True: no image moves depth with model.memory={memory}"):
            ModelConfig(memory=memory, frame_moves_depth=True)
        with pytest.raises(UserError, match="things move beside patches only"):
            ModelConfig(memory=memory, movers=8)
    with pytest.raises(UserError, match=r"model\.rgb_cloud\.voxel_m=0: must be at least 0\.0001"):
        RgbCloudConfig(voxel_m=0)
    with pytest.raises(UserError, match=r"model\.context\.views=0: must be at least 1"):
        ContextConfig(views=0)
