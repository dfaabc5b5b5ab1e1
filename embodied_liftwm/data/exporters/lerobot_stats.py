"""What LeRobot's `meta/stats.json` says of each feature: least, largest, mean, deviation, quantiles, over all frames."""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
"""DEFAULT_QUANTILES of lerobot/datasets/compute_stats.py."""


class Stats:
    """Of columns that come an episode at a time: pictures as counts of their values, numbers as they are."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray] = {}  # [3, 256] of each picture feature
        self._rows: dict[str, list[np.ndarray]] = {}
        self._frames = 0

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Add columns [F, ...] of an episode; truth has no place among statistics that policies normalise by."""
        for name, rows in columns.items():
            if name.startswith("truth."):
                continue
            if rows.ndim == 4:
                counts = np.stack([np.bincount(rows[..., channel].reshape(-1), minlength=256) for channel in range(3)])
                self._counts[name] = self._counts.get(name, 0) + counts
            else:
                self._rows.setdefault(name, []).append(rows)
        self._frames += len(next(iter(columns.values())))

    def finish(self) -> dict[str, dict[str, Any]]:
        """By feature: lists of a number each column, or of [[number]] each channel, in [0, 1]."""
        found = {name: _of_counts(counts) for name, counts in self._counts.items()}
        found |= {name: _of_rows(np.concatenate(rows).astype(np.float64)) for name, rows in self._rows.items()}
        return {name: entry | {"count": [self._frames]} for name, entry in found.items()}


def _of_rows(rows: np.ndarray) -> dict[str, Any]:
    marks = np.quantile(rows, QUANTILES, axis=0)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {name: value.tolist() for name, value in (found | _named(marks)).items()}


def _of_counts(counts: np.ndarray) -> dict[str, Any]:
    values, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ values
    marks = [np.searchsorted(channel.cumsum(), QUANTILES) / 255 for channel in share]
    found = {
        "min": (counts > 0).argmax(1) / 255,
        "max": (255 - (counts > 0)[:, ::-1].argmax(1)) / 255,
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0)),
    }
    return {name: np.reshape(value, (3, 1, 1)).tolist() for name, value in (found | _named(np.transpose(marks))).items()}


def _named(marks: np.ndarray) -> dict[str, np.ndarray]:
    return {f"q{round(100 * q):02d}": value for q, value in zip(QUANTILES, marks, strict=True)}
