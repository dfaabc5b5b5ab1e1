"""The one trainer on models with a latent cache: it learns, and every weight takes part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from embodied_liftwm.config import LatentBoundedConfig
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import SMALL, config

MEMORIES = ("latent_append", "latent_bounded")


@pytest.mark.parametrize("memory", MEMORIES)
def test_training_lowers_the_loss(data: Path, tmp_path: Path, memory: Literal["latent_append", "latent_bounded"]) -> None:
    model = replace(SMALL, memory=memory, latent_dim=8, latent_bounded=LatentBoundedConfig(200_000))
    settings = config(data, tmp_path / "run", model=model, steps=20, save_every=20, geometry_first=0.0, learning_rate=2e-3)
    rows: list[dict[str, float]] = []
    trainer = Trainer(settings)
    before = {name: t.detach().clone() for name, t in trainer.model.named_parameters()}
    trainer.fit(rows.append)
    first, last = rows[:5], rows[-5:]
    assert sum(row["loss"] for row in last) < sum(row["loss"] for row in first)
    assert sum(row["frame"] for row in last) > sum(row["frame"] for row in first)
    # Decay alone moves weights as well, but not those that begin at zero.
    moved = {name for name, t in trainer.model.named_parameters() if not t.equal(before[name])}
    assert {"decoder.imagined.weight", "decoder.head.1.weight", "decoder.colours.bias", "encoder.colours.bias"} <= moved
