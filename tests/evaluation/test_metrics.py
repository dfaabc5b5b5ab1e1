import math

import pytest
import torch

from embodied_liftwm.evaluation import metrics


def test_masked_mean_counts_only_the_mask():
    values = torch.tensor([[[1.0, 2.0], [3.0, math.inf]]])
    mask = torch.tensor([[[True, True], [False, False]]])
    assert metrics.masked_mean(values, mask).tolist() == [1.5]
    assert metrics.masked_mean(values, torch.zeros_like(mask)).isnan().all()


def test_psnr_is_minus_ten_log_mse():
    true = torch.zeros(2, 3, 4, 4)
    predicted = true.clone()
    predicted[0] = 0.1  # mse 0.01
    predicted[1, :, 0] = 0.2  # a quarter of the pixels at 0.04: mse 0.01
    assert metrics.psnr(predicted, true).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    first_row = torch.zeros(2, 4, 4, dtype=torch.bool)
    first_row[:, 0] = True
    assert metrics.psnr(predicted, true, first_row).tolist() == pytest.approx([20.0, -10 * math.log10(0.04)], abs=1e-4)
    assert metrics.psnr(true, true).tolist() == [100.0, 100.0]


def test_ssim_is_one_for_equal_and_masked_apart():
    true = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wrong = true.clone()
    wrong[..., 16:] = 1 - wrong[..., 16:]
    left = torch.zeros(1, 32, 32, dtype=torch.bool)
    left[..., :10] = True  # the window reaches 5 px: these pixels see the untouched half alone
    assert metrics.ssim(true, true).item() == pytest.approx(1.0, abs=1e-5)
    assert metrics.ssim(wrong, true, left).item() == pytest.approx(1.0, abs=1e-5)
    assert metrics.ssim(wrong, true, ~left).item() < 0.6


def test_ssim_of_constants_follows_the_formula():
    a, b = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 32, 32), 0.25)
    c1 = 0.01**2
    assert metrics.ssim(a, b).item() == pytest.approx((2 * 0.5 * 0.25 + c1) / (0.5**2 + 0.25**2 + c1), abs=1e-4)


def test_depth_metrics_by_hand():
    true = torch.tensor([[[1.0, 2.0], [4.0, 0.0]]])  # the last is invalid: never counted
    predicted = torch.tensor([[[1.2, 2.0], [0.0, 9.0]]])  # and one pixel has no depth: counted as 0 m
    assert metrics.depth_rmse(predicted, true).item() == pytest.approx(math.sqrt((0.04 + 0 + 16) / 3))
    assert metrics.abs_rel(predicted, true).item() == pytest.approx((0.2 + 0 + 1) / 3)
    assert metrics.delta_125(predicted, true).item() == pytest.approx(2 / 3)
    only = torch.tensor([[[True, False], [False, True]]])
    assert metrics.depth_rmse(predicted, true, only).item() == pytest.approx(0.2)


def test_delta_is_symmetric_and_strict():
    true = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
    predicted = torch.tensor([[[1.24, 1.26, 0.81, 0.79]]])
    assert metrics.delta_125(predicted, true).item() == pytest.approx(0.5)


def test_persistent_pixels_need_colour_and_depth():
    true_rgb, true_depth = torch.full((1, 3, 1, 5), 0.5), torch.tensor([[[2.0, 2.0, 2.0, 2.0, 0.0]]])
    rgb, depth = true_rgb.clone(), true_depth.clone()
    rgb[..., 1] = 0.5 + 0.151  # colour off on all channels
    rgb[0, 0, 0, 2] = 0.5 + 0.25  # on one channel: rms 0.25 / sqrt(3) = 0.144
    depth[..., 3] = 2.21
    assert metrics.persistent_pixels(rgb, depth, true_rgb, true_depth).tolist() == [[[True, False, True, False, False]]]
    depth[..., 3] = 1.81
    assert metrics.persistent_pixels(rgb, depth, true_rgb, true_depth)[0, 0, 3]
