"""Terms are likelihoods: each against its formula, and the marginal against a sum written out."""

import math

import pytest
import torch

from embodied_liftwm.objectives.photometric import edge_aware_smoothness, photometric_error
from embodied_liftwm.objectives.terms import TERMS, LaplaceScale, Lifted, MultiViewTerm, Rollout


def rollout(lifted: Lifted | None = None) -> Rollout:
    zeros = torch.zeros(2, 3, 6)
    return Rollout(2, lifted, None, zeros + 0.1, zeros, zeros + 0.5)


def lifted(log_belief: torch.Tensor, cost: torch.Tensor) -> Lifted:
    frames, _, _, height, width = cost.shape
    known = torch.ones_like(cost, dtype=torch.bool)
    return Lifted(log_belief, torch.ones(frames, height, width), cost, known, torch.rand(frames, 3, height, width))


def test_a_learned_laplace_scale_is_best_at_the_mean_absolute_error():
    error = torch.tensor([0.1, 0.3])
    values = {b: LaplaceScale(b).log_prob(error).mean().item() for b in (0.1, 0.2, 0.4)}
    assert max(values, key=values.__getitem__) == 0.2
    assert values[0.2] == pytest.approx(-1.0 - math.log(0.4), abs=1e-5)


def test_ego_motion_is_laplace():
    expected = -0.1 / 0.5 - math.log(1.0)
    torch.testing.assert_close(TERMS["ego_motion"]().log_prob(rollout()), torch.full((2, 3), expected))


def test_the_marginal_sums_over_planes_and_sources():
    torch.manual_seed(0)
    log_belief = torch.log_softmax(torch.randn(2, 4, 3, 3), dim=1)
    cost = 0.1 * torch.rand(2, 2, 4, 3, 3)
    term = MultiViewTerm()
    b = term.plane_noise.log_scale.exp().item()
    inlier = (log_belief.exp() * (torch.exp(-cost / b) / (2 * b)).mean(1)).sum(1)
    expected = torch.log((1 - term.OUTLIERS) * inlier + term.OUTLIERS).mean((1, 2))
    torch.testing.assert_close(term.marginal(lifted(log_belief, cost)), expected)


def test_the_marginal_draws_belief_to_the_plane_that_explains():
    logits = torch.zeros(1, 5, 2, 2, requires_grad=True)
    cost = torch.full((1, 1, 5, 2, 2), 0.2)
    cost[:, :, 3] = 0.0
    MultiViewTerm().marginal(lifted(torch.log_softmax(logits, dim=1), cost)).sum().backward()
    assert bool((logits.grad.argmax(1) == 3).all())


@pytest.mark.parametrize("name", sorted(TERMS))
def test_terms_are_silent_where_nothing_was_lifted_or_viewed(name: str):
    found = TERMS[name]().log_prob(rollout())
    assert found.shape[0] == 2
    assert name == "ego_motion" or float(found.abs().max()) == 0.0


def test_photometric_error_is_zero_for_equal_images_and_grows_with_difference():
    image = torch.rand(1, 3, 8, 8)
    assert float(photometric_error(image, image).abs().max()) < 1e-5
    assert float(photometric_error(image, 1 - image).mean()) > float(photometric_error(image, 0.9 * image).mean())


def test_smoothness_forgives_slopes_at_image_edges():
    depth = torch.ones(1, 4, 4)
    depth[:, :, 2:] = 3.0
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1.0
    assert float(edge_aware_smoothness(depth, edge)) < 1e-3 * float(edge_aware_smoothness(depth, torch.zeros_like(edge)))
