"""The compiled writing and reading of patch maps against the torch code, on frames and maps that are noisy in every respect.

Both round differently, so that a texel that lies on a threshold may fall to either side: a few in ten thousand are let off.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.kernels import exp
from embodied_liftwm.memory.latents.read import LatentRead
from embodied_liftwm.memory.patches import frame as patch_frame
from embodied_liftwm.memory.patches import integrate as patch_integrate
from embodied_liftwm.memory.patches import read as patch_read
from embodied_liftwm.memory.patches import write as patch_write
from embodied_liftwm.memory.patches.cpu import associate as associate_on_cpu
from embodied_liftwm.memory.patches.cpu import frame as frame_on_cpu
from embodied_liftwm.memory.patches.cpu import integrate as integrate_on_cpu
from embodied_liftwm.memory.patches.cpu import read as read_on_cpu
from embodied_liftwm.memory.patches.frame import frame_of, surfaces
from embodied_liftwm.memory.patches.integrate import associate, integrate
from embodied_liftwm.memory.patches.look_weights import LearnedWeights
from embodied_liftwm.memory.patches.map import PatchMap
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.types import Frame
from embodied_liftwm.memory.patches.write import write_patches
from embodied_liftwm.protocols import Camera
from tests import toy_room

SIZE, STRIDE, CHANNELS, TEXELS, BUDGET = 32, 2, 3, 8, 160
ON_A_THRESHOLD = 5e-4
"""Largest share of decisions that may differ."""


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch):
    """A function that calls another with the kernels out of use."""

    def call(function, *arguments):
        with monkeypatch.context() as patch:
            for module in (patch_frame, patch_integrate, patch_read, patch_write):
                patch.setattr(module, "compilable", lambda *_: False)
            return function(*arguments)

    return call


def opinionated() -> LearnedWeights:
    """A fusion that no longer multiplies by one."""
    torch.manual_seed(0)
    fusion = LearnedWeights()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return fusion


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    """As in `toy_room`, but at no round height: there the borders of texels fall onto those of pixels."""
    placed = toy_room.pose(x, y, yaw)
    placed[2, 3] += 0.0137
    return placed


def frame(step: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Camera]:
    """What two cameras in two rooms see: depth, certainty, latents, rgb and the cameras."""
    generator = torch.Generator().manual_seed(100 * seed + step)
    poses = [pose(-0.9 + 0.15 * step, 0.3 * row, 0.4 * step + row) for row in (0, 1)]
    shown = [toy_room.render(pose, SIZE, row) for row, pose in enumerate(poses)]
    rgb = torch.from_numpy(np.stack([colours for colours, _ in shown])).movedim(-1, 1).float() / 255
    depth = torch.from_numpy(np.stack([depths for _, depths in shown])).float()
    depth = depth * (1 + 0.02 * torch.randn(depth.shape, generator=generator))
    depth[:, 8:16, 8:14] *= 0.6  # something stands before the wall, with edges
    unsure = torch.rand(depth.shape, generator=generator)
    certainty = torch.where(unsure > 0.9, 0.0, 1.0 / (depth * (0.005 + 0.05 * unsure)).square())
    latents = torch.randn(2, CHANNELS, SIZE // STRIDE, SIZE // STRIDE, generator=generator)
    intrinsics = torch.from_numpy(toy_room.intrinsics(SIZE)).expand(2, 3, 3).clone()
    return depth, certainty, latents, rgb, Camera(intrinsics, torch.from_numpy(np.stack(poses)), SIZE, SIZE)


def listed(step: int) -> Frame:
    """A frame as it is integrated, with new texels of level 2 at the finest."""
    return frame_of(*frame(step, seed=1), torch.tensor([2, 2]))


@pytest.fixture(scope="module")
def world() -> PatchMap:
    """A map of eight frames, with reliefs and evidence that have been shaken since."""
    held = PatchMap.empty(2, BUDGET, TEXELS, CHANNELS, torch.zeros(()))
    for step in range(8):
        held = write_patches(held, *frame(step))
    generator = torch.Generator().manual_seed(1)
    shaken = held.heights + 0.12 * torch.randn(held.heights.shape, generator=generator)
    spread = 10 ** (3 * torch.rand(held.evidence.shape, generator=generator) - 1.5)
    return replace(held, heights=shaken, evidence=held.evidence * spread)


def assert_alike(mine: Tensor, theirs: Tensor, alike: Tensor | None = None) -> None:
    """Equal to 1e-5 wherever `alike`, or but for what lies on a threshold."""
    close = torch.isclose(mine, theirs, rtol=1e-5, atol=1e-5)
    if alike is not None:
        close = close[alike]
    assert (~close).float().mean() <= ON_A_THRESHOLD


def test_surfaces_are_those_of_torch(in_torch) -> None:
    depth, *_, camera = frame(3)
    mine, theirs = surfaces(depth, camera), in_torch(surfaces, depth, camera)
    torch.testing.assert_close(mine.points, theirs.points)
    torch.testing.assert_close(mine.nearest, theirs.nearest, rtol=0, atol=0)
    assert torch.equal(mine.edge, theirs.edge) and 0 < mine.edge.float().mean() < 1
    away = (mine.normals - theirs.normals).abs().amax(-1)
    assert (away > 1e-4).float().mean() <= ON_A_THRESHOLD


def test_the_weight_of_a_depth_falls_off_as_the_exponential_does() -> None:
    x = np.linspace(0, 30, 500, dtype=np.float32)
    exact = np.exp(-np.minimum(x, 20.0).astype(np.float64))
    np.testing.assert_allclose([frame_on_cpu._decay(value) for value in x], exact, rtol=4e-6)


@pytest.mark.parametrize("step", [0, 3, 9])
def test_the_same_patches_are_in_view(world: PatchMap, in_torch, step: int) -> None:
    camera = frame(step)[-1]
    mine, theirs = patch_write._in_view(world, camera), in_torch(patch_write._in_view, world, camera)
    assert torch.equal(mine, theirs)
    assert 0 < len(mine) < int(world.occupied.sum())


def test_a_frame_wants_the_same_patches(world: PatchMap, in_torch) -> None:
    explained = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(5)) > torch.tensor([0.4, 0.9])[:, None, None]
    for step in (3, 12):
        seen = listed(step)
        keys, guess = patch_write._wanted(world, seen, explained)
        their_keys, their_guess = in_torch(patch_write._wanted, world, seen, explained)
        assert torch.equal(keys, their_keys) and bool((keys != patch_write.NOWHERE).any(1).all())
        torch.testing.assert_close(guess, their_guess)


def test_an_explained_frame_wants_nothing(world: PatchMap) -> None:
    keys, guess = patch_write._wanted(world, listed(3), torch.ones(2, SIZE, SIZE, dtype=torch.bool))
    assert keys.shape == guess.shape == (2, 0)


def test_writing_leaves_the_map_that_was_as_it_was(world: PatchMap) -> None:
    before = {name: t.clone() for name, t in world.named_tensors().items()}
    written = write_patches(world, *frame(12))
    assert int(written.occupied.sum()) > int(world.occupied.sum()), "patches were allocated"
    assert all(torch.equal(t, before[name]) for name, t in world.named_tensors().items())


@pytest.mark.parametrize("step", [2, 5, 8])
def test_texels_meet_the_same_fate(world: PatchMap, in_torch, step: int) -> None:
    seen = listed(step)
    old, batch = world.patches(), torch.arange(2).repeat_interleave(BUDGET)
    mine = associate(old, batch, old.mean_heights(), seen)
    theirs = in_torch(associate, old, batch, old.mean_heights(), seen)
    for name in ("matched", "gone", "filled"):
        fate = getattr(theirs, name)
        assert bool(fate.any())
        assert (getattr(mine, name) != fate).float().mean() <= ON_A_THRESHOLD
    assert (mine.look.pixel != theirs.look.pixel).float().mean() <= ON_A_THRESHOLD
    alike = theirs.look.inside & (mine.look.pixel == theirs.look.pixel)
    assert_alike(mine.heights, theirs.heights, alike)
    assert_alike(mine.look.z, theirs.look.z, alike)
    assert_alike(mine.look.uv / SIZE, theirs.look.uv / SIZE, alike)


@pytest.mark.parametrize("step", [2, 5, 8])
def test_patches_change_as_in_torch(world: PatchMap, in_torch, step: int) -> None:
    seen = listed(step)
    old, batch = world.patches(), torch.arange(2).repeat_interleave(BUDGET)
    before = old.heights.clone()
    fusion = opinionated()
    with torch.no_grad():
        mine, explained = integrate(old, batch, old.mean_heights(), seen, fusion)
        theirs, their_pixels = in_torch(integrate, old, batch, old.mean_heights(), seen, fusion)
    assert torch.equal(old.heights, before), "the old patches are left alone"
    assert not torch.equal(mine.heights, before)
    assert_alike(mine.heights, theirs.heights)
    assert_alike(mine.rgb, theirs.rgb)
    assert_alike(mine.latents, theirs.latents)
    assert_alike(mine.evidence, theirs.evidence)
    different = set(explained.tolist()) ^ set(their_pixels.tolist())
    assert len(different) <= 2 and len(explained) > 100


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 4, 11])
@pytest.mark.parametrize("learned", [False, True])
def test_a_frame_is_written_as_in_torch(world: PatchMap, in_torch, step: int, learned: bool) -> None:
    fusion = opinionated() if learned else None
    mine = write_patches(world, *frame(step, seed=2), fusion)
    theirs = in_torch(write_patches, world, *frame(step, seed=2), fusion)
    assert torch.equal(mine.keys().sort(dim=1).values, theirs.keys().sort(dim=1).values)
    assert torch.equal(mine.finest, theirs.finest)
    order, their_order = mine.keys().argsort(dim=1), theirs.keys().argsort(dim=1)
    for name in ("heights", "rgb", "latents", "evidence"):
        values, their_values = getattr(mine, name), getattr(theirs, name)
        assert_alike(
            *(torch.stack([v[row, o[row]] for row in (0, 1)]) for v, o in ((values, order), (their_values, their_order)))
        )


@torch.no_grad()
def test_an_untrained_network_writes_what_the_kalman_filter_does(world: PatchMap) -> None:
    mine, theirs = (write_patches(world, *frame(5), fusion) for fusion in (LearnedWeights(), None))
    assert all(torch.equal(a, b) for a, b in zip(mine.named_tensors().values(), theirs.named_tensors().values(), strict=True))


def test_one_map_of_many_rows_is_written_a_row_each(world: PatchMap) -> None:
    shared = world.index([0]).expand(2)
    apart = shared.map(lambda t: t.clone(memory_format=torch.contiguous_format))
    mine, theirs = (write_patches(held, *frame(5)) for held in (shared, apart))
    assert all(torch.equal(a, b) for a, b in zip(mine.named_tensors().values(), theirs.named_tensors().values(), strict=True))
    assert not torch.equal(mine.evidence[0], mine.evidence[1])


def test_a_full_map_is_written_as_in_torch(world: PatchMap, in_torch) -> None:
    small = world.index(slice(0, 2)).map(lambda t: t[:, :60] if t.dim() > 1 else t)
    assert bool(small.occupied.all())
    mine, theirs = write_patches(small, *frame(12)), in_torch(write_patches, small, *frame(12))
    assert torch.equal(mine.finest, theirs.finest) and bool((mine.finest > small.finest).any())
    assert torch.equal(mine.keys().sort(dim=1).values, theirs.keys().sort(dim=1).values)


def test_the_exponential_is_that_of_libm() -> None:
    x = np.linspace(-90, 90, 721, dtype=np.float32)
    exact = np.exp(np.clip(x, -80, 80).astype(np.float64))
    np.testing.assert_allclose([exp(value) for value in x], exact, rtol=3e-7)


@pytest.mark.parametrize("views", [1, 3])
def test_cameras_read_what_they_read_in_torch(world: PatchMap, in_torch, views: int) -> None:
    values = torch.cat([world.rgb, world.latents], dim=-1)
    poses = [pose(0.2 * view - 0.5, 0.1, 0.9 * view + row) for row in (0, 1) for view in range(views)]
    intrinsics = torch.from_numpy(toy_room.intrinsics(SIZE)).expand(2 * views, 3, 3)
    cameras = Camera(intrinsics, torch.from_numpy(np.stack(poses)), SIZE, SIZE)
    mine, theirs = read_patches(world, values, cameras), in_torch(read_patches, world, values, cameras)
    for found, expected in zip(mine, theirs, strict=True):
        assert found.shape == expected.shape
        close = torch.isclose(found, expected, rtol=1e-4, atol=1e-4)
        assert (~close).float().mean() <= 4 * ON_A_THRESHOLD  # a point on a threshold changes four pixels
    assert float(theirs.visible.mean()) > 0.2 and bool((theirs.visible == 0).any())


def test_an_empty_map_shows_nothing() -> None:
    blank = PatchMap.empty(2, 5, TEXELS, CHANNELS, torch.zeros(()))
    read = read_patches(blank, blank.latents, frame(0)[-1])
    assert [t.shape for t in read] == [(2, CHANNELS, SIZE, SIZE), (2, SIZE, SIZE), (2, SIZE, SIZE)]
    assert all(bool((t == 0).all()) for t in read)


def test_results_do_not_depend_on_how_the_work_is_cut(world: PatchMap, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.cat([world.rgb, world.latents], dim=-1)

    def both() -> tuple[PatchMap, LatentRead]:
        return write_patches(world, *frame(4)), read_patches(world, values, frame(4)[-1])

    written, read = both()
    for module in (frame_on_cpu, associate_on_cpu, integrate_on_cpu, read_on_cpu):
        monkeypatch.setattr(module, "ranges", lambda count, *_: list(pairwise([0, count // 5, count // 2, count])))
    in_parts, read_in_parts = both()
    assert all(
        torch.equal(a, b) for a, b in zip(written.named_tensors().values(), in_parts.named_tensors().values(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(read, read_in_parts, strict=True))


def test_gradients_are_left_to_torch(world: PatchMap) -> None:
    depth, certainty, latents, rgb, camera = frame(4)
    latents.requires_grad_()
    written = write_patches(world, depth, certainty, latents, rgb, camera)
    read = read_patches(written, torch.cat([written.rgb, written.latents], dim=-1), camera)
    (gradient,) = torch.autograd.grad(read.latents.sum(), [latents])
    assert bool((gradient != 0).any())
    with torch.no_grad():
        served = write_patches(world, depth, certainty, latents, rgb, camera)
    assert_alike(served.latents, written.latents.detach())


def test_only_float32_without_gradients_is_compiled(world: PatchMap) -> None:
    learned = torch.zeros(3, requires_grad=True)
    assert compilable(world, torch.zeros(3))
    assert not compilable(world, torch.zeros(3, dtype=torch.float64))
    assert not compilable(world, learned)
    with torch.no_grad():
        assert compilable(world, learned)
