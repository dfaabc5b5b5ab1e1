"""Trainings of seconds, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from embodied_liftwm import load
from embodied_liftwm.config import ModelConfig, RecurrentConfig, TrainConfig

SMALL = ModelConfig(latent_dim=4, stride=4, width=8, recurrent=RecurrentConfig(units=16))


def config(data: Path, run: Path, **changes) -> TrainConfig:
    base = TrainConfig(
        data=str(data), run=str(run), model=SMALL, steps=4, batch_size=2, context=3, targets=2, span=8, save_every=2,
        log_every=1, threads=1,
    )  # fmt: skip
    return replace(base, **changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    model = load(str(run))
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def disturb(model: torch.nn.Module) -> None:
    """Move every weight: an untrained model has heads of zeros, which let no gradient through."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
