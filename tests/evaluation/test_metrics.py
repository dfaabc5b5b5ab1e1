import math

import pytest
import torch

from embodied_liftwm.evaluation.metrics import images as metrics
from embodied_liftwm.geometry.cameras import camera_rays


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


def plane_depth(tilt_deg: float, intrinsics: torch.Tensor, size: int = 24) -> torch.Tensor:
    """Depth of a plane 2 m ahead, turned about the vertical. [1, size, size]"""
    rays = camera_rays(intrinsics, size, size)
    normal = torch.tensor([math.sin(math.radians(tilt_deg)), 0.0, -math.cos(math.radians(tilt_deg))])
    return 2.0 * normal[2] / (rays @ normal)


def test_normals_of_a_tilted_plane_are_off_by_the_tilt():
    K = torch.tensor([[[24.0, 0, 12], [0, 24, 12], [0, 0, 1]]])
    flat, tilted = plane_depth(0.0, K), plane_depth(30.0, K)
    assert metrics.normal_angle(tilted, tilted, K).item() == pytest.approx(0.0, abs=0.1)
    assert metrics.normal_angle(flat, tilted, K).item() == pytest.approx(30.0, abs=0.1)
    assert metrics.normal_angle(torch.zeros_like(flat), tilted, K).item() == pytest.approx(90.0)
    half = flat.clone()
    half[:, :, :12] = tilted[:, :, :12]
    left, right = torch.zeros_like(flat, dtype=torch.bool), torch.zeros_like(flat, dtype=torch.bool)
    left[..., :10], right[..., 14:] = True, True
    assert metrics.normal_angle(half, flat, K, left).item() == pytest.approx(30.0, abs=0.1)
    assert metrics.normal_angle(half, flat, K, right).item() == pytest.approx(0.0, abs=0.1)


def test_edges_creases_and_the_border_are_no_smooth_surface():
    K = torch.tensor([[[24.0, 0, 12], [0, 24, 12], [0, 0, 1]]])
    inner = torch.zeros(1, 24, 24, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    assert torch.equal(metrics.smooth_surface(plane_depth(40.0, K)), inner)
    step = torch.full((1, 24, 24), 2.0)
    step[..., 12:] = 2.4
    step[0, 5, 5] = 0.0
    smooth = metrics.smooth_surface(step)
    assert not smooth[..., 11:13].any() and smooth[0, 3:22, 14:22].all()
    assert not any(smooth[0, row, column] for row, column in ((5, 5), (4, 5), (6, 5), (5, 4), (5, 6)))
    crease = torch.minimum(plane_depth(40.0, K), plane_depth(-40.0, K))
    assert not metrics.smooth_surface(crease)[:, :, 11:13].any() and metrics.smooth_surface(crease)[:, 2:22, 2:9].all()
