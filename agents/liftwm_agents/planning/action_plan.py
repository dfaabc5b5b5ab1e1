"""Distributions over action sequences, which planners sample and improve.

Continuous actions have a mean and a standard deviation at every step, discrete ones a probability of each choice.
"""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

NOISE_CORRELATION = 0.7  # of successive steps: white noise only jitters on the spot
SMALLEST_PROBABILITY = 0.02  # of any discrete action at any step, so that none is ever lost
LEAST_NOISE = 0.1  # share of the first standard deviation below which refitting never falls: the plan must stay able to turn


class GaussianPlan:
    """Continuous actions: a mean sequence and correlated noise."""

    def __init__(self, horizon: int, low: Tensor, high: Tensor, noise: float) -> None:
        """
        Args:
            horizon: steps, T.
            low: smallest action. [A]
            high: largest action. [A]
            noise: standard deviation of samples, as a share of half the range.
        """
        self._low, self._high = low, high
        self._first_sigma = (noise * 0.5 * (high - low)).repeat(horizon, 1)
        self.sigma = self._first_sigma
        self.mean = (0.5 * (low + high)).repeat(horizon, 1)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, T, A]"""
        white = torch.randn(count, *self.mean.shape, generator=generator)
        noise = [white[:, 0]]
        for t in range(1, white.shape[1]):
            noise.append(NOISE_CORRELATION * noise[-1] + (1 - NOISE_CORRELATION**2) ** 0.5 * white[:, t])
        samples = self.mean + torch.stack(noise, dim=1) * self.sigma
        samples[0] = self.mean
        held = min(count // 4, 16)  # constant sequences: a long turn is never found by noise around standing still
        constant = self._low + torch.rand(held, 1, len(self._low), generator=generator) * (self._high - self._low)
        samples[1 : 1 + held] = constant
        return samples.clamp(self._low, self._high)

    def improve(self, samples: Tensor, weights: Tensor, refit: bool = False) -> None:
        """Move towards `samples` [S, T, A] by `weights` [S] that sum to one; `refit` takes over their spread until `shift`."""
        self.mean = torch.einsum("s,sta->ta", weights, samples)
        if refit:
            variance = torch.einsum("s,sta->ta", weights, (samples - self.mean).square())
            self.sigma = torch.maximum(variance.sqrt(), LEAST_NOISE * self._first_sigma)

    def first(self) -> Tensor:
        """The action to take now. [A]"""
        return self.mean[0]

    def shift(self) -> None:
        """Drop the first step and repeat the last: the warm start of the next plan."""
        self.mean, self.sigma = torch.cat([self.mean[1:], self.mean[-1:]]), self._first_sigma


class CategoricalPlan:
    """Discrete actions as one-hot vectors: a probability of each at every step. Methods as in `GaussianPlan`."""

    def __init__(self, horizon: int, choices: int) -> None:
        self.probability = torch.full((horizon, choices), 1.0 / choices)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        horizon, choices = self.probability.shape
        drawn = torch.multinomial(self.probability, count, replacement=True, generator=generator).T
        # A drawn action is held for a few steps, as correlated noise is in the continuous case.
        hold = torch.rand(count, horizon, generator=generator) < NOISE_CORRELATION * 0.5
        drawn = drawn.clone()
        for t in range(1, horizon):
            drawn[:, t] = torch.where(hold[:, t], drawn[:, t - 1], drawn[:, t])
        drawn[:choices] = torch.arange(choices)[:count, None]  # each action alone, held throughout
        return torch.nn.functional.one_hot(drawn, choices).float()

    def improve(self, samples: Tensor, weights: Tensor, refit: bool = False) -> None:
        frequency = torch.einsum("s,sta->ta", weights, samples).clamp_min(SMALLEST_PROBABILITY)
        self.probability = frequency / frequency.sum(dim=-1, keepdim=True)

    def first(self) -> Tensor:
        return torch.nn.functional.one_hot(self.probability[0].argmax(), self.probability.shape[1]).float()

    def shift(self) -> None:
        self.probability = torch.cat([self.probability[1:], self.probability[-1:]])


ActionPlan = GaussianPlan | CategoricalPlan
"""A distribution over action sequences of fixed length that can be sampled, improved and shifted."""


def make_plan(space: spaces.Space, horizon: int, noise: float) -> ActionPlan:
    """An uncommitted plan for an action space."""
    if isinstance(space, spaces.Discrete):
        return CategoricalPlan(horizon, int(space.n))
    if not isinstance(space, spaces.Box):
        raise TypeError(f"expected a Box or Discrete action space, got {space}")
    return GaussianPlan(horizon, torch.as_tensor(space.low).float(), torch.as_tensor(space.high).float(), noise)
