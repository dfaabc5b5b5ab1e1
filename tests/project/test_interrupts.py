"""Ctrl-C and SIGTERM: what was learned is kept, and the line that is said of it is true."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from embodied_liftwm import cli
from embodied_liftwm.commands.demo import train_side_by_side
from embodied_liftwm.interrupts import finishing, terminable
from embodied_liftwm.training import checkpoint as ckpt
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.trainer import Trainer
from tests.toy_room import write_dataset
from tests.training.small import config, same, weights

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SMALL = ("model.latent_dim=4", "model.stride=4", "model.width=8", "model.recurrent.units=16")
TRAIN = ("train", *SMALL, "batch_size=2", "context=3", "targets=2", "span=8", "threads=1", "log_every=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("toy") / "data", episodes=2)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_block_that_finishes_is_asked_once_and_broken_off_the_second_time(number: signal.Signals) -> None:
    with terminable() as terminated:
        handlers = [signal.getsignal(n) for n in SIGNALS]
        done = []
        with pytest.raises(KeyboardInterrupt), finishing() as asked:
            signal.raise_signal(number)
            done.append(asked.stop)
        with pytest.raises(KeyboardInterrupt), finishing():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("not reached")
        assert done == [True] and terminated.stop == (number == signal.SIGTERM)
        assert [signal.getsignal(n) for n in SIGNALS] == handlers
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_outside_the_command_line_and_the_main_thread_signals_stay_as_they_are() -> None:
    found = []

    def look() -> None:
        with terminable(), finishing():
            found.append([signal.getsignal(n) for n in SIGNALS])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [[signal.default_int_handler, signal.SIG_DFL]]
    with finishing():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["bench", "collect"], "interrupted; nothing was kept"),
        (["doctor"], "interrupted; nothing was kept"),
        (["data", "check", "here"], "interrupted; nothing was kept"),
        (["data", "import", "here"], "interrupted; clips that were imported are kept: the same command continues"),
        (["priors", "list"], "interrupted; nothing was kept"),
        (["priors", "run"], "interrupted; episodes that were observed are kept: the same command continues"),
        (["generate"], "interrupted; nothing was kept"),
        (["train"], "interrupted; it had not begun yet: what was kept before is as it was"),
        (["train-agent"], "interrupted; it had not begun yet: what was kept before is as it was"),
        (["collect"], "interrupted; it had not begun yet: what was kept before is as it was"),
        (["demo"], "interrupted; what was finished is kept: the same command continues"),
    ],
)
def test_the_line_is_true_of_the_command(monkeypatch, capsys, words: list[str], line: str, number, code: int) -> None:
    stopped = SimpleNamespace(run=lambda *given: signal.raise_signal(number))
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: stopped)
    assert cli.main(words) == code
    said = capsys.readouterr().err
    assert line in said and said.count("liftwm:") == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def stop_at(step: int, number: signal.Signals) -> Callable[[dict[str, float]], None]:
    return lambda row: signal.raise_signal(number) if row["step"] == step else None


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 3)])
def test_an_interrupted_training_ends_at_the_same_weights(data: Path, tmp_path: Path, number, step: int) -> None:
    Trainer(config(data, tmp_path / "whole")).fit()
    broken = config(data, tmp_path / "broken", save_every=100)
    with terminable(), pytest.raises(KeyboardInterrupt):
        Trainer(broken).fit(stop_at(step, number))
    assert [ckpt.step_of(path) for path in checkpoints(tmp_path / "broken")] == [step]
    Trainer(broken).fit()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "broken")]
    assert [row.split(",")[0] for row in rows[0]] == [row.split(",")[0] for row in rows[1]]


def test_a_second_interrupt_breaks_off_the_save(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    save = ckpt.save_tensors

    def save_slowly(*given: object) -> None:
        save(*given)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ckpt, "save_tensors", save_slowly)
    monkeypatch.setattr(Trainer, "_check_finite", lambda self, metrics: signal.raise_signal(signal.SIGINT))
    assert cli.main([*TRAIN, f"data={data}", f"run={tmp_path}"]) == 130
    assert f"no step was kept in {tmp_path}: the same command starts from the beginning" in capsys.readouterr().err
    assert not list((tmp_path / "checkpoints").iterdir())


def test_an_interrupt_of_the_start_leaves_the_last_checkpoint(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    words = [*TRAIN, f"data={data}", f"run={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr("embodied_liftwm.data.mixture.TrainingReader", lambda path: signal.raise_signal(signal.SIGTERM))
        assert cli.main([*words, "steps=2"]) == 143
        assert "no step was kept" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml", "versions.txt"}
    assert cli.main([*words, "steps=2"]) == 0
    monkeypatch.setattr("embodied_liftwm.data.mixture.TrainingReader", lambda path: signal.raise_signal(signal.SIGTERM))
    assert cli.main([*words, "steps=3"]) == 143
    assert f"step 2 is kept in {tmp_path}: the same command continues there" in capsys.readouterr().err


def test_a_finished_training_says_so(data: Path, tmp_path: Path, capsys) -> None:
    words = [*TRAIN, f"data={data}", f"run={tmp_path}", "steps=1"]
    assert cli.main(words) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*/*")}
    capsys.readouterr()
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "already trained to step 1: nothing to do" in said and "nan" not in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("checkpoints/*/*")} == before


def steps_in(run: Path) -> int:
    """Steps that the log of a run shows."""
    log = run / "metrics.csv"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def wait_for(done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 120
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_terminated_process_keeps_its_steps(data: Path, tmp_path: Path) -> None:
    words = [*TRAIN, f"data={data}", f"run={tmp_path}", "steps=100000", "save_every=100000"]
    process = subprocess.Popen([sys.executable, "-m", "embodied_liftwm.cli", *words], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: steps_in(tmp_path) > 2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    kept = re.search(r"interrupted; step (\d+) is kept in .*: the same command continues there", said)
    assert kept and int(kept[1]) == steps_in(tmp_path) == ckpt.step_of(checkpoints(tmp_path)[-1])
    assert "Traceback" not in said


@pytest.mark.slow
def test_trainings_side_by_side_keep_their_steps(data: Path, tmp_path: Path) -> None:
    settings = {name: config(data, tmp_path / name, steps=100000, save_every=100000) for name in ("one", "other")}

    def stop() -> None:
        wait_for(lambda: all(steps_in(tmp_path / name) > 2 for name in settings))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    with terminable(), pytest.raises(KeyboardInterrupt) as told:
        thread.start()
        train_side_by_side(settings, Console(quiet=True))
    thread.join()
    for name in settings:
        run = tmp_path / name
        assert f"step {steps_in(run)} is kept in {run}" in str(told.value)
        assert [ckpt.step_of(path) for path in checkpoints(run)] == [steps_in(run)]
