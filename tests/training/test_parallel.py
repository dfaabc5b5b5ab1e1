"""Two processes under torchrun train as one does."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.parallel import Processes, _take_gpu, torchrun_processes
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import config, same, weights
from tests.training.two_processes import SETTINGS, STEPS

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def rows(run: Path, table: str = "metrics.csv") -> list[dict[str, float]]:
    with (run / table).open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if name != "data"} for row in csv.DictReader(file)]


def words(data: Path, run: Path) -> list[str]:
    """`small.config` on the command line."""
    settings = config(data, run, **SETTINGS)
    model = [f"model.{name}={getattr(settings.model, name)}" for name in ("latent_dim", "stride", "width")]
    own = ("run", "steps", "batch_size", "context", "targets", "span", "save_every", "log_every", "threads")
    data_keys = [f"data={data}", f"validation={settings.validation[0]}"]
    return [*data_keys, *(f"{name}={getattr(settings, name)}" for name in own), *model, "model.recurrent.units=16"]


@pytest.fixture(scope="module")
def trained(whole_fit: None, data: Path, tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """`one` and `two`: the same training in one and in two processes."""
    folder = tmp_path_factory.mktemp("runs")
    Trainer(config(data, folder / "one", **SETTINGS)).fit()
    command = [*TORCHRUN, "-m", "embodied_liftwm.cli", "train", *words(data, folder / "two")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained to step 6") == 1, "not only the first process spoke"
    assert "with 2 processes" in " ".join(done.stdout.split())
    return folder


def test_one_and_two_processes_have_the_same_losses_in_training_and_validation(trained: Path) -> None:
    for table, steps in (("metrics.csv", list(range(1, STEPS + 1))), ("validation.csv", [2, 4, 6])):
        one, two = rows(trained / "one", table), rows(trained / "two", table)
        assert [row["step"] for row in two] == steps
        for mine, theirs in zip(one, two, strict=True):
            for name in mine.keys() - {"seconds"}:
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-6, nan_ok=True), (mine["step"], name)


def test_two_processes_continue_where_they_were_stopped_and_agree_on_the_clock(
    trained: Path, data: Path, tmp_path: Path, root: Path
) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(trained / "two", resumed)
    shutil.rmtree(checkpoints(resumed)[-1])  # as a kill after step 5 would leave it
    assert checkpoints(resumed)[-1].name == "step-00000004"
    script = [str(root / "tests/training/two_processes.py"), str(data), str(resumed), str(tmp_path / "timed"), str(tmp_path)]
    done = subprocess.run([*TORCHRUN, *script], cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert same(weights(resumed), weights(trained / "two"))
    assert [row["step"] for row in rows(resumed)] == list(range(1, STEPS + 1))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["step"] == second["step"] > 0
    assert first["seconds"] == second["seconds"] >= 0.6
    assert checkpoints(tmp_path / "stopped")[-1].name == "step-00000002"
    for said in (first, second):
        assert said["stopped"] == 2, "one was interrupted, both stop"
        assert said["average"] == [[[0.5] * 3] * 2, [0.0, 1.5, 3.0, 4.5]]
        assert said["from_first"] == 0.1
        assert not [name for name in said["threads"] if "gloo" in name], "the group's threads outlive it"


def test_a_process_alone_exchanges_nothing() -> None:
    tensor = torch.ones(2)
    with torchrun_processes("cpu") as processes, processes.first_alone():
        processes.average([tensor])
    assert processes == Processes(0, 1) and processes.is_first
    assert processes.from_first(0.3) == 0.3 and tensor.tolist() == [1.0, 1.0]


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"device=cuda:1: names one GPU for 2 processes; device=cuda gives each its own"):
        _take_gpu(torch.device("cuda:1"), 0, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes on this machine, but it has 1 GPU"):
        _take_gpu(torch.device("cuda"), 0, 2)
