"""Reading patches: what a camera must see of them, what must hide what, and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.memory.latents.read import read_latents, read_placed
from embodied_liftwm.memory.patches.map import PatchMap, texel_m
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import concatenate
from tests.memory.rooms import FOCAL, SIZE, SMOOTHNESS, camera, nothing, render, write

HOME = camera((-1.0, 0.0, 1.3))
AWAY = camera((-0.7, 0.3, 1.2), yaw=-0.15, pitch=0.05)


def around(image: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest of the 3 x 3 pixels around each. [1, H, W]"""
    return -F.max_pool2d(-image, 3, 1, 1), F.max_pool2d(image, 3, 1, 1)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("seen_by", "covered"), [(HOME, 0.98), (AWAY, 0.9)])
def test_a_room_written_from_one_camera_is_seen_as_it_is(seen_by: Camera, covered: float, box: bool):
    """Depths lie among those of the pixels around; colours differ by what they change within a texel and a pixel.

    From elsewhere less is covered: that camera's view reaches past what was written, and behind the box.
    """
    world = write(nothing(), HOME, box)
    rgb, depth = render(seen_by, box)
    read = read_patches(world, world.rgb, seen_by)
    seen = read.visible > 0.5
    assert float(seen.float().mean()) > covered
    least, largest = around(depth)
    fits = (read.depths > 0.99 * least) & (read.depths < 1.01 * largest)
    assert float(fits[seen].float().mean()) > 0.97
    reach = float(texel_m(world.levels[world.occupied].max(), rgb)) + 2 * depth.max() / FOCAL
    right = (read.latents - rgb).abs().amax(1) < SMOOTHNESS * reach
    assert float(right[seen].float().mean()) > 0.98
    assert 0.02 < SMOOTHNESS * reach < 0.15


def test_an_empty_map_reads_as_zeros():
    noise = replace(nothing(), heights=torch.full((1, 256, 64), 2.0), rgb=torch.ones(1, 256, 64, 3))
    read = read_patches(noise, noise.rgb, HOME)
    assert [t.shape for t in read] == [(1, 3, SIZE, SIZE), (1, SIZE, SIZE), (1, SIZE, SIZE)]
    assert all(bool((t == 0).all()) for t in read)


def board(x_m: float, level: int, dtype: torch.dtype = torch.float32) -> PatchMap:
    """One patch of 8 x 8 texels that faces the camera at the origin, x metres ahead of it and around its axis."""
    world = PatchMap.empty(1, 1, 8, 1, torch.zeros((), dtype=dtype))
    texels = (1, 1, 64)
    return replace(
        world,
        cells=torch.tensor([[[0, 0, 0]]]),
        faces=torch.ones(1, 1, dtype=torch.int64),
        levels=torch.full((1, 1), level),
        heights=torch.full(texels, x_m, dtype=dtype),
        rgb=torch.full((*texels, 3), 0.5, dtype=dtype),
        evidence=torch.full(texels, 1e5, dtype=dtype),
    )


def side_by_side(first: PatchMap, second: PatchMap) -> PatchMap:
    """The patches of both in one row."""
    theirs = iter(second.named_tensors().values())
    joined = first.map(lambda t: torch.cat([t, next(theirs)], dim=1) if t.dim() > 1 else t)
    return joined


def middle(world: PatchMap) -> Camera:
    """The camera at x = 0 that looks at the middle of a board from the side it faces."""
    _, y, z = world.points()[0, 0].mean(0).tolist()
    return camera((0.0, y, z), dtype=world.heights.dtype)


@pytest.mark.parametrize("pixels_a_texel", [0.5, 2.0, 7.9])
def test_a_board_hides_what_is_behind_it_however_near_it_is(pixels_a_texel: float):
    near = board(0.02 * FOCAL / pixels_a_texel, level=0)
    far = board(4.0, level=12)  # 10 x 10 m of wall
    far = replace(far, cells=torch.tensor([[[0, -1, -1]]]), rgb=torch.ones_like(far.rgb))
    behind = [replace(far, cells=torch.tensor([[[0, y, z]]])) for y in (-1, 0) for z in (-1, 0)]
    world = near
    for wall in behind:
        world = side_by_side(world, wall)
    read = read_patches(world, world.rgb, middle(near))
    half = 4 * pixels_a_texel  # of the board, pixels
    centres = (torch.arange(SIZE) + 0.5 - SIZE / 2).abs()
    distance = torch.maximum(centres[:, None], centres[None, :]) - half
    inside, outside = distance < -1.0, distance > 1.0
    assert int(inside.sum()) >= 4 and (pixels_a_texel > 4 or int(outside.sum()) > 1000)
    assert bool((read.latents[0, 0][inside] - 0.5).abs().max() < 1e-5)
    torch.testing.assert_close(read.depths[0][inside], near.heights.flatten()[:1].expand(int(inside.sum())))
    assert outside.sum() == 0 or bool((read.latents[0, 0][outside] - 1.0).abs().max() < 1e-5)
    torch.testing.assert_close(read.depths[0][outside], torch.full((int(outside.sum()),), 4.0))


