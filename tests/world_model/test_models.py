"""All memories meet the protocol: what they remember, what stays constant, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from embodied_liftwm.config import GaussiansConfig, ModelConfig, PatchesConfig, RecurrentConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.se3 import se3_exp
from embodied_liftwm.goals import colour_likeness, goal_place
from embodied_liftwm.protocols import Camera, Observation, WorldModel
from embodied_liftwm.tensor_tree import concatenate
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.summary import GOAL_FEATURES, WHOLE_VOTE, Surface
from tests.toy_room import episode, intrinsics

SIZE = 32
CONFIG = ModelConfig(
    patches=PatchesConfig(600), gaussians=GaussiansConfig(600), recurrent=RecurrentConfig(16),
    latent_dim=4, stride=2, width=8, planes=12,
)  # fmt: skip


@pytest.fixture(params=["patches", "gaussians", "recurrent", "movers", "rgb_cloud", "context"])
def model(request: pytest.FixtureRequest) -> BaseWorldModel:
    torch.manual_seed(0)
    config = replace(CONFIG, movers=64) if request.param == "movers" else replace(CONFIG, memory=request.param)
    return build_model(config, ModelShapes(SIZE, 2, 9)).eval().requires_grad_(False)


def observations(scene: int = 0, steps: int = 6) -> list[Observation]:
    recorded = episode(scene, steps, SIZE)
    K = torch.from_numpy(intrinsics(SIZE))[None]
    found = []
    for t, (rgb, pose) in enumerate(zip(recorded.rgb, recorded.world_from_camera, strict=True)):
        image = torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 255.0
        camera = Camera(K, torch.from_numpy(pose)[None], SIZE, SIZE)
        action = torch.from_numpy(recorded.action[t - 1 : t]) if t else torch.zeros(1, 2)
        found.append(Observation(image, camera, action, torch.tensor([t == 0]), torch.zeros(1, 9)))
    return found


def watch(model: BaseWorldModel, seen: list[Observation]):
    state = model.initial_state(1)
    for observation in seen:
        state = model.observe(state, observation)
    return state


def same(a, b) -> bool:
    theirs = b.named_tensors()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.named_tensors().items())


def test_it_meets_the_protocol_and_answers_in_range(model: BaseWorldModel):
    assert isinstance(model, WorldModel)
    seen = observations()
    state = watch(model, seen)
    view = model.render(state, seen[-1].camera)
    assert view.rgb.shape == (1, 3, SIZE, SIZE) and float(view.rgb.min()) >= 0.0 and float(view.rgb.max()) <= 1.0
    assert view.depth.shape == view.seen.shape == (1, SIZE, SIZE)
    assert float(view.depth.min()) > 0.0 and float(view.seen.min()) >= 0.0 and float(view.seen.max()) <= 1.0
    assert model.surprise(state, seen[0]).shape == (1,)
    assert model.summarize(state).shape == (1, model.summary_dim)
    assert 0.0 <= float(model.predict(state).continuation) <= 1.0


def test_a_first_frame_forgets_what_came_before(model: BaseWorldModel):
    before, after = observations(scene=1), observations(scene=2)
    assert same(watch(model, before + after), watch(model, after))


def test_rows_of_a_batch_do_not_meet(model: BaseWorldModel):
    first, second = observations(scene=1), observations(scene=2)
    state = model.initial_state(2)
    for a, b in zip(first, second, strict=True):
        state = model.observe(state, concatenate([a, b]))
    alone = watch(model, second)
    for name, tensor in state.index([1]).named_tensors().items():
        torch.testing.assert_close(tensor, alone.named_tensors()[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_state_survives_saving_bit_for_bit(model: BaseWorldModel, tmp_path: Path):
    state = watch(model, observations())
    state.save(tmp_path / "state.safetensors")
    assert same(state, model.initial_state(1).load(tmp_path / "state.safetensors"))


def test_imagining_moves_the_ego_camera_and_keeps_the_memory(model: BaseWorldModel):
    seen = observations()
    state = watch(model, seen)
    with torch.no_grad():
        model.ego_motion.head.bias[:6] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.5, 0.0])
    many = state.expand(5)
    moved = model.imagine(many, torch.zeros(5, 2))
    expected = seen[-1].camera.world_from_camera @ se3_exp(torch.tensor([[0.0, 0.0, 0.2, 0.0, 0.1, 0.0]]))
    torch.testing.assert_close(model.ego_camera(moved).world_from_camera, expected.expand(5, 4, 4))
    kept = many.named_tensors()
    shared = {name for name, tensor in moved.named_tensors().items() if tensor.data_ptr() == kept[name].data_ptr()}
    memory = {name for name in kept if name.startswith(("world.", "keyframes.", "hidden")) and ".movers." not in name}
    assert memory and memory <= shared


def test_frames_of_another_size_are_refused(model: BaseWorldModel):
    wrong = observations()[0]
    wrong = replace(wrong, rgb=torch.zeros(1, 3, SIZE, 2 * SIZE))
    with pytest.raises(UserError, match=r"rgb is float32 \[1, 3, 32, 64\]: expected float32 \[1, 3, 32, 32\]"):
        model.observe(model.initial_state(1), wrong)


@pytest.mark.parametrize(("memory", "budget"), [("patches", 60), ("patches", 600), ("gaussians", 600)])
def test_a_state_never_grows(memory: Literal["patches", "gaussians"], budget: int):
    model = build_model(replace(CONFIG, memory=memory).sized(budget), ModelShapes(SIZE, 2, 9)).eval().requires_grad_(False)
    state = model.initial_state(1)
    size = state.nbytes()
    for scene in range(3):
        for observation in observations(scene):
            state = model.observe(state, replace(observation, is_first=torch.tensor([False])))
            assert state.nbytes() == size
    assert 20 < int(state.world.occupied.sum()) <= budget


def test_a_state_with_room_for_a_window_alone_reads_the_same(model: BaseWorldModel):
    """Training carries no more along than its frames can fill."""
    model.resize(2000)
    seen = observations()
    small, large = model.training_state(1, 3), model.initial_state(1)
    for observation in (replace(o, is_first=torch.tensor([False])) for o in seen[:3]):
        small, large = model.observe(small, observation), model.observe(large, observation)
    assert small.nbytes() <= large.nbytes()
    torch.testing.assert_close(model.render(small, seen[1].camera).rgb, model.render(large, seen[1].camera).rgb)


@pytest.mark.parametrize("memory", ["patches", "gaussians"])
def test_primitives_to_draw_lie_about_the_cameras_that_saw_them(memory: Literal["patches", "gaussians"]):
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, memory=memory), ModelShapes(SIZE, 2, 9)).eval().requires_grad_(False)
    assert isinstance(model, LiftWM)
    state, seen = model.initial_state(1), observations()
    assert [len(t) for t in model.primitives(state)] == [0, 0, 0]
    points, rgb, opacities = model.primitives(watch(model, seen))
    assert len(points) == len(rgb) == len(opacities) > 50 and points.shape[1] == rgb.shape[1] == 3
    assert 0.0 < float(opacities.min()) <= float(opacities.max()) <= 1.0
    poses = torch.cat([s.camera.world_from_camera for s in seen])
    ahead = ((points[:, None] - poses[:, :3, 3]) * poses[:, :3, 2]).sum(-1)
    assert bool(((ahead > 0.1) & (ahead < 2 * CONFIG.max_depth_m)).any(1).all())
    colours = torch.cat([s.rgb.flatten(2).mT[0] for s in seen])
    assert float(torch.cdist(rgb, colours).amin(1).quantile(0.9)) < 0.15


@pytest.mark.parametrize("memory", ["patches", "gaussians"])
def test_the_goal_is_found_by_its_colour(memory: Literal["patches", "gaussians"]):
    """Of a wall ahead the left half is red: called to red, the summary points left of ahead, and right for what is right."""
    model = build_model(replace(CONFIG, memory=memory), ModelShapes(SIZE, 2, 9)).eval().requires_grad_(False)
    first = observations()[0]
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    rgb = torch.where(torch.arange(SIZE) < SIZE // 2, red[:, None], blue[:, None])[None, :, None].expand(1, 3, SIZE, SIZE)
    cells = SIZE // CONFIG.stride
    flat = torch.full((1, cells, cells), 2.0)
    encoding = model.encode(rgb, first.camera)._replace(depth=flat, spread=torch.full_like(flat, 0.01))
    lefts = []
    for colour in (red, blue):
        observation = replace(first, rgb=rgb, goal=torch.cat([colour, torch.ones(6)])[None])
        summary = model.summarize(model.write(model.initial_state(1), encoding, observation))
        ahead, left, distance, _, present = summary[0, -GOAL_FEATURES:].tolist()
        assert ahead > 0.8 and 1.5 < 5.0 * distance < 2.5 and present == 1.0
        lefts.append(left)
    assert lefts[0] > 0.1 and lefts[1] < -0.1


def a_ball_and_a_wall(ball: list[float]) -> Surface:
    """A ball of 120 small pieces about `ball`, (0.9, 0.1, 0.1), and a wall of 1,000 large ones of nearly its hue at x = 4."""
    generator = torch.Generator().manual_seed(3)
    near = torch.tensor(ball) + 0.08 * torch.randn(120, 3, generator=generator)
    wall = torch.stack([torch.full((1000,), 4.0), *(4.0 * torch.rand(2, 1000, generator=generator) - 2.0)], dim=-1)
    rgb = torch.cat([torch.tensor([[0.9, 0.1, 0.1]]).expand(120, 3), torch.tensor([[0.8, 0.2, 0.2]]).expand(1000, 3)])
    area = torch.cat([torch.full((120,), 0.1), torch.full((1000,), 2.0)])
    return Surface(torch.cat([near, wall])[None, :, None], rgb[None, :, None], area[None, :, None])


def placed(found: Surface, goal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pieces = found.points.flatten(1, 2), found.area.flatten(1) / WHOLE_VOTE, colour_likeness(found.rgb, goal).flatten(1)
    place = goal_place(*pieces)
    return place.xyz, place.mass * WHOLE_VOTE


def test_the_place_of_the_goal_is_that_of_one_thing_and_not_pulled_to_others_of_its_hue():
    red, blue = (torch.tensor([[*colour, 1, 0, 0, 0, 0, 0]]) for colour in ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]))
    found = a_ball_and_a_wall([1.0, -2.0, 0.3])
    place, mass = placed(found, red)
    assert (place[0] - torch.tensor([1.0, -2.0, 0.3])).norm() < 0.05
    assert mass[0] == pytest.approx(12.0, rel=0.05)  # the ball's surface
    assert placed(found, blue)[1] == 0 and placed(found, torch.zeros(1, 9))[1] == 0
    other = a_ball_and_a_wall([-1.0, 1.0, 0.3])
    both = Surface(*(torch.cat(parts) for parts in zip(found, other, strict=True)))
    places, masses = placed(both, red.expand(2, 9))
    torch.testing.assert_close(places[0], place[0])  # rows do not meet
    assert (places[1] - torch.tensor([-1.0, 1.0, 0.3])).norm() < 0.05
    free = Surface(both.points, both.rgb, both.area * torch.tensor([0.0, 1.0])[:, None, None])
    assert placed(free, red.expand(2, 9))[1].tolist() == [0.0, pytest.approx(float(masses[1]))]


def test_an_image_size_that_has_no_cells_is_refused():
    with pytest.raises(UserError, match="frames of 50 x 200 pixels: .* multiples of 16; the nearest are 48 x 192"):
        build_model(CONFIG, ModelShapes((50, 200), 2, 9))


@pytest.mark.parametrize("memory", ["patches", "gaussians"])
@pytest.mark.parametrize("moves", [False, True])
def test_the_splatted_image_moves_depth_where_it_is_let(moves: bool, memory: Literal["patches", "gaussians"]):
    torch.manual_seed(0)
    sources = 0 if moves else 2
    model = build_model(
        replace(CONFIG, memory=memory, frame_moves_depth=moves, stereo_sources=sources), ModelShapes(SIZE, 2, 9)
    )
    seen = observations()
    state = watch(model, seen[:3])
    model.render(state, seen[4].camera).rgb.square().mean().backward()
    head = model.encoder.head
    assert isinstance(head, torch.nn.Conv2d) and head.weight.grad is not None
    depth_logits = head.weight.grad[: CONFIG.planes]
    assert bool(depth_logits.abs().max() > 0) == moves


@pytest.mark.parametrize("width", [8, 24])
def test_the_recurrent_baseline_may_be_narrow(width: int):
    model = build_model(replace(CONFIG, memory="recurrent", width=width), ModelShapes(64, 2, 9)).eval()
    camera = Camera(torch.from_numpy(intrinsics(64))[None], torch.eye(4)[None], 64, 64)
    shown = model.render(model.initial_state(1), camera).rgb
    assert shown.shape == (1, 3, 64, 64) and bool(torch.isfinite(shown).all())


@pytest.mark.parametrize("heads", [0, 2])
def test_without_matching_attention_alone_asks_other_frames(heads: int):
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, matching="none", epipolar_heads=heads), ModelShapes(SIZE, 2, 9)).requires_grad_(False)
    assert isinstance(model, LiftWM)
    model.encoder.attention and torch.nn.init.normal_(model.encoder.attention.out.weight)
    torch.nn.init.normal_(model.encoder.head.weight, std=0.1)
    model.encoder.match = None  # type: ignore[assignment]  # nobody may call it
    *before, last = observations(steps=12)
    state = watch(model, before)
    sources = model.sources(state, last.camera)
    assert sources is not None and bool(sources.usable.any())
    alone, together = (model.encode(last.rgb, last.camera, asked).depth for asked in (None, sources))
    assert torch.equal(alone, together) == (heads == 0)
