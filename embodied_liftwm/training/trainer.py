"""The trainer of world models: every model, every memory and every set of terms.

What the body does under an action is fitted first (`body.py`). A step is then a pure function of (weights, optimiser moments,
dataset, config, step): windows are drawn by step number and nothing else is random. So a run that was killed and continued ends
at the same weights as one that was not, and a slow machine at those of a fast one, as long as it is bounded by `steps`; a bound
by `minutes` follows the clock. Several processes (`parallel.py`) take the same steps together.
"""

from __future__ import annotations

from typing import Any

import torch

from embodied_liftwm.config import FORMER_NAMES, TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.splits import check_split
from embodied_liftwm.errors import UserError
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.batches import Windows, load_parts, rows_of
from embodied_liftwm.training.body import fit_ego_motion
from embodied_liftwm.training.learner import Learner
from embodied_liftwm.training.loop import Loop
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.teachers import open_teachers
from embodied_liftwm.weights import load_weights
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model


class Trainer(Loop):
    """Trains one model into one run folder; made again on the same folder, it goes on where the last one was.

    Made in each process of an initialised `torch.distributed` group, they train together, and the first one writes.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, Processes.current(config.device))
        self.config = config
        self.columns = ("step", "seconds", "loss", "psnr", "kl", "learning_rate", *config.terms)
        self.finite = (*config.terms, "kl")
        self.rows = rows_of(config, self.processes)
        with self.processes.first_alone():  # which decodes the dataset for all
            self.reader = TrainingReader(config.data)
        check_split(self.reader.info, self.reader.seeds.tolist(), "train", f"data={config.data}")
        self.teachers = open_teachers(config)
        torch.manual_seed(config.seed)
        shapes = ModelShapes(self.reader.image_size, self.reader.action_dim, self.reader.goal_dim)
        self.model: BaseWorldModel[Any] = build_model(config.model, shapes).to(config.device)
        self.device = next(self.model.parameters()).device  # with its index, where `config.device` may have none
        self.learner = Learner(config, self.model, self.processes, self.teachers.conventions if self.teachers else None)
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
        return load_parts(self.reader, self.config, step, self.rows, self.device, self.teachers)

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
        """Write a checkpoint of this step, if this is the process that writes."""
        if not self.processes.is_first:
            return
        noise = {f"objective.{name}": t.detach().clone() for name, t in self.learner.objective.state_dict().items()}
        tensors = ckpt.optimizer_tensors(self.learner.optimizer) | noise
        ckpt.save_checkpoint(self.run, self.step, self.model, tensors, {"seconds": self.seconds})


def _in_present_words(name: str) -> str:
    """The name of a tensor of a teacher's noise, with what its teacher is called now."""
    return ".".join(FORMER_NAMES.get(part, part) for part in name.split("."))
