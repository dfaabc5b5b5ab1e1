"""What a caller hands to a model's public calls: faults are named in one line, the state is as it was; views of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import GaussiansConfig, LatentBoundedConfig, ModelConfig, PatchesConfig, RecurrentConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.layers.blocks import levels_of
from tests.toy_room import episode, intrinsics

HEIGHT, WIDTH, ROWS = 32, 48, 2
CONFIG = ModelConfig(
    patches=PatchesConfig(300), gaussians=GaussiansConfig(300), latent_bounded=LatentBoundedConfig(2**17),
    recurrent=RecurrentConfig(16), latent_dim=4, stride=4, width=8, planes=8,
)  # fmt: skip
MEMORIES = ("patches", "gaussians", "latent_append", "latent_bounded", "recurrent", "rgb_cloud", "context", "movers")


def made(memory: str) -> BaseWorldModel:
    torch.manual_seed(0)
    config = replace(CONFIG, movers=32) if memory == "movers" else replace(CONFIG, memory=memory)
    return build_model(config, ModelShapes((HEIGHT, WIDTH), 2, 3)).eval().requires_grad_(False)


@pytest.fixture(scope="module", params=MEMORIES)
def model(request: pytest.FixtureRequest) -> BaseWorldModel:
    return made(request.param)


def observations(steps: int = 4) -> list[Observation]:
    """Two rows of the upper part of a toy room's square frames: 32 x 48 pixels."""
    recorded = episode(0, steps, WIDTH)
    K = torch.from_numpy(intrinsics(WIDTH)).expand(ROWS, 3, 3)
    found = []
    for t, (rgb, pose) in enumerate(zip(recorded.rgb, recorded.world_from_camera, strict=True)):
        image = torch.from_numpy(rgb[:HEIGHT]).movedim(-1, 0).expand(ROWS, 3, HEIGHT, WIDTH).float() / 255.0
        camera = Camera(K, torch.from_numpy(pose).expand(ROWS, 4, 4), HEIGHT, WIDTH)
        found.append(Observation(image, camera, torch.zeros(ROWS, 2), torch.full((ROWS,), t == 0), torch.zeros(ROWS, 3)))
    return found


def watched(model: BaseWorldModel):
    state = model.initial_state(ROWS)
    for observation in observations():
        state = model.observe(state, observation)
    return state


def with_number(values: Tensor, where: tuple[int, ...], number: float) -> Tensor:
    changed = values.clone()
    changed[where] = number
    return changed


def intrinsics_of(change: Callable[[Tensor], Tensor]) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, intrinsics=change(camera.intrinsics.clone()))


def pose_of(change: Callable[[Tensor], Tensor]) -> Callable[[Camera], Camera]:
    return lambda camera: replace(camera, world_from_camera=change(camera.world_from_camera.clone()))


