"""What a screen comes to stand in front of is remembered behind it, and forgotten once it is seen to be gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.memory.patches import frame as patch_frame
from embodied_liftwm.memory.patches import integrate as patch_integrate
from embodied_liftwm.memory.patches import read as patch_read
from embodied_liftwm.memory.patches import write as patch_write
from embodied_liftwm.memory.patches.map import HIDDEN, PatchMap
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.write import write_patches
from embodied_liftwm.protocols import Camera
from tests.memory.rooms import BOX, BOX_COLOUR, FOCAL, SIZE, camera, nothing, render

SCREEN = np.array([[0.85, -0.7, 0.3], [0.9, 0.7, 1.7]])  # 15 cm before the box, wider than it
SCREEN_COLOUR = np.array([0.45, 0.45, 0.4])
POSES = [camera((-1.3 + 0.05 * k, 0.15 * (k - 2), 1.0 + 0.03 * k), 0.05 * (k - 2)) for k in range(6)]
LATENTS = torch.zeros(1, 2, SIZE // 2, SIZE // 2)
DOUBT = 0.04
"""Standard deviation of depth, as a share of it: 7 cm, so that box and screen are one to it."""


def shown(seen_by: Camera, box: bool, screen: bool, screen_stands_at: float = 1.0) -> tuple[Tensor, Tensor]:
    """Frame and depth of the room with what stands in it; the screen's depth is misjudged by a factor."""
    rgb, depth = render(seen_by, box)
    if not screen:
        return rgb, depth
    pose = seen_by.world_from_camera[0].double().numpy()
    centres = (np.arange(SIZE) + 0.5 - SIZE / 2) / FOCAL
    rays = np.stack([*np.meshgrid(centres, centres), np.ones((SIZE, SIZE))], -1) @ pose[:3, :3].T
    with np.errstate(divide="ignore", invalid="ignore"):
        slabs = np.sort(np.stack([(side - pose[:3, 3]) / rays for side in SCREEN]), axis=0)
    enters, leaves = slabs[0].max(-1), slabs[1].min(-1)
    hit = torch.from_numpy((enters < leaves) & (enters > 0))
    depth = torch.where(hit, torch.from_numpy(screen_stands_at * enters).float(), depth)
    return torch.where(hit, torch.from_numpy(SCREEN_COLOUR).float().view(1, 3, 1, 1), rgb), depth


def write(world: PatchMap, seen_by: Camera, box: bool, screen: bool, screen_stands_at: float = 1.0) -> PatchMap:
    rgb, depth = shown(seen_by, box, screen, screen_stands_at)
    return write_patches(world, depth, (DOUBT * depth) ** -2, LATENTS, rgb, seen_by)


def of_colour(world: PatchMap, colour: np.ndarray) -> Tensor:
    """Texels of a colour. [K, 3] metres"""
    close = (world.rgb - torch.from_numpy(colour).float()).abs().amax(-1) < 0.1
    return world.points()[close & (world.evidence > 0)]


def box_front(world: PatchMap) -> Tensor:
    """Red texels about where the front of the box is. [K, 3] metres"""
    red = of_colour(world, BOX_COLOUR)
    return red[((red[:, 0] - BOX[0, 0]).abs() < 0.1) & (red[:, 1].abs() < 0.5)]


def hidden(screen_stands_at: float = 1.0, frames: int = 6) -> tuple[PatchMap, PatchMap]:
    """The map before the screen, and after frames of it."""
    before = nothing()
    for seen_by in POSES[:3]:
        before = write(before, seen_by, box=True, screen=False)
    after = before
    for k in range(frames):
        after = write(after, POSES[k % len(POSES)], True, True, screen_stands_at)
    return before, after


