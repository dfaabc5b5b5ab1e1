"""The profile of a step: it adds up, changes nothing, and leaves nothing behind."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from embodied_liftwm.bench import stopwatch
from embodied_liftwm.bench import train as bench_train
from embodied_liftwm.bench.stopwatch import REST, Stopwatch, watching
from embodied_liftwm.config import BenchConfig
from embodied_liftwm.memory.gaussians import memory as gaussian_memory
from embodied_liftwm.memory.patches import read as patch_read
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import SMALL, config, disturb


def test_every_moment_belongs_to_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch(["outer", "inner"])
    watch.enter("outer")
    watch.enter("inner")
    watch.leave()
    watch.leave()
    assert watch.lap() == {"outer": 2.0 + 4.0, "inner": 3.0, REST: 1.0 + 5.0}
    assert watch.lap() == {"outer": 0.0, "inner": 0.0, REST: 6.0}


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    disturb(trainer.model)
    trainer.learner.differentiate(trainer.load(0), only_geometry=False)
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("memory", ["patches", "gaussians"])
def test_watching_changes_no_gradient_and_is_undone(data: Path, tmp_path: Path, memory: Literal["patches", "gaussians"]):
    settings = config(data, tmp_path, model=replace(SMALL, memory=memory))
    plain, watched = (Trainer(settings) for _ in range(2))
    before, own = (gaussian_memory.rasterize, patch_read.read_placed), {*vars(watched.model), "_state_type"}
    with watching(watched) as watch:
        found = gradients(watched)
        spent = watch.lap()
    expected = gradients(plain)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], g) for name, g in expected.items())
    for stage in ("rasterizer", "memory write", "decoder", "objective", "backward"):
        assert spent[stage] > 0, stage
    assert spent["optimiser"] == spent["checkpoints"] == 0
    assert (gaussian_memory.rasterize, patch_read.read_placed) == before and set(vars(watched.model)) <= own
    assert "forward" not in vars(watched.learner.objective)


def test_the_stages_of_a_phase_add_up_to_its_steps(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_train, "READS", 50)
    monkeypatch.setattr(bench_train, "STEPS", 2)
    settings = BenchConfig(train=config(data, tmp_path / "unused"), repeats=1, threads=1, out=str(tmp_path / "out"))
    assert bench_train.run(settings) == 0
    sums: dict[str, float] = defaultdict(float)
    wholes = {}
    with (tmp_path / "out" / "bench_train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["stage"] == "whole step":
                wholes[row["phase"]] = float(row["ms"])
            elif row["phase"] != "data":
                sums[row["phase"]] += float(row["ms"])
    assert wholes.keys() == {"depth first", "joint"}
    assert sums == pytest.approx(wholes, rel=1e-3)
    assert not (tmp_path / "unused").exists()
