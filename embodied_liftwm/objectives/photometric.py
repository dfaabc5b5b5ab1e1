"""Photometric difference of an image and its warped explanation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_SHARE = 0.85
"""Weight of the structural part, as in Godard et al. 2019 (Monodepth2), arXiv:1806.01260, eq. 3."""
C1, C2 = 0.01**2, 0.03**2
"""Of SSIM, for colours in [0, 1] (Wang et al. 2004, eq. 13)."""


def photometric_error(a: Tensor, b: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 L1 with a 3 x 3 window (arXiv:1806.01260, eq. 3). [B, 3, H, W] twice -> [B, H, W]"""
    absolute = (a - b).abs().mean(1)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    ssim = ((2 * mean_a * mean_b + C1) * (2 * covariance + C2)) / (
        (mean_a * mean_a + mean_b * mean_b + C1) * (variance_a + variance_b + C2)
    )
    structural = ((1 - ssim) / 2).clamp(0, 1).mean(1)
    return SSIM_SHARE * structural + (1 - SSIM_SHARE) * absolute


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=1)


def edge_aware_smoothness(depth: Tensor, rgb: Tensor) -> Tensor:
    """Slope of the log-depth where the image itself is smooth (after arXiv:1806.01260, eq. 4). [B, H, W] -> [B]"""
    log_depth = depth.log().unsqueeze(1)
    across = (log_depth.diff(dim=3).abs() * torch.exp(-10.0 * rgb.diff(dim=3).abs().mean(1, keepdim=True))).mean((1, 2, 3))
    down = (log_depth.diff(dim=2).abs() * torch.exp(-10.0 * rgb.diff(dim=2).abs().mean(1, keepdim=True))).mean((1, 2, 3))
    return across + down
