"""The bound against a model whose evidence and posterior are known: z ~ N(0, 1), frame, geometry and views linear in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.objectives.elbo import Elbo, elbo

SIZES = {"frame": 7, "geometry": 4, "views": 5}
Z = 3


@dataclass(frozen=True)
class LinearGaussian:
    """Each observation is a matrix times z plus noise of one scale."""

    matrices: dict[str, Tensor]  # [n_i, Z]
    scales: dict[str, Tensor]  # []

    def only(self, *names: str) -> LinearGaussian:
        return LinearGaussian({n: self.matrices[n] for n in names}, {n: self.scales[n] for n in names})

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All observations as one: matrix [n, Z] and noise scales [n]."""
        scales = [self.scales[name].expand(len(matrix)) for name, matrix in self.matrices.items()]
        return torch.cat(list(self.matrices.values())), torch.cat(scales)

    def draw(self, count: int) -> dict[str, Tensor]:
        z = torch.randn(count, Z, dtype=torch.float64)
        return {n: z @ m.T + self.scales[n] * torch.randn(count, len(m), dtype=m.dtype) for n, m in self.matrices.items()}

    def log_evidence(self, data: dict[str, Tensor]) -> Tensor:
        """log N(0, M M^T + S), from the joint covariance alone. [count]"""
        matrix, scales = self.stacked()
        marginal = MultivariateNormal(torch.zeros(len(matrix), dtype=matrix.dtype), matrix @ matrix.T + scales.square().diag())
        return marginal.log_prob(torch.cat([data[name] for name in self.matrices], dim=-1))

    def posterior(self, data: dict[str, Tensor]) -> MultivariateNormal:
        """Exact: precision 1 + M^T S^-1 M."""
        matrix, scales = self.stacked()
        weighted = matrix / scales.square()[:, None]
        precision = torch.eye(Z, dtype=matrix.dtype) + weighted.T @ matrix
        observed = torch.cat([data[name] for name in self.matrices], dim=-1)
        return MultivariateNormal(observed @ weighted @ torch.linalg.inv(precision), precision_matrix=precision)

    def exact(self, data: dict[str, Tensor]) -> DiagonalGaussian:
        """The posterior where its dimensions are independent."""
        posterior = self.posterior(data)
        assert float((posterior.covariance_matrix - torch.diag_embed(posterior.variance)).abs().max()) < 1e-12
        return DiagonalGaussian(posterior.mean, posterior.stddev)

    def bound(self, q: DiagonalGaussian, data: dict[str, Tensor]) -> Elbo:
        """The ELBO with the expectations over q in closed form."""
        found = {}
        for name, matrix in self.matrices.items():
            at_mean = Normal(q.mean @ matrix.T, self.scales[name]).log_prob(data[name]).sum(-1)
            spread = (q.scale.square() @ matrix.square().T).sum(-1) / (2 * self.scales[name].square())
            found[name] = at_mean - spread
        return elbo(tuple(self.matrices), found, q.kl(prior_like(q)))

    def sampled_bound(self, q: DiagonalGaussian, data: dict[str, Tensor], samples: int) -> Elbo:
        """The same with the expectations by reparameterised Monte Carlo."""
        z = q.sample(torch.randn(samples, *q.mean.shape, dtype=q.mean.dtype))
        found = {
            name: Normal(z @ matrix.T, self.scales[name]).log_prob(data[name]).sum(-1).mean(0)
            for name, matrix in self.matrices.items()
        }
        return elbo(tuple(self.matrices), found, q.kl(prior_like(q)))


def prior_like(q: DiagonalGaussian) -> DiagonalGaussian:
    return DiagonalGaussian(torch.zeros_like(q.mean), torch.ones_like(q.scale))


def make(orthogonal: bool) -> LinearGaussian:
    """With orthogonal columns the posterior's dimensions are independent, whichever observations are there."""
    torch.manual_seed(0)
    matrices = {name: torch.randn(size, Z, dtype=torch.float64) for name, size in SIZES.items()}
    if orthogonal:
        matrices = {name: torch.linalg.qr(m).Q * torch.tensor([0.5, 1.0, 2.0]).double() for name, m in matrices.items()}
    scales = {"frame": 0.5, "geometry": 0.3, "views": 0.8}
    return LinearGaussian(matrices, {name: torch.tensor(s, dtype=torch.float64) for name, s in scales.items()})


OBSERVED = [("frame",), ("frame", "geometry"), ("frame", "views"), ("frame", "geometry", "views")]


