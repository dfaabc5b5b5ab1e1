"""Corrupted teachers: doses are what they say, and confidence knows of them."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.priors.contract import Clip, DepthMaps, NormalMaps, PseudoObservations
from embodied_liftwm.priors.corruption import (
    FARTHEST_M,
    KINDS,
    NEAREST_M,
    Corruption,
    corrupt,
    generator,
    strengths,
)

FRAMES, SIZE = 9, 32
INTRINSICS = torch.tensor([[20.0, 0.0, 16.0], [0.0, 20.0, 16.0], [0.0, 0.0, 1.0]])
CLIP = Clip(torch.zeros(FRAMES, 3, SIZE, SIZE), INTRINSICS, torch.eye(4).expand(FRAMES, 4, 4))
PLANE = torch.tensor([0.3, -0.2, -1.0]) / math.sqrt(1.13)
OFFSET = -2.0  # of the plane n X = c, metres


def plane_depth(normal: Tensor, offset: Tensor | float) -> Tensor:
    """Where the rays of all pixels meet a plane. [H, W]"""
    return offset / (camera_rays(INTRINSICS[None], SIZE, SIZE)[0] @ normal)


def wall(confidence: float = 0.5) -> PseudoObservations:
    """A teacher that sees the plane in every frame; it is silent at one pixel."""
    frames, depth = torch.arange(FRAMES), plane_depth(PLANE, OFFSET).expand(FRAMES, SIZE, SIZE).clone()
    sure = torch.full_like(depth, confidence)
    sure[:, 3, 4] = 0.0
    normals = PLANE[:, None, None].expand(FRAMES, 3, SIZE, SIZE).clone()
    return PseudoObservations(depth=DepthMaps(depth, sure, frames, "metric"), normals=NormalMaps(normals, sure, frames))


def errors(found: PseudoObservations) -> Tensor:
    """Of log-depth. [F, H, W]"""
    assert found.depth is not None
    return (found.depth.values / plane_depth(PLANE, OFFSET)).log()


def worse(kind: str, dose: float, weighted: bool = True, seed: int = 0, episode: int = 0) -> PseudoObservations:
    how = Corruption(kind, dose, weighted, seed)
    return corrupt(wall(), CLIP, how, generator(how, episode))


def test_fields_are_smooth_and_of_mean_one() -> None:
    field = strengths(np.random.default_rng(0), 3, SIZE, SIZE)
    assert torch.allclose(field.mean((1, 2)), torch.ones(3)) and 0 <= field.min() < 0.01 and 1.99 < field.max() <= 2
    assert field.diff(dim=1).abs().mean() < 0.2 and field.std() == pytest.approx(1 / math.sqrt(3), abs=0.01)


def test_noise_is_white_and_grows_with_the_strength() -> None:
    how = Corruption("noise", 0.2, True, 0)
    strength, off = strengths(generator(how, 0), FRAMES, SIZE, SIZE), errors(worse("noise", 0.2))
    assert off.square().mean().sqrt() == pytest.approx(0.2 * math.sqrt(4 / 3), rel=0.05)  # E s^2 = 4/3 on [0, 2]
    assert off[strength > 1.5].std() > 5 * off[strength < 0.3].std()
    assert abs(float((off[:, :, 1:] * off[:, :, :-1]).mean())) < 0.05 * float(off.square().mean())
    normals = worse("noise", 0.2).normals
    assert normals is not None and torch.allclose(normals.values.norm(dim=1), torch.ones(FRAMES, SIZE, SIZE), atol=1e-5)
    tangent = (normals.values * PLANE[:, None, None]).sum(1).clamp(-1, 1).acos().tan()
    assert tangent.square().mean() == pytest.approx(2 * 0.2**2 * 4 / 3, rel=0.1)  # two components


@pytest.mark.parametrize("dose", [0.25, 0.8, 1.0])
def test_outliers_are_blocks_of_the_stated_share(dose: float) -> None:
    found = [worse("outliers", dose, seed=seed) for seed in range(12)]
    off = torch.cat([errors(one) for one in found]).abs() > 1e-4
    assert off.float().mean() == pytest.approx(dose, abs=0.03)
    blocks = torch.cat([one.depth.values for one in found if one.depth]).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3)
    hit = off.unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).any(3)
    assert (blocks[hit].amax(1) == blocks[hit].amin(1)).all()
    drawn = blocks[hit][:, 0].log()
    middle, spread = math.log(NEAREST_M * FARTHEST_M) / 2, math.log(FARTHEST_M / NEAREST_M) / math.sqrt(12)
    assert drawn.mean() == pytest.approx(middle, abs=0.15) and drawn.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(("kind", "dose"), [("noise", 0.1), ("outliers", 0.4), ("pure_noise", 1)])
def test_confidence_says_how_often_depth_is_near_enough(kind: str, dose: float) -> None:
    sure, right = [], []
    for seed in range(8):
        found = worse(kind, dose, seed=seed)
        assert found.depth is not None
        said = found.depth.confidence > 0
        sure.append(found.depth.confidence[said] / 0.5)  # the teacher's own
        right.append(errors(found)[said].abs() < math.log(1.1))
    chance, near = torch.cat(sure), torch.cat(right).float()
    assert chance.min() >= 0 and chance.max() <= 1
    edges = chance.quantile(torch.linspace(0, 1, 4)) if kind != "pure_noise" else torch.tensor([0.0, 1.0])
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (chance >= low) & (chance <= high)
        assert near[inside].mean() == pytest.approx(float(chance[inside].mean()), abs=0.06)


def test_confidence_falls_with_the_strength() -> None:
    how = Corruption("noise", 0.1, True, 0)
    strength, found = strengths(generator(how, 0), FRAMES, SIZE, SIZE)[-1].flatten(), worse("noise", 0.1).depth
    assert found is not None
    spoken = found.confidence[-1].flatten()[strength.argsort()]
    spoken = spoken[spoken > 0]
    assert (spoken.diff() <= 1e-6).all() and spoken[0] > 2 * spoken[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_episode_give_the_same(kind: str) -> None:
    def same(a: PseudoObservations, b: PseudoObservations) -> bool:
        assert a.depth and b.depth and a.normals and b.normals
        return torch.equal(a.depth.values, b.depth.values) and torch.equal(a.normals.values, b.normals.values)

    first = worse(kind, 0.3)
    assert same(first, worse(kind, 0.3)) and same(first, worse(kind, 0.3, weighted=False))
    if kind != "clean":
        assert not same(first, worse(kind, 0.3, episode=1)) and not same(first, worse(kind, 0.3, seed=1))
        assert not same(first, wall())


def test_every_corruption_has_a_fingerprint_of_its_own() -> None:
    settings = itertools.product(KINDS, (0.1, 0.2), (True, False), (0, 1))
    names = [Corruption(*setting).fingerprint(of) for setting in settings for of in ("0" * 16, "1" * 16)]
    assert len(set(names)) == len(names) == 64 and all(re.fullmatch("[0-9a-f]{16}", name) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_unweighted_is_sure_wherever_the_teacher_speaks(kind: str) -> None:
    plain, sure = worse(kind, 0.3), worse(kind, 0.3, weighted=False)
    assert plain.depth and sure.depth and plain.normals and sure.normals
    assert set(sure.depth.confidence.unique().tolist()) == {0.0, 1.0} == set(sure.normals.confidence.unique().tolist())
    assert (sure.depth.confidence[:, 3, 4] == 0).all() and sure.depth.confidence.sum() == FRAMES * (SIZE**2 - 1)
    assert (plain.depth.confidence[sure.depth.confidence == 0] == 0).all()
    assert plain.depth.confidence.max() <= 0.5 and sure.depth.values.isfinite().all() and (sure.depth.values > 0).all()


def test_only_metric_depth_of_every_frame_can_be_corrupted() -> None:
    given, how = wall(), Corruption("noise", 0.1, True, 0)
    assert given.depth is not None
    for wrong in (
        replace(given, depth=None),
        replace(given, depth=replace(given.depth, convention="scale_free")),
        replace(given, depth=replace(given.depth, frames=given.depth.frames.flip(0))),
    ):
        with pytest.raises(UserError, match="metric depth of every frame"):
            corrupt(wrong, CLIP, how, generator(how, 0))
    bare = corrupt(replace(given, normals=None), CLIP, how, generator(how, 0))
    assert bare.normals is None and bare.depth is not None
