"""The latent read against the formula in its docstring, written out as a loop over cells and points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry import back_project, inverse_pose, make_pose, resize_intrinsics, se3_exp, so3_exp
from embodied_liftwm.memory.latents.read import LatentRead, read_latents
from embodied_liftwm.protocols import Camera

SIZE, STRIDE, FOCAL = 24, 4, 14.0
GRID = SIZE // STRIDE
TOLERANCE, TEMPERATURE = 0.1, 0.05


def cameras(*poses: Tensor, dtype: torch.dtype = torch.float64) -> Camera:
    """One camera at the origin, or one at each pose."""
    pose = torch.stack(poses or (torch.eye(4),)).to(dtype)
    intrinsics = torch.tensor([[FOCAL, 0, SIZE / 2 - 0.7], [0, 1.1 * FOCAL, SIZE / 2 + 0.4], [0, 0, 1]], dtype=dtype)
    return Camera(intrinsics.expand(len(pose), 3, 3).clone(), pose, SIZE, SIZE)


def pose(seed: int) -> Tensor:
    turn, shift = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return make_pose(so3_exp(0.2 * turn), 0.3 * shift)


def cloud(seed: int, batch: int, count: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Points around the origin, most of them ahead, some behind and some empty."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(batch, count, 3, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 0.0, 1.5])
    latents = torch.randn(batch, count, channels, generator=generator, dtype=torch.float64)
    weights = torch.rand(batch, count, generator=generator, dtype=torch.float64)
    return points, latents, torch.where(weights < 0.2, 0.0, weights)


def on_pixels(columns: list[float], rows: list[float], depths: list[float]) -> Tensor:
    """World points that the camera at the origin sees at these cell coordinates. [1, N, 3]"""
    matrix = resize_intrinsics(cameras().intrinsics[0], 1 / STRIDE)
    uv1 = torch.tensor([columns, rows, [1.0] * len(rows)], dtype=torch.float64)
    return ((torch.linalg.inv(matrix) @ uv1) * torch.tensor(depths)).T[None]


def loop(points: np.ndarray, latents: np.ndarray, weights: np.ndarray, intrinsics: np.ndarray, world_from_camera: np.ndarray):
    """One camera's latents [D, h, w], depths and visible [h, w], cell by cell and point by point."""
    out, depths, visible = np.zeros((latents.shape[1], GRID, GRID)), np.zeros((GRID, GRID)), np.zeros((GRID, GRID))
    camera_from_world = np.linalg.inv(world_from_camera)
    for row in range(GRID):
        for column in range(GRID):
            near: list[tuple[float, float, int]] = []
            for i in np.flatnonzero(weights > 0):
                x, y, z = camera_from_world[:3, :3] @ points[i] + camera_from_world[:3, 3]
                if z <= 0.01:
                    continue
                u = (intrinsics[0, 0] * x / z + intrinsics[0, 2]) / STRIDE
                v = (intrinsics[1, 1] * y / z + intrinsics[1, 2]) / STRIDE
                share = max(0.0, 1 - abs(u - column - 0.5)) * max(0.0, 1 - abs(v - row - 0.5))
                if share > 0.01:
                    near.append((share, z, i))
            covering = [z for share, z, _ in near if share >= 0.25]
            surface = min(covering or [z for _, z, _ in near], default=0.0)
            kept = [(share, z, i) for share, z, i in near if max(z / surface, surface / z) <= 1 + TOLERANCE]
            if kept:
                softmax = [weights[i] * share * (surface / z) ** (1 / TEMPERATURE) for share, z, i in kept]
                out[:, row, column] = np.average([latents[i] for _, _, i in kept], axis=0, weights=softmax)
                depths[row, column] = np.average([z for _, z, _ in kept], weights=softmax)
                visible[row, column] = min(1.0, sum(weights[i] * share for share, _, i in kept))
    return out, depths, visible


