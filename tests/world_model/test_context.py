"""Raw context: points of rays land where projection says, attention finds surfaces that frames agree on, and gradients flow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project, camera_rays, project, resize_intrinsics
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.baselines.context_attention import MATCHED, ContextAttention, FrameFeatures, place, sample
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.summary import GOAL_FEATURES
from tests.toy_room import intrinsics, pose, render
from tests.training.small import disturb
from tests.world_model.test_models import CONFIG, SIZE, observations, same, watch

CELLS = SIZE // CONFIG.stride
LOG_PLANES = torch.linspace(math.log(CONFIG.min_depth_m), math.log(CONFIG.max_depth_m), CONFIG.planes)


@pytest.fixture
def model() -> ContextWorldModel:
    torch.manual_seed(0)
    built = build_model(replace(CONFIG, memory="context", latent_dim=12), ModelShapes(SIZE, 2, 9))
    assert isinstance(built, ContextWorldModel)
    return built.eval()


def cells(*poses: Tensor) -> Camera:
    K = resize_intrinsics(torch.from_numpy(intrinsics(SIZE)), 1 / CONFIG.stride)
    return Camera(K.expand(len(poses), 3, 3), torch.stack(poses), CELLS, CELLS)


def looking(x: float, y: float, yaw: float) -> Tensor:
    return torch.from_numpy(pose(x, y, yaw))


def test_points_of_rays_land_where_they_are_projected() -> None:
    camera, frames = cells(looking(0, 0, 0.2)), cells(looking(0.3, 0.1, 0.0), looking(0, 0, 2.5))
    depth = 1.0 + torch.rand(1, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    rays = camera_rays(camera.intrinsics, CELLS, CELLS).flatten(1, 2)
    found = place(rays, depth.flatten(1).log()[:, None], frames, torch.ones(1, 2, dtype=torch.bool), camera)
    points = back_project(depth, camera.intrinsics, camera.world_from_camera).flatten(1, 2)
    for k in range(2):
        pixels, z = project(points, frames.intrinsics[k : k + 1], inverse_pose(frames.world_from_camera[k : k + 1]))
        inside = (z[0] > 0.01) & ((pixels[0] >= 0) & (pixels[0] <= CELLS)).all(-1)
        assert torch.equal(found.inside[0, k, 0], inside)
        at = (found.grid[0, k, 0] + 1.0) * CELLS / 2.0
        torch.testing.assert_close(at[inside], pixels[0, inside], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.log_depth[0, k, 0, inside].exp(), z[0, inside])
    assert bool(found.inside[0, 0].any()) and not bool(found.inside[0, 1].any())


def belief_in(depth: Tensor) -> Tensor:
    """A sharp belief over planes. [h, w] -> [P, h, w]"""
    away = (LOG_PLANES[:, None, None] - depth.log()) / (LOG_PLANES[1] - LOG_PLANES[0])
    return torch.log_softmax(-2.0 * away.square(), dim=0)


def test_untrained_attention_finds_the_surface_that_frames_believe_in_and_reads_what_they_show_there() -> None:
    """Frames carry world coordinates as latents: what is read must be where the depth that was found lies."""
    queried, places = looking(0.1, 0.2, 0.3), [looking(0, 0, 0.2), looking(0.2, 0.4, 0.4), looking(-0.2, 0.1, 0.3)]
    features, frames = [], cells(*places)
    for k, here in enumerate(places):
        depth = torch.from_numpy(render(here.numpy(), SIZE, 0)[1]).float()
        depth = depth.unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2))
        points = back_project(depth[None], frames.intrinsics[k : k + 1], here[None])[0].movedim(-1, 0)
        features.append((points, belief_in(depth)))
    carried, belief = (torch.stack(part)[None] for part in zip(*features, strict=True))
    seen = FrameFeatures(torch.zeros(1, 3, MATCHED, CELLS, CELLS), carried, belief)
    attention = ContextAttention(replace(CONFIG, latent_dim=3), 3, LOG_PLANES)
    camera = cells(queried)
    with torch.no_grad():
        read = attention(seen, frames, torch.ones(1, 3, dtype=torch.bool), camera)
    true = torch.from_numpy(render(queried.numpy(), SIZE, 0)[1]).float().unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2))
    shown = read.visible[0] > 0.5
    assert float(shown.float().mean()) > 0.8
    error = (read.depths[0] / true).log().abs()[shown]
    assert float(error.median()) < 0.5 * float(LOG_PLANES[1] - LOG_PLANES[0])
    points = back_project(true[None], camera.intrinsics, camera.world_from_camera)[0].movedim(-1, 0)
    assert float((read.latents[0] - points).norm(dim=0)[shown].median()) < 0.2
    half = ContextAttention(replace(CONFIG, latent_dim=3), 3, LOG_PLANES)(seen, frames, torch.zeros(1, 3) > 0, camera)
    assert bool((half.visible == 0).all()) and bool(half.latents.isfinite().all())


def depth_error(model: ContextWorldModel, heading: float) -> float:
    """Median relative error, against what was ray-traced, of a view from between four frames that are 0.6 m apart."""
    state, size = model.initial_state(1), SIZE
    K = torch.from_numpy(intrinsics(size))[None]
    for k, (x, y) in enumerate(((0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3))):
        here = pose(x, y, heading + 0.1 * k)
        rgb = torch.from_numpy(render(here, size, scene=1)[0]).movedim(-1, 0)[None] / 255.0
        camera = Camera(K, torch.from_numpy(here)[None], size, size)
        state = model.observe(state, Observation(rgb, camera, torch.zeros(1, 2), torch.tensor([k == 0]), torch.zeros(1, 9)))
    there = pose(0.0, 0.05, heading + 0.1)
    true = torch.from_numpy(render(there, size, scene=1)[1])
    depth = model.render(state, Camera(K, torch.from_numpy(there)[None], size, size)).depth[0]
    return float(((depth - true).abs() / true).median())


def test_colours_that_agree_tell_depth_before_anything_is_learned() -> None:
    torch.manual_seed(0)
    built = build_model(replace(CONFIG, memory="context", latent_dim=8, stride=2, planes=40), ModelShapes(32, 2, 9))
    model = cast(ContextWorldModel, built.eval().requires_grad_(False))
    found = [depth_error(model, heading) for heading in (0.0, 1.5, 3.0)]
    model.attention.log_sharpness.fill_(-10.0)
    blind = [depth_error(model, heading) for heading in (0.0, 1.5, 3.0)]
    assert max(found) < 0.05 and min(blind) > 2.0 * max(found)


def test_samples_are_bilinear() -> None:
    ramp = torch.arange(CELLS).float().expand(1, 1, 1, CELLS, CELLS)
    grid = torch.tensor([[2 * 3.7 / CELLS - 1, 0.0]]).view(1, 1, 1, 1, 2)
    assert float(sample(ramp, grid)) == pytest.approx(3.2, abs=1e-5)


def test_gradients_reach_all_that_reads_and_no_depth(model: ContextWorldModel) -> None:
    disturb(model)
    seen = observations()
    view = model.decode(watch(model, seen[:4]), seen[4].camera).decoded
    (view.rgb.square().mean() + view.depth.log().mean()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("attention.", "match.", "cells.", "encoder.trunk", "encoder.stem", "decoder.colours")):
            assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    assert model.encoder.head.weight.grad is None


def test_frames_encoded_once_or_view_by_view_are_read_alike(model: ContextWorldModel) -> None:
    seen = observations()
    state = watch(model, seen[:5])
    poses = torch.cat([s.camera.world_from_camera for s in seen[:6]])
    cameras = Camera(seen[0].camera.intrinsics.expand(6, 3, 3), poses, SIZE, SIZE)
    with torch.no_grad():
        together = model.decode(state, cameras)  # 5 frames for 24 choices
        for v in (0, 5):
            alone = model.decode(state, cameras.index([v]))  # 4 choices of 5 frames
            torch.testing.assert_close(together.decoded.rgb[v : v + 1], alone.decoded.rgb, atol=1e-4, rtol=1e-4)


def test_a_frame_just_seen_is_shown_in_its_colours_before_anything_is_learned(model: ContextWorldModel) -> None:
    seen = observations()
    with torch.no_grad():
        view = model.render(watch(model, seen[:4]), seen[3].camera)
    assert float(-10 * (view.rgb - seen[3].rgb).square().mean().log10()) > 24.0


def test_nothing_was_seen_before_the_first_frame_and_behind_the_agent(model: ContextWorldModel) -> None:
    first = observations()[0]
    turned = replace(first.camera, world_from_camera=first.camera.world_from_camera.clone())
    turned.world_from_camera[:, :3, (0, 2)] *= -1.0
    with torch.no_grad():
        for state, camera in ((model.initial_state(1), first.camera), (watch(model, [first]), turned)):
            view = model.render(state, camera)
            assert float(view.seen.max()) < 0.5 and bool(view.rgb.isfinite().all()) and bool((view.depth > 0).all())
        assert bool(model.summarize(model.initial_state(2)).isfinite().all())


def test_a_frame_without_a_place_is_refused_and_the_state_untouched(model: ContextWorldModel) -> None:
    seen = observations()
    state = watch(model, seen[:3])
    copy = state.map(torch.clone)
    lost = replace(seen[3].camera, world_from_camera=seen[3].camera.world_from_camera.clone())
    lost.world_from_camera[0, 1, 3] = math.inf
    with pytest.raises(UserError, match="world_from_camera of row 0 is not finite"):
        model.observe(state, replace(seen[3], camera=lost))
    assert same(state, copy)


def test_the_goal_lies_where_its_colour_was_seen(model: ContextWorldModel) -> None:
    first = observations()[0]
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    rgb = torch.where(torch.arange(SIZE) < SIZE // 2, red[:, None], blue[:, None])[None, :, None].expand(1, 3, SIZE, SIZE)
    lefts = []
    for colour in (red, blue):
        state = watch(model, [replace(first, rgb=rgb, goal=torch.cat([colour, torch.ones(6)])[None])])
        ahead, left, *_, present = model.summarize(state)[0, -GOAL_FEATURES:].tolist()
        assert ahead > 0.8 and present == 1.0
        lefts.append(left)
    assert lefts[0] > 0.1 and lefts[1] < -0.1
