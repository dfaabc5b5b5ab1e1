"""Multi-view stereo on rooms of exact depth, its kernels against slow Python, and planes fitted to depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.priors.contract import Clip, PriorOptions, PseudoObservations
from embodied_liftwm.priors.geometric.mvs import Agreement, MultiViewStereo, StereoSettings, Voters, _voters, compare, vote
from embodied_liftwm.priors.geometric.plane_fit import fit_planes
from embodied_liftwm.priors.registry import find_card, open_prior
from tests.priors.textured_room import Drive, drive, shaken
from tests.toy_room import intrinsics

SIZE = 32
SMALL = StereoSettings(sources=6, voters=6, planes=48)


@pytest.fixture(scope="module")
def room() -> Drive:
    return drive(frames=7, size=SIZE)


@pytest.fixture(scope="module")
def seen(room: Drive) -> PseudoObservations:
    return MultiViewStereo(SMALL).observe(room.clip)


def relative(seen: PseudoObservations, room: Drive) -> Tensor:
    return (seen.depth.values / room.depth - 1.0).abs()


def test_depth_is_metric_and_right(room: Drive, seen: PseudoObservations):
    assert seen.depth.convention == "metric" and seen.depth.frames.tolist() == list(range(7))
    error, sure = relative(seen, room), seen.depth.confidence
    assert float(error[sure > 0.9].mean()) < 0.03
    assert float((error < 0.1).float().mean()) > 0.85


def test_confidence_orders_the_errors_and_is_the_chance_of_being_right(room: Drive, seen: PseudoObservations):
    error, sure = relative(seen, room).flatten(), seen.depth.confidence.flatten()
    assert float(sure.min()) >= 0.0 and float(sure.max()) <= 1.0
    thirds = error[sure.argsort()].chunk(3)
    assert float(thirds[0].mean()) > 2.0 * float(thirds[2].mean())
    assert abs(float(sure.mean()) - float((error < 0.1).float().mean())) < 0.12


def test_the_second_pass_helps(room: Drive, seen: PseudoObservations):
    stereo = MultiViewStereo(SMALL)
    partners = [stereo._partners(room.clip, frame) for frame in range(7)]
    first = stereo._pass(room.clip, partners, None).depth
    assert float(relative(seen, room).mean()) < 0.8 * float((first / room.depth - 1.0).abs().mean())


def test_the_same_clip_gives_the_same_bits(room: Drive, seen: PseudoObservations):
    again = MultiViewStereo(SMALL).observe(room.clip)
    for one, other in ((seen.depth, again.depth), (seen.normals, again.normals)):
        assert torch.equal(one.values, other.values) and torch.equal(one.confidence, other.confidence)


def test_wrong_poses_lower_the_confidence(room: Drive, seen: PseudoObservations):
    wrong = MultiViewStereo(SMALL).observe(shaken(room.clip, 0.1))
    assert float(wrong.depth.confidence.mean()) < 0.8 * float(seen.depth.confidence.mean())


@pytest.mark.parametrize("frames", [1, 3])
def test_without_parallax_nothing_is_believed(room: Drive, frames: int):
    still = Clip(room.clip.rgb[:frames], room.clip.intrinsics, room.clip.world_from_camera[:1].expand(frames, 4, 4))
    found = MultiViewStereo(SMALL).observe(still)
    assert found.depth.values.isfinite().all() and not found.depth.confidence.any() and not found.normals.confidence.any()


def test_normals_are_those_of_the_walls(room: Drive, seen: PseudoObservations):
    true = depth_to_normals(room.depth, room.clip.intrinsics.expand(7, 3, 3))
    sure = seen.normals.confidence > 0.5
    angle = torch.rad2deg((seen.normals.values * true).sum(1).clamp(-1.0, 1.0).acos())
    torch.testing.assert_close(seen.normals.values.norm(dim=1), torch.ones_like(angle))
    assert float(sure.float().mean()) > 0.3 and float(angle[sure].median()) < 10.0


def voters_of(room: Drive, frame: int, others: list[int]) -> Voters:
    return _voters(room.clip, frame, torch.tensor(others), room.depth, torch.ones_like(room.depth))


def agreement(room: Drive, depth: Tensor) -> Agreement:
    """What three others say of this depth of the fourth frame."""
    found = Agreement(*(np.zeros((SIZE, SIZE), np.float32) for _ in range(3)))
    compare(depth.numpy(), voters_of(room, 3, [1, 2, 5]), np.float32(1.0), np.float32(0.05), found)
    return found


def test_true_depths_agree_nearer_ones_are_seen_through_and_farther_ones_hidden(room: Drive):
    right, near, far = (agreement(room, factor * room.depth[3]) for factor in (1.0, 0.7, 1.4))
    assert right.agree.mean() > 1.5 and right.conflict.mean() < 0.02 * right.agree.mean()
    assert near.agree.mean() < 0.1 and near.conflict.mean() > 1.5
    assert far.agree.mean() < 0.1 and far.conflict.mean() < 0.1
    fused = (room.depth[3].numpy() + right.depth) / (1.0 + right.agree)
    np.testing.assert_allclose(fused, room.depth[3].numpy(), rtol=0.05)


def test_votes_are_those_of_slow_python(room: Drive):
    planes, reach, others = np.geomspace(0.5, 4.0, 12).astype(np.float32), 0.15, [1, 5]
    share = np.empty((SIZE, SIZE, 12), np.float32)
    voters = voters_of(room, 3, others)
    voters = voters._replace(confidence=np.random.default_rng(0).uniform(size=voters.depth.shape).astype(np.float32))
    vote(voters, planes, np.float32(reach), share)
    k, poses = room.clip.intrinsics.double().numpy(), room.clip.world_from_camera.double().numpy()
    for y, x, p in [(4, 7, 3), (16, 20, 6), (30, 2, 8), (11, 28, 10), (20, 15, 5)]:
        point = poses[3] @ [*(np.linalg.inv(k) @ [x + 0.5, y + 0.5, 1.0] * planes[p]), 1.0]
        total, support = 1.0, 0.0
        for s, other in enumerate(others):
            seen = k @ (np.linalg.inv(poses[other]) @ point)[:3]
            u, v = seen[:2] / seen[2]
            if seen[2] > 0.01 and 0 <= u < SIZE and 0 <= v < SIZE:
                theirs, weight = (array[s, int(v), int(u)] for array in (voters.depth, voters.confidence))
                farther = seen[2] / theirs - 1.0
                total += weight * (farther < reach)
                support += weight * max(0.0, 1.0 - abs(farther) / reach)
        assert share[y, x, p] == pytest.approx(support / total, abs=1e-4)


def test_planes_are_found_exactly_and_under_noise():
    normal, k = torch.tensor([0.2, -0.3, -0.9]), torch.from_numpy(intrinsics(SIZE))[None]
    normal /= normal.norm()
    depth = -2.0 / (camera_rays(k, SIZE, SIZE) @ normal)
    sure = torch.ones_like(depth)
    smooth, exact, confidence = fit_planes(depth, sure, k)
    torch.testing.assert_close(smooth, depth, atol=0, rtol=1e-3)
    torch.testing.assert_close(exact, normal[:, None, None].expand_as(exact), atol=2e-3, rtol=0)
    assert float(confidence.min()) > 0.99
    noisy = depth * (1.0 + 0.01 * torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)))
    fitted, differences = fit_planes(noisy, sure, k), depth_to_normals(noisy, k)

    def median_error(normals: Tensor) -> float:
        return float(torch.einsum("bchw,c->bhw", normals, normal).clamp(-1.0, 1.0).acos().median())

    assert median_error(fitted.normals) < 0.2 * median_error(differences)
    assert float((fitted.depth / depth - 1.0).abs().mean()) < 0.5 * float((noisy / depth - 1.0).abs().mean())


def test_normals_say_nothing_where_depth_does_not():
    k = torch.from_numpy(intrinsics(SIZE))[None]
    depth, sure = torch.full((1, SIZE, SIZE), 2.0), torch.ones(1, SIZE, SIZE)
    depth[:, :16], sure[:, :, 16:] = 0.0, 0.0
    found = fit_planes(depth, sure, k)
    assert (
        not found.confidence[:, :16].any()
        and not found.confidence[:, :, 16:].any()
        and found.confidence[:, 16:, :16].min() > 0.9
    )
    assert found.normals.isfinite().all() and torch.equal(found.depth[:, :, 20:], depth[:, :, 20:])


def test_the_fingerprint_is_of_the_settings():
    opened = open_prior("mvs", PriorOptions())
    assert opened.fingerprint() == MultiViewStereo().fingerprint() and len(opened.fingerprint()) == 16
    assert opened.fingerprint() != MultiViewStereo(replace(StereoSettings(), planes=65)).fingerprint()
    assert find_card("mvs").missing(PriorOptions()) == ""
