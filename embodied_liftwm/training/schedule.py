"""How far a training is, and the learning rate that belongs to it."""

from __future__ import annotations

import math

from embodied_liftwm.config import TeacherConfig, TrainConfig

WARM_UP_STEPS = 40
"""Steps over which the learning rate rises: about the memory of Adam's second moment, 1 / (1 - 0.98)."""


def progress_of(config: TrainConfig | TeacherConfig, step: int, seconds: float) -> float:
    """Share of the training that is done, in [0, 1], by steps or by the clock, whichever ends it first."""
    by_clock = seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(step / config.steps, by_clock))


def learning_rate_of(config: TrainConfig | TeacherConfig, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return config.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * progress)))
