"""Coarsening patches: a budget limits detail, never extent and never colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.coarsen import add_coarsened
from embodied_liftwm.memory.patches.frame import least_levels
from embodied_liftwm.memory.patches.map import DETAIL_LEVELS, MAX_LEVEL, Patches, PatchMap
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.protocols import Camera
from tests.memory.rooms import SMOOTHNESS, camera, nothing, render, write

EXACT = "donot_use_mm_for_euclid_dist"
TOUR = [camera((0.2, 0.1, 1.2), yaw) for yaw in np.arange(0.0, 6.2, 0.5)]


def wall(rows: int, columns: int) -> Patches:
    """Patches of level 0 side by side on the plane x = 1.003, in a pattern of colours, each texel of evidence 2."""
    y, z = (t.flatten() for t in torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="ij"))
    count, blank = rows * columns, torch.zeros(rows * columns, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    return Patches(
        cells=torch.stack([torch.full_like(y, 6), y, z], dim=1),  # of 0.16 m
        faces=blank,
        levels=blank,
        heights=torch.full((count, 64), 1.003),
        rgb=torch.rand(count, 64, 3, generator=generator),
        latents=torch.rand(count, 64, 2, generator=generator),
        evidence=torch.full((count, 64), 2.0),
    )


def texels(world: PatchMap) -> tuple[np.ndarray, np.ndarray]:
    """Points of the texels that are not empty [K, 3], and their edges [K] in metres."""
    there = world.evidence > 0
    edges = 0.02 * np.sqrt(2.0) ** world.levels.numpy()
    return world.points()[there].double().numpy(), np.broadcast_to(edges[..., None], there.shape)[there.numpy()]


def inside(points: np.ndarray, centres: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Which points [K, 3] of the wall lie in some texel."""
    apart = np.abs(points[:, None, 1:] - centres[None, :, 1:]).max(-1)
    return (apart <= 0.5 * edges + 1e-9).any(1)


@pytest.mark.parametrize("budget", [16, 20, 30])
def test_a_wall_is_covered_as_before_by_coarser_texels(budget: int):
    """48 patches do not fit. But for a border of one coarse texel, the same is covered, in the same colours."""
    patches, slope = wall(6, 8), 0.5
    centres, _ = texels(add_coarsened(nothing(48), 0, patches))
    low, high = centres[:, 1:].min(0), centres[:, 1:].max(0)
    assert len(centres) == 48 * 64
    u, v = torch.arange(64) % 8, torch.arange(64) // 8
    place = patches.cells[:, None, 1:] * 0.16 + 0.02 * (torch.stack([u, v], dim=-1) + 0.5)
    shaded = patches._replace(rgb=torch.nn.functional.pad(slope * place, (0, 1)))  # colours tell the place
    world = add_coarsened(nothing(budget), 0, shaded)
    assert int(world.occupied.sum()) <= budget and int(world.finest) > 0
    assert set(world.levels[world.occupied].tolist()) == {int(world.finest)}
    points, edges = texels(world)
    edge = edges.max()
    np.testing.assert_allclose(points[:, 0], 1.003, atol=1e-6)
    inner = ((centres[:, 1:] > low + edge) & (centres[:, 1:] < high - edge)).all(1)
    assert inner.sum() > 500 and inside(centres[inner], points, edges).all()
    assert ((points[:, 1:] > low - edge) & (points[:, 1:] < high + edge)).all()
    told = world.rgb[world.evidence > 0].numpy() / slope
    assert np.abs(told[:, :2] - points[:, 1:]).max() < edge
    np.testing.assert_allclose(told[:, :2].mean(0), centres[:, 1:].mean(0), atol=0.5 * edge)


