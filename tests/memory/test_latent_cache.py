"""Both latent caches: what is written is where it was seen, comes back as it was, and is refused where it has no place."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.memory.latents.append import BLOCK, AppendCache
from embodied_liftwm.memory.latents.bounded import ROW_BYTES, BoundedCache, slots_for
from embodied_liftwm.memory.latents.cache import LARGEST_LATENT, LATENT_STEP, CellFrame, LatentCache
from embodied_liftwm.memory.latents.read import read_latents
from embodied_liftwm.memory.latents.tokens import token_bytes
from tests.memory.caches import CHANNELS, GRID, SIZE, STRIDE, camera_at, frame_of, latents_of, lifted

CELLS = GRID * GRID
ROOM = (0.5, -0.2, 1.0)


def empty(policy: str, rows: int = 1, compact: bool = True) -> LatentCache:
    if policy == "append":
        return AppendCache.empty(rows, CHANNELS, torch.zeros(()), compact=compact)
    return BoundedCache.empty(rows, 4 * CELLS, CHANNELS, torch.zeros(()), compact=compact)


@pytest.fixture(params=["append", "bounded"])
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


def same(a: LatentCache, b: LatentCache) -> bool:
    theirs = b.named_tensors()
    return all(torch.equal(t, theirs[name]) and t.dtype == theirs[name].dtype for name, t in a.named_tensors().items())


def test_tokens_are_where_the_cells_were_seen(policy: str) -> None:
    depth = 1.0 + 5.0 * torch.rand(2, GRID, GRID, generator=torch.Generator().manual_seed(0))
    frame = frame_of(depth, latents_of(1, 2), camera_at(ROOM, (-30.0, 7.0, 1.2), ahead=(0.6, 0.8, -0.1)))
    cache = empty(policy, 2).write(frame)
    for row in range(2):
        kept = cache.weights()[row] > 0
        found = cache.points()[row, kept]
        assert len(found) == CELLS
        torch.testing.assert_close(found.double(), torch.from_numpy(lifted(frame, row)), atol=4e-3, rtol=0)
        torch.testing.assert_close(cache.values()[row, kept], frame.latents[row].flatten(1).T, atol=LATENT_STEP / 1.99, rtol=0)


def test_what_was_written_is_read_from_the_same_camera(policy: str) -> None:
    depth = 1.0 + 5.0 * torch.rand(2, GRID, GRID, generator=torch.Generator().manual_seed(2))
    frame = frame_of(depth, latents_of(3, 2), camera_at(ROOM, (3.0, 0.0, 0.5)))
    exact, compact = (empty(policy, 2, kind).write(frame).read(frame.camera, STRIDE) for kind in (False, True))
    torch.testing.assert_close(exact.latents, frame.latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(exact.depths, depth, atol=1e-4, rtol=0)
    assert float(exact.visible.min()) > 0.5
    torch.testing.assert_close(compact.depths, depth, atol=5e-3, rtol=0)
    # Rounded places make a token touch its cell's neighbours a little.
    assert float((compact.latents - frame.latents).abs().mean()) < 2 * LATENT_STEP


def test_cells_without_evidence_are_not_written_whatever_they_hold(policy: str) -> None:
    frame = frame_of(2.0, latents_of(4), camera_at(ROOM))
    unknown = torch.zeros(1, GRID, GRID, dtype=torch.bool)
    unknown[0, 1, 2:5] = True
    broken = frame._replace(
        depth=torch.where(unknown, torch.nan, frame.depth),
        evidence=torch.where(unknown, 0.0, frame.evidence),
        latents=torch.where(unknown.unsqueeze(1), torch.inf, frame.latents),
    )
    cache = empty(policy).write(broken).write(broken)
    read = cache.read(frame.camera, STRIDE)
    assert bool((read.visible[unknown] < 0.1).all()) and bool((read.visible[~unknown] > 0.8).all())
    kept = cache.weights() > 0
    assert bool(cache.points()[kept].isfinite().all()) and bool(cache.values()[kept].isfinite().all())


def test_a_depth_that_is_not_known_is_not_written(policy: str) -> None:
    frame = frame_of(2.0, latents_of(4), camera_at(ROOM), spread=0.4)
    assert not bool((empty(policy).write(frame).weights() > 0).any())


def test_gradients_reach_latents_and_depth_through_write_and_read(policy: str) -> None:
    latents = latents_of(5).requires_grad_()
    depth = torch.full((1, GRID, GRID), 2.0, requires_grad=True)
    frame = frame_of(depth.detach(), latents, camera_at(ROOM))._replace(depth=depth)
    cache = empty(policy, compact=False).write(frame)
    cache = cache.write(frame._replace(latents=latents + 0.1))
    read = cache.read(camera_at((0.6, -0.1, 1.0)), STRIDE)
    gradients = torch.autograd.grad(read.latents.square().sum() + read.depths.sum(), [latents, depth])
    assert all(bool(g.isfinite().all()) and float((g != 0).float().mean()) > 0.5 for g in gradients)


def test_rows_share_nothing(policy: str) -> None:
    first, second = frame_of(2.0, latents_of(6), camera_at(ROOM)), frame_of(3.0, latents_of(7), camera_at(ROOM))
    both = frame_of(torch.cat([first.depth, second.depth]), torch.cat([first.latents, second.latents]), camera_at(ROOM, ROOM))
    together = empty(policy, 2).write(both).write(both)
    for row, frame in enumerate((first, second)):
        assert same(together.index([row]), empty(policy).write(frame).write(frame))
    half = both._replace(evidence=both.evidence * torch.tensor([1.0, 0.0])[:, None, None])
    read = empty(policy, 2).write(half).read(camera_at(ROOM, ROOM), STRIDE)
    assert float(read.visible[0].min()) > 0.8 and float(read.visible[1].abs().max()) == 0.0


def test_views_of_a_row_are_read_as_if_alone(policy: str) -> None:
    frame = frame_of(2.0, latents_of(8, 2), camera_at(ROOM, (9.0, 0.0, 1.0)))
    cache = empty(policy, 2).write(frame)
    places = (ROOM, (0.7, 0.0, 1.0), (9.0, 0.0, 1.0), (9.2, 0.1, 1.0))
    together = cache.read(camera_at(*places), STRIDE)
    for view, place in enumerate(places):
        alone = cache.index([view // 2]).read(camera_at(place), STRIDE)
        torch.testing.assert_close(together.latents[view], alone.latents[0])


def test_a_cache_survives_saving_bit_for_bit(policy: str, tmp_path: Path) -> None:
    cache = empty(policy, 2).write(frame_of(2.0, latents_of(9, 2), camera_at(ROOM, ROOM)))
    cache.save(tmp_path / "cache.safetensors")
    assert same(cache, empty(policy, 2).load(tmp_path / "cache.safetensors"))


BAD = {
    "pose of row 1 is not finite": lambda f: f._replace(
        camera=replace(f.camera, world_from_camera=f.camera.world_from_camera * torch.tensor([1.0, math.nan]).view(2, 1, 1))
    ),
    r"depth 0 m of row 1, cell \(2, 3\) is zero": lambda f: with_depth(f, 0.0),
    r"depth -1.5 m of row 1, cell \(2, 3\) is negative: behind the camera": lambda f: with_depth(f, -1.5),
    r"depth nan m of row 1, cell \(2, 3\) is not finite": lambda f: with_depth(f, math.nan),
    r"depth inf m of row 1, cell \(2, 3\) is not finite": lambda f: with_depth(f, math.inf),
    r"depth 0.001 m of row 1, cell \(2, 3\) is nearer than 0.01 m": lambda f: with_depth(f, 0.001),
    r"row 0, cell \(0, 0\) has a latent that is not finite": lambda f: f._replace(latents=f.latents * math.nan),
    "expected latents of 5 channels, as the cache holds, got 4": lambda f: f._replace(latents=f.latents[:, :4]),
    r"expected depth and evidence \[2, h, w\]": lambda f: f._replace(depth=f.depth[:, :3]),
}


def with_depth(frame: CellFrame, value: float) -> CellFrame:
    depth = frame.depth.clone()
    depth[1, 2, 3] = value
    return frame._replace(depth=depth)


@pytest.mark.parametrize("message", BAD)
def test_a_frame_without_a_place_is_refused_and_the_cache_untouched(policy: str, message: str) -> None:
    frame = frame_of(2.0, latents_of(10, 2), camera_at(ROOM, ROOM))
    cache = empty(policy, 2).write(frame)
    before = cache.map(torch.clone)
    with pytest.raises(UserError, match=message):
        cache.write(BAD[message](frame))
    assert same(cache, before)


def test_an_append_cache_keeps_everything_and_grows_in_blocks() -> None:
    cache = AppendCache.empty(1, CHANNELS, torch.zeros(()))
    frames = [frame_of(2.0, latents_of(seed), camera_at((0.1 * seed, 0.0, 1.0))) for seed in range(BLOCK // CELLS + 1)]
    for number, frame in enumerate(frames, 1):
        cache = cache.write(frame)
        assert int(cache.count) == number * CELLS
        assert cache.capacity == (BLOCK if number * CELLS <= BLOCK else 2 * BLOCK)
    for number in (0, 7, len(frames) - 1):
        written = cache.values()[0, number * CELLS : (number + 1) * CELLS]
        torch.testing.assert_close(written, frames[number].latents[0].flatten(1).T, atol=LATENT_STEP / 1.99, rtol=0)


def test_eight_bits_hold_what_they_can() -> None:
    latents = torch.linspace(-6, 6, CHANNELS * CELLS).view(1, CHANNELS, GRID, GRID)
    found = AppendCache.empty(1, CHANNELS, torch.zeros(())).write(frame_of(2.0, latents, camera_at(ROOM))).values()[0, :CELLS]
    expected = latents.clamp(-LARGEST_LATENT, LARGEST_LATENT)[0].flatten(1).T
    torch.testing.assert_close(found, expected, atol=LATENT_STEP / 1.99, rtol=0)


def test_what_was_imagined_is_not_what_was_observed(policy: str) -> None:
    before, behind = camera_at(ROOM), camera_at(ROOM, ahead=(-1.0, 0.0, 0.0))
    cache = empty(policy).write(frame_of(2.0, latents_of(1), before))
    cache = cache.write(frame_of(2.0, latents_of(2), behind)._replace(observed=0.0))
    seen, invented = (cache.read(camera, STRIDE) for camera in (before, behind))
    assert float(seen.visible.min()) > 0.2 and float(invented.visible.min()) > 0.2
    assert seen.latents.shape == invented.latents.shape == (1, CHANNELS, GRID, GRID)
    torch.testing.assert_close(seen.observed, torch.ones_like(seen.observed), atol=1e-3, rtol=0)
    assert not invented.observed.any()
    away = cache.read(camera_at(ROOM, ahead=(0.0, 1.0, 0.0)), STRIDE)
    assert not away.observed[away.visible == 0].any()


def test_a_look_makes_an_observation_of_what_was_imagined_alike() -> None:
    camera, latents = camera_at(ROOM), latents_of(1)
    imagined = frame_of(2.0, latents, camera, spread=0.25)._replace(observed=0.0)
    cache = empty("bounded", compact=False).write(imagined)
    looked = cache.write(frame_of(2.0, latents, camera))
    assert int(cast(BoundedCache, looked).occupied.sum()) == CELLS  # they are the same tokens
    before, after = (float(e.max()) for e in (imagined.evidence, frame_of(2.0, latents, camera).evidence))
    found = looked.read(camera, STRIDE).observed
    torch.testing.assert_close(found, torch.full_like(found, after / (after + before)), atol=1e-3, rtol=0)


def test_bytes_of_a_token_are_as_stated_and_a_fifty_fifth_of_a_cloud() -> None:
    pixels, cells, channels = 256 * 256, 32 * 32, 8
    cloud = pixels * (3 * 4 + 3)
    full = AppendCache.empty(1, channels, torch.zeros(()), capacity=64 * cells)
    assert full.nbytes() - 12 - 8 == 64 * cells * (7 + channels)
    assert 64 * cloud > 55 * full.nbytes()
    assert token_bytes(channels) == 21 + 2 * channels


@pytest.mark.parametrize("budget", [ROW_BYTES + CELLS * token_bytes(CHANNELS), 10_000, 2**20])
def test_a_budget_of_bytes_is_kept_to_the_byte(budget: int) -> None:
    slots = slots_for(budget, CHANNELS, CELLS)
    cache = BoundedCache.empty(3, slots, CHANNELS, torch.zeros(()))
    assert budget - token_bytes(CHANNELS) < cache.nbytes() // 3 <= budget


def test_a_budget_for_less_than_a_frame_is_refused() -> None:
    least = ROW_BYTES + CELLS * token_bytes(CHANNELS)
    with pytest.raises(UserError, match=f"bytes={least - 1}: holds 255 tokens .* the 256 cells .* at least {least}"):
        slots_for(least - 1, CHANNELS, CELLS)
    cache = BoundedCache.empty(1, CELLS - 1, CHANNELS, torch.zeros(()))
    before = cache.map(torch.clone)
    with pytest.raises(UserError, match="a frame of 256 cells does not fit into a cache of 255 tokens"):
        cache.write(frame_of(2.0, latents_of(0), camera_at(ROOM)))
    assert same(cache, before)


def test_latents_anchored_on_gaussians_are_read_alike() -> None:
    """The means of a map of Gaussians and their opacities take the place of tokens and their weights."""
    frame = frame_of(2.0, latents_of(11), camera_at(ROOM))
    world = GaussianMap.empty(1, 2 * CELLS, CHANNELS, torch.zeros(()))
    means, latents, opacities = world.means.clone(), world.latents.clone(), world.opacities.clone()
    means[0, :CELLS] = torch.from_numpy(lifted(frame, 0)).float()
    latents[0, :CELLS], opacities[0, :CELLS] = frame.latents[0].flatten(1).T, 0.9
    read = read_latents(means, latents, opacities, frame.camera, STRIDE)
    torch.testing.assert_close(read.latents, frame.latents, atol=1e-4, rtol=0)
    assert read.latents.shape[-1] == SIZE // STRIDE
