"""The bounded latent cache: merges, doubts, follows, makes room, and never takes more than its bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry import project
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.latents.bounded import HALF_SURE, BoundedCache
from embodied_liftwm.memory.latents.cache import CellFrame
from embodied_liftwm.memory.latents.compare import DOUBT, SIMILAR
from embodied_liftwm.memory.latents.thin import FILL, thin
from embodied_liftwm.memory.latents.tokens import Tokens
from tests.memory.caches import CHANNELS, GRID, STRIDE, camera_at, frame_of, latents_of

CELLS = GRID * GRID
HERE = (0.0, 0.0, 1.0)


def cache_of(slots: int, rows: int = 1) -> BoundedCache:
    return BoundedCache.empty(rows, slots, CHANNELS, torch.zeros(()), compact=False)


def tokens(cache: BoundedCache, row: int = 0) -> Tokens:
    """Those of a row that are there."""
    return cache.tokens.index([row]).map(lambda t: t[:, cache.occupied[row]])


def test_what_is_seen_again_is_merged_by_evidence() -> None:
    latents = latents_of(0)
    near, far = frame_of(2.0, latents, camera_at(HERE)), frame_of(2.1, latents + 0.3, camera_at(HERE), spread=0.05)
    cache = cache_of(2 * CELLS).write(near).write(far)
    found, first, second = tokens(cache), near.evidence[0].flatten(), far.evidence[0].flatten()
    kept = torch.minimum(first, 8.0 * second)
    share = second / (kept + second)
    assert found.evidence.shape == (1, CELLS)
    expected = latents[0].flatten(1).T + 0.3 * share[:, None]
    torch.testing.assert_close(found.latents[0, :, :-1], expected)
    torch.testing.assert_close(found.latents[0, :, -1], torch.ones(CELLS))  # both looks were observed
    torch.testing.assert_close(found.evidence[0], kept + second)
    _, z = project(cache.points()[:, cache.occupied[0]], near.camera.intrinsics, inverse_pose(near.camera.world_from_camera))
    torch.testing.assert_close(z[0], 2.0 + 0.1 * share)
    torch.testing.assert_close(cache.weights()[0, :CELLS], found.evidence[0] / (found.evidence[0] + HALF_SURE))


def test_a_thousand_looks_at_one_wall_take_the_place_of_one() -> None:
    cache = cache_of(4 * CELLS)
    for step in range(30):
        cache = cache.pass_time(torch.ones(1)).write(frame_of(2.0, latents_of(1) + 0.01 * step % 3, camera_at(HERE)))
    assert int(cache.occupied.sum()) == CELLS


def test_what_is_seen_through_is_doubted_and_then_forgotten() -> None:
    board = torch.full((1, GRID, GRID), 4.0)
    board[0, 2:6, 2:6] = 2.0
    there, latents, cache = (board == 2.0), latents_of(2), cache_of(4 * CELLS)
    for _ in range(3):
        cache = cache.write(frame_of(board, latents, camera_at(HERE)))
    gone = frame_of(4.0, torch.where(there.unsqueeze(1), latents + 2.5, latents), camera_at(HERE))  # and not found elsewhere
    once = cache.write(gone)
    slots = there.flatten().nonzero().squeeze(1)
    torch.testing.assert_close(once.tokens.evidence[0, slots], DOUBT * cache.tokens.evidence[0, slots])
    again = once.write(gone)
    assert int(again.occupied.sum()) == CELLS
    read = again.read(camera_at(HERE), STRIDE)
    torch.testing.assert_close(read.depths, torch.full_like(board, 4.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(read.latents, gone.latents, atol=1e-3, rtol=0)


def test_an_edge_a_cell_narrower_is_left_alone_and_one_look_from_afar_is_not_enough() -> None:
    board = torch.full((1, GRID, GRID), 4.0)
    board[0, 2:6, 2:6] = 2.0
    cache = cache_of(4 * CELLS).write(frame_of(board, latents_of(2), camera_at(HERE)))
    smaller = board.clone()
    smaller[0, 5], smaller[0, :, 5] = 4.0, 4.0  # a cell narrower: the camera's noise, as far as one can tell
    smaller[0, 2, 2:4] = 4.0
    kept = cache.write(frame_of(smaller, latents_of(2) + 2.5 * (smaller != board).unsqueeze(1), camera_at(HERE)))
    assert int(((kept.points()[..., 0] - 2.0).abs() < 1e-3).sum()) == 16
    bare, wall = cache, frame_of(4.0, latents_of(2) + 2.5, camera_at(HERE))
    for left in (16, 0):
        bare = bare.write(wall)
        assert int(((bare.points()[bare.occupied][:, 0] - 2.0).abs() < 1e-3).sum()) == left
    assert int(bare.occupied.sum()) == CELLS
    torch.testing.assert_close(bare.points()[bare.occupied][:, 0], torch.full((CELLS,), 4.0))


def test_what_is_hidden_stays() -> None:
    wall = cache_of(4 * CELLS).write(frame_of(4.0, latents_of(3), camera_at(HERE)))
    hidden = wall.write(frame_of(1.0, latents_of(4), camera_at(HERE)))
    assert torch.equal(hidden.tokens.evidence[0, :CELLS], wall.tokens.evidence[0, :CELLS])
    assert torch.equal(hidden.tokens.latents[0, :CELLS], wall.tokens.latents[0, :CELLS])
    assert int(hidden.occupied.sum()) == 2 * CELLS


def test_another_surface_in_the_same_place_replaces_the_old_one() -> None:
    latents = latents_of(5)
    cache = cache_of(8 * CELLS).write(frame_of(2.0, latents, camera_at(HERE)))
    for _ in range(4):
        cache = cache.write(frame_of(2.0, latents + 4.0 * SIMILAR, camera_at(HERE)))
    read = cache.read(camera_at(HERE), STRIDE)
    torch.testing.assert_close(read.latents, latents + 4.0 * SIMILAR, atol=1e-3, rtol=0)
    assert int(cache.occupied.sum()) == CELLS


def ball(column: int) -> CellFrame:
    """A wall at 4 m of one latent, and before it at 0.8 m a ball of another, in one cell of the fifth row."""
    depth, latents = torch.full((1, GRID, GRID), 4.0), torch.zeros(1, CHANNELS, GRID, GRID)
    if 0 <= column < GRID:
        depth[0, 4, column], latents[0, :, 4, column] = 0.8, 1.0
    return frame_of(depth, latents, camera_at(HERE))


def balls(cache: BoundedCache) -> Tensor:
    """Places of tokens that look like the ball. [K, 3]"""
    return cache.points()[0, (cache.values()[0].mean(-1) > 0.5) & cache.occupied[0]]


def test_a_moving_token_is_followed_and_goes_on_behind_what_hides_it() -> None:
    """The ball moves by two cells a step, three times; then it is not looked at for two steps."""
    cache, columns = cache_of(8 * CELLS), (0, 2, 4)
    expected = [ball(column).points()[0, 4 * GRID + column] for column in (*columns, 6)]
    for step, column in enumerate(columns):
        cache = cache.pass_time(torch.ones(1)).write(ball(column))
        assert len(balls(cache)) == 1
        torch.testing.assert_close(balls(cache)[0], expected[step], atol=1e-4, rtol=0)
    speed = (expected[2] - expected[0]) / 2
    later = cache.pass_time(torch.ones(1))
    torch.testing.assert_close(balls(later)[0], expected[2] + speed, atol=1e-3, rtol=0)
    torch.testing.assert_close(balls(later)[0], expected[3], atol=1e-3, rtol=0)
    foreseen = cache.read(camera_at(HERE), STRIDE, torch.ones(1))
    assert float(foreseen.latents[0, :, 4, 6].mean()) > 0.9 and abs(float(foreseen.depths[0, 4, 6]) - 0.8) < 0.01
    assert float(foreseen.latents[0, :, 4, 4].mean()) < 0.1
    torch.testing.assert_close(balls(later.pass_time(-torch.ones(1))), balls(cache))


def test_a_moving_token_that_is_not_where_it_should_be_is_forgotten() -> None:
    cache = cache_of(8 * CELLS)
    for column in (0, 2, 4):
        cache = cache.pass_time(torch.ones(1)).write(ball(column))
    cache = cache.pass_time(torch.ones(1)).write(ball(-1))
    assert len(balls(cache)) == 0


def test_one_mistake_moves_nothing() -> None:
    """Found elsewhere once and then not again, a token stands still."""
    cache = cache_of(8 * CELLS)
    for column in (0, 2, 2):
        cache = cache.pass_time(torch.ones(1)).write(ball(column))
    where = balls(cache)
    assert len(where) == 1 and float(cache.tokens.velocities.abs().max()) == 0.0
    assert torch.equal(balls(cache.pass_time(torch.full((1,), 9.0))), where)


@pytest.mark.parametrize("slots", [CELLS, CELLS + 3, 5 * CELLS])
def test_a_full_cache_keeps_its_bytes_and_forgets_no_place(slots: int) -> None:
    """Twice around a room of four walls, each with its own look, from two places."""
    cache = BoundedCache.empty(1, slots, CHANNELS, torch.zeros(()))
    size, walls = cache.nbytes(), {}
    for number in range(16):
        ahead = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))[number % 4]
        camera, look = camera_at(HERE, ahead=ahead), 0.05 * latents_of(number) + number % 4
        cache = cache.write(frame_of(2.0, look, camera))
        walls[number % 4] = camera
        assert cache.nbytes() == size and 0 < int(cache.occupied.sum()) <= slots
    for wall, camera in walls.items():
        read = cache.read(camera, STRIDE)
        seen = read.visible[0] > 0.1
        assert float(seen.float().mean()) > (0.95 if slots > 4 * CELLS else 0.1)
        assert float((read.latents[0, :, seen] - wall).abs().mean()) < 0.2


def scattered(count: int, spread_m: float, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    made = Tokens.empty(1, count, CHANNELS, torch.zeros(()), compact=False)
    return replace(
        made,
        offsets=spread_m * torch.rand(1, count, 3, generator=generator),
        latents=torch.zeros(1, count, CHANNELS),
        evidence=1.0 + torch.rand(1, count, generator=generator),
    )


def test_neighbours_that_are_alike_are_merged_and_places_kept() -> None:
    clusters = scattered(8, 6.0).offsets
    many = scattered(80, 0.02, seed=1)
    offsets = 0.5 + clusters.repeat(1, 10, 1).floor() + many.offsets
    latents = 0.1 * torch.rand(1, 80, CHANNELS, generator=torch.Generator().manual_seed(2))
    many = replace(many, offsets=offsets, latents=latents)
    distinct = len(torch.unique(many.offsets[0].floor(), dim=0))
    kept = thin(many, many.offsets, 20)
    found = kept.map(lambda t: t[:, kept.occupied[0]])
    assert len(torch.unique(found.offsets[0].floor(), dim=0)) == distinct
    for place in torch.unique(found.offsets[0].floor(), dim=0):
        members = (many.offsets[0].floor() == place).all(-1)
        of_all = (many.evidence[0, members, None] * many.latents[0, members]).sum(0) / many.evidence[0, members].sum()
        mine = (found.offsets[0].floor() == place).all(-1)
        if int(mine.sum()) == 1:
            torch.testing.assert_close(found.latents[0, mine][0], of_all)
        assert bool(found.evidence[0, mine].max() == many.evidence[0, members].max())
    assert bool(torch.isin(found.offsets[0].sum(-1), many.offsets[0].sum(-1)).all())  # no place is invented


def test_neighbours_that_differ_are_not_merged_while_there_is_room() -> None:
    pair = scattered(40, 0.01)
    pair = replace(pair, latents=(torch.arange(40) % 2).float()[None, :, None].expand(1, 40, CHANNELS) * 3.0)
    kept = thin(pair, pair.offsets, 20)
    assert sorted(kept.latents[0, kept.occupied[0], 0].tolist()) == pytest.approx([0.0, 3.0])


def test_the_least_useful_is_evicted_where_nothing_can_be_merged() -> None:
    far = scattered(50, 400.0)
    kept = thin(far, far.offsets, 25)
    most = int(FILL * 25)
    assert int(kept.occupied.sum()) == most
    torch.testing.assert_close(kept.evidence.sort().values[0, -most:], far.evidence.sort().values[0, -most:])


def test_details_are_evicted_before_places() -> None:
    """Ten places, each of a weak token, beside one place with ten tokens that are surer and all different."""
    made = scattered(20, 0.001)
    offsets, evidence, latents = made.offsets.clone(), made.evidence + 100.0, made.latents.clone()
    offsets[0, :10] += 5.0 * torch.arange(10)[:, None]
    evidence[0, :10] -= 100.0
    offsets[0, 10:] -= 5.0
    latents[0, 10:] = 3.0 * torch.arange(10.0)[:, None]
    kept = thin(replace(made, offsets=offsets, evidence=evidence, latents=latents), offsets, 15)
    assert int(kept.occupied.sum()) == 12
    assert int((kept.evidence[0, kept.occupied[0]] < 50).sum()) == 10


def test_only_rows_that_are_full_are_thinned_out() -> None:
    first, second = frame_of(2.0, latents_of(6), camera_at(HERE)), frame_of(2.0, latents_of(7), camera_at(HERE))
    both = camera_at(HERE, HERE)
    cache = cache_of(CELLS + 5, rows=2)
    cache = cache.write(frame_of(2.0, torch.cat([first.latents, second.latents]), both))
    behind = camera_at(HERE, HERE, ahead=(-1.0, 0.0, 0.0))
    frame = frame_of(2.0, latents_of(8, 2), behind)
    cache = cache.write(frame._replace(evidence=frame.evidence * torch.tensor([1.0, 0.0])[:, None, None]))
    assert int(cache.occupied[0].sum()) == int(FILL * (CELLS + 5)) and int(cache.occupied[1].sum()) == CELLS
    torch.testing.assert_close(cache.read(both, STRIDE).latents[1], second.latents[0], atol=1e-4, rtol=0)
