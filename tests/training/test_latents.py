"""Random latents and the probability of having seen: the KL to the map's prior, the noise, and the labels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import GaussiansConfig, ModelConfig, PatchesConfig
from embodied_liftwm.geometry import look_at
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.objectives.terms import TERMS, Rollout, Viewed
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.training import rollout as rollouts
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model

SIZE = 32
CONFIG = ModelConfig(patches=PatchesConfig(64), gaussians=GaussiansConfig(64), latent_dim=4, stride=2, width=16, planes=16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG, ModelShapes(SIZE, 2, 0)).eval().requires_grad_(False)


def camera_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> Camera:
    half = SIZE / 2
    intrinsics = torch.tensor([[[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]])
    return Camera(intrinsics, look_at(torch.tensor([eye]), torch.tensor([target])), SIZE, SIZE)


def written(model, camera: Camera, latent: float):
    """A state after one frame of a wall 2 m away whose latents are all `latent`."""
    rgb = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    cells = SIZE // CONFIG.stride
    encoding = model.encode(rgb, camera)._replace(
        depth=torch.full((1, cells, cells), 2.0),
        spread=torch.full((1, cells, cells), 0.01),
        latents=torch.full((1, CONFIG.latent_dim, cells, cells), latent),
    )
    state = model.initial_state(1)
    return model.write(state, encoding, Observation(rgb, camera, torch.zeros(1, 2), torch.tensor([True]), torch.zeros(1, 0)))


def test_before_anything_is_seen_the_prior_is_a_standard_normal(model):
    prior = model.latent_prior(model.initial_state(1), camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0)))
    cells = SIZE // CONFIG.stride
    assert prior.mean.shape == prior.scale.shape == (1, cells, cells, CONFIG.latent_dim)
    assert torch.equal(prior.mean, torch.zeros_like(prior.mean))
    assert torch.equal(prior.scale, torch.ones_like(prior.scale))


def test_what_was_seen_is_expected_again_and_what_was_not_is_not(model):
    ahead, behind = camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0)), camera_at((0.0, 0.0, 1.0), (-1.0, 0.0, 1.0))
    state = written(model, ahead, latent=0.7)
    again, elsewhere = model.latent_prior(state, ahead), model.latent_prior(state, behind)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    assert torch.allclose(again.mean[inner], torch.full_like(again.mean[inner], 0.7), atol=0.05)
    assert again.scale[inner].max() < 0.6
    assert torch.equal(elsewhere.scale, torch.ones_like(elsewhere.scale))
    posterior = DiagonalGaussian(torch.full_like(again.mean, 0.7), torch.full_like(again.scale, 0.3))
    assert posterior.kl(again)[0, 2:-2, 2:-2].mean() < 0.2 * posterior.kl(elsewhere)[0, 2:-2, 2:-2].mean()


def test_noise_belongs_to_the_window_and_not_to_its_place_in_the_batch():
    like = torch.zeros(2, 3, 3, 4)
    both = rollouts._noise(torch.tensor([11, 12]), 5, like)
    alone = rollouts._noise(torch.tensor([12]), 5, like[:1])
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, rollouts._noise(torch.tensor([11, 12]), 6, like))


def labels(eye: tuple[float, float, float], target: tuple[float, float, float], depth_m: float = 2.0) -> Tensor:
    """Which pixels of a view of a wall at x = 2 the context frame at the origin has seen, by lifted depths."""
    context, view = camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0)), camera_at(eye, target)
    rgb, poses = torch.zeros(1, 1, 3, SIZE, SIZE), context.world_from_camera[:, None]
    batch = cast(Any, SimpleNamespace(rgb=rgb, intrinsics=context.intrinsics, world_from_camera=poses))
    cells = torch.full((1, SIZE // 2, SIZE // 2), 2.0)
    return rollouts._was_seen(batch, cells, torch.full((1, SIZE, SIZE), depth_m), view)


def test_a_view_of_the_same_wall_was_seen_and_one_behind_or_through_it_was_not():
    assert labels((0.0, 0.0, 1.0), (1.0, 0.0, 1.0)).all()
    assert not labels((0.0, 0.0, 1.0), (-1.0, 0.0, 1.0)).any()
    assert not labels((0.0, 0.0, 1.0), (1.0, 0.0, 1.0), depth_m=3.0).any()


def test_from_aside_only_what_the_context_covered_was_seen():
    seen = labels((0.0, 2.0, 1.0), (1.0, 2.0, 1.0))[0]  # y is to the left: the wall from y = 0 to 4, of which it saw up to 2
    assert seen[:, SIZE // 2 + 1 :].all()
    assert not seen[:, : SIZE // 2 - 1].any()


def test_the_term_of_having_seen_is_best_at_the_true_frequency():
    label = torch.zeros(1, 10, 10, dtype=torch.bool)
    label[:, :3] = True
    empty = dict.fromkeys(Viewed._fields)
    nats = []
    for probability in (0.1, 0.3, 0.6):
        viewed = Viewed(**empty | {"seen": torch.full((1, 10, 10), probability), "was_seen": label})
        term = TERMS["seen"]()
        nats.append(float(term.log_prob(Rollout(1, None, viewed, *[torch.zeros(1, 1, 6)] * 3))))
    assert nats[1] == max(nats)
    blind = Viewed(**empty)
    assert float(TERMS["seen"]().log_prob(Rollout(1, None, blind, *[torch.zeros(1, 1, 6)] * 3)).sum()) == 0.0


def test_seen_is_a_probability_that_follows_coverage(model):
    camera = camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0))
    seen = model.render(written(model, camera, 0.0), camera).seen
    unseen = model.render(model.initial_state(1), camera).seen
    assert ((seen >= 0) & (seen <= 1)).all()
    assert seen.mean() > 0.8 > 0.2 > unseen.mean()


def test_plain_gaussians_have_the_same_prior(model):
    torch.manual_seed(0)
    plain = build_model(replace(CONFIG, memory="gaussians"), ModelShapes(SIZE, 2, 0)).eval().requires_grad_(False)
    camera = camera_at((0.0, 0.0, 1.0), (1.0, 0.0, 1.0))
    prior = plain.latent_prior(plain.initial_state(1), camera)
    assert torch.equal(prior.scale, torch.ones_like(prior.scale))