def test_a_coarse_texel_is_the_mean_of_those_whose_centres_lie_in_it():
    patches = wall(6, 8)
    centres, _ = texels(add_coarsened(nothing(48), 0, patches))
    u, v = np.arange(64) % 8, np.arange(64) // 8
    corners = patches.cells[:, 1:].numpy()[:, None] * 0.16
    places = (corners + 0.02 * (np.stack([u, v], axis=-1) + 0.5)).reshape(-1, 2)
    assert sorted(map(tuple, places.round(4))) == sorted(map(tuple, centres[:, 1:].round(4)))
    world = add_coarsened(nothing(40), 0, patches)
    assert set(world.levels[world.occupied].tolist()) == {1}
    points, edges = texels(world)
    members = (np.abs(points[:, None, 1:] - places) < 0.5 * edges[:, None, None]).all(-1).astype(float)
    assert set(members.sum(1)) == {1.0, 2.0, 4.0}
    expected = members @ patches.rgb.flatten(0, 1).numpy() / members.sum(1, keepdims=True)
    np.testing.assert_allclose(world.rgb[world.evidence > 0].numpy(), expected, atol=1e-5)


def test_means_are_weighted_by_evidence_and_evidence_is_the_largest():
    """Two texels that fall into one: a quarter of the evidence, a quarter of the say."""
    patches = wall(2, 17)
    evidence = torch.zeros_like(patches.evidence)
    evidence[:, 0], evidence[:, 1], evidence[:, 8] = 3.0, 1.0, 0.0
    heights = torch.full_like(patches.heights, 1.003)
    heights[:, 1] = 1.007
    world = add_coarsened(nothing(16), 0, patches._replace(evidence=evidence, heights=heights))
    assert int(world.occupied.sum()) <= 16
    merged = (world.evidence > 0) & (world.heights - 1.004).abs().lt(1e-5)
    assert bool(merged.any())
    assert set(world.evidence[merged].tolist()) == {3.0}
    found = world.rgb[merged]
    weighted = 0.75 * patches.rgb[:, 0] + 0.25 * patches.rgb[:, 1]
    assert float(torch.cdist(found, weighted, compute_mode=EXACT).amin(1).max()) < 1e-5


def test_what_differs_in_hue_keeps_finer_texels_than_a_pattern_of_greys():
    """48 patches in 20: the pattern pays for it, and the red thing in it is as red as before and no larger."""
    patches = wall(6, 8)
    grey = patches.rgb.mean(-1, keepdim=True).expand_as(patches.rgb).clone()
    red = torch.zeros(48, 64, dtype=torch.bool)
    red[20, 8:32], red[26, 8:32] = True, True  # three rows of texels of two neighbours: larger ones would mix them
    red_rgb = torch.tensor([0.9, 0.1, 0.1])
    world = add_coarsened(nothing(20), 0, patches._replace(rgb=torch.where(red[..., None], red_rgb, grey)))
    there, levels = world.evidence > 0, world.levels[..., None].expand_as(world.evidence)
    assert int(world.occupied.sum()) <= 20
    is_red = there & ((world.rgb - red_rgb).abs().amax(-1) < 0.05)
    area = (0.02 * 2.0 ** (0.5 * levels[is_red].float())).square().sum()
    assert float(area) == pytest.approx(48 * 0.02**2, rel=0.15)
    assert int(levels[is_red].max()) < int(levels[there & ~is_red].max()) == int(world.finest)
    plain = add_coarsened(nothing(20), 0, patches._replace(rgb=grey))
    assert set(plain.levels[plain.occupied].tolist()) == {int(plain.finest)}


def test_new_texels_are_finer_where_the_usual_ones_would_mix_hues():
    """Level 6 is 16 cm: 8 pixels here. A red square in a pattern of greys has finer texels up to half of that around it."""
    size, focal, depth, finest = 64, 100.0, 2.0, 6
    seen_by = Camera(torch.tensor([[[focal, 0, 32], [0, focal, 32], [0, 0, 1.0]]]), torch.eye(4)[None], size, size)
    rgb = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1, 1)
    depths = torch.full((1, size, size), depth)
    given = depths, seen_by
    assert set(least_levels(rgb, *given, torch.tensor([finest])).flatten().tolist()) == {finest}
    rgb[0, :, 20:24, 40:44] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    levels = least_levels(rgb, *given, torch.tensor([finest]))[0]
    fine = (levels == finest - DETAIL_LEVELS).nonzero()
    assert set(levels.flatten().tolist()) == {finest, finest - DETAIL_LEVELS}
    assert fine.amin(0).tolist() == [16, 36] and fine.amax(0).tolist() == [27, 47] and len(fine) == 12 * 12
    assert not bool(least_levels(rgb, *given, torch.tensor([0])).any())