@pytest.mark.parametrize(
    ("count", "dtype", "accuracy"), [(12, torch.float64, 1e-10), (150, torch.float64, 1e-10), (150, torch.float32, 1e-4)]
)
def test_agrees_with_the_formula(count: int, dtype: torch.dtype, accuracy: float) -> None:
    points, latents, weights = cloud(1, 2, count)
    views = cameras(*(pose(seed) for seed in range(4)))  # two of each row
    read = read_latents(points.to(dtype), latents.to(dtype), weights.to(dtype), views.map(lambda t: t.to(dtype)), STRIDE)
    for view in range(4):
        row = view // 2
        expected = loop(
            *(
                t.numpy()
                for t in (points[row], latents[row], weights[row], views.intrinsics[view], views.world_from_camera[view])
            )
        )
        for found, want in zip(read, expected, strict=True):
            torch.testing.assert_close(found[view], torch.from_numpy(want).to(dtype), atol=accuracy, rtol=accuracy)
    assert 0.3 < float((read.visible > 0).double().mean()) <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_depth_map_read_from_its_own_camera_comes_back_edges_included(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    here = cameras(pose(3), pose(4), dtype=dtype)
    depth = (0.5 + 5 * torch.rand(2, GRID, GRID, generator=generator)).to(dtype)
    latents = torch.randn(2, 5, GRID, GRID, generator=generator).to(dtype)
    points = back_project(depth, resize_intrinsics(here.intrinsics, 1 / STRIDE), here.world_from_camera).flatten(1, 2)
    weights = torch.full((2, GRID * GRID), 0.7, dtype=dtype)
    read = read_latents(points, latents.flatten(2).mT, weights, here, STRIDE)
    torch.testing.assert_close(read.latents, latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(read.depths, depth, atol=1e-5, rtol=0)
    torch.testing.assert_close(read.visible, torch.full_like(depth, 0.7), atol=1e-5, rtol=0)


def test_an_occluder_hides_what_is_behind_it_and_nothing_beside() -> None:
    centres = [c + 0.5 for c in range(GRID)]
    columns, rows = [c for _ in centres for c in centres], [r for r in centres for _ in centres]
    wall = on_pixels(columns, rows, [4.0] * len(rows))
    board = on_pixels([2.5, 3.5], [2.5, 2.5], [1.0, 1.0])
    latents = torch.zeros(1, len(rows) + 2, 1, dtype=torch.float64)
    latents[:, len(rows) :] = 1.0
    read = read_latents(
        torch.cat([wall, board], 1), latents, torch.ones(1, len(rows) + 2, dtype=torch.float64), cameras(), STRIDE
    )
    expected = torch.zeros(GRID, GRID, dtype=torch.float64)
    expected[2, 2:4] = 1.0
    torch.testing.assert_close(read.latents[0, 0], expected)
    torch.testing.assert_close(read.depths[0], 4.0 - 3.0 * expected)


def test_depths_within_the_tolerance_share_a_cell_by_softmax() -> None:
    points = on_pixels([2.5, 2.5, 2.5], [2.5, 2.5, 2.5], [2.0, 2.1, 2.3])
    latents = torch.tensor([[[0.0], [1.0], [100.0]]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.25, 1.0]], dtype=torch.float64)
    read = read_latents(points, latents, weights, cameras(), STRIDE, depth_tolerance=0.1, temperature=0.2)
    deeper = 0.25 * (2.0 / 2.1) ** 5 / (0.5 + 0.25 * (2.0 / 2.1) ** 5)
    assert float(read.latents[0, 0, 2, 2]) == pytest.approx(deeper)
    assert float(read.depths[0, 2, 2]) == pytest.approx(2.0 + 0.1 * deeper)
    assert float(read.visible[0, 2, 2]) == pytest.approx(0.75)


HIDDEN = {
    "behind the camera": [0.1, 0.1, -2.0],
    "at depth zero": [0.3, -0.2, 0.0],
    "nearer than a centimetre": [0.0, 0.0, 0.005],
    "at the camera's centre": [0.0, 0.0, 0.0],
    "outside": [50.0, 0.0, 2.0],
    "at infinity": [math.inf, 0.0, 1.0],
    "nowhere": [math.nan, 0.0, 1.0],
}


@pytest.mark.parametrize("where", HIDDEN)
def test_what_cannot_be_seen_leaves_everything_at_zero(where: str) -> None:
    inputs = (
        torch.tensor([[HIDDEN[where]] * 3], dtype=torch.float64),
        torch.ones(1, 3, 2, dtype=torch.float64),
        torch.ones(1, 3, dtype=torch.float64),
    )
    assert_nothing_and_no_gradient(*inputs)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_an_empty_memory_reads_nothing_whatever_its_slots_hold(count: int) -> None:
    points, latents, weights = torch.full((1, count, 3), torch.nan), torch.full((1, count, 2), torch.inf), torch.zeros(1, count)
    assert_nothing_and_no_gradient(points.double(), latents.double(), weights.double())


def assert_nothing_and_no_gradient(points: Tensor, latents: Tensor, weights: Tensor) -> None:
    here = cameras()
    inputs = [points, latents, weights, here.world_from_camera]
    for tensor in inputs:
        tensor.requires_grad_()
    read = read_latents(points, latents, weights, here, STRIDE)
    assert [t.shape for t in read] == [(1, 2, GRID, GRID), (1, GRID, GRID), (1, GRID, GRID)]
    assert all(bool((t == 0).all()) for t in read)
    gradients = torch.autograd.grad(total(read), inputs)
    assert all(bool((gradient == 0).all()) for gradient in gradients)


def total(read: LatentRead) -> Tensor:
    return read.latents.sum() + read.depths.sum() + read.visible.sum()


def test_empty_slots_and_hidden_points_change_nothing_beside_what_is_seen() -> None:
    points, latents, weights = cloud(5, 1, 40)
    noise = torch.tensor([HIDDEN["behind the camera"], HIDDEN["at depth zero"], HIDDEN["nowhere"]], dtype=torch.float64)[None]
    empty = torch.full((1, 2, 3), torch.nan, dtype=torch.float64)
    more = torch.cat([points, noise, empty], 1).requires_grad_()
    more_latents = torch.cat([latents, torch.full((1, 5, 3), 1e3, dtype=torch.float64)], 1)
    more_weights = torch.cat([weights, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)], 1)
    here = cameras(pose(6))
    assert_same(
        read_latents(more, more_latents, more_weights, here, STRIDE), read_latents(points, latents, weights, here, STRIDE)
    )
    (gradient,) = torch.autograd.grad(total(read_latents(more, more_latents, more_weights, here, STRIDE)), [more])
    assert bool(gradient.isfinite().all()) and bool((gradient[:, 40:] == 0).all()) and bool((gradient != 0).any())


