"""Is `View.seen` a probability? Its Brier score, its expected calibration error and its reliability diagram.

A forecast is calibrated when of all pixels that were given the probability p, the share p comes true. Pixels are sorted into
ten bins of equal width by what was forecast. Every view keeps what its pixels add to each bin, so that bins can be pooled over
any views and resampled by episode: in the bins of a single view, errors that cancel over views would count.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.evaluation.metrics.images import masked_mean
from embodied_liftwm.evaluation.statistics import Estimate, bootstrap_sums

BINS = 10
"""Of equal width over [0, 1]: [0, 0.1), ..., [0.9, 1]."""


class BinSums(NamedTuple):
    """What the pixels of each view add to each bin of their forecast."""

    pixels: Tensor  # [B, 10] how many
    predicted: Tensor  # [B, 10] sum of their forecasts
    happened: Tensor  # [B, 10] how many came true


@dataclass(frozen=True)
class ReliabilityBin:
    """One point of a reliability diagram (DeGroot and Fienberg 1983)."""

    share: float  # of all pixels, how many are in this bin
    predicted: float  # mean forecast
    seen: Estimate  # share that came true


def brier(probability: Tensor, happened: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference between a probability and what came true, 0 or 1 (Brier 1950).

    Args:
        probability: in [0, 1]. [B, H, W]
        happened: bool [B, H, W]
        mask: pixels that count. bool [B, H, W]

    Returns:
        In [0, 1], 0.25 for a fair coin. [B], NaN where no pixel counts.
    """
    return masked_mean((probability.clamp(0, 1) - happened.to(probability)).square(), mask)


def bin_sums(probability: Tensor, happened: Tensor, mask: Tensor) -> BinSums:
    """Sort the pixels of each view by their probability. Arguments as `brier`; float64 sums."""
    forecast = probability.clamp(0, 1).flatten(1)
    index = (forecast * BINS).long().clamp(max=BINS - 1)
    counted = mask.flatten(1).double()

    def add(values: Tensor) -> Tensor:
        return torch.zeros(len(index), BINS, dtype=torch.float64, device=index.device).scatter_add_(1, index, values)

    return BinSums(add(counted), add(counted * forecast.double()), add(counted * happened.flatten(1).double()))


def calibration_error(rows: Sequence[Any], resamples: int = 1000, seed: int = 0) -> Estimate:
    """Expected calibration error: sum over bins of (pixels in the bin / all pixels) |mean forecast - share that came true|.

    Eq. 3 of Guo et al. 2017, arXiv:1706.04599, over the pooled pixels of all rows; the interval is over episodes. Each
    resample adds its own noise to the absolute values, so that the interval of an error near zero lies above it.
    """
    pixels, predicted, seen, episodes = _sums(rows)

    def error(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums[:BINS]).sum(0) / sums[BINS]

    return bootstrap_sums(np.stack([*(predicted - seen).T, pixels.sum(1)]), episodes, error, resamples, seed)


def reliability(rows: Sequence[Any], resamples: int = 1000, seed: int = 0) -> list[ReliabilityBin]:
    """Every bin that holds a pixel, from the lowest forecast on, pooled over all rows; intervals are over episodes."""
    pixels, predicted, seen, episodes = _sums(rows)
    found = []
    for k in np.flatnonzero(pixels.sum(0)):
        held = pixels[:, k] > 0
        owners = [episode for episode, holds in zip(episodes, held, strict=True) if holds]
        share = bootstrap_sums(np.stack([seen[held, k], pixels[held, k]]), owners, lambda s: s[0] / s[1], resamples, seed)
        total = pixels[:, k].sum()
        found.append(ReliabilityBin(float(total / pixels.sum()), float(predicted[:, k].sum() / total), share))
    return found


def _sums(rows: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Hashable]]:
    """Pixels, forecasts and those that came true, [R, 10] each, and the episodes of the `ViewRow`s with a pixel that counts."""
    kept = [row for row in rows if sum(row.bin_pixels) > 0]
    parts = [[row.bin_pixels for row in kept], [row.bin_predicted for row in kept], [row.bin_seen for row in kept]]
    pixels, predicted, seen = (np.array(part, np.float64).reshape(-1, BINS) for part in parts)
    return pixels, predicted, seen, [row.episode for row in kept]
