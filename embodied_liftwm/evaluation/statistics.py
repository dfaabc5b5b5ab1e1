"""Intervals and robust means. Everything random is seeded: the same numbers give the same interval."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. NaN throughout where nothing was measured."""

    mean: float
    low: float
    high: float
    count: int  # rows behind the mean
    clusters: int  # independent units behind the interval: episodes

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-able; NaN becomes None."""

        def clean(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        return {
            "mean": clean(self.mean),
            "low": clean(self.low),
            "high": clean(self.high),
            "count": self.count,
            "clusters": self.clusters,
        }


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | np.ndarray, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Mean of rows, with a percentile bootstrap 95 % interval over clusters.

    Rows of one episode are not independent, so whole episodes are drawn with replacement (the cluster bootstrap; Field and
    Welsh 2007) and the mean of all rows drawn is taken. Rows that are NaN are left out first.

    Args:
        values: one number a row. [R]
        clusters: the episode of each row. [R]
        resamples: how many times episodes are drawn.
        seed: of the draws.

    Returns:
        Mean and interval. With one cluster the interval is NaN: nothing is known about other episodes.
    """
    given = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(given)
    numbers, owners = given[kept], [c for c, keep in zip(clusters, kept, strict=True) if keep]
    return bootstrap_sums(np.stack([numbers, np.ones_like(numbers)]), owners, lambda sums: sums[0] / sums[1], resamples, seed)


def bootstrap_sums(
    columns: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Callable[[np.ndarray], np.ndarray],
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A function of sums over rows, with its interval as `bootstrap_mean` makes it: a ratio of sums, an error of pooled bins.

    Args:
        columns: K numbers a row, none NaN. [K, R]
        clusters: the episode of each row. [R]
        statistic: of the K sums over rows: [K, ...] -> [...].
        resamples: how many times episodes are drawn.
        seed: of the draws.

    Returns:
        The statistic of all rows, under `mean`, and its interval.
    """
    rows = columns.shape[1]
    if not rows:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    whole = float(statistic(columns.sum(1)))
    order = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    index = np.array([order[c] for c in clusters])
    if len(order) < 2:
        return Estimate(whole, np.nan, np.nan, rows, len(order))
    sums = [np.bincount(index, column) for column in columns]
    drawn = np.random.default_rng(seed).integers(len(order), size=(resamples, len(order)))
    low, high = np.percentile(statistic(np.stack([by_cluster[drawn].sum(1) for by_cluster in sums])), [2.5, 97.5])
    return Estimate(whole, float(low), float(high), rows, len(order))


def column_mean(rows: Sequence[Any], column: str, resamples: int = 1000, seed: int = 0, unit: str = "episode") -> Estimate:
    """`bootstrap_mean` of a column of rows; what the rows of one `unit` (another column) have in common stays together."""
    return bootstrap_mean([getattr(row, column) for row in rows], [getattr(row, unit) for row in rows], resamples, seed)


def grouped(rows: Sequence[Any], key: str) -> dict[Any, list[Any]]:
    """Rows by the value of a column, in order of appearance."""
    found: dict[Any, list[Any]] = {}
    for row in rows:
        found.setdefault(getattr(row, key), []).append(row)
    return found


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean of `first - second` row by row, as `bootstrap_mean`; both list the same frames or episodes in the same order."""
    return bootstrap_mean(np.asarray(first, np.float64) - np.asarray(second, np.float64), clusters, resamples, seed)


def wilson_interval(successes: float, trials: int) -> Estimate:
    """Share of successes with Wilson's 95 % score interval (Wilson 1927), which stays inside [0, 1] and works at 0 and at n.

    For whole counts it is `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")`, which takes no halves.

    Args:
        successes: how many; ties may count half.
        trials: out of how many; 0 gives NaN.
    """
    if trials == 0:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Estimate(share, float(max(centre - half, 0.0)), float(min(centre + half, 1.0)), trials, trials)


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half: the lowest and the highest quarter are trimmed (Agarwal et al. 2021, arXiv:2108.13264).

    A quarter that is not a whole number of values is trimmed by that fraction: the values at the edges count in part. NaN
    values are left out; NaN without values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ordered = ordered[~np.isnan(ordered)]
    if not len(ordered):
        return float("nan")
    quarter = len(ordered) / 4
    edges = np.arange(len(ordered) + 1, dtype=np.float64)
    weights = np.diff(np.clip(edges, quarter, len(ordered) - quarter))
    return float((weights * ordered).sum() / weights.sum())


def bootstrap_iqm(scores: np.ndarray, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Interquartile mean over training seeds of their mean over episodes, with a percentile bootstrap 95 % interval.

    Both are drawn with replacement: the seeds, since others would have trained otherwise, and the episodes, the same for all
    seeds, which saw the same ones (Agarwal et al. 2021, arXiv:2108.13264, with a second stage for the episodes).

    Args:
        scores: one number for each seed and episode, NaN where there is none. [S, E]
        resamples: how many times they are drawn.
        seed: of the draws.
    """
    given = np.asarray(scores, np.float64)
    given = given[:, ~np.isnan(given).any(0)]
    seeds, episodes = given.shape
    if not given.size:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    whole = interquartile_mean(given.mean(1))
    if episodes < 2:
        return Estimate(whole, np.nan, np.nan, given.size, episodes)
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows, columns = generator.integers(seeds, size=seeds), generator.integers(episodes, size=episodes)
        drawn.append(interquartile_mean(given[rows][:, columns].mean(1)))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(whole, float(low), float(high), given.size, episodes)
