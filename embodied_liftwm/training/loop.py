"""The loop that every training shares: optimiser steps into a run folder, with logs, checkpoints and a clean stop."""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from embodied_liftwm.config import TeacherConfig, TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.interrupts import finishing
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.logs import MetricsLog, TensorBoardLog
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.prefetch import Prefetcher

WARM_UP_STEPS = 40
"""Steps over which the learning rate rises: about the memory of Adam's second moment, 1 / (1 - 0.98)."""


class Loop(ABC):
    """Takes steps until `config.steps` or `config.minutes` are over; made again on the same run folder, it goes on.

    Attributes:
        step: optimiser steps taken.
        seconds: they took, over all resumptions.
        columns: of metrics.csv, in order.
        finite: those of them that a training must not go on with where they are nan or infinite.
    """

    columns: tuple[str, ...]
    finite: tuple[str, ...]

    def __init__(self, config: TrainConfig | TeacherConfig, processes: Processes) -> None:
        self.run, self.processes, self._settings = Path(config.run), processes, config
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        self.step, self.seconds = 0, 0.0
        self.logs: list[MetricsLog | TensorBoardLog] = []

    @abstractmethod
    def load(self, step: int) -> Any:
        """What a step learns from, on the CPU: a pure function of the step."""

    @abstractmethod
    def differentiate(self, loaded: Any) -> dict[str, float]:
        """Leave the gradient of a step in the parameters; returns its row of metrics, `loss` among them."""

    @abstractmethod
    def update(self, learning_rate: float) -> None:
        """Take the optimiser's step along that gradient."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint of this step, if this is the process that writes."""

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1], by steps or by the clock, whichever ends it first."""
        return progress_of(self._settings, self.step, self.seconds)

    def fit(self, on_step: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        """Train to the end, calling `on_step` with every step's row: step, seconds, learning_rate and its metrics.

        Raises:
            UserError: the loss is no longer finite; the last good checkpoint is kept. Or another process is lost.
            KeyboardInterrupt: asked to stop, in any of the processes: the step was finished and its checkpoint written.
        """
        self.logs = self._logs() if self.processes.is_first else []
        try:
            with finishing() as asked, Prefetcher(self.load) as batches:
                stop = False  # as all processes agree
                while self.progress < 1.0 and not stop:
                    row = self.advance(batches.take)
                    on_step(row)
                    if self.step % self._settings.log_every == 0:
                        for log in self.logs:
                            log.write(row)
                    if self.step % self._settings.save_every == 0:
                        self.save()
                    stop = self.processes.any(asked.stop)
                self.save()
                asked.stop = asked.stop or stop
        finally:
            for log in self.logs:
                log.close()

    def _logs(self) -> list[MetricsLog | TensorBoardLog]:
        self.run.mkdir(parents=True, exist_ok=True)
        return [
            MetricsLog(self.run / "metrics.csv", list(self.columns), self.step),
            TensorBoardLog(self.run / "tensorboard", self.step),
        ]

    def advance(self, load: Callable[[int], Any] | None = None) -> dict[str, float]:
        """One optimiser step; returns its row of metrics."""
        started = time.perf_counter()
        rate = learning_rate_of(self._settings, self.step, self.progress)
        metrics = self.differentiate((load or self.load)(self.step))
        self._check_finite(metrics)
        self.update(rate)
        self.step += 1
        self.seconds = self.processes.from_first(self.seconds + time.perf_counter() - started)
        return {"step": self.step, "seconds": self.seconds, "learning_rate": rate} | metrics

    def _check_finite(self, metrics: dict[str, float]) -> None:
        for name in self.finite:
            if not math.isfinite(metrics[name]):
                last = ckpt.checkpoints(self.run)
                kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
                raise UserError(f"{name!r} became {metrics[name]} at step {self.step}; {kept}; try a lower learning_rate")


def progress_of(config: TrainConfig | TeacherConfig, step: int, seconds: float) -> float:
    """Share of the training that is done, in [0, 1], by steps or by the clock, whichever ends it first."""
    by_clock = seconds / (60 * config.minutes) if config.minutes else 0.0
    return min(1.0, max(step / config.steps, by_clock))


def learning_rate_of(config: TrainConfig | TeacherConfig, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return config.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * progress)))
