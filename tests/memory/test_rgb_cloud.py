"""The RGB cloud against loops over pixels and points: what is lifted, which point a voxel keeps, what a camera sees of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry import make_pose, so3_exp
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.cloud.cloud import RgbCloud, keys_of, sizes_of
from embodied_liftwm.memory.cloud.render import CloudView, _render_torch, render_cloud
from embodied_liftwm.memory.contract import Bytes
from embodied_liftwm.protocols import Camera
from tests.toy_room import intrinsics, pose, render

SIZE, FOCAL = 16, 11.0


def cameras(*poses: Tensor, size: int = SIZE) -> Camera:
    """One camera at the origin, or one at each pose."""
    placed = torch.stack(poses or (torch.eye(4),)).float()
    K = torch.tensor([[FOCAL, 0, size / 2 - 0.7], [0, 1.1 * FOCAL, size / 2 + 0.4], [0, 0, 1]])
    return Camera(K.expand(len(placed), 3, 3).clone(), placed, size, size)


def moved(seed: int) -> Tensor:
    turn, shift = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
    return make_pose(so3_exp(0.3 * turn), 0.4 * shift)


def frame(seed: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Depths [B, H, W] of 1 to 3 m, and colours that bytes can hold [B, 3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=generator) / 255.0
    return 1.0 + 2.0 * torch.rand(batch, SIZE, SIZE, generator=generator), colours


def filled(seeds: range, voxel_m: float = 0.05, batch: int = 1) -> RgbCloud:
    cloud = RgbCloud.empty(batch, voxel_m)
    for seed in seeds:
        cloud = cloud.add(*frame(seed, batch), cameras(*(moved(seed + 100 * b) for b in range(batch))))
    return cloud


def by_voxel(seeds: range, voxel_m: float) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray, float]]:
    """Point, colour and size that each voxel keeps, pixel by pixel."""
    kept = {}
    for seed in seeds:
        (depth, rgb), camera = (t.numpy() for t in frame(seed)), cameras(moved(seed))
        K, M = camera.intrinsics[0].numpy().astype(float), camera.world_from_camera[0].numpy().astype(float)
        for row in range(SIZE):
            for column in range(SIZE):
                z = float(depth[0, row, column])
                ray = [(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0]
                point = M[:3, :3] @ (np.array(ray) * z) + M[:3, 3]
                kept[tuple(np.floor(point / voxel_m).astype(int))] = (point, rgb[0, :, row, column], z / K[0, 0])
    return kept


def test_pixels_are_back_projected_and_a_voxel_keeps_its_newest() -> None:
    cloud, expected = filled(range(3), 0.2), by_voxel(range(3), 0.2)
    count = int(cloud.count)
    assert 200 < count < 3 * SIZE**2 - 50 and abs(count - len(expected)) <= 1  # one may lie on the edge of a voxel
    points, rgb, sizes = cloud.points[0, :count].double(), cloud.rgb[0, :count], cloud.sizes[0, :count]
    found = {tuple(np.floor(p.numpy() / 0.2).astype(int)): n for n, p in enumerate(points)}
    shared = found.keys() & expected.keys()
    assert len(found) == count and len(shared) >= count - 2
    for voxel in shared:
        n, (point, colour, size) = found[voxel], expected[voxel]
        np.testing.assert_allclose(points[n], point, atol=1e-5)
        np.testing.assert_allclose(rgb[n], colour, atol=1e-6)
        assert float(sizes[n]) == pytest.approx(size, rel=0.0443)


def test_keys_are_interleaved_bits_and_sort_the_cloud() -> None:
    cloud = filled(range(2))
    points = cloud.points[0, : int(cloud.count)]
    keys = keys_of(points, 0.05)
    assert bool((keys.diff() > 0).all())
    for point, key in zip(points[::37], keys[::37].tolist(), strict=True):
        voxel = [int(math.floor(float(x) / 0.05)) + 2**20 for x in point.double()]
        text = "".join(f"{v:021b}" for v in voxel)
        assert f"{key:063b}" == "".join(text[21 * axis + bit] for bit in range(21) for axis in (2, 1, 0))


@pytest.mark.parametrize("voxel_m", [0.01, 0.3])
def test_kernels_and_torch_merge_to_the_same_bytes(voxel_m: float) -> None:
    compiled, reference = filled(range(4), voxel_m, batch=2), RgbCloud.empty(2, voxel_m)
    for seed in range(4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RgbCloud, "_merged_compiled", RgbCloud._merged_torch)
            reference = reference.add(*frame(seed, 2), cameras(moved(seed), moved(seed + 100)))
    assert same(compiled, reference)


def same(a: RgbCloud, b: RgbCloud) -> bool:
    theirs = b.named_tensors()
    return all(torch.equal(t, theirs[name]) for name, t in a.named_tensors().items())


def loop(cloud: RgbCloud, camera: Camera) -> tuple[np.ndarray, ...]:
    """One camera's rgb [H, W, 3], depth and visible [H, W]: every point asked at every pixel, in double precision."""
    count = int(cloud.count)
    viewmat = np.linalg.inv(camera.world_from_camera[0].double().numpy())
    at = cloud.points[0, :count].double().numpy() @ viewmat[:3, :3].T + viewmat[:3, 3]
    ahead = at[:, 2] > 0.01
    at, colours = at[ahead], cloud.rgb[0, :count].numpy()[ahead]
    sizes = cloud.sizes[0, :count].double().numpy()[ahead]
    K = camera.intrinsics[0].double().numpy()
    uv = (at @ K.T)[:, :2] / at[:, 2:]
    sides = np.clip(1.5 * sizes * K[0, 0] / at[:, 2], 1, 4)
    rgb, depth, visible = np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for row in range(SIZE):
        for column in range(SIZE):
            away = np.abs(uv - [column + 0.5, row + 0.5])
            over = (away <= 0.5 * sides[:, None]).all(1)
            if over.any():
                shown = over & (at[:, 2] <= 1.1 * at[over, 2].min())
                weight = ((1 - away[shown] / sides[shown, None]) / sides[shown, None]).prod(1)
                rgb[row, column] = np.average(colours[shown], axis=0, weights=weight)
                depth[row, column], visible[row, column] = np.average(at[shown, 2], weights=weight), 1.0
    return rgb.transpose(2, 0, 1), depth, visible


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", [7, 8, 9])
def test_a_picture_is_that_of_a_z_buffer_written_as_loops(seed: int, compiled: bool) -> None:
    cloud, camera = filled(range(3), 0.02), cameras(moved(seed))
    seen = render_cloud(cloud, camera) if compiled else in_torch(cloud, camera)
    expected = loop(cloud, camera)
    assert 0.3 < expected[2].mean() < 1.0
    for found, want in zip(seen[:3], expected, strict=True):
        wrong = np.abs(found[0].numpy() - want) > 1e-4
        assert wrong.mean() < 0.01  # a point on the edge of a pixel or of the tolerance


