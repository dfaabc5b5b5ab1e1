"""The one trainer on the memories that LiftWM is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm import load
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import SMALL, config

pytestmark = pytest.mark.usefixtures("whole_fit")  # what terms gain depends on the clipped gradient of them all


def gains(data: Path, run: Path, memory: str) -> dict[str, float]:
    """By how much each term rises in 40 steps, nats: means of the last eight less those of the first."""
    rows: list[dict[str, float]] = []
    settings = config(
        data, run, model=replace(SMALL, memory=memory), steps=40, save_every=100, geometry_first=0.0,
        learning_rate=1e-3, batch_size=3,
    )  # fmt: skip
    Trainer(settings).fit(rows.append)
    first, last = ({name: float(np.mean([row[name] for row in part])) for name in part[0]} for part in (rows[:8], rows[-8:]))
    return {name: last[name] - first[name] for name in first}


def test_a_short_training_lowers_the_loss_of_a_cloud(data: Path, tmp_path: Path) -> None:
    found = gains(data, tmp_path / "run", "rgb_cloud")
    for term in ("frame", "multi_view"):
        assert found[term] > 0.02, term
    model = load(str(tmp_path / "run"))
    assert isinstance(model, WorldModel) and model.config.memory == "rgb_cloud"


def test_a_short_training_lowers_the_loss_of_raw_context(data: Path, tmp_path: Path) -> None:
    assert gains(data, tmp_path / "run", "context")["frame"] > 0.02


def test_raw_context_learns_depth(data: Path, tmp_path: Path) -> None:
    assert gains(data, tmp_path / "run", "context")["multi_view"] > 0.02


@pytest.mark.parametrize("memory", ["rgb_cloud", "context"])
def test_half_a_training_on_depth_alone_and_half_on_all(data: Path, tmp_path: Path, memory: str) -> None:
    rows: list[dict[str, float]] = []
    Trainer(config(data, tmp_path / "run", model=replace(SMALL, memory=memory), geometry_first=0.5)).fit(rows.append)
    assert [bool(np.isnan(row["psnr"])) for row in rows] == [True, True, False, False]