def test_patches_that_fit_are_left_alone():
    patches = wall(2, 8)
    world = add_coarsened(nothing(16), 0, patches)
    assert int(world.occupied.sum()) == 16 and int(world.finest) == 0
    order = world.patches().cells.unique(dim=0)
    assert torch.equal(order, patches.cells.unique(dim=0))
    assert torch.equal(world.rgb.sort(dim=1).values, patches.rgb[None].sort(dim=1).values)


def test_only_the_finest_become_coarser():
    patches = wall(4, 4)
    coarse = wall(1, 4)
    coarse = coarse._replace(levels=torch.full_like(coarse.levels, 8), cells=coarse.cells + torch.tensor([0, 9, 9]))
    world = add_coarsened(nothing(16), 0, Patches(*(torch.cat(pair) for pair in zip(patches, coarse, strict=True))))
    left = world.levels[0] == 8
    assert int(left.sum()) == 4
    assert torch.equal(world.rgb[0, left].sort(dim=0).values, coarse.rgb.sort(dim=0).values)
    assert 0 < int(world.levels[0, world.occupied[0] & ~left].max()) < 8


def test_scattered_patches_all_keep_a_place():
    """A coarser lattice does not nest in a finer one: each of these is cut in several before they become fewer."""
    patches = wall(5, 5)
    patches = patches._replace(cells=patches.cells * torch.tensor([1, 3, 3]))
    world = add_coarsened(nothing(24), 0, patches)
    assert int(world.occupied.sum()) <= 24
    points, edges = texels(world)
    for cell in patches.cells.tolist():
        middle = [1.003, 0.16 * (cell[1] + 0.5), 0.16 * (cell[2] + 0.5)]
        assert ((np.abs(points - middle) < 0.51 * edges[:, None]).all(1)).any(), cell


def test_a_frame_that_alone_exceeds_the_budget_leaves_a_coarse_map_and_not_none():
    world = write(write(nothing(16), TOUR[0]), TOUR[6])
    assert 8 < int(world.occupied.sum()) <= 16
    assert int(world.finest) < 12 < MAX_LEVEL


@pytest.mark.parametrize(("budget", "covered"), [(24, 0.9), (96, 0.95)])
def test_a_tour_is_still_seen_all_around_however_small_the_budget(budget: int, covered: float):
    world = nothing(budget)
    for seen_by in TOUR:
        world = write(world, seen_by)
    edge = float(texels(world)[1].max())
    for seen_by in TOUR:
        rgb, _ = render(seen_by)
        read = read_patches(world, world.rgb, seen_by)
        seen = read.visible > 0.5
        assert float(seen.float().mean()) > covered
        error = (read.latents - rgb).abs().amax(1)[seen]
        assert float(error.mean()) < SMOOTHNESS * edge  # colours change by no more within a texel


def test_rows_are_coarsened_by_themselves():
    filled, other = wall(3, 5), write(nothing(16), TOUR[3])
    both = nothing(16, rows=2)
    names = iter(other.named_tensors().values())
    both = both.map(lambda t: torch.cat([t[:1], next(names)]))
    after = add_coarsened(both, 0, wall(6, 8))
    for name, tensor in other.named_tensors().items():
        assert torch.equal(after.named_tensors()[name][1:], tensor), name
    alone = add_coarsened(nothing(16), 0, wall(6, 8))
    for name, tensor in alone.named_tensors().items():
        assert torch.equal(after.named_tensors()[name][:1], tensor), name
    assert len(filled.faces) < 16 < int(after.occupied.sum())


def test_gradients_flow_through_a_merge():
    patches = wall(4, 5)
    values = [patches.heights, patches.rgb, patches.latents]
    inputs: list[Tensor] = [t.clone().requires_grad_() for t in values]
    heights, rgb, latents = inputs
    world = add_coarsened(nothing(16), 0, patches._replace(heights=heights, rgb=rgb, latents=latents))
    total = world.heights.sum() + world.rgb.sum() + world.latents.sum()
    for gradient in torch.autograd.grad(total, inputs):
        assert float(gradient.min()) > 0.0
        cells = int((world.evidence > 0).sum())
        assert float(gradient.sum()) == pytest.approx(cells * gradient[0, 0].numel(), rel=1e-4)
    assert int(world.finest) > 0