def in_torch(cloud: RgbCloud, camera: Camera) -> CloudView:
    return _render_torch(cloud, camera, camera.intrinsics @ inverse_pose(camera.world_from_camera)[:, :3])


def test_kernels_and_torch_paint_alike() -> None:
    cloud, views = filled(range(4), 0.02, batch=2), cameras(*(moved(seed) for seed in range(20, 24)))
    for a, b in zip(render_cloud(cloud, views), in_torch(cloud, views), strict=True):
        assert a.shape == b.shape and float(((a - b).abs() > 1e-4).float().mean()) < 0.005


def test_imagined_points_are_told_from_observed_ones() -> None:
    cloud, views = filled(range(3), 0.02, batch=2), cameras(*(moved(seed) for seed in range(20, 24)))
    imagined = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.5
    cloud = cloud.add(*frame(3, 2), cameras(moved(3), moved(103)), imagined)
    fast, slow = render_cloud(cloud, views), in_torch(cloud, views)
    assert float(((fast.observed - slow.observed).abs() > 1e-4).float().mean()) < 0.005
    assert float((fast.visible - fast.observed).mean()) > 0.01 and float(fast.observed.max()) == 1.0
    assert not fast.observed[fast.visible == 0].any()
    (depth, rgb), camera = frame(3), cameras(moved(4))
    alone = RgbCloud.empty(1, 1e-4).add(depth, rgb, camera, imagined[:1])
    seen = render_cloud(alone, camera)
    torch.testing.assert_close(seen.observed, 1.0 - imagined[:1].float(), atol=1e-5, rtol=0)
    observed = RgbCloud.empty(1, 1e-4).add(depth, rgb, camera)
    assert torch.equal(alone.sizes, observed.sizes) and alone.nbytes() == observed.nbytes()