def assert_same(found: LatentRead, expected: LatentRead) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("views", [1, 2])
def test_gradients_of_everything(views: int) -> None:
    """Points lie where a small step changes no cell, no covering and no depth test; the two nearest share one cell."""
    columns, rows = [1.2, 1.4, 3.3, 4.1, 2.65], [1.7, 1.65, 3.85, 1.3, 4.2]
    points = on_pixels(columns, rows, [2.0, 2.05, 3.0, 1.5, 2.5])
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 5, 2, generator=generator, dtype=torch.float64)
    weights = 0.2 + 0.5 * torch.rand(1, 5, generator=generator, dtype=torch.float64)
    fixed = cameras(*[torch.eye(4)] * views)
    twist = torch.tensor([[0.0] * 6, [1e-3, -2e-3, 1e-3, 1e-3, -1e-3, 2e-3]], dtype=torch.float64)[:views]

    def read(points: Tensor, latents: Tensor, weights: Tensor, twist: Tensor, intrinsics: Tensor) -> LatentRead:
        return read_latents(points, latents, weights, Camera(intrinsics, se3_exp(twist), SIZE, SIZE), STRIDE)

    inputs = [t.clone().requires_grad_() for t in (points, latents, weights, twist, fixed.intrinsics)]
    assert torch.autograd.gradcheck(read, inputs)
    assert all(bool((gradient != 0).any()) for gradient in torch.autograd.grad(total(read(*inputs)), inputs))


def test_the_order_of_points_does_not_matter() -> None:
    points, latents, weights = cloud(8, 1, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(9))
    here = cameras(pose(10))
    assert_same(
        read_latents(points[:, order], latents[:, order], weights[:, order], here, STRIDE),
        read_latents(points, latents, weights, here, STRIDE),
    )


def test_rows_and_views_do_not_mix() -> None:
    points, latents, weights = cloud(11, 3, 60)
    views = cameras(*(pose(seed) for seed in range(20, 26)))  # two of each row
    together = read_latents(points, latents, weights, views, STRIDE)
    for view in range(6):
        row = slice(view // 2, view // 2 + 1)
        alone = read_latents(points[row], latents[row], weights[row], views.index(slice(view, view + 1)), STRIDE)
        assert_same(LatentRead(*(t[view : view + 1] for t in together)), alone)


def test_moving_the_world_and_the_camera_alike_changes_nothing() -> None:
    points, latents, weights = cloud(12, 1, 100)
    motion, here = pose(13), cameras(pose(14))
    there = cameras(motion @ here.world_from_camera[0])
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    torch.testing.assert_close(inverse_pose(there.world_from_camera) @ motion, inverse_pose(here.world_from_camera))
    assert_same(read_latents(moved, latents, weights, there, STRIDE), read_latents(points, latents, weights, here, STRIDE))


def test_bad_input_is_named() -> None:
    points, latents, weights = cloud(15, 2, 4)
    pair = cameras(pose(0), pose(1))
    with pytest.raises(UserError, match=r"expected points \[B, N, 3\].*got \[2, 4, 3\], \[2, 4, 3\], \[2, 3\]"):
        read_latents(points, latents, weights[:, :3], pair, STRIDE)
    with pytest.raises(UserError, match="expected a multiple of 2 cameras for as many rows, got 1"):
        read_latents(points, latents, weights, cameras(), STRIDE)
    with pytest.raises(UserError, match="stride=5: must divide the cameras' 24 x 24 pixels"):
        read_latents(points, latents, weights, pair, 5)
    with pytest.raises(UserError, match="depth_tolerance=0: must be at least 0.001"):
        read_latents(points, latents, weights, pair, STRIDE, depth_tolerance=0)
    with pytest.raises(UserError, match="temperature=0: must be at least 0.0016 with depth_tolerance=0.1"):
        read_latents(points, latents, weights, pair, STRIDE, temperature=0)