CAMERAS: dict[str, tuple[Callable[[Camera], object], str]] = {
    "no focal length": (intrinsics_of(lambda k: with_number(k, (1, 1, 1), 0.0)), "of row 1 have a focal length"),
    "negative focal length": (intrinsics_of(lambda k: with_number(k, (1, 0, 0), -9.0)), "of row 1 have a focal length"),
    "endless focal length": (intrinsics_of(lambda k: with_number(k, (0, 0, 0), math.inf)), "of row 0 are not finite"),
    "far principal point": (intrinsics_of(lambda k: with_number(k, (0, 0, 2), -3e7)), "at more than 87 degrees"),
    "normalised": (intrinsics_of(lambda k: k / k.new_tensor([[WIDTH], [HEIGHT], [1]])), "are normalised: expected pixels"),
    "transposed intrinsics": (intrinsics_of(lambda k: k.mT), "are transposed"),
    "no pinhole": (intrinsics_of(lambda k: 2.0 * k), r"are no \(fx, s, cx\)"),
    "nan pose": (pose_of(lambda p: with_number(p, (1, 0, 0), math.nan)), "of row 1 is not finite"),
    "endless pose": (pose_of(lambda p: with_number(p, (1, 2, 3), -math.inf)), "of row 1 is not finite"),
    "mirrored": (pose_of(lambda p: p * p.new_tensor([-1, 1, 1, 1])), "is mirrored"),
    "scaled": (pose_of(lambda p: p * p.new_tensor([3, 3, 3, 1])), "is scaled by 3"),
    "sheared": (pose_of(lambda p: p @ with_number(torch.eye(4), (0, 1), 0.2)), "is (not orthonormal|scaled)"),
    "sheared a little": (pose_of(lambda p: p @ with_number(torch.eye(4), (0, 1), 0.016)), "not orthonormal"),
    "transposed": (pose_of(lambda p: p.mT), "is transposed"),
    "projective": (pose_of(lambda p: with_number(p, (0, 3, 3), 0.5)), "has a last row of 0 0 0 0.5"),
    "far away": (pose_of(lambda p: with_number(p, (0, 0, 3), 1e8)), "1e.08 m from the origin"),
    "no rows": (lambda c: replace(c, height=0), "height is 0: expected whole pixels"),
    "part of a column": (lambda c: replace(c, width=47.5), "width is 47.5: expected whole pixels"),
    "more rows than the state": (lambda c: c.index([0, 1, 1]), "the state has 2 rows"),
    "no batch": (pose_of(lambda p: p[0]), "the batch axis is missing"),
    "double": (pose_of(lambda p: p.double()), "float64 .*: expected float32"),
    "array": (lambda c: replace(c, intrinsics=c.intrinsics.numpy()), "is a ndarray: expected float32"),
    "nothing": (lambda c: None, "is a NoneType: expected a protocols.Camera"),
}
OBSERVATIONS: dict[str, tuple[Callable[[Observation], object], str]] = {
    "bytes": (lambda o: replace(o, rgb=(255 * o.rgb).byte()), r"uint8 .* to be divided: rgb.float\(\) / 255"),
    "0 to 255": (lambda o: replace(o, rgb=255 * o.rgb), "from [0-9.]+ to [0-9.]+: .* divided by 255"),
    "-1 to 1": (lambda o: replace(o, rgb=2 * o.rgb - 1), r"from -[0-9.]+ to .*: expected colours in \[0, 1\]$"),
    "nan pixel": (lambda o: replace(o, rgb=with_number(o.rgb, (1, 2, 9, 9), math.nan)), "pixels that are not finite"),
    "endless pixel": (lambda o: replace(o, rgb=with_number(o.rgb, (1, 2, 9, 9), math.inf)), "pixels that are not finite"),
    "channels last": (lambda o: replace(o, rgb=o.rgb.movedim(1, -1)), r"permute\(0, 3, 1, 2\)"),
    "width first": (lambda o: replace(o, rgb=o.rgb.mT), "height comes before width"),
    "half": (lambda o: replace(o, rgb=o.rgb.half()), "float16 .*: expected float32"),
    "another size": (lambda o: replace(o, rgb=o.rgb[..., ::2]), r"expected float32 \[2, 3, 32, 48\]"),
    "sparse": (lambda o: replace(o, rgb=o.rgb.to_sparse()), "rgb is sparse: expected a plain tensor"),
    "intrinsics of another size": (
        lambda o: replace(o, camera=intrinsics_of(lambda k: k * k.new_tensor([[4], [4], [1]]))(o.camera)),
        r"row 0 have the principal point \(96, 96\), outside of 32 x 48 pixels",
    ),
    "camera of another size": (lambda o: replace(o, camera=replace(o.camera, height=WIDTH)), "is of 48 x 48 pixels"),
    "one row": (lambda o: o.index([0]), "the state has 2 rows"),
    "longer action": (lambda o: replace(o, action=torch.zeros(ROWS, 3)), r"action is float32 \[2, 3\]: expected"),
    "nan action": (lambda o: replace(o, action=torch.full((ROWS, 2), math.nan)), "action of row 0 is .*: expected finite"),
    "longer goal": (lambda o: replace(o, goal=torch.zeros(ROWS, 9)), "goal is float32 .2, 9.: expected"),
    "endless goal": (lambda o: replace(o, goal=torch.full((ROWS, 3), math.inf)), "goal is not finite"),
    "number for is_first": (lambda o: replace(o, is_first=torch.zeros(ROWS)), "is_first is float32"),
    "a picture": (lambda o: o.rgb, "observation is a Tensor"),
} | {
    f"camera: {name}": (lambda o, change=change: replace(o, camera=change(o.camera)), message)
    for name, (change, message) in CAMERAS.items() if name not in ("no rows", "part of a column")
}  # fmt: skip


def refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_what_is_no_observation_is_refused_and_the_state_is_as_it_was(model: BaseWorldModel) -> None:
    state, good = watched(model), observations(5)[-1]
    before = {name: tensor.clone() for name, tensor in state.named_tensors().items()}
    for change, message in OBSERVATIONS.values():
        refused(lambda change=change: model.observe(state, change(good)), message)
        refused(lambda change=change: model.surprise(state, change(good)), message)
    for change, message in CAMERAS.values():
        refused(lambda change=change: model.render(state, change(good.camera)), message)
    for action in (torch.zeros(ROWS, 3), torch.tensor([[0.0, math.nan]]).expand(ROWS, 2), torch.zeros(1, 2), [0.0, 0.0]):
        refused(lambda action=action: model.imagine(state, action), "action")
    refused(lambda: model.generate(state, replace(good.camera, width=96)), "camera is of 32 x 96 pixels: expected 32 x 48")
    refused(lambda: model.observe(good, good), "state is a Observation")
    other = made("patches" if model.config.memory == "recurrent" else "recurrent").initial_state(ROWS)
    render, imagine = lambda s: model.render(s, good.camera), lambda s: model.imagine(s, good.action)
    for call in (model.predict, model.ego_camera, render, imagine):
        refused(lambda call=call: call(other), f"state is a {type(other).__name__}: expected what initial_state")
    for name, tensor in state.named_tensors().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name
    for action in (good.action, torch.zeros(ROWS, 0)):  # a camera path has none
        after = model.observe(state, replace(good, action=action))
        assert bool(model.render(after, good.camera).rgb.isfinite().all())


def test_a_state_that_remembers_nothing_can_be_summarized(model: BaseWorldModel) -> None:
    state = model.initial_state(ROWS)
    assert bool(model.summarize(state).isfinite().all()) and bool(model.predict(state).reward.isfinite().all())


@pytest.mark.parametrize(("height", "width"), [(100, 100), (63, 65), (30, 50), (1, 1), (17, 200)])
def test_a_view_has_the_size_of_its_camera(model: BaseWorldModel, height: int, width: int) -> None:
    state, camera = watched(model), observations()[-1].camera
    view = model.render(state, replace(camera, height=height, width=width))
    assert view.rgb.shape == (ROWS, 3, height, width) and view.depth.shape == view.seen.shape == (ROWS, height, width)
    assert all(bool(t.isfinite().all()) for t in view.named_tensors().values()) and float(view.depth.min()) > 0
    if view.latent is not None:
        cell = WIDTH // model.render(state, camera).latent.shape[-1]  # type: ignore[union-attr]
        assert view.latent.shape[-2:] == (math.ceil(height / cell), math.ceil(width / cell))


def test_the_pixels_of_a_smaller_picture_show_what_those_of_a_larger_one_do(model: BaseWorldModel) -> None:
    """The same rays for the same pixels: the principal point is moved by what is cut off."""
    top, left, height, width = 8, 12, 21, 30
    state, camera = watched(model), observations()[-1].camera
    whole = model.render(state, camera)
    moved = camera.intrinsics - torch.tensor([[0, 0, left], [0, 0, top], [0, 0, 0]])
    part = model.render(state, Camera(moved, camera.world_from_camera, height, width))
    cut = (..., slice(top, top + height), slice(left, left + width))
    apart = (part.rgb - whole.rgb[cut]).abs().mean()
    elsewhere = (part.rgb - whole.rgb[..., top - 4 : top - 4 + height, left + 5 : left + 5 + width]).abs().mean()
    assert float(apart) < 0.04 and (float(apart) < 0.5 * float(elsewhere) or float(elsewhere) < 1e-3)


@pytest.mark.parametrize("name", ["wide", "narrow", "far", "inside a wall", "large"])
def test_what_extreme_cameras_see_is_finite(model: BaseWorldModel, name: str) -> None:
    state, camera = watched(model), observations()[-1].camera
    wide, narrow = (torch.tensor([[f, 0, WIDTH / 2], [0, f, HEIGHT / 2], [0, 0, 1]]).expand(ROWS, 3, 3) for f in (1.5, 9e5))
    away = camera.world_from_camera.clone()
    away[:, :3, 3] = -9e4 if name == "far" else 2.0
    tried = {
        "wide": replace(camera, intrinsics=wide), "narrow": replace(camera, intrinsics=narrow),
        "far": replace(camera, world_from_camera=away), "inside a wall": replace(camera, world_from_camera=away),
        "large": replace(camera, height=300, width=20),
    }  # fmt: skip
    view = model.render(state, tried[name])
    assert all(bool(t.isfinite().all()) for t in (view.rgb, view.depth, view.seen)) and float(view.depth.min()) > 0


@pytest.mark.parametrize("side", [64, 128, 32])
def test_how_often_grids_are_halved(side: int) -> None:
    """Square frames as ever; what is nearly so deep takes as many halvings, so that weights of square frames fit it."""
    assert [levels_of((side, side), cell) for cell in (1, 2)] == [round(math.log2(side // 4)), round(math.log2(side // 8))]
    assert levels_of((48, 64), 2) == levels_of((64, 48), 2) == levels_of((64, 64), 2) == 3
    assert levels_of((16, 64), 8) == levels_of((16, 16), 8) == 1
    assert levels_of((48, 112), 1) == 4 and levels_of((144, 176), 2) == 3  # a grid of an odd number of cells is not halved