def test_a_frame_seen_from_its_own_camera_comes_back_as_it_was() -> None:
    (depth, rgb), camera = frame(3), cameras(moved(4))
    seen = render_cloud(RgbCloud.empty(1, 1e-4).add(depth, rgb, camera), camera)
    torch.testing.assert_close(seen.rgb, rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.depth, depth, atol=1e-5, rtol=0)
    assert bool((seen.visible == 1).all())


@pytest.mark.parametrize("turn", [0.0, 0.4, 0.8])
def test_a_wall_has_no_pinholes_from_nearer_and_from_the_side(turn: float) -> None:
    depth, rgb = torch.full((1, SIZE, SIZE), 2.0), torch.rand(1, 3, SIZE, SIZE)
    cloud = RgbCloud.empty(1, 0.001).add(depth, rgb, cameras())
    nearer = make_pose(
        so3_exp(torch.tensor([0.0, turn, 0.0])), torch.tensor([-1.6 * math.sin(turn), 0.0, 2 - 1.4 * math.cos(turn)])
    )
    rolled = nearer @ make_pose(so3_exp(torch.tensor([0.0, 0.0, 0.7])), torch.zeros(3))
    for camera in (cameras(nearer), cameras(rolled)):
        seen = render_cloud(cloud, camera)
        middle = seen.visible[0, 4:-4, 4:-4]
        assert bool((middle == 1).all())


def test_what_is_nearer_hides_what_is_behind() -> None:
    behind, before = torch.full((1, SIZE, SIZE), 3.0), torch.full((1, SIZE, SIZE), 1.5)
    cloud = RgbCloud.empty(1, 0.01).add(before, torch.ones(1, 3, SIZE, SIZE), cameras())
    cloud = cloud.add(behind, torch.zeros(1, 3, SIZE, SIZE), cameras())  # newer, and hidden
    seen = render_cloud(cloud, cameras())
    assert bool((seen.rgb == 1).all()) and float((seen.depth - 1.5).abs().max()) < 1e-5


def test_culling_changes_nothing() -> None:
    cloud = filled(range(12), 0.01)
    views = [moved(seed) @ make_pose(so3_exp(torch.tensor([0.0, 0.7 * seed, 0.0])), torch.zeros(3)) for seed in range(30, 40)]
    seen = 0.0
    for view in views:
        whole, culled = (render_cloud(cloud, cameras(view), culled=c) for c in (False, True))
        assert all(torch.equal(a, b) for a, b in zip(whole, culled, strict=True))
        seen += float(culled.visible.mean())
    assert 1.0 < seen < 9.0


def test_it_grows_in_blocks_and_its_bytes_are_those_of_its_points() -> None:
    cloud, slots = RgbCloud.empty(1, 0.002), set()
    for seed in range(20):
        before = cloud
        cloud = cloud.add(*frame(seed), cameras(moved(seed)))
        assert int(before.count) < int(cloud.count)
        assert Bytes.of(cloud, cloud.occupied, grows=True).charged == 16 * int(cloud.count) + 8
        slots.add(cloud.points.shape[1])
    assert slots == {4096, 8192} and int(cloud.occupied.sum()) == int(cloud.count) > 4096
    again = cloud
    for seed in range(20):
        again = again.add(*frame(seed), cameras(moved(seed)))
    assert same(again, cloud) and same(before, before.detach())  # what was seen from here before adds nothing


def broken(kind: str) -> tuple[Tensor, Tensor, Camera]:
    (depth, rgb), camera = (t.clone() for t in frame(1, 2)), cameras(moved(1), moved(2))
    wrong = {"zero": 0.0, "behind": -1.0, "nan": math.nan, "infinite": math.inf}
    if kind in wrong:
        depth[1, 3, 5] = wrong[kind]
    elif kind == "pose":
        camera.world_from_camera[1, 0, 3] = math.nan
    elif kind == "far":
        camera.world_from_camera[1, 0, 3] = 1e9
    else:
        depth = depth[:, 1:]
    return depth, rgb, camera


