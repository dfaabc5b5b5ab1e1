"""The trainer: one loop for every model, every memory and every set of terms.

A step is a pure function of (weights, optimiser moments, dataset, config, step): windows are drawn by step number and nothing
else is random. So a run that was killed and continued ends at the same weights as one that was not, as long as it is bounded
by `steps`; a bound by `minutes` follows the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.sampling import sample_windows
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import remove_partials
from embodied_liftwm.objectives.terms import TERMS, Rollout, Term
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.logs import MetricsLog, TensorBoardLog
from embodied_liftwm.training.rollout import roll_out, to_tensors
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model

WARM_UP_STEPS = 40


class Objective(nn.Module):
    """The named terms of the objective, with their learned noise scales."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        unknown = [name for name in names if name not in TERMS]
        if unknown or len(set(names)) != len(names) or not names:
            raise UserError(f"terms={list(names)}: expected distinct names out of {sorted(TERMS)}")
        self.terms = nn.ModuleDict({name: TERMS[name]() for name in names})

    def forward(self, rollout: Rollout) -> dict[str, Tensor]:
        """Mean log-likelihood of each term, by name."""
        found = {name: cast(Term, term).log_prob(rollout).mean() for name, term in self.terms.items()}
        assert found.keys() == self.terms.keys(), "a term was lost"
        return found


def _psnr(rollout: Rollout) -> float:
    """Of the rendered targets, in dB; nan while nothing is rendered."""
    if rollout.viewed is None:
        return math.nan
    error = (rollout.viewed.rgb.detach().clamp(0, 1) - rollout.viewed.target_rgb).square().mean().item()
    return -10.0 * math.log10(max(error, 1e-10))


class Trainer:
    """Trains one model into one run folder; made again on the same folder, it goes on where the last one was."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.run = Path(config.run)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.reader = TrainingReader(config.data)
        height, width = self.reader.image_size
        if height != width:
            raise UserError(f"{config.data}: frames are {height} x {width}, models take square ones")
        torch.manual_seed(config.seed)
        shapes = ModelShapes(height, self.reader.action_dim, self.reader.goal_dim)
        self.model: BaseWorldModel[Any] = build_model(config.model, shapes).to(config.device)
        self.objective = Objective(config.terms).to(config.device)
        self.parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _resume(self) -> None:
        remove_partials(self.run / "checkpoints")
        found = ckpt.checkpoints(self.run)
        if not found:
            return
        ckpt.load_weights(self.model, found[-1] / "model.safetensors")
        tensors, state = ckpt.read_resume(found[-1])
        noise = {name.removeprefix("objective."): t for name, t in tensors.items() if name.startswith("objective.")}
        if noise.keys() != self.objective.state_dict().keys():
            raise UserError(f"{self.run} was trained with other terms than {list(self.config.terms)}: choose another run=")
        self.objective.load_state_dict(noise)
        moments = {name: t for name, t in tensors.items() if not name.startswith("objective.")}
        ckpt.restore_optimizer(self.optimizer, moments)
        self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1], by steps or by the clock, whichever ends it first."""
        by_clock = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_clock))

    def fit(self, on_step: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        """Train to the end, calling `on_step` with every step's row (step, seconds, loss, psnr, one column per term).

        Raises:
            UserError: the loss is no longer finite; the last good checkpoint is kept.
        """
        columns = ["step", "seconds", "loss", "psnr", "learning_rate", *self.config.terms]
        self.run.mkdir(parents=True, exist_ok=True)
        metrics = MetricsLog(self.run / "metrics.csv", columns, self.step)
        board = TensorBoardLog(self.run / "tensorboard", self.step)
        try:
            while self.progress < 1.0:
                row = self._advance()
                on_step(row)
                if self.step % self.config.log_every == 0:
                    metrics.write(row)
                    board.write(row)
                if self.step % self.config.save_every == 0:
                    self.save()
            self.save()
        finally:
            metrics.close()
            board.close()

    def _advance(self) -> dict[str, float]:
        """One optimiser step; returns its row of metrics."""
        started = time.perf_counter()
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tensors = to_tensors(sample_windows(self.reader, self.config, self.step), self.config.device)
        rollout = roll_out(self.model, tensors, self.only_geometry)
        terms = self.objective(rollout)
        loss = -torch.stack(list(terms.values())).sum()
        self._check_finite(terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - started
        row = {"step": self.step, "seconds": self.seconds, "loss": loss.item(), "learning_rate": rate}
        return row | {"psnr": _psnr(rollout)} | {k: v.item() for k, v in terms.items()}

    @property
    def only_geometry(self) -> bool:
        """Whether this step trains the lift alone, of a model that lifts."""
        return self.progress < self.config.geometry_first and self.config.model.memory != "recurrent"

    def _learning_rate(self) -> float:
        """Linear warm-up, then a cosine to a twentieth."""
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        return self.config.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * self.progress)))

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            if not torch.isfinite(value):
                last = ckpt.checkpoints(self.run)
                kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
                raise UserError(f"term {name!r} became {value.item()} at step {self.step}; {kept}; try a lower learning_rate")

    def save(self) -> None:
        """Write a checkpoint of this step."""
        noise = {f"objective.{name}": t.detach().clone() for name, t in self.objective.state_dict().items()}
        tensors = ckpt.optimizer_tensors(self.optimizer) | noise
        ckpt.save_checkpoint(self.run, self.step, self.model, tensors, {"seconds": self.seconds})
