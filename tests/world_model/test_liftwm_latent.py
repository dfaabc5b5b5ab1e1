"""World models with a latent cache: the protocol, states that grow or do not, generation without pixels, and learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
import torch.nn.functional as F

from embodied_liftwm.config import LatentBoundedConfig, ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.latents.append import BLOCK, AppendCache
from embodied_liftwm.protocols import Camera, Observation, WorldModel
from embodied_liftwm.tensor_tree import concatenate
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.liftwm import LiftWM
from embodied_liftwm.world_model.summary import GOAL_FEATURES
from tests.world_model.test_models import SIZE, observations, same, watch

CONFIG = ModelConfig(latent_dim=8, stride=2, width=8, planes=12, latent_bounded=LatentBoundedConfig(60_000))
Memory = Literal["latent_append", "latent_bounded"]
MEMORIES: tuple[Memory, ...] = ("latent_append", "latent_bounded")


def make(memory: Memory, size: int = CONFIG.latent_bounded.bytes) -> LiftWM:
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, memory=memory).sized(size), ModelShapes(SIZE, 2, 9)).eval().requires_grad_(False)
    assert isinstance(model, LiftWM)
    return model


@pytest.fixture(params=MEMORIES)
def model(request: pytest.FixtureRequest) -> LiftWM:
    return make(request.param)


def test_it_meets_the_protocol_and_answers_in_range(model: LiftWM) -> None:
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


def test_even_untrained_it_remembers_what_it_just_saw(model: LiftWM) -> None:
    seen = observations()
    error = (model.render(watch(model, seen), seen[-1].camera).rgb - seen[-1].rgb).square().mean()
    grey = (seen[-1].rgb - seen[-1].rgb.mean()).square().mean()
    assert float(error) < 0.3 * float(grey)


def test_a_first_frame_forgets_what_came_before_and_rows_do_not_meet(model: LiftWM) -> None:
    first, second = observations(scene=1), observations(scene=2)
    alone = watch(model, second)
    view = model.render(alone, second[2].camera)
    after = model.render(watch(model, first + second), second[2].camera)
    torch.testing.assert_close(after.rgb, view.rgb)
    state = model.initial_state(2)
    for step, (a, b) in enumerate(zip(first + first, second + second, strict=True)):
        again = torch.tensor([False, step in (0, len(second))])  # the second row begins anew half way
        state = model.observe(state, replace(cast(Observation, concatenate([a, b])), is_first=again))
    both = model.render(state, cast(Camera, concatenate([first[2].camera, second[2].camera])))
    torch.testing.assert_close(both.rgb[1], view.rgb[0], atol=2e-2, rtol=0)


def test_a_state_survives_saving_bit_for_bit(model: LiftWM, tmp_path: Path) -> None:
    state = watch(model, observations())
    state.save(tmp_path / "state.safetensors")
    assert same(state, model.initial_state(1).load(tmp_path / "state.safetensors"))


def test_a_bounded_state_never_grows_and_an_appended_one_does() -> None:
    for memory in MEMORIES:
        model = make(memory)
        state, sizes = model.initial_state(1), []
        for scene in range(4):
            for observation in observations(scene):
                state = model.observe(state, replace(observation, is_first=torch.tensor([False])))
                sizes.append(state.world.nbytes())
        if memory == "latent_bounded":
            assert len(set(sizes)) == 1 and sizes[0] <= CONFIG.latent_bounded.bytes
        else:
            assert sizes[0] < sizes[-1] == BLOCK * -(-int(cast(AppendCache, state.world).count) // BLOCK) * 15 + 20


def test_imagining_keeps_the_tokens_in_place(model: LiftWM) -> None:
    many = watch(model, observations()).expand(5)
    moved, kept = model.imagine(many, torch.zeros(5, 2)).named_tensors(), many.named_tensors()
    tokens = {name for name in kept if name.startswith("world.") and name != "world.clock"}
    assert tokens and all(moved[name].data_ptr() == kept[name].data_ptr() for name in tokens)


def test_training_keeps_full_precision_and_reads_the_same(model: LiftWM) -> None:
    seen = [replace(o, is_first=torch.tensor([False])) for o in observations()[:3]]
    exact, compact = model.training_state(1, 3), model.initial_state(1)
    for observation in seen:
        exact, compact = model.observe(exact, observation), model.observe(compact, observation)
    assert all(t.dtype in (torch.float32, torch.int64, torch.int8) for t in exact.world.named_tensors().values())
    difference = model.render(exact, seen[1].camera).rgb - model.render(compact, seen[1].camera).rgb
    assert float(difference.abs().mean()) < 0.01


def test_generation_encodes_nothing_and_believes_what_it_showed(model: LiftWM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observations()
    state = watch(model, seen[:1])

    def refuse(*_: object) -> None:
        raise AssertionError("a frame was encoded")

    monkeypatch.setattr(model.encoder, "forward", refuse)
    monkeypatch.setattr(model.encoder, "match", refuse)
    turned = seen[0].camera.world_from_camera @ torch.tensor(
        [[[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]]
    )  # to the right
    camera = replace(seen[0].camera, world_from_camera=turned)
    before = state.world.read(camera, CONFIG.stride)
    assert float(before.visible.mean()) < 0.5
    after, view = model.generate(state, camera)
    torch.testing.assert_close(model.ego_camera(after).world_from_camera, turned)
    assert view.rgb.shape == seen[0].rgb.shape and float(view.rgb.min()) >= 0.0 and float(view.rgb.max()) <= 1.0
    assert float(view.seen.mean()) < 0.6
    read = after.world.read(camera, CONFIG.stride)
    hole = before.visible < 0.25
    assert float(read.visible[hole].min()) > 0.25
    assert view.latent is not None
    shown, kept = view.latent.movedim(1, -1)[hole], read.latents.movedim(1, -1)[hole]
    assert float((shown - kept).abs().mean()) < 0.05
    again, second = model.generate(after, camera)
    assert float((second.rgb - view.rgb).abs().mean()) < 0.02  # it does not change its mind
    if isinstance(again.world, AppendCache) and isinstance(after.world, AppendCache):
        assert int(again.world.count) == int(after.world.count)  # nothing is written twice


def turned_right(camera: Camera) -> Camera:
    quarter = torch.tensor([[[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    return replace(camera, world_from_camera=camera.world_from_camera @ quarter)


def test_what_it_imagined_stays_imagined_until_it_is_looked_at(model: LiftWM) -> None:
    seen = observations()
    flat = torch.full((1, SIZE // CONFIG.stride, SIZE // CONFIG.stride), 1.5)

    def look(state: Any, camera: Camera, first: bool) -> Any:
        looked = replace(seen[0], camera=camera, is_first=torch.tensor([first]))
        encoding = model.encode(looked.rgb, camera)._replace(depth=flat, spread=torch.full_like(flat, 0.01))
        return model.write(state, encoding, looked)

    state = look(model.initial_state(1), seen[0].camera, True)
    camera = turned_right(turned_right(seen[0].camera))  # behind its back: nothing is known
    assert not state.world.read(camera, CONFIG.stride).visible.any()
    for _ in range(3):
        state, _ = model.generate(state, camera)
    assert float(state.world.read(camera, CONFIG.stride).visible.min()) > 0.25
    assert float(model.render(state, camera).seen.max()) < 0.05
    assert float(model.render(state, seen[0].camera).seen.mean()) > 0.9  # of what was observed nothing is lost
    assert float(model.render(look(state, camera, False), camera).seen.mean()) > 0.5


def test_primitives_to_draw_have_the_colours_that_were_seen(model: LiftWM) -> None:
    assert [len(t) for t in model.primitives(model.initial_state(1))] == [0, 0, 0]
    seen = observations()
    points, rgb, opacities = model.primitives(watch(model, seen))
    assert len(points) == len(rgb) == len(opacities) > 50 and float(opacities.min()) > 0.0
    colours = torch.cat([F.avg_pool2d(s.rgb, 2).flatten(2).mT[0] for s in seen])
    assert float(torch.cdist(rgb, colours).amin(1).quantile(0.9)) < 0.15


def test_the_goal_is_found_by_its_colour(model: LiftWM) -> None:
    """Of a wall ahead the left half is red: called to red, the summary points left of ahead, and right for what is right."""
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


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="model.latent_dim=3: must be at least 4 with model.memory=latent_append"):
        ModelConfig(memory="latent_append", latent_dim=3)
    with pytest.raises(UserError, match="bytes=5000: holds .* fewer than the 256 cells of one frame"):
        make("latent_bounded", size=5000)
