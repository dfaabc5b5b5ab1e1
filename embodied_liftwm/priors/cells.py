"""Pseudo-observations on the grid of cells that a model lifts: means over the pixels of a cell, weighted by confidence.

What is averaged keeps its convention: logarithms of depths, so that a factor stays a factor; inverse depths where a scale and a
shift are open; points, which scale with their factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.priors.contract import DepthMaps, NormalMaps, PointMaps


def mean_of_cells(values: Tensor, confidence: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Confidence-weighted means of `stride` x `stride` pixels.

    Args:
        values: [K, C, H, W]; those that are not finite count nothing.
        confidence: in [0, 1]. [K, H, W]

    Returns:
        Values [K, C, h, w], 0 where no pixel has confidence; mean confidences [K, h, w].
    """
    usable = values.isfinite().all(1) & confidence.isfinite()
    weight = torch.where(usable, confidence, 0.0).clamp(0.0, 1.0).unsqueeze(1)
    total = F.avg_pool2d(weight, stride)
    sums = F.avg_pool2d(torch.where(usable.unsqueeze(1), values, 0.0) * weight, stride)
    return sums / total.clamp_min(torch.finfo(total.dtype).tiny), total.squeeze(1)


def depth_cells(maps: DepthMaps, stride: int) -> tuple[Tensor, Tensor]:
    """Mean log-depth, or mean inverse depth where the maps are affine-invariant; and confidence. Each [K, h, w]

    A depth that is not positive is none.
    """
    affine = maps.convention == "affine_inverse"
    values = maps.values if affine else torch.where(maps.values > 0, maps.values, torch.nan).log()
    means, confidence = mean_of_cells(values.unsqueeze(1), maps.confidence, stride)
    return means.squeeze(1), confidence


def normal_cells(maps: NormalMaps, stride: int) -> tuple[Tensor, Tensor]:
    """Unit mean normals [K, 3, h, w] and confidence [K, h, w], less where the normals of a cell differ.

    The length of the mean of unit vectors is their mean resultant length, 1 where they agree (Mardia and Jupp 2000, ch. 9).
    """
    means, confidence = mean_of_cells(maps.values, maps.confidence, stride)
    return F.normalize(means, dim=1), confidence * means.norm(dim=1).clamp_max(1.0)


def point_cells(maps: PointMaps, stride: int) -> tuple[Tensor, Tensor]:
    """Mean points [K, h, w, 3] and confidence [K, h, w]."""
    means, confidence = mean_of_cells(maps.points.movedim(-1, 1), maps.confidence, stride)
    return means.movedim(1, -1), confidence
