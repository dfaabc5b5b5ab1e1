"""Training: what it learns, that it resumes to the same weights, and that truth cannot reach it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied_liftwm import load
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.weights import load_weights
from tests.toy_room import write_dataset
from tests.training.small import SMALL, config, same, weights


@pytest.mark.parametrize("memory", ["gaussians", "recurrent"])
def test_resumed_training_ends_at_the_same_weights(data: Path, tmp_path: Path, memory: str):
    settings = config(data, tmp_path / "whole", model=replace(SMALL, memory=memory))
    Trainer(settings).fit()
    broken = replace(settings, run=str(tmp_path / "broken"))
    trainer = Trainer(broken)
    for _ in range(2):
        trainer.advance()
    trainer.save()
    trainer.advance()  # a step that a kill loses
    Trainer(broken).fit()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    rows = (tmp_path / "broken" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["3", "4"]


def test_training_without_truth_gives_bit_identical_weights(data: Path, tmp_path: Path):
    stripped = write_dataset(tmp_path / "stripped", truth=False)
    Trainer(config(data, tmp_path / "with", steps=2)).fit()
    Trainer(config(stripped, tmp_path / "without", steps=2)).fit()
    assert same(weights(tmp_path / "with"), weights(tmp_path / "without"))


def test_training_improves_the_rendering_of_unseen_views(data: Path, tmp_path: Path):
    rows: list[dict[str, float]] = []
    changes = {"steps": 60, "save_every": 1000, "batch_size": 3, "sources": 8, "geometry_first": 0.0, "learning_rate": 2e-3}
    Trainer(config(data, tmp_path / "run", **changes)).fit(rows.append)

    def gain(name: str) -> float:
        return float(np.mean([row[name] for row in rows[-10:]]) - np.mean([row[name] for row in rows[:10]]))

    assert gain("psnr") > 0.4  # dB
    assert gain("frame") > 0.1
    assert gain("multi_view") > 0.05


def test_a_trained_model_meets_the_protocol_and_old_checkpoints_are_dropped(data: Path, tmp_path: Path):
    Trainer(config(data, tmp_path / "run", steps=6)).fit()
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step-00000004", "step-00000006"]
    assert isinstance(load(str(tmp_path / "run")), WorldModel)


def test_a_loss_that_is_not_finite_stops_with_the_terms_name(data: Path, tmp_path: Path):
    trainer = Trainer(config(data, tmp_path / "run"))
    trainer.advance()
    trainer.save()
    with torch.no_grad():
        trainer.model.ego_motion.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"'ego_motion' became nan at step 1.*step-00000001"):
        trainer.advance()


def test_terms_must_be_known_and_distinct(data: Path, tmp_path: Path):
    for terms in (("frame", "frame"), ("frame", "lpips"), ()):
        with pytest.raises(UserError, match="terms="):
            Trainer(config(data, tmp_path / "run", terms=terms))


def test_foreign_weights_are_refused_by_name(data: Path, tmp_path: Path):
    Trainer(config(data, tmp_path / "run", steps=1)).fit()
    other = Trainer(config(data, tmp_path / "other", model=replace(SMALL, width=16))).model
    with pytest.raises(UserError, match="another architecture"):
        load_weights(other, checkpoints(tmp_path / "run")[-1] / "model.safetensors")
    described = checkpoints(tmp_path / "run")[-1] / "model.json"
    described.write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match=r"model\.json does not describe"):
        load(str(tmp_path / "run"))
    for path in ("nowhere", str(tmp_path)):
        with pytest.raises(UserError, match="no model|no checkpoint"):
            load(path)
    with pytest.raises(UserError, match="lacks initial_state"):
        load("collections:OrderedDict")


def test_a_truncated_weights_file_is_named(data: Path, tmp_path: Path):
    Trainer(config(data, tmp_path / "run", steps=1)).fit()
    file = checkpoints(tmp_path / "run")[-1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="not a readable safetensors"):
        load(str(tmp_path / "run"))