MESSAGES = {
    "zero": r"row 1: expected depths above 0 m, got 0; nothing was written",
    "behind": r"row 1: expected depths above 0 m, got -1; nothing",
    "nan": r"row 1: expected depths above 0 m, got nan; nothing",
    "infinite": r"row 1: expected depths above 0 m, got inf; nothing",
    "pose": r"row 1: a point lies nan m away",
    "far": r"row 1: a point lies 1e\+09 m away; voxels of 0.05 m reach 5.24e\+04 m",
    "shape": r"expected depth \[2, 16, 16\] and rgb \[2, 3, 16, 16\], got \[2, 15, 16\]",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_cannot_be_lifted_is_named_and_the_cloud_untouched(kind: str) -> None:
    cloud = filled(range(2), batch=2)
    copy = cloud.map(torch.clone)
    with pytest.raises(UserError, match=MESSAGES[kind]):
        cloud.add(*broken(kind))
    assert same(cloud, copy)


def test_it_survives_save_and_load_bit_for_bit_and_goes_on(tmp_path: Path) -> None:
    cloud = filled(range(3), batch=2)
    cloud.save(tmp_path / "cloud.safetensors")
    loaded = RgbCloud.empty(2, 0.05).load(tmp_path / "cloud.safetensors")
    assert same(cloud, loaded)
    now = (*frame(9, 2), cameras(moved(9), moved(10)))
    assert same(cloud.add(*now), loaded.add(*now))


def test_rows_do_not_mix_and_are_taken_with_the_room_they_need() -> None:
    both, first = filled(range(3), batch=2), filled(range(3), batch=1)
    alone = RgbCloud.empty(1, 0.05)
    for seed in range(3):
        depth, rgb = frame(seed, 2)
        alone = alone.add(depth[1:], rgb[1:], cameras(moved(seed + 100)))
    assert same(both.index([1]), alone) and not same(both.index([0]), alone) and first.count.shape == (1,)
    large = filled(range(20), 0.002)
    nothing = RgbCloud.empty(1, 0.002)
    keep, drop = torch.tensor([True]), torch.tensor([False])
    assert same(large.where(keep, nothing), large) and same(large.where(drop, nothing), nothing)
    assert same(nothing.where(drop, large), large)


def test_sizes_of_pixels_are_kept_to_a_few_percent() -> None:
    looks = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 4)
    sizes, imagined = sizes_of(looks).chunk(2)
    torch.testing.assert_close(sizes[1:] / sizes[:-1], torch.full((127,), 2.0 ** (1 / 8)))
    assert float(sizes[0]) == pytest.approx(1e-4) and float(sizes[-1]) > 6.0
    assert torch.equal(sizes, imagined)


def test_a_room_that_was_toured_is_seen_from_a_place_never_visited() -> None:
    """With true depth, against the picture that was ray-traced."""
    K, size, cloud = torch.from_numpy(intrinsics(32))[None], 32, RgbCloud.empty(1, 0.01)
    for k in range(12):
        here = pose(0.3 * math.cos(k), 0.3 * math.sin(k), math.tau * k / 12)
        rgb, depth = render(here, size, scene=1)
        camera = Camera(K, torch.from_numpy(here)[None], size, size)
        cloud = cloud.add(torch.from_numpy(depth)[None], torch.from_numpy(rgb).movedim(-1, 0)[None] / 255.0, camera)
    there = pose(0.5, -0.4, 1.0)
    rgb, depth = render(there, size, scene=1)
    seen = render_cloud(cloud, Camera(K, torch.from_numpy(there)[None], size, size))
    shown = seen.visible[0] > 0
    assert float(shown.float().mean()) > 0.9
    error = (seen.rgb[0] - torch.from_numpy(rgb).movedim(-1, 0) / 255.0)[:, shown]
    assert float(-10 * error.square().mean().log10()) > 26.0
    assert float(((seen.depth[0] - torch.from_numpy(depth)).abs() / torch.from_numpy(depth))[shown].mean()) < 0.02


def test_dataclass_fields_other_than_tensors_survive() -> None:
    cloud = RgbCloud.empty(2, 0.03)
    assert replace(cloud).voxel_m == cloud.index([0]).voxel_m == cloud.expand(2).voxel_m == 0.03
