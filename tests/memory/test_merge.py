"""Merging: seen again is one, looked through is gone, out of sight stays, and the budget holds."""

import torch

from embodied_liftwm.geometry.se3 import so3_exp
from embodied_liftwm.memory.gaussians.lift import lift
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.memory.gaussians.merge import merge
from embodied_liftwm.protocols import Camera

SIZE, STRIDE, GRID, BUDGET = 32, 4, 8, 200


def camera(yaw: float = 0.0) -> Camera:
    intrinsics = torch.tensor([[20.0, 0, SIZE / 2], [0, 20.0, SIZE / 2], [0, 0, 1]])
    pose = torch.eye(4)
    pose[:3, :3] = so3_exp(torch.tensor([0.0, yaw, 0.0]))
    return Camera(intrinsics[None], pose[None], SIZE, SIZE)


def write(old: GaussianMap, depth: torch.Tensor, value: float, at: Camera) -> GaussianMap:
    latents = torch.full((1, 3, GRID, GRID), value)
    rgb = torch.full((1, 3, SIZE, SIZE), value)
    new = lift(depth[None], SURE, latents, torch.full((1, GRID, GRID), 0.9), rgb, at, STRIDE)
    return merge(old, new, depth[None], at, STRIDE)


def empty() -> GaussianMap:
    return GaussianMap.empty(1, BUDGET, 3, torch.zeros(()))


WALL = torch.full((GRID, GRID), 3.0)
SURE = torch.full((1, GRID, GRID), 0.01)


def test_the_same_view_twice_adds_evidence_and_no_primitives():
    once = write(empty(), WALL, 0.2, camera())
    twice = write(once, WALL, 0.6, camera())
    assert int(once.occupied.sum()) == int(twice.occupied.sum()) == GRID * GRID
    torch.testing.assert_close(twice.evidence.sum(), 2 * once.evidence.sum())
    torch.testing.assert_close(twice.rgb[twice.occupied], torch.full((GRID * GRID, 3), 0.4))


def test_what_is_out_of_sight_stays_bit_for_bit():
    behind = write(empty(), WALL, 0.2, camera(yaw=torch.pi))
    kept = behind.means[behind.occupied]
    for _ in range(3):
        behind = write(behind, WALL, 0.9, camera())
    dark = behind.rgb[..., 0] < 0.5
    assert int((dark & behind.occupied).sum()) == GRID * GRID
    found = behind.means[dark & behind.occupied]
    torch.testing.assert_close(found[found[:, 0].argsort()].sum(0), kept[kept[:, 0].argsort()].sum(0))


def test_what_the_camera_looks_through_goes():
    depth = WALL.clone()
    depth[2:6, 2:6] = 1.5
    state = write(empty(), depth, 0.2, camera())
    near = (state.means[..., 2] < 2.0) & state.occupied
    assert int(near.sum()) == 16
    for _ in range(6):
        state = write(state, WALL, 0.2, camera())
    assert int(((state.means[..., 2] < 2.0) & state.occupied).sum()) == 0
    assert float(state.opacities[~state.occupied].abs().max()) == 0.0


def test_what_hides_behind_a_nearer_surface_stays():
    state = write(empty(), WALL, 0.2, camera())
    hidden = write(state, torch.full((GRID, GRID), 1.5), 0.9, camera())
    assert int(((hidden.means[..., 2] > 2.5) & hidden.occupied).sum()) == GRID * GRID


def test_the_budget_holds_and_the_newest_frame_is_always_in():
    state = empty()
    for step in range(12):
        state = write(state, WALL, step / 12, camera(yaw=0.5 * step))
        assert state.means.shape == (1, BUDGET, 3)
        newest = (state.rgb[..., 0] - step / 12).abs() < 1e-5
        assert int(newest.sum()) >= GRID
    assert BUDGET // 2 < int(state.occupied.sum()) <= BUDGET


def test_an_uncertain_depth_gives_way_to_a_certain_one():
    grid = torch.full((1, GRID, GRID), 0.9)
    args = (torch.zeros(1, 3, GRID, GRID), grid, torch.zeros(1, 3, SIZE, SIZE), camera(), STRIDE)
    guess = lift(1.25 * WALL[None], torch.full((1, GRID, GRID), 0.25), *args)
    state = merge(empty(), guess, 1.25 * WALL[None], camera(), STRIDE)
    state = merge(state, lift(WALL[None], SURE, *args), WALL[None], camera(), STRIDE)
    assert int(state.occupied.sum()) == GRID * GRID
    torch.testing.assert_close(state.means[..., 2][state.occupied], torch.full((GRID * GRID,), 3.0), atol=0.2, rtol=0)


def test_a_doubtful_depth_is_neither_written_nor_heard():
    args = (torch.zeros(1, 3, GRID, GRID), torch.full((1, GRID, GRID), 0.9), torch.zeros(1, 3, SIZE, SIZE), camera(), STRIDE)
    doubt = torch.full((1, GRID, GRID), 0.6)
    assert int(merge(empty(), lift(WALL[None], doubt, *args), WALL[None], camera(), STRIDE).occupied.sum()) == 0
    near = write(empty(), 0.5 * WALL, 0.2, camera())
    after = merge(near, lift(WALL[None], doubt, *args), WALL[None], camera(), STRIDE)
    assert int(after.occupied.sum()) == GRID * GRID


def test_gradients_reach_latents_through_many_merges():
    latents = torch.zeros(1, 3, GRID, GRID, requires_grad=True)
    state = empty()
    for _ in range(3):
        new = lift(WALL[None], SURE, latents, torch.full((1, GRID, GRID), 0.9), torch.zeros(1, 3, SIZE, SIZE), camera(), STRIDE)
        state = merge(state, new, WALL[None], camera(), STRIDE)
    state.latents[state.occupied].sum().backward()
    torch.testing.assert_close(latents.grad, torch.ones_like(latents))
