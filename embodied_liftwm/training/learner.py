"""One optimiser step: forward and backward over micro-batches, the mean over processes, the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.objectives.terms import Rollout
from embodied_liftwm.training.batches import Windows, to_device
from embodied_liftwm.training.networks import use_bf16, use_compiler
from embodied_liftwm.training.objective import Conventions, Objective
from embodied_liftwm.training.parallel import Processes
from embodied_liftwm.training.rollout import roll_out
from embodied_liftwm.world_model.base import BaseWorldModel

NOISE_SWIFTNESS = 30.0
"""Noise scales of teachers learn so many times as fast as weights do: who contradicts all others must be turned down before the
weights have followed."""


class Learner:
    """A model with its objective and its optimiser."""

    def __init__(
        self, config: TrainConfig, model: BaseWorldModel[Any], processes: Processes, conventions: Conventions | None = None
    ) -> None:
        """Raises UserError for unknown terms, or where the machine lacks what `compile` needs."""
        self.config = config
        self.processes = processes
        self.model = model
        self.objective = Objective(config.terms, conventions, config.teacher_noise == "held").to(config.device)
        self.parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(self._groups(), config.learning_rate, betas=(0.9, 0.98), weight_decay=1e-3)
        if config.precision == "bf16":
            use_bf16(model, config.device)
        if config.compile:
            use_compiler(model, config.device)

    def _groups(self) -> list[dict[str, Any]]:
        """All parameters, the noise of teachers by itself."""
        noise = self.objective.teacher_noise()
        apart = {id(parameter) for parameter in noise}
        weights = {"params": [p for p in self.parameters if id(p) not in apart], "swiftness": 1.0}
        return [weights, {"params": noise, "swiftness": NOISE_SWIFTNESS, "weight_decay": 0.0}] if noise else [weights]

    def differentiate(self, parts: Sequence[Windows], only_geometry: bool) -> dict[str, float]:
        """Leave in the parameters the gradient of the loss: its mean over all windows of the step, of all processes.

        Args:
            parts: this process's micro-batches, equally large; as `batches.load_parts` gives them.
            only_geometry: see `rollout.roll_out`.

        Returns:
            Means over the same windows: `loss`, `psnr` in dB (nan where nothing is rendered), `kl`, and each term by its name.
        """
        self.optimizer.zero_grad(set_to_none=True)
        found = []
        for part in parts:
            loss, numbers = self._part(part, only_geometry)
            self.backward((1.0 / len(parts)) * loss)
            found.append(numbers)
        return self._means(found, only_geometry, [p.grad for p in self.parameters if p.grad is not None])

    @torch.no_grad()
    def measure(self, parts: Sequence[Windows], only_geometry: bool) -> dict[str, float]:
        """What `differentiate` returns, without a gradient."""
        return self._means([self._part(part, only_geometry)[1] for part in parts], only_geometry)

    def _means(self, found: Sequence[Tensor], only_geometry: bool, gradients: Sequence[Tensor] = ()) -> dict[str, float]:
        """Metrics from the numbers of micro-batches; gradients are averaged over processes on the way."""
        means = torch.stack(list(found)).mean(0)
        self.processes.average([means, *gradients])
        loss, error, kl, *terms = means.tolist()  # the one place of a step where the program waits for the device
        psnr = math.nan if only_geometry else -10.0 * math.log10(max(error, 1e-10))
        return {"loss": loss, "psnr": psnr, "kl": kl} | dict(zip(self.config.terms, terms, strict=True))

    def _part(self, part: Windows, only_geometry: bool) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch, and as numbers that loss, the squared error, the KL and the terms."""
        rollout = roll_out(self.model, to_device(part, self.config.device), only_geometry)
        found = self.objective(rollout)
        loss, terms = -found.bound, torch.stack(list(found.log_likelihoods.values()))
        numbers = torch.stack([loss, _squared_error(rollout, like=loss), found.kl])
        return loss, torch.cat([numbers, terms]).detach()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to what the parameters hold."""
        loss.backward()

    def update(self, learning_rate: float) -> None:
        """Clip the gradient and take the optimiser's step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["swiftness"]
        nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.optimizer.step()


def _squared_error(rollout: Rollout, like: Tensor) -> Tensor:
    """Mean squared error of the rendered targets; 0 while nothing is rendered."""
    if rollout.viewed is None:
        return like.new_zeros(())
    return (rollout.viewed.rgb.detach().clamp(0, 1) - rollout.viewed.target_rgb).square().mean()
