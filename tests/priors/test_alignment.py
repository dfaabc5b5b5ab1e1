"""Closed forms against written-out sums and searches, what they are invariant to, and what outliers do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.priors.alignment import (
    LEAST_CORRELATION,
    fit_affine,
    median_log_factor,
    point_log_factor,
    weighted_mean,
    weighted_median,
)
from embodied_liftwm.priors.cells import depth_cells, normal_cells, point_cells
from embodied_liftwm.priors.contract import DepthMaps, NormalMaps, PointMaps


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_means_and_medians_are_those_of_repeated_values() -> None:
    weights = torch.tensor([[3.0, 0.0, 1.0, 2.0, 5.0], [1.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    values = drawn(2, 5)
    for row in range(2):
        repeated = np.repeat(values[row].numpy(), weights[row].int().numpy())
        assert weighted_mean(values, weights)[row] == pytest.approx(repeated.mean())
        assert weighted_median(values, weights)[row] == np.sort(repeated)[(len(repeated) - 1) // 2]
    assert weighted_mean(values, torch.zeros_like(values)).tolist() == [0.0, 0.0]


def test_the_median_factor_is_the_best_one_under_laplace_noise_and_the_mean_under_gaussian() -> None:
    model, teacher, weights = (2.0 * drawn(1, 41, seed=s) for s in range(3))
    tried = torch.linspace(-2, 2, 40001, dtype=torch.float64)[:, None]
    error = model - teacher - tried
    absolute = (weights * error.abs()).sum(1)
    assert float(median_log_factor(model, teacher, weights).log_factor) == pytest.approx(
        float(tried[absolute.argmin()]), abs=1e-4
    )


def test_factors_follow_the_teacher_and_maps_without_weight_are_marked() -> None:
    model, teacher, weights = drawn(3, 4, 5), drawn(3, 4, 5, seed=1), drawn(3, 4, 5, seed=2)
    weights[1] = 0.0
    found, scaled = (median_log_factor(model, teacher + shift, weights) for shift in (0.0, math.log(3.0)))
    torch.testing.assert_close(scaled.log_factor[[0, 2]], found.log_factor[[0, 2]] - math.log(3.0))
    assert found.known.tolist() == [True, False, True] and bool(found.log_factor.isfinite().all())


def test_the_median_pays_where_there_are_outliers() -> None:
    model = drawn(1, 200)
    teacher = model - 0.5 + 0.05 * (drawn(1, 200, seed=1) - 0.5)
    teacher[:, :40] -= 2.0
    ones = torch.ones_like(model)
    assert abs(float(median_log_factor(model, teacher, ones).log_factor) - 0.5) < 0.02
    assert abs(float((model - teacher).mean()) - 0.5) > 0.3  # of the mean, which Gaussian noise would ask for


def test_a_point_map_has_the_factor_of_its_distances() -> None:
    model, weights = drawn(2, 6, 6, 3) + 0.5, drawn(2, 6, 6)
    noisy = model * (1.0 + 0.05 * (drawn(2, 6, 6, 1, seed=4) - 0.5))
    found, scaled = (point_log_factor(model, noisy / factor, weights) for factor in (1.0, 3.0))
    torch.testing.assert_close(scaled.log_factor, found.log_factor + math.log(3.0))
    assert float(found.log_factor.abs().max()) < 0.03


def test_two_unknowns_of_inverse_depth_are_those_of_least_squares() -> None:
    model, weights = drawn(2, 30) + 0.2, drawn(2, 30, seed=1)
    teacher = 2.0 * model + 0.1
    found = fit_affine(model, teacher, weights)
    torch.testing.assert_close(found.scale, torch.full_like(found.scale, 2.0))
    torch.testing.assert_close(found.shift, torch.full_like(found.shift, 0.1), atol=1e-9, rtol=0)
    mean = (weights * teacher).sum(1) / weights.sum(1)
    assert found.spread.shape == mean.shape
    noisy = teacher + 0.05 * (drawn(2, 30, seed=2) - 0.5)
    close = fit_affine(model, noisy, weights)
    for row in range(2):  # numpy's own, of rows times the square root of their weights
        root = weights[row].sqrt()
        basis = torch.stack([model[row], torch.ones_like(model[row])], dim=1) * root[:, None]
        scale, _ = np.linalg.lstsq(basis.numpy(), (noisy[row] * root).numpy(), rcond=None)[0]
        assert float(close.scale[row]) == pytest.approx(scale, abs=0.02)  # the second fit weighs a little otherwise


def test_the_affine_fit_follows_scale_and_shift_of_the_teacher() -> None:
    model, teacher, weights = drawn(4, 5, 5) + 0.2, drawn(4, 5, 5, seed=1), drawn(4, 5, 5, seed=2)
    found, moved = fit_affine(model, teacher, weights), fit_affine(model, 2.0 * teacher + 0.1, weights)
    torch.testing.assert_close(moved.scale, 2.0 * found.scale)
    torch.testing.assert_close(moved.shift, 2.0 * found.shift + 0.1)
    torch.testing.assert_close(moved.spread, 2.0 * found.spread)


def test_the_second_fit_pays_where_there_are_outliers() -> None:
    model = drawn(1, 400) + 0.2
    teacher = 2.0 * model + 0.1
    teacher[:, ::10] += 3.0 * drawn(1, 40, seed=3)
    found = fit_affine(model, teacher, torch.ones_like(model))
    basis = torch.stack([model[0], torch.ones_like(model[0])], dim=1)
    shift = torch.linalg.lstsq(basis, teacher[0, :, None]).solution[1]
    assert abs(float(found.shift) - 0.1) < 0.2 * abs(float(shift) - 0.1)


def test_the_scale_stays_positive_and_what_is_undetermined_is_marked() -> None:
    model, ones = drawn(5, 50) + 0.2, torch.ones(5, 50, dtype=torch.float64)
    teacher = 1.0 - model
    teacher[1] = 0.7  # constant
    weights = ones.clone()
    weights[2] = 0.0
    model = torch.cat([model[:3], torch.full_like(model[:1], 0.4), model[4:]])  # a flat depth
    teacher[3] = drawn(50, seed=7)
    found = fit_affine(model, teacher, weights)
    assert found.known.tolist() == [True, False, False, True, True]
    assert bool((found.scale > 0).all()) and all(bool(x.isfinite().all()) for x in found[:3])
    swapped = found.scale[0] * model[0].std() / teacher[0].std()  # the correlation of what explains and what is explained
    assert float(swapped) == pytest.approx(LEAST_CORRELATION, rel=0.01)


def test_alignments_are_differentiable() -> None:
    model, teacher, weights = drawn(2, 7) + 0.5, drawn(2, 7, seed=1) + 0.5, drawn(2, 7, seed=2)
    model.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: median_log_factor(m.log(), teacher.log(), weights).log_factor, (model,))


def test_the_affine_fit_is_differentiable_with_its_weights_held() -> None:
    from embodied_liftwm.priors import alignment

    model, teacher, weights = drawn(2, 7) + 0.5, drawn(2, 7, seed=1), drawn(2, 7, seed=2)
    teacher[0] += 3.0 * model[0]
    model.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: tuple(alignment._least_squares(m, teacher, weights)[:2]), (model,))


def test_cells_are_means_weighted_by_confidence_and_keep_the_convention() -> None:
    values, confidence, frames = drawn(2, 4, 6) + 0.5, drawn(2, 4, 6, seed=1), torch.arange(2)
    values[0, 0, 0], confidence[1, :2, :2] = torch.nan, 0.0
    log_depth, sure = depth_cells(DepthMaps(values, confidence, frames, "metric"), 2)
    left = values[0, :2, :2].log().flatten()[1:], confidence[0, :2, :2].flatten()[1:]
    assert float(log_depth[0, 0, 0]) == pytest.approx(float((left[0] * left[1]).sum() / left[1].sum()))
    assert float(sure[0, 0, 0]) == pytest.approx(float(left[1].sum()) / 4)
    assert float(sure[1, 0, 0]) == 0.0 and bool(log_depth.isfinite().all())
    affine, _ = depth_cells(DepthMaps(values, confidence, frames, "affine_inverse"), 2)
    moved, _ = depth_cells(DepthMaps(2.0 * values + 0.1, confidence, frames, "affine_inverse"), 2)
    torch.testing.assert_close(moved[0], 2.0 * affine[0] + 0.1)
    nothing, sure = depth_cells(DepthMaps(torch.zeros(1, 4, 4), torch.ones(1, 4, 4), frames[:1], "scale_free"), 2)
    assert float(sure.abs().max()) == 0.0 and bool(nothing.isfinite().all())


def test_cells_of_normals_that_differ_are_doubtful_and_those_of_points_are_their_means() -> None:
    normals = torch.zeros(1, 3, 2, 4)
    normals[:, 2, :, :2] = -1.0
    normals[:, 0, :, 2] = normals[:, 1, :, 3] = 1.0  # two walls at a right angle
    found, sure = normal_cells(NormalMaps(normals, torch.ones(1, 2, 4), torch.zeros(1).long()), 2)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[0.0, math.sqrt(0.5)], [0.0, math.sqrt(0.5)], [-1.0, 0.0]]))
    torch.testing.assert_close(sure[0, 0], torch.tensor([1.0, math.sqrt(0.5)]))
    points = drawn(1, 2, 2, 3)
    maps = PointMaps(points, torch.ones(1, 2, 2).double(), torch.zeros(1).long(), torch.zeros(1).long(), "metric")
    torch.testing.assert_close(point_cells(maps, 2)[0][0, 0, 0], points.mean((0, 1, 2)))
