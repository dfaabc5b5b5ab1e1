"""What a teacher's convention leaves open, in closed form: factors of depths and points, scale and shift of inverse depths.

A teacher whose depth is known up to a factor observes the model's depth times an unknown number. The number is set to what
explains the teacher best, for every map by itself, so that the likelihood is the same for every teacher that differs only in
it, and says nothing of the model's own scale. Weights are confidences; maps whose weights vanish, or which leave the unknown
undetermined, are marked and must not count. Everything is batched, differentiable, and works in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LEAST_CORRELATION = 0.25
"""The scale of an affine fit is at least that of maps correlated so much: above zero, and enough to begin from a flat depth."""
LEAST_SPREAD = 0.1
"""Standard deviation, as a share of the mean, that the inverse depths of a view are taken to have at least."""
_PRECISION = 1e-5
"""A map whose standard deviation is a smaller share of its largest value is constant, to the precision of its numbers."""


class Factor(NamedTuple):
    """model = factor * teacher, a map."""

    log_factor: Tensor  # [F]
    known: Tensor  # [F] bool: whether any weight was there


class Affine(NamedTuple):
    """teacher = scale * model + shift + noise, of inverse depths, a map."""

    scale: Tensor  # [F] above 0
    shift: Tensor  # [F]
    spread: Tensor  # [F] standard deviation of the teacher's values: the unit of its noise
    known: Tensor  # [F] bool: whether the teacher's map has weight and is not constant


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of each row, 0 for rows without weight. [F, N] twice -> [F]"""
    return (values * weights).sum(1) / weights.sum(1).clamp_min(torch.finfo(weights.dtype).tiny)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """The lower weighted median of each row, one of its values. Its gradient goes to that value alone. [F, N] twice -> [F]"""
    order = values.detach().argsort(dim=1)
    mass = weights.gather(1, order).cumsum(1)
    position = (mass < 0.5 * mass[:, -1:]).sum(1, keepdim=True).clamp_max(values.shape[1] - 1)
    return values.gather(1, order.gather(1, position)).squeeze(1)


def median_log_factor(log_model: Tensor, log_teacher: Tensor, weights: Tensor) -> Factor:
    """The factor that is best under Laplace noise of log-depths: exp of the weighted median difference.

    As many cells then pull one way as the other, and up to half of the weight may be outliers. At the best factor the
    likelihood has no slope along it, so that whoever maximises a Laplace likelihood may hold it fixed.

    Args:
        log_model: logarithms of the model's depths. [F, ...]
        log_teacher: of the teacher's, at the same places. [F, ...]
        weights: at least 0. [F, ...]
    """
    difference, weights = (log_model - log_teacher).flatten(1), weights.flatten(1)
    return Factor(weighted_median(difference, weights), weights.sum(1) > 0)


def point_log_factor(model: Tensor, teacher: Tensor, weights: Tensor) -> Factor:
    """The factor of a pointmap: exp of the weighted median log-ratio of distances from the reference camera.

    Args:
        model: points in the frame of the reference camera, metres. [F, ..., 3]
        teacher: the same points up to a factor. [F, ..., 3]
        weights: at least 0. [F, ...]
    """
    least = torch.finfo(model.dtype).tiny ** 0.5
    of_model, of_teacher = (points.square().sum(-1).clamp_min(least).log() / 2.0 for points in (model, teacher))
    return median_log_factor(of_model, of_teacher, weights)


def fit_affine(model: Tensor, teacher: Tensor, weights: Tensor) -> Affine:
    """Weighted least squares of a teacher's inverse depths on the model's: two unknowns a map.

    The teacher is regressed on the model and not the other way round, as Ranftl et al. 2020 (arXiv:1907.01341, eq. 3) align
    a prediction to its label: here the teacher is what is observed, with noise. A teacher of noise then has no scale to speak
    of, and all the model's depths explain it equally badly; the other way round it would ask for flat depths. A second fit
    holds values that the first leaves far off for little (one step of iterated reweighting under Cauchy noise). The scale is
    bounded from below (`LEAST_CORRELATION`), hence positive: a teacher whose near and far are swapped is not followed.

    Args:
        model: inverse depths, 1/m, above 0. [F, ...]
        teacher: inverse depths up to scale and shift. [F, ...]
        weights: at least 0. [F, ...]
    """
    model, teacher, weights = model.flatten(1), teacher.flatten(1), weights.flatten(1)
    with torch.no_grad():
        first = _least_squares(model, teacher, weights)
        left = (teacher - first.scale[:, None] * model - first.shift[:, None]).abs()
        typical = weighted_median(left, weights)[:, None].clamp_min(torch.finfo(model.dtype).tiny) * 2.0
        trusted = weights / (1.0 + (left / typical).square())
    return _least_squares(model, teacher, trusted)


def _least_squares(model: Tensor, teacher: Tensor, weights: Tensor) -> Affine:
    mean_model, mean_teacher = weighted_mean(model, weights), weighted_mean(teacher, weights)
    of_model, of_teacher = model - mean_model[:, None], teacher - mean_teacher[:, None]
    variance = weighted_mean(of_model.square(), weights).clamp_min((LEAST_SPREAD * mean_model.detach()).square())
    variance = variance.clamp_min(torch.finfo(model.dtype).tiny ** 0.5)
    spread = weighted_mean(of_teacher.square(), weights).sqrt()
    known = (weights.sum(1) > 0) & (spread > _PRECISION * (teacher.abs() * (weights > 0)).amax(1))
    spread = torch.where(known, spread, torch.ones_like(spread))
    scale = weighted_mean(of_model * of_teacher, weights) / variance
    scale = torch.maximum(scale, LEAST_CORRELATION * spread / variance.sqrt())
    return Affine(scale, mean_teacher - scale * mean_model, spread, known)