@pytest.mark.parametrize("names", OBSERVED)
@pytest.mark.parametrize("orthogonal", [True, False])
def test_the_bound_is_below_the_evidence_by_the_kl_to_the_posterior(names: tuple[str, ...], orthogonal: bool) -> None:
    model = make(orthogonal).only(*names)
    data = model.draw(50)
    q = DiagonalGaussian(torch.randn(50, Z).double(), torch.rand(50, Z).double() + 0.05)
    short = model.log_evidence(data) - model.bound(q, data).bound
    exact = model.posterior(data)
    assert float(short.min()) > 0.0
    torch.testing.assert_close(short, kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.scale.square())), exact))


@pytest.mark.parametrize("names", OBSERVED)
def test_the_bound_is_the_evidence_at_the_exact_posterior(names: tuple[str, ...]) -> None:
    model = make(orthogonal=True).only(*names)
    data = model.draw(20)
    found = model.bound(model.exact(data), data)
    torch.testing.assert_close(found.bound, model.log_evidence(data), rtol=0, atol=1e-9)
    assert list(found.log_likelihoods) == list(names)
    torch.testing.assert_close(sum(found.log_likelihoods.values()) - found.kl, found.bound)


def test_a_posterior_that_ignores_the_geometry_loses_exactly_the_kl_between_the_two() -> None:
    model = make(orthogonal=True).only("frame", "geometry")
    data = model.draw(20)
    blind, informed = model.only("frame").exact(data), model.exact(data)
    lost = model.bound(informed, data).bound - model.bound(blind, data).bound
    assert float(lost.min()) > 0.0
    torch.testing.assert_close(lost, blind.kl(informed), rtol=0, atol=1e-9)


def test_sampling_estimates_the_same_bound() -> None:
    model = make(orthogonal=False)
    data = model.draw(4)
    q = DiagonalGaussian(torch.randn(4, Z).double(), 0.3 * torch.rand(4, Z).double() + 0.05)
    exact = model.bound(q, data)
    torch.testing.assert_close(model.sampled_bound(q, data, 100_000).bound, exact.bound, rtol=0, atol=0.2)
    at_posterior = make(orthogonal=True)
    found = at_posterior.sampled_bound(at_posterior.exact(data), data, 100_000).bound
    torch.testing.assert_close(found, at_posterior.log_evidence(data), rtol=0, atol=0.05)


def test_gradients_pass_through_the_samples() -> None:
    model = make(orthogonal=False)
    data = model.draw(2)
    mean = torch.randn(2, Z).double().requires_grad_()
    log_scale = torch.full((2, Z), -1.0, dtype=torch.float64, requires_grad=True)

    def gradients(bound: Callable[[DiagonalGaussian], Elbo]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(bound(DiagonalGaussian(mean, log_scale.exp())).bound.sum(), [mean, log_scale])

    sampled = gradients(lambda q: model.sampled_bound(q, data, 50_000))
    for found, expected in zip(sampled, gradients(lambda q: model.bound(q, data)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.3)


def test_a_learned_noise_scale_becomes_the_true_one() -> None:
    truth = make(orthogonal=True)
    data = truth.draw(5000)
    log_scales = torch.zeros(len(SIZES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_scales], 0.05)
    for _ in range(200):
        model = replace(truth, scales=dict(zip(SIZES, log_scales.exp(), strict=True)))
        with torch.no_grad():
            q = model.exact(data)
        optimizer.zero_grad()
        (-model.bound(q, data).bound.mean()).backward()
        optimizer.step()
    for name, found in zip(SIZES, log_scales.detach().exp().tolist(), strict=True):
        assert found == pytest.approx(float(truth.scales[name]), rel=0.03)


def test_the_gaussian_kl_is_that_of_torch_and_zero_for_the_same() -> None:
    torch.manual_seed(0)
    q, p = (DiagonalGaussian(torch.randn(6, 4).double(), torch.rand(6, 4).double() + 0.1) for _ in range(2))
    torch.testing.assert_close(q.kl(p), kl_divergence(Independent(Normal(*q), 1), Independent(Normal(*p), 1)))
    assert float(q.kl(q).abs().max()) < 1e-12


def test_a_point_posterior_has_no_kl() -> None:
    found = elbo(("frame", "geometry"), {"geometry": torch.tensor([2.0]), "frame": torch.tensor([1.0])})
    assert found.bound.tolist() == [3.0] and found.kl.tolist() == [0.0]
    assert list(found.log_likelihoods) == ["frame", "geometry"]


@pytest.mark.parametrize(
    ("configured", "given", "message"),
    [
        (("frame", "geometry"), ("frame",), r"terms=\['frame', 'geometry'\]: geometry is missing"),
        (("frame",), ("frame", "views"), "views is not configured"),
        (("frame", "geometry"), ("frame", "views"), "geometry is missing; views is not configured"),
        ((), (), "at least one term"),
    ],
)
def test_terms_that_are_not_the_configured_ones_are_refused(configured, given, message: str) -> None:
    with pytest.raises(UserError, match=message):
        elbo(configured, {name: torch.tensor(math.nan) for name in given})