@pytest.mark.parametrize("frames", [1, 6, 20])
def test_a_box_is_still_there_behind_a_screen(frames: int):
    before, after = hidden(frames=frames)
    assert len(box_front(before)) > 100
    assert len(box_front(after)) > 0.9 * len(box_front(before))
    front = POSES[0]
    screen = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    screen[SIZE // 2 - 5 : SIZE // 2 + 6, SIZE // 2 - 6 : SIZE // 2 + 6] = True
    read = read_patches(after, after.rgb, front)
    rgb, depth = shown(front, box=True, screen=True)
    close = torch.isclose(read.depths[0][screen], depth[0][screen], rtol=0.03, atol=0)
    assert float(close.float().mean()) > 0.9
    assert float((read.latents - rgb)[0, :, screen].abs().median()) < 0.05, "the screen is what is seen"


def test_from_behind_the_screen_the_box_is_seen_at_its_place():
    _, after = hidden()
    within = camera((1.9, 0.0, 1.0), yaw=np.pi)
    read = read_patches(after, after.rgb, within)
    middle = (slice(SIZE // 2 - 8, SIZE // 2 + 8),) * 2
    assert float(read.visible[0][middle].mean()) > 0.9
    torch.testing.assert_close(read.depths[0][middle].median(), torch.tensor(0.9), rtol=0.1, atol=0)
    colours = read.latents[0][(slice(None), *middle)].flatten(1).median(1).values
    torch.testing.assert_close(colours, torch.from_numpy(BOX_COLOUR).float(), rtol=0, atol=0.1)


def test_a_screen_that_is_judged_farther_than_what_it_hides_does_not_remove_it():
    """By 11 %: its estimated surface lies 8 cm behind the front of the box, which is moved back as far and 3 % more."""
    before, after = hidden(screen_stands_at=1.11)
    red = of_colour(after, BOX_COLOUR)
    assert len(red) > 0.9 * len(box_front(before))
    assert float(red[:, 0].median()) == pytest.approx(1.16, abs=0.02)


def test_both_go_once_they_are_seen_to_be_gone():
    _, world = hidden()
    for seen_by in POSES[:2]:
        world = write(world, seen_by, box=False, screen=False)
    assert len(of_colour(world, BOX_COLOUR)) == 0
    where = of_colour(world, SCREEN_COLOUR)
    assert not bool((((where[:, 0] - SCREEN[0, 0]).abs() < 0.3) & (where[:, 1].abs() < 0.6)).any())


def test_the_box_is_what_is_seen_when_the_screen_alone_goes():
    _, world = hidden()
    for seen_by in POSES[:2]:
        world = write(world, seen_by, box=True, screen=False)
    read = read_patches(world, world.rgb, POSES[0])
    rgb, depth = render(POSES[0], box=True)
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[SIZE // 2 - 4 : SIZE // 2 + 5, SIZE // 2 - 4 : SIZE // 2 + 5] = True
    torch.testing.assert_close(read.depths[0][inside], depth[0][inside], rtol=0.05, atol=0)
    assert float((read.latents - rgb)[0, :, inside].abs().mean()) < 0.1


def test_a_few_texels_of_another_colour_hide_nothing():
    """Borders of objects flicker from one colour to another while nothing stands in front of anything."""
    world = write(nothing(), POSES[0], box=True, screen=False)
    rgb, depth = shown(POSES[0], box=True, screen=False)
    rgb[..., ::5, ::5] = 1.0 - rgb[..., ::5, ::5].round()
    after = write_patches(world, depth, (DOUBT * depth) ** -2, LATENTS, rgb, POSES[0])
    assert not bool((after.faces >= HIDDEN).any())


@torch.no_grad()
def test_what_is_hidden_is_the_same_in_torch(monkeypatch: pytest.MonkeyPatch):
    _, mine = hidden(frames=3)
    for module in (patch_frame, patch_integrate, patch_read, patch_write):
        monkeypatch.setattr(module, "compilable", lambda *_: False)
    _, theirs = hidden(frames=3)
    assert bool((theirs.faces[theirs.occupied] >= HIDDEN).any())
    assert torch.equal(mine.keys().sort().values, theirs.keys().sort().values)
    order, their_order = mine.keys().argsort(), theirs.keys().argsort()
    for name in ("heights", "rgb", "evidence"):
        values, their_values = (getattr(w, name)[0, o[0]] for w, o in ((mine, order), (theirs, their_order)))
        close = torch.isclose(values, their_values, rtol=1e-4, atol=1e-4)
        assert float((~close).float().mean()) < 1e-3, name


def test_what_is_hidden_keeps_its_gradient():
    latents = LATENTS.clone().requires_grad_()
    rgb, depth = render(POSES[0], box=True)
    world = write_patches(nothing(), depth, (DOUBT * depth) ** -2, latents, rgb, POSES[0])
    world = write(world, POSES[0], box=True, screen=True)
    behind = (world.faces >= HIDDEN)[..., None, None] & (world.evidence > 0)[..., None]
    (gradient,) = torch.autograd.grad((world.latents * behind).sum(), latents)
    assert float(gradient.abs().sum()) > 0
