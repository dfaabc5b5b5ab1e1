"""The trainer: one loop for every model, every memory and every set of terms.

What the body does under an action is fitted first (`body.py`). A step is then a pure function of (weights, optimiser moments,
dataset, config, step): windows are drawn by step number and nothing else is random. So a run that was killed and continued ends
at the same weights as one that was not, and a slow machine at those of a fast one, as long as it is bounded by `steps`; a bound
by `minutes` follows the clock. Several processes (`parallel.py`) take the same steps together.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.splits import check_split
from embodied_liftwm.errors import UserError
from embodied_liftwm.interrupts import finishing
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.batches import Windows, load_parts, rows_of
from embodied_liftwm.training.body import fit_ego_motion
from embodied_liftwm.training.learner import Learner
from embodied_liftwm.training.logs import MetricsLog, TensorBoardLog
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.prefetch import Prefetcher
from embodied_liftwm.training.schedule import learning_rate_of, progress_of
from embodied_liftwm.training.teachers import open_teachers
from embodied_liftwm.weights import load_weights
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model


class Trainer:
    """Trains one model into one run folder; made again on the same folder, it goes on where the last one was.

    Made in each process of an initialised `torch.distributed` group, they train together, and the first one writes.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.run = Path(config.run)
        self.processes = Processes.current(config.device)
        self.rows = rows_of(config, self.processes)
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        with self.processes.first_alone():  # which decodes the dataset for all
            self.reader = TrainingReader(config.data)
        check_split(self.reader.info, self.reader.seeds.tolist(), "train", f"data={config.data}")
        self.teachers = open_teachers(config)
        torch.manual_seed(config.seed)
        shapes = ModelShapes(self.reader.image_size, self.reader.action_dim, self.reader.goal_dim)
        self.model: BaseWorldModel[Any] = build_model(config.model, shapes).to(config.device)
        self.device = next(self.model.parameters()).device  # with its index, where `config.device` may have none
        self.learner = Learner(config, self.model, self.processes, self.teachers.conventions if self.teachers else None)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _resume(self) -> None:
        found = ckpt.checkpoints(self.run)
        newest = int(self.processes.from_first(ckpt.step_of(found[-1]) if found else -1))
        if newest < 0:
            if self.config.initial:
                ckpt.begin_with(self.model, self.config.initial)
            if "ego_motion" in self.config.terms:
                fit_ego_motion(self.model.ego_motion, self.reader, self.config.seed)
                self.processes.average([parameter.data for parameter in self.model.ego_motion.parameters()])
            return
        checkpoint = ckpt.path_of(self.run, newest)
        tensors, state = ckpt.read_resume(checkpoint)
        load_weights(self.model, checkpoint / "model.safetensors")
        objective = self.learner.objective
        noise = {name.removeprefix("objective."): t for name, t in tensors.items() if name.startswith("objective.")}
        if noise.keys() != objective.state_dict().keys():
            given = f"terms={list(self.config.terms)} priors={list(self.config.priors)}"
            raise UserError(f"{self.run} was trained with others than {given}: choose another run=")
        objective.load_state_dict(noise)
        moments = {name: t for name, t in tensors.items() if not name.startswith("objective.")}
        ckpt.restore_optimizer(self.learner.optimizer, moments)
        self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1], by steps or by the clock, whichever ends it first."""
        return progress_of(self.config, self.step, self.seconds)

    def fit(self, on_step: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        """Train to the end, calling `on_step` with every step's row (step, seconds, loss, psnr, one column per term).

        Raises:
            UserError: the loss is no longer finite; the last good checkpoint is kept. Or another process is lost.
            KeyboardInterrupt: asked to stop, in any of the processes: the step was finished and its checkpoint written.
        """
        logs = self._logs() if self.processes.is_first else []
        try:
            with finishing() as asked, Prefetcher(self.load_parts) as batches:
                stop = False  # as all processes agree
                while self.progress < 1.0 and not stop:
                    row = self._advance(batches.take)
                    on_step(row)
                    if self.step % self.config.log_every == 0:
                        for log in logs:
                            log.write(row)
                    if self.step % self.config.save_every == 0:
                        self.save()
                    stop = self.processes.any(asked.stop)
                self.save()
                asked.stop = asked.stop or stop
        finally:
            for log in logs:
                log.close()

    def _logs(self) -> list[MetricsLog | TensorBoardLog]:
        columns = ["step", "seconds", "loss", "psnr", "kl", "learning_rate", *self.config.terms]
        self.run.mkdir(parents=True, exist_ok=True)
        return [
            MetricsLog(self.run / "metrics.csv", columns, self.step),
            TensorBoardLog(self.run / "tensorboard", self.step),
        ]

    def load_parts(self, step: int) -> list[Windows]:
        """This process's windows of a step, as micro-batches."""
        return load_parts(self.reader, self.config, step, self.rows, self.device, self.teachers)

    def _advance(self, load: Callable[[int], list[Windows]] | None = None) -> dict[str, float]:
        """One optimiser step; returns its row of metrics."""
        started = time.perf_counter()
        rate = learning_rate_of(self.config, self.step, self.progress)
        metrics = self.learner.differentiate((load or self.load_parts)(self.step), self.only_geometry)
        self._check_finite(metrics)
        self.learner.update(rate)
        self.step += 1
        self.seconds = self.processes.from_first(self.seconds + time.perf_counter() - started)
        return {"step": self.step, "seconds": self.seconds, "learning_rate": rate} | metrics

    @property
    def only_geometry(self) -> bool:
        """Whether this step trains the lift alone, of a model that lifts."""
        return self.progress < self.config.geometry_first and self.config.model.memory != "recurrent"

    def _check_finite(self, metrics: dict[str, float]) -> None:
        for name in (*self.config.terms, "kl"):
            if not math.isfinite(metrics[name]):
                last = ckpt.checkpoints(self.run)
                kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
                raise UserError(f"term {name!r} became {metrics[name]} at step {self.step}; {kept}; try a lower learning_rate")

    def save(self) -> None:
        """Write a checkpoint of this step, if this is the process that writes."""
        if not self.processes.is_first:
            return
        noise = {f"objective.{name}": t.detach().clone() for name, t in self.learner.objective.state_dict().items()}
        tensors = ckpt.optimizer_tensors(self.learner.optimizer) | noise
        ckpt.save_checkpoint(self.run, self.step, self.model, tensors, {"seconds": self.seconds})
