"""What a look at a texel counts: Kalman's weights until something better is learned, and never far from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.frame import frame_of
from embodied_liftwm.memory.patches.integrate import associate
from embodied_liftwm.memory.patches.look_weights import (
    FEATURES,
    KalmanWeights,
    LearnedWeights,
    Weighed,
    compare,
)
from embodied_liftwm.memory.patches.map import Patches, PatchMap
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.types import Association, Frame
from embodied_liftwm.memory.patches.write import write_patches
from tests.memory.rooms import SIZE, camera, nothing, render, write

HERE, THERE = camera((-1.0, 0.0, 1.3)), camera((-0.8, 0.15, 1.25), yaw=0.1)


def second_look(world: PatchMap, change: float = 0.0) -> tuple[Patches, Association, Frame]:
    """The patches of `world`, and how a frame from `THERE` meets them, its colours and latents off by `change`."""
    rgb, depth = render(THERE)
    latents = torch.full((1, 2, SIZE // 2, SIZE // 2), change, dtype=rgb.dtype)
    frame = frame_of(1.01 * depth, (0.02 * depth) ** -2, latents, rgb + change, THERE, world.finest)
    old = world.patches()
    batch = torch.zeros(len(old.faces), dtype=torch.int64)
    return old, associate(old, batch, old.mean_heights(), frame), frame


def test_kalman_adds_the_evidence_of_memory_and_frame() -> None:
    old, found, frame = second_look(write(nothing(), HERE))
    seen, kept = KalmanWeights()(old, found, frame)
    assert float(found.matched.float().mean()) > 0.1
    at = found.look.pixel[found.matched]
    assert torch.equal(seen[found.matched], frame.certainty[at])
    claims = zip(old.evidence[found.matched].tolist(), frame.certainty[at].tolist(), strict=True)
    expected = [min(remembered, MEETING.max_evidence_ratio * shown) for remembered, shown in claims]
    assert kept[found.matched].tolist() == pytest.approx(expected)
    assert bool((kept[found.filled] == 0).all())


def test_an_untrained_network_is_the_kalman_filter() -> None:
    given = second_look(write(nothing(), HERE))
    for mine, theirs in zip(LearnedWeights()(*given), KalmanWeights()(*given), strict=True):
        assert torch.equal(mine, theirs)


def test_factors_are_bounded_and_only_of_texels_that_are_seen_again() -> None:
    old, found, frame = second_look(write(nothing(), HERE))
    fusion = LearnedWeights()
    with torch.no_grad():
        fusion.compare[-1].bias.copy_(torch.tensor([50.0, -50.0]))
    claimed, weighed = KalmanWeights()(old, found, frame), fusion(old, found, frame)
    factor = math.exp(MEETING.largest_log_factor)
    at = found.matched
    assert torch.allclose(weighed.seen[at], factor * claimed.seen[at])
    assert torch.allclose(weighed.kept[at], claimed.kept[at] / factor)
    assert torch.equal(weighed.seen[~at], claimed.seen[~at])


def test_features_tell_what_disagrees() -> None:
    world = write(nothing(), HERE)

    def features(change: float) -> Tensor:
        old, found, frame = second_look(world, change)
        return compare(old, found, frame, *found.matched.nonzero(as_tuple=True))

    alike, different = features(0.0), features(0.1)  # more would be another surface (`hidden`)
    assert alike.shape[1] == FEATURES and bool(alike.isfinite().all())
    assert float(alike[:, 4].max()) == 0 and torch.allclose(different[:, 4], torch.tensor(0.1))  # latents
    assert float((different[:, 5] - alike[:, 5]).mean()) == pytest.approx(0.5, rel=0.2)  # colours, less what differs already
    assert float(alike[:, 0].median()) == pytest.approx(-20 * 0.01 / 1.01, abs=0.02)  # 1 % before what is seen
    unmoved = [0, 1, 2, 3, 6, 7]
    assert torch.equal(alike[:, unmoved], different[:, unmoved])


def test_weights_have_gradients_in_float64() -> None:
    torch.manual_seed(0)
    world = write(nothing(dtype=torch.float64), camera((-1.0, 0.0, 1.3), dtype=torch.float64))
    rgb, depth = render(camera((-0.8, 0.15, 1.25), yaw=0.1, dtype=torch.float64))
    there = camera((-0.8, 0.15, 1.25), yaw=0.1, dtype=torch.float64)
    latents = torch.randn(1, 2, SIZE // 2, SIZE // 2, dtype=torch.float64)
    fusion = LearnedWeights().double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    old = world.patches()
    batch = torch.zeros(len(old.faces), dtype=torch.int64)

    def shares(last: Tensor, theirs: Tensor) -> Tensor:
        frame = frame_of(1.01 * depth, (0.02 * depth) ** -2, theirs, rgb, there, world.finest)
        found = associate(old, batch, old.mean_heights(), frame)
        weights = torch.func.functional_call(fusion, {"compare.2.weight": last}, (old, found, frame))
        chosen = found.matched.nonzero()[::97].unbind(1)
        return weights.seen[chosen] / (weights.seen[chosen] + weights.kept[chosen])

    last = fusion.compare[2].weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: shares(w, latents), [last])
    latents.requires_grad_()
    (gradient,) = torch.autograd.grad(shares(last, latents).sum(), [latents])
    assert bool(gradient.isfinite().all()) and bool((gradient != 0).any())


def test_it_learns_whom_to_distrust() -> None:
    """A frame whose latents betray that its colours are wrong: Kalman's average is grey, the network keeps what it knew."""
    torch.manual_seed(1)
    world = write(nothing(), HERE)
    rgb, depth = render(THERE)
    wrong = torch.rand(1, 1, SIZE // 2, SIZE // 2) < 0.25  # were most of a patch, it would be another surface
    latents = wrong.float().expand(-1, 2, -1, -1)
    spoilt = torch.where(wrong.repeat_interleave(2, 2).repeat_interleave(2, 3), 0.0, rgb)
    certainty = (0.01 * depth) ** -2
    right = write(world, HERE)  # the same surfaces, seen once more as they are

    def error(fusion: KalmanWeights) -> Tensor:
        after = write_patches(world, depth, certainty, latents, spoilt, THERE, fusion)
        both = (world.evidence > 0) & (after.evidence > 0)
        return (after.rgb - right.rgb)[both].square().mean()

    fusion = LearnedWeights()
    optimizer = torch.optim.Adam(fusion.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        loss = error(fusion)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(error(fusion)) < 0.3 * float(error(KalmanWeights()))


def test_weights_of_what_is_not_seen_again_are_left_to_the_frame() -> None:
    given = second_look(nothing())
    weights: Weighed = LearnedWeights()(*given)
    assert bool((weights.kept == 0).all())
