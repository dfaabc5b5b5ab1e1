"""The training of teachers of our own: one small loop beside the world models', with their run folders, logs and resumption.

A step is a pure function of (weights, optimiser moments, dataset, config, step), as theirs is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import whole_folder, write_sums
from embodied_liftwm.interrupts import finishing
from embodied_liftwm.priors.inhouse.depth_network import HouseConfig
from embodied_liftwm.priors.inhouse.views_network import ViewsConfig
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.inhouse.lessons import LESSONS, load_teacher
from embodied_liftwm.training.logs import MetricsLog, TensorBoardLog
from embodied_liftwm.training.prefetch import Prefetcher
from embodied_liftwm.training.schedule import learning_rate_of, progress_of
from embodied_liftwm.weights import load_weights, save_tensors


class HouseTrainer:
    """Trains a teacher into one run folder; made again on the same folder, it goes on where the last one was."""

    def __init__(self, config: TrainConfig, network: HouseConfig | ViewsConfig | None = None) -> None:
        """Open the teachers' scenes.

        Args:
            config: whose prior, data, run, steps, minutes, batch_size, context, learning_rate, grad_clip, seed, precision,
                threads, log_every, save_every and device count.
            network: the architecture, and what its depth shall mean.

        Raises:
            UserError: data that a teacher must not learn from, or frames of a size the network cannot halve.
        """
        self.config, self.run = config, Path(config.run)
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        self.lesson = LESSONS[config.prior](config, network)
        self.reader, self.network = self.lesson.reader, self.lesson.network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2
        )
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _resume(self) -> None:
        found = ckpt.checkpoints(self.run)
        if not found:
            return
        tensors, state = ckpt.read_resume(found[-1])
        load_weights(self.network, found[-1] / "model.safetensors")
        ckpt.restore_optimizer(self.optimizer, tensors)
        self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return progress_of(self.config, self.step, self.seconds)

    def fit(self, on_step: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        """Train to the end, calling `on_step` with every step's row.

        Raises:
            UserError: the loss is no longer finite; the last good checkpoint is kept.
            KeyboardInterrupt: asked to stop: the step was finished and its checkpoint written.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        logs = (
            MetricsLog(self.run / "metrics.csv", ["step", "seconds", "loss", *self.lesson.columns, "learning_rate"], self.step),
            TensorBoardLog(self.run / "tensorboard", self.step),
        )
        try:
            with finishing() as asked, Prefetcher(self.batch) as batches:
                while self.progress < 1.0 and not asked.stop:
                    row = self.advance(batches.take)
                    on_step(row)
                    if self.step % self.config.log_every == 0:
                        for log in logs:
                            log.write(row)
                    if self.step % self.config.save_every == 0:
                        self.save()
                self.save()
        finally:
            for log in logs:
                log.close()

    def batch(self, step: int) -> Any:
        """What a step learns from: a named tuple of tensors, of the kind that the teacher needs."""
        return self.lesson.batch(step)

    def advance(self, load: Callable[[int], Any] | None = None) -> dict[str, float]:
        """One optimiser step; returns its row of metrics."""
        started = time.perf_counter()
        rate = learning_rate_of(self.config, self.step, self.progress)
        batch = (load or self.batch)(self.step)
        loss, parts = self.lesson.find(type(batch)(*(tensor.to(self.config.device) for tensor in batch)))
        if not math.isfinite(loss.item()):
            raise UserError(f"the loss became {loss.item()} at step {self.step} of {self.run}: try a lower learning_rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - started
        means = {name: value.item() for name, value in parts.items()}
        return {"step": self.step, "seconds": self.seconds, "loss": loss.item(), "learning_rate": rate} | means

    def save(self) -> None:
        """Write a checkpoint of this step."""
        tensors, state = ckpt.optimizer_tensors(self.optimizer), {"seconds": self.seconds}
        ckpt.write_checkpoint(self.run, self.step, self.network, self.lesson.describe(), tensors, state)


def export(run: str | Path, folder: str | Path, card: str) -> Path:
    """Copy the newest weights of a run, in half precision, into a folder that the prior takes as `weights`.

        export("runs/house", "embodied_liftwm/priors/weights/house_depth", Path("card.md").read_text())

    makes the shipped teacher.

    Args:
        run: a run folder of `liftwm train prior=house_depth`, or `house_views`.
        folder: is made, whole or not at all.
        card: README.md: its data, seeds, figures with their commands, and limits.

    Raises:
        UserError: no checkpoint there, weights that do not load, an empty card, or `folder` is there already.
    """
    found, folder = ckpt.checkpoints(Path(run)), Path(folder)
    if not found:
        raise UserError(f"{run} holds no checkpoint: train one with `liftwm train prior=house_depth run={run}`")
    if not card.strip():
        raise UserError(f"{folder}: a teacher needs a card: its data, seeds, figures and limits")
    if folder.exists():
        raise UserError(f"{folder} is there already: remove it first, or choose another folder")
    network, described = load_teacher(found[-1])
    with whole_folder(folder) as partial:
        save_tensors(partial / "model.safetensors", {name: tensor.half() for name, tensor in network.state_dict().items()})
        (partial / "model.json").write_text(described)
        (partial / "README.md").write_text(card.rstrip() + "\n")
        write_sums(partial)
    return folder
