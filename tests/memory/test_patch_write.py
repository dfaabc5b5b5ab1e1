"""Writing frames into patches: what is seen is there, what is gone goes, and what is out of view stays bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.map import NOWHERE, PatchMap, texel_m
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.write import write_patches
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import concatenate
from tests.memory.rooms import BOX, FOCAL, ROOM, SIZE, camera, nothing, render, write

HOME = camera((-1.0, 0.0, 1.3))


def keys(world: PatchMap) -> list[int]:
    found = world.keys().flatten()
    return found[found != NOWHERE].tolist()


def texels(world: PatchMap) -> Tensor:
    """Points of the texels that are not empty. [K, 3]"""
    return world.points()[world.evidence > 0]


def changed(before: PatchMap, after: PatchMap) -> Tensor:
    """Texels of which any bit changed; a patch's own numbers count for all of them. [B, N, M] bool"""
    found = torch.zeros_like(before.evidence, dtype=torch.bool)
    for name in ("cells", "faces", "levels", "heights", "rgb", "latents", "evidence"):
        differs = getattr(before, name) != getattr(after, name)
        if name in ("cells", "rgb", "latents"):
            differs = differs.any(-1)
        found |= differs if differs.dim() == 3 else differs[..., None]
    return found


def pixels(world: PatchMap, seen_by: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates [B, N, M, 2] and depth of every texel in one camera, in numpy."""
    view = np.linalg.inv(seen_by.world_from_camera[0].double().numpy())
    local = world.points().double().numpy() @ view[:3, :3].T + view[:3, 3]
    return FOCAL * local[..., :2] / local[..., 2:] + SIZE / 2, local[..., 2]


@pytest.mark.parametrize("box", [False, True])
def test_texels_lie_on_the_surfaces_that_were_seen(box: bool):
    world = write(nothing(), HOME, box)
    points = texels(world).double().numpy()
    assert len(points) > 2000
    walls = np.abs(points[:, None] - ROOM).min((1, 2))
    outside = np.maximum(BOX[0] - points, points - BOX[1]).max(1)
    distance = np.minimum(walls, np.abs(outside)) if box else walls
    depth = pixels(world, HOME)[1][world.evidence.numpy() > 0]
    assert np.quantile(distance, 0.3) < 1e-6  # walls that are faced
    within = distance < 0.5 * depth / FOCAL + 1e-3  # slanted ones are where the middle of the pixel is: half a pixel aside
    assert within.mean() > 0.98
    if box:
        front = points[np.abs(points[:, 0] - BOX[0, 0]) < 1e-3]
        assert len(front) * float(texel_m(world.levels[world.occupied].min(), torch.zeros(()))) ** 2 > 0.4
        assert np.all(np.abs(front[:, 1]) < 0.5) and np.all(np.abs(front[:, 2] - 1.0) < 0.5)


LOOKS = {0: np.pi, 1: 0.0, 2: -np.pi / 2, 3: np.pi / 2}


@pytest.mark.parametrize("face", range(6))
def test_a_wall_makes_patches_of_the_face_it_shows(face: int):
    """Even faces look up their axis, so a camera that looks down it sees them."""
    eye = (0.3, -0.2, 1.1)
    pitch = {4: np.pi / 2, 5: -np.pi / 2}.get(face, 0.0)
    seen_by = camera(eye, yaw=LOOKS.get(face, 0.0), pitch=pitch)
    depth = torch.full((1, SIZE, SIZE), 1.5)
    latents, white = torch.zeros(1, 2, 24, 24), torch.ones(1, 3, SIZE, SIZE)
    world = write_patches(nothing(), depth, torch.full_like(depth, 1e4), latents, white, seen_by)
    assert set(world.faces[world.occupied].tolist()) == {face}
    wall = eye[face // 2] + (1.5 if face % 2 else -1.5)
    heights = world.heights[world.evidence > 0]
    torch.testing.assert_close(heights, torch.full_like(heights, wall), atol=1e-5, rtol=0)
    read = read_patches(world, world.rgb, seen_by)
    assert float((read.visible > 0.5).float().mean()) > 0.99
    size = texel_m(world.levels[world.occupied], depth)
    assert bool((size / (1.5 / FOCAL)).log2().abs().max() <= 0.25 + 1e-6)  # nearest to a pixel, in steps of sqrt(2)


def test_the_same_frame_again_allocates_nothing():
    once = write(nothing(), HOME, box=True)
    again = write(once, HOME, box=True)
    assert sorted(keys(again)) == sorted(keys(once))
    both = (once.evidence > 0) & (again.evidence > 0)
    assert float(both.sum() / (once.evidence > 0).sum()) > 0.99
    gained = (again.evidence / once.evidence)[both]
    assert float((gained > 1.5).float().mean()) > 0.9 and float(gained.median()) == pytest.approx(2.0)
    moved = (again.heights - once.heights)[both].abs()
    assert float(moved.median()) == 0.0 and float(moved.quantile(0.95)) < 0.5 * 3.0 / FOCAL  # half a pixel of the far wall
    third = write(again, HOME, box=True)
    assert sorted(keys(third)) == sorted(keys(once))


def test_what_is_seen_twice_is_averaged_by_evidence():
    """A wall at 2.0 m of evidence 300, then at 2.02 m of evidence 100: it is at 2.005 m, a quarter of the way."""
    depth, latents, rgb = torch.full((1, SIZE, SIZE), 2.0), torch.zeros(1, 2, 24, 24), torch.zeros(1, 3, SIZE, SIZE)
    first = write_patches(nothing(), depth, torch.full_like(depth, 300.0), latents, rgb, HOME)
    second = write_patches(first, depth + 0.02, torch.full_like(depth, 100.0), latents + 1.0, rgb + 0.1, HOME)
    u, v = np.moveaxis(pixels(first, HOME)[0], -1, 0)
    inner = torch.from_numpy((u > 2) & (u < SIZE - 2) & (v > 2) & (v < SIZE - 2)) & (first.evidence > 0)
    assert int(inner.sum()) > 500
    for found, expected in (
        (second.heights, -1.0 + 2.005),
        (second.rgb, 0.025),
        (second.latents, 0.25),
        (second.evidence, 400.0),
    ):
        torch.testing.assert_close(found[inner], torch.full_like(found[inner], expected), rtol=1e-4, atol=1e-4)


def test_old_evidence_does_not_outweigh_a_new_frame_for_ever():
    depth, latents, rgb = torch.full((1, SIZE, SIZE), 2.0), torch.zeros(1, 2, 24, 24), torch.zeros(1, 3, SIZE, SIZE)
    certainty = torch.full_like(depth, 100.0)
    world = write_patches(nothing(), depth, 1e6 * certainty, latents, rgb, HOME)
    after = write_patches(world, depth, certainty, latents, rgb + 0.09, HOME)
    inner = world.evidence > 0
    torch.testing.assert_close(after.rgb[inner].median(), torch.tensor(0.01))  # 1 against 8


def test_what_is_seen_through_goes():
    world = write(nothing(), HOME, box=True)
    here = world.points()
    low, high = (torch.from_numpy(side).float() for side in (BOX[0] - 0.05, BOX[1] + 0.05))
    box = ((here > low) & (here < high)).all(-1) & (world.evidence > 0)
    assert int(box.sum()) > 100
    after = write(world, HOME, box=False)
    points = texels(after)
    assert not bool(((points > low) & (points < high)).all(-1).any())
    rgb, depth = render(HOME, box=False)
    read = read_patches(after, after.rgb, HOME)
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[SIZE // 2 : SIZE // 2 + 12, SIZE // 2 - 6 : SIZE // 2 + 6] = True  # all of it was box
    assert float(render(HOME, box=True)[1][0][inside].max()) == pytest.approx(2.0)
    torch.testing.assert_close(read.depths[0][inside], depth[0][inside], rtol=0.02, atol=0)
    torch.testing.assert_close(read.latents[0][:, inside], rgb[0][:, inside], rtol=0, atol=0.1)


def test_what_is_behind_an_object_stays_and_so_does_the_object_when_hidden():
    """An object that comes between hides what was written behind it, and does not remove it; nor the other way round."""
    empty = write(nothing(), HOME, box=False)
    filled = write(empty, HOME, box=True)
    u, z = pixels(empty, HOME)
    covered = (np.abs(u[..., 0] - SIZE / 2) < 5) & (np.abs(u[..., 1] - SIZE / 2 - 6) < 5) & (z > 2.8)
    wall = torch.from_numpy(covered) & (empty.evidence > 0)
    assert int(wall.sum()) > 20
    assert not bool(changed(empty, filled)[wall].any())
    assert len(keys(filled)) > len(keys(empty))


def test_what_is_out_of_view_stays_bit_for_bit():
    world = write(nothing(), HOME, box=True)
    turned = camera((-1.0, 0.0, 1.3), yaw=0.9)
    after = write(world, turned, box=True)
    uv, z = pixels(world, turned)
    outside = (z < 0) | (np.abs(uv - SIZE / 2) > SIZE / 2 + 0.01).any(-1)
    kept = torch.from_numpy(outside) & (world.evidence > 0)
    assert int(kept.sum()) > 1000
    assert not bool(changed(world, after)[kept].any())
    assert bool(changed(world, after)[~kept].any())
    back = camera((-1.0, 0.0, 1.3), yaw=np.pi)
    behind = write(after, back, box=True)
    assert not bool(changed(after, behind)[after.occupied].any())
    assert len(keys(behind)) > len(keys(after))


def test_pixels_without_certainty_write_nothing():
    rgb, depth = render(HOME)
    latents = torch.zeros(1, 2, 24, 24)
    for world in (nothing(), write(nothing(), HOME)):
        for stretch in (0.7, 1.0, 1.4):  # a surface before what is held, on it, and behind it
            after = write_patches(world, stretch * depth, torch.zeros_like(depth), latents, 1.0 - rgb, HOME)
            for name, tensor in world.named_tensors().items():
                assert torch.equal(tensor, after.named_tensors()[name]), name
    half = torch.where(torch.arange(SIZE) < SIZE // 2, 1e4, 0.0).expand_as(depth)
    world = write_patches(nothing(), depth, half, latents, rgb, HOME)
    u = pixels(world, HOME)[0][..., 0][world.evidence.numpy() > 0]
    assert len(u) > 500 and u.max() < SIZE / 2 + 0.01


def test_the_budget_is_never_exceeded_and_no_place_is_lost():
    roomy, tight = nothing(512), nothing(24)
    size, finest = tight.nbytes(), []
    for yaw in np.arange(0.0, 2 * np.pi, 0.5):
        seen_by = camera((0.2, 0.1, 1.2), yaw)
        roomy, tight = write(roomy, seen_by), write(tight, seen_by)
        assert int(tight.occupied.sum()) <= 24 and tight.nbytes() == size
        assert len(set(keys(tight))) == len(keys(tight))
        finest.append(int(tight.finest))
    assert len(keys(roomy)) > 100 and finest == sorted(finest) and finest[-1] > 0
    coarse = texels(tight)
    reach = float(texel_m(tight.levels[tight.occupied].max(), coarse))
    distance = torch.cdist(texels(roomy), coarse).amin(1)
    assert float((distance < reach).float().mean()) > 0.97


def test_rows_of_a_batch_do_not_meet():
    """One row is full and has to coarsen; the other has the same slots to itself."""
    there = camera((1.0, 0.5, 1.0), yaw=2.5)
    latents = torch.rand(2, 1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    first, second = write(nothing(40), HOME), write(nothing(40), there)
    alone = [write(first, there, latents=latents[0]), write(second, there, True, latents[1])]
    rgb, depth = (torch.cat(pair) for pair in zip(render(there), render(there, True), strict=True))
    both = concatenate([first, second])
    views = concatenate([there, there])
    assert isinstance(both, PatchMap) and isinstance(views, Camera)
    together = write_patches(both, depth, (0.01 * depth) ** -2, latents.squeeze(1), rgb, views)
    assert together.finest[0] > together.finest[1]
    for row in range(2):
        for name, tensor in together.index([row]).named_tensors().items():
            torch.testing.assert_close(tensor, alone[row].named_tensors()[name], rtol=1e-4, atol=1e-5, msg=name)


def frontal(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, certainty, latents and frame of a wall that the camera faces."""
    depth = torch.full((1, SIZE, SIZE), 1.5, dtype=dtype)
    latents = torch.rand(1, 2, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    return depth, torch.full_like(depth, 1e4), latents, torch.full((1, 3, SIZE, SIZE), 0.5, dtype=dtype)


def test_gradients_reach_latents_and_depth():
    """By finite differences: a wall that is faced, so that moving it moves no texel to another pixel."""
    here = camera((-1.013, 0.007, 1.311), dtype=torch.float64)
    depth, certainty, latents, rgb = frontal(torch.float64)
    empty = nothing(64, dtype=torch.float64)
    start = write_patches(empty, depth, certainty, latents, rgb, here)
    some = (start.evidence > 0).nonzero()[::40].unbind(1)

    def heights_and_latents(world: PatchMap, depth: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        halves = depth.repeat_interleave(SIZE // 2).expand(1, SIZE, SIZE)
        after = write_patches(world, halves, certainty, latents, rgb, here)
        return after.heights[some], after.latents[some]

    for world in (empty, start):  # allocated, and averaged with what was there
        inputs = (torch.tensor([1.5, 1.5], dtype=torch.float64, requires_grad=True), latents.clone().requires_grad_())
        assert torch.autograd.gradcheck(lambda d, f, world=world: heights_and_latents(world, d, f), inputs)
        gradients = torch.autograd.grad(sum(t.sum() for t in heights_and_latents(world, *inputs)), inputs)
        assert all(bool((gradient != 0).all()) for gradient in gradients)


def test_gradients_reach_the_latents_of_earlier_frames_and_of_none_that_a_map_forgot():
    depth, certainty, latents, rgb = frontal(torch.float32)
    latents.requires_grad_()
    once = write_patches(nothing(), depth, certainty, latents, rgb, HOME)
    kept = write_patches(once, depth, certainty, latents.detach(), rgb, HOME)
    (gradient,) = torch.autograd.grad(kept.latents.sum(), latents, retain_graph=True)
    (largest,) = torch.autograd.grad(once.latents.sum(), latents, retain_graph=True)
    torch.testing.assert_close(gradient, 0.5 * largest)  # each frame is half of the mean
    gone = write_patches(once, 2 * depth, certainty, latents.detach(), rgb, HOME)
    seen = torch.where(gone.evidence > 0, 1.0, 0.0)[..., None]
    (forgotten,) = torch.autograd.grad((gone.latents * seen).sum(), latents)
    assert float(forgotten.abs().max()) < 0.01 * float(largest.min())


def test_a_nearer_look_gives_finer_patches_the_place_of_coarser_ones():
    far, near = camera((-1.5, 0.0, 1.3)), camera((1.2, 0.0, 1.3))
    before = write(nothing(), far)
    after = write(before, near)
    uv, z = pixels(before, near)
    inner = (z > 0) & (np.abs(uv - SIZE / 2) < SIZE / 2 - 3).all(-1)
    assert not bool((after.evidence[:, : before.faces.shape[1]] > 0)[torch.from_numpy(inner) & (before.evidence > 0)
                    & (after.levels == before.levels)[..., None]].any())  # fmt: skip
    _, depth = render(near)
    read = read_patches(after, after.rgb, near)
    middle = (..., slice(8, -8), slice(8, -8))
    assert float((read.visible > 0.5)[middle].float().mean()) > 0.99
    torch.testing.assert_close(read.depths[middle], depth[middle], rtol=0.02, atol=0)
    sizes = texel_m(after.levels[after.occupied], depth)
    assert float(sizes.min()) == pytest.approx(0.02) and float(sizes.max()) > 0.06


def test_a_frame_of_another_world_can_be_written_over_what_is_held():
    """A map that holds one room and is shown another one from the same place ends up with the second."""
    world = write(nothing(), HOME)
    rgb, depth = render(HOME)
    latents = torch.zeros(1, 2, 24, 24)
    shorter = 0.6 * depth
    for _ in range(2):
        world = write_patches(world, shorter, (0.01 * shorter) ** -2, latents, 1.0 - rgb, HOME)
    read = read_patches(world, world.rgb, HOME)
    covered = read.visible > 0.5
    assert float(covered.float().mean()) > 0.95
    close = (read.latents - (1.0 - rgb)).abs().amax(1) < 0.1
    assert float(close[covered].float().mean()) > 0.97
    assert bool(replace(world).occupied.any())
