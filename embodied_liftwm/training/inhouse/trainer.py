"""The trainer of teachers of our own. A step is a pure function of (weights, optimiser moments, dataset, config, step)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from embodied_liftwm.config import TeacherConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import whole_folder, write_sums
from embodied_liftwm.priors.inhouse.depth_network import DepthConfig, describe
from embodied_liftwm.priors.inhouse.views_network import ViewsConfig
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.inhouse.frames import Frames
from embodied_liftwm.training.inhouse.lessons import LESSONS, load_teacher
from embodied_liftwm.training.inhouse.pairs import Pairs
from embodied_liftwm.training.loop import Loop
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.weights import load_weights, save_tensors


class TeacherTrainer(Loop):
    """Trains a teacher into one run folder; made again on the same folder, it goes on where the last one was."""

    finite = ("loss",)

    def __init__(self, config: TeacherConfig, network: DepthConfig | ViewsConfig | None = None) -> None:
        """Open the teachers' scenes.

        Args:
            config: of the training.
            network: the architecture, and what its depth shall mean.

        Raises:
            UserError: data that a teacher must not learn from, or frames of a size the network cannot halve.
        """
        super().__init__(config, Processes())
        self.config = config
        self.lesson = LESSONS[config.name](config, network)
        self.columns = ("step", "seconds", "loss", *self.lesson.columns, "learning_rate")
        self.reader, self.network = self.lesson.reader, self.lesson.network
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-2
        )
        found = ckpt.checkpoints(self.run)
        if found:
            tensors, state = ckpt.read_resume(found[-1])
            load_weights(self.network, found[-1] / "model.safetensors")
            ckpt.restore_optimizer(self.optimizer, tensors)
            self.step, self.seconds = state["step"], state["seconds"]

    def load(self, step: int) -> Frames | Pairs:
        """The frames of a step, of the kind that the teacher needs."""
        return self.lesson.batch(step)

    def differentiate(self, loaded: Frames | Pairs) -> dict[str, float]:
        """Leave the gradient of the loss in the network; returns the loss and its parts."""
        on_device = type(loaded)(*(tensor.to(self.config.device) for tensor in loaded))
        with torch.autocast(on_device.rgb.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            said = self.network(*self.lesson.inputs(on_device))
        parts = self.lesson.losses(said, on_device)
        loss = parts.total()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return {"loss": loss.item()} | {name: value.item() for name, value in parts._asdict().items()}

    def update(self, learning_rate: float) -> None:
        """Clip the gradient and take the optimiser's step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()

    def save(self) -> None:
        """Write a checkpoint of this step."""
        tensors, state = ckpt.optimizer_tensors(self.optimizer), {"seconds": self.seconds}
        ckpt.write_checkpoint(self.run, self.step, self.network, describe(self.network.config), tensors, state)


def export(run: str | Path, folder: str | Path, card: str) -> Path:
    """Copy the newest weights of a run, in half precision, into a folder that the prior takes as `weights`.

        export("runs/teacher", "embodied_liftwm/priors/weights/inhouse_depth", Path("card.md").read_text())

    makes the shipped teacher.

    Args:
        run: a run folder of `liftwm priors train`.
        folder: is made, whole or not at all.
        card: README.md: its data, seeds, figures with their commands, and limits.

    Raises:
        UserError: no checkpoint there, weights that do not load, an empty card, or `folder` is there already.
    """
    found, folder = ckpt.checkpoints(Path(run)), Path(folder)
    if not found:
        raise UserError(f"{run} holds no checkpoint: train one with `liftwm priors train run={run}`")
    ckpt.check_card(folder, card)
    network = load_teacher(found[-1])
    with whole_folder(folder) as partial:
        save_tensors(partial / "model.safetensors", {name: tensor.half() for name, tensor in network.state_dict().items()})
        (partial / "model.json").write_text(describe(network.config))
        (partial / "README.md").write_text(card.rstrip() + "\n")
        write_sums(partial)
    return folder
