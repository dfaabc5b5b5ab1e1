"""The trainer of world models: every model, every memory and every set of terms.

What the body does under an action is fitted first (`body.py`). A step is then a pure function of (weights, optimiser moments,
dataset, config, step): windows are drawn by step number and nothing else is random. So a run that was killed and continued ends
at the same weights as one that was not, and a slow machine at those of a fast one, as long as it is bounded by `steps`; a bound
by `minutes` follows the clock. Several processes (`parallel.py`) take the same steps together.

Of several datasets every step learns from one, drawn by weight (`data.mixture`). Depth, memory and pictures learn from all of
them; what the body does under an action belongs to the first, and what the task gives to those with goals like its.
"""

from __future__ import annotations

from typing import Any

import torch

from embodied_liftwm.config import FORMER_NAMES, TrainConfig
from embodied_liftwm.data.mixture import Dataset, Mixture
from embodied_liftwm.errors import UserError
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.batches import Windows, load_parts, rows_of
from embodied_liftwm.training.body import fit_ego_motion
from embodied_liftwm.training.learner import Learner
from embodied_liftwm.training.logs import MetricsLog, TensorBoardLog
from embodied_liftwm.training.loop import Loop
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.teachers import open_teachers
from embodied_liftwm.weights import load_weights
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model

VALIDATION = "validation.csv"
VALIDATION_STEPS = 4
"""Batches of each dataset's held-out episodes that are measured: the same ones each time."""


class Trainer(Loop):
    """Trains one model into one run folder; made again on the same folder, it goes on where the last one was.

    Made in each process of an initialised `torch.distributed` group, they train together, and the first one writes.

    Attributes:
        validated: the last row of validation of each dataset that has held-out episodes, by its name.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, Processes.current(config.device))
        self.config = config
        self.columns = ("step", "seconds", "loss", "psnr", "kl", "learning_rate", *config.terms)
        self.finite = (*config.terms, "kl")
        self.rows = rows_of(config, self.processes)
        with self.processes.first_alone():  # which decodes the datasets for all
            self.mixture = Mixture.open(config)
        self.teachers = open_teachers(config)
        torch.manual_seed(config.seed)
        first = self.mixture.datasets[0].reader
        shapes = ModelShapes(first.image_size, first.action_dim, first.goal_dim)
        self.model: BaseWorldModel[Any] = build_model(config.model, shapes).to(config.device)
        for dataset in self.mixture.datasets[1:]:
            _check_size(self.model, dataset)
        self.device = next(self.model.parameters()).device  # with its index, where `config.device` may have none
        self.learner = Learner(config, self.model, self.processes, self.teachers[0].conventions if self.teachers[0] else None)
        self.validated: dict[str, dict[str, float]] = {}
        self._resume()

    def _resume(self) -> None:
        found = ckpt.checkpoints(self.run)
        newest = int(self.processes.from_first(ckpt.step_of(found[-1]) if found else -1))
        if newest < 0:
            if self.config.initial:
                ckpt.begin_with(self.model, self.config.initial)
            if "ego_motion" in self.config.terms:
                first = self.mixture.datasets[0]
                fit_ego_motion(self.model.ego_motion, first.reader, self.config.seed, first.learned)
                self.processes.average([parameter.data for parameter in self.model.ego_motion.parameters()])
            return
        checkpoint = ckpt.path_of(self.run, newest)
        stored, state = ckpt.read_resume(checkpoint)
        tensors = {_in_present_words(name): tensor for name, tensor in stored.items()}
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

    def load(self, step: int) -> list[Windows]:
        """This process's windows of a step, as micro-batches."""
        return self._load(self.mixture.of_step(step), step)

    def _load(self, number: int, step: int, held_out: bool = False) -> list[Windows]:
        dataset, teachers = self.mixture.datasets[number], self.teachers[number]
        return load_parts(dataset, self.config, step, self.rows, self.device, teachers, held_out)

    def differentiate(self, loaded: list[Windows]) -> dict[str, float]:
        """See `Learner.differentiate`."""
        return self.learner.differentiate(loaded, self.only_geometry)

    def update(self, learning_rate: float) -> None:
        """See `Learner.update`."""
        self.learner.update(learning_rate)

    @property
    def only_geometry(self) -> bool:
        """Whether this step trains the lift alone, of a model that lifts."""
        return self.progress < self.config.geometry_first and self.model.log_planes is not None

    def save(self) -> None:
        """Measure the held-out episodes, and write a checkpoint of this step, if this is the process that writes."""
        self._validate()
        if not self.processes.is_first:
            return
        noise = {f"objective.{name}": t.detach().clone() for name, t in self.learner.objective.state_dict().items()}
        tensors = ckpt.optimizer_tensors(self.learner.optimizer) | noise
        ckpt.save_checkpoint(self.run, self.step, self.model, tensors, {"seconds": self.seconds})

    def _validate(self) -> None:
        """The metrics of a step on held-out windows of each dataset, unless this step has them."""
        if any(row["step"] == self.step for row in self.validated.values()):
            return
        for number, dataset in enumerate(self.mixture.datasets):
            if dataset.held_out:
                steps = [self._load(number, step, held_out=True) for step in range(VALIDATION_STEPS)]
                found = self.learner.measure([part for parts in steps for part in parts], self.only_geometry)
                self.validated[dataset.name] = {"step": self.step} | found
        if not (self.processes.is_first and self.validated):
            return
        self.run.mkdir(parents=True, exist_ok=True)
        table = MetricsLog(self.run / VALIDATION, ["step", "data", "loss", "psnr", "kl", *self.config.terms], self.step - 1)
        for name, row in self.validated.items():
            table.write(row | {"data": name})
            for log in self.logs:
                if isinstance(log, TensorBoardLog):
                    log.write(row, f"validation/{name}")
        table.close()


def _check_size(model: BaseWorldModel[Any], dataset: Dataset) -> None:
    """Raises UserError for frames that a model which was built for those of another dataset cannot take."""
    size, own = dataset.reader.image_size, model.image_size
    fixed = model.config.memory == "recurrent"
    if size != own and (fixed or any(side % model.grain for side in size)):
        takes = "that size alone" if fixed else f"sides that are multiples of {model.grain} beside it"
        its = f"frames of {own[0]} x {own[1]} pixels takes {takes}"
        raise UserError(f"data={dataset.name}: frames of {size[0]} x {size[1]} pixels; a model for {its}")


def _in_present_words(name: str) -> str:
    """The name of a tensor of a teacher's noise, with what its teacher is called now."""
    return ".".join(FORMER_NAMES.get(part, part) for part in name.split("."))