def test_a_slope_is_closed_too():
    """Relief that rises by a texel a column: its points lie on the slope, and leave no gap."""
    flat = board(0.3, level=0)
    ramp = replace(flat, heights=flat.heights + 0.02 * (torch.arange(8) - 3.5).repeat(8))
    read = read_patches(ramp, ramp.rgb, middle(ramp))
    seen = read.visible[0]
    rows, columns = (seen > 0.5).nonzero().unbind(1)
    hull = seen[rows.min() + 2 : rows.max() - 1, columns.min() + 2 : columns.max() - 1]
    assert hull.numel() > 100
    across = read.depths[0][SIZE // 2 - 3 : SIZE // 2 + 3, SIZE // 2 - 3 : SIZE // 2 + 3]
    assert bool((across > 0).all())
    # Columns run along y, which is to the left: depth falls to the right, at 45 degrees, by z / (f - u) a pixel.
    u = torch.arange(SIZE // 2 - 3, SIZE // 2 + 3) + 0.5 - SIZE / 2
    y = middle(ramp).world_from_camera[0, 1, 3] - 0.08
    expected = (0.3 + y) / (1 + u / FOCAL)
    torch.testing.assert_close(across, expected.expand(6, 6), atol=0.004, rtol=0)


def test_rows_and_views_do_not_mix():
    first, second = write(nothing(), HOME), write(nothing(), AWAY, box=True)
    both = concatenate([first, second])
    views = concatenate([AWAY, HOME, HOME, AWAY])  # two of each row
    assert isinstance(both, PatchMap) and isinstance(views, Camera)
    together = read_patches(both, both.rgb, views)
    for view, (world, seen_by) in enumerate([(first, AWAY), (first, HOME), (second, HOME), (second, AWAY)]):
        alone = read_patches(world, world.rgb, seen_by)
        assert float(alone.visible.mean()) > 0.5
        for mine, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(mine[view : view + 1], theirs, atol=2e-5, rtol=1e-5)


def test_gradients_reach_values_and_heights():
    """Texels are smaller than a pixel here, so that each is one point and its slope plays no part."""
    generator = torch.Generator().manual_seed(0)
    world = board(0.8 * FOCAL * 0.02 / 0.5, level=0, dtype=torch.float64)
    there = (torch.arange(64) % 4 == 0) & (torch.arange(64) // 8 % 4 == 0)  # texels that share no pixel
    evidence = torch.where(there, world.evidence, 0.0)
    values = torch.randn(4, 2, dtype=torch.float64, generator=generator).requires_grad_()
    heights = (0.8 * FOCAL * 0.04 + 0.01 * torch.rand(4, dtype=torch.float64, generator=generator)).requires_grad_()
    seen_by = middle(world)
    seen_by.world_from_camera[:, 1:3, 3] += torch.tensor([0.013, 0.007], dtype=torch.float64)

    def read(values: Tensor, heights: Tensor) -> tuple[Tensor, ...]:
        lifted = replace(world, heights=world.heights.clone().masked_scatter(there, heights), evidence=evidence)
        spread = torch.zeros(1, 1, 64, 2, dtype=torch.float64).masked_scatter(there[:, None], values)
        return tuple(t[..., SIZE // 2 - 5 : SIZE // 2 + 5, SIZE // 2 - 5 : SIZE // 2 + 5] for t in
                     read_patches(lifted, spread, seen_by))  # fmt: skip

    assert torch.autograd.gradcheck(read, (values, heights))
    gradients = torch.autograd.grad(sum(t.square().sum() for t in read(values, heights)), (values, heights))
    assert all(bool((gradient != 0).all()) for gradient in gradients)


def test_points_placed_by_hand_are_read_like_any_others():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(1, 60, 3, generator=generator, dtype=torch.float64) + torch.tensor([2.0, 0.0, 1.3])
    latents = torch.randn(1, 60, 2, generator=generator, dtype=torch.float64)
    weights = torch.rand(1, 60, generator=generator, dtype=torch.float64)
    views = concatenate([camera((-1.0, 0.0, 1.3), dtype=torch.float64), camera((-1.0, 0.5, 1.0), 0.2, dtype=torch.float64)])
    assert isinstance(views, Camera)
    expected = read_latents(points, latents, weights, views, 4)
    twice = (t[0].repeat(2, *[1] * (t.dim() - 2)) for t in (points, latents, weights))
    which = torch.arange(2).repeat_interleave(60)
    order = torch.randperm(120, generator=generator)
    found = read_placed(*(t[order] for t in twice), which[order], views, 4)
    assert bool((expected.visible > 0).any())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


def test_a_doubtful_texel_hides_none_that_is_sure_and_shows_where_there_is_no_other():
    near, far = board(0.16, level=0), board(4.0, level=12)
    doubtful = replace(near, evidence=torch.full_like(near.evidence, 1.0))  # known to a metre, seen from 16 cm
    far = replace(far, cells=torch.tensor([[[0, -1, -1]]]), rgb=torch.ones_like(far.rgb))
    seen_by = middle(near)
    wall = side_by_side(*[replace(far, cells=torch.tensor([[[0, y, -1]]])) for y in (-1, 0)])
    walls = side_by_side(wall, replace(wall, cells=wall.cells + torch.tensor([0, 0, 1])))
    centre = (0, slice(None), SIZE // 2, SIZE // 2)
    for world, colour in ((side_by_side(near, walls), 0.5), (side_by_side(doubtful, walls), 1.0), (doubtful, 0.5)):
        read = read_patches(world, world.rgb, seen_by)
        torch.testing.assert_close(read.latents[centre], torch.full((3,), colour))
    assert 0 < float(read.visible[0, SIZE // 2, SIZE // 2]) < 1
