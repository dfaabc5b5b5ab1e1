"""What is shown of trainings side by side, where there is no terminal: what each does now."""

from __future__ import annotations

import io
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from embodied_liftwm.errors import UserError
from embodied_liftwm.experiments.engine import train
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.workers import side_by_side
from embodied_liftwm.workers.side_by_side import TRAINED, watch
from tests.training.small import config


def told(monkeypatch: pytest.MonkeyPatch, messages: list[tuple[str, Any]], names: tuple[str, ...]) -> list[str]:
    """All that `watch` prints of these messages, a line after each if there is anything new."""
    monkeypatch.setattr(side_by_side, "LOG_SECONDS", -1)
    rows: queue.Queue = queue.Queue()
    for message in messages:
        rows.put(message)
    out = io.StringIO()
    watch(Console(file=out, width=200), rows, {name: SimpleNamespace(exitcode=None) for name in names})
    return out.getvalue().splitlines()


def row(step: int, progress: float, psnr: float = 21.0) -> dict[str, float]:
    return {"step": float(step), "seconds": 10.0 * step, "loss": 0.5, "psnr": psnr, "progress": progress}


def test_lines_tell_of_what_has_begun_and_count_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [
        ("glo 0", row(1, 0.1, psnr=float("nan"))),
        ("glo 0", row(2, 0.2)),
        ("glo 0", TRAINED),
        ("mv 0", row(1, 0.1)),
        ("glo 0", None),
        ("mv 0", TRAINED),
        ("mv 0", TRAINED),
        ("mv 0", None),
        ("oracle 0", TRAINED),  # its training was there already
        ("oracle 0", None),
    ]
    lines = told(monkeypatch, messages, ("glo 0", "mv 0", "oracle 0"))
    at_first = "step 1, loss 0.500, psnr 21.00 dB, 0.00 steps/s, left ?"
    assert lines[:9] == [
        "  glo 0 step 1, loss 0.500, depth first, 0.00 steps/s, left ?; 2 waiting",
        "  glo 0 step 2, loss 0.500, psnr 21.00 dB, 0.10 steps/s, left 1:20; 2 waiting",
        "  glo 0 judging; 2 waiting",
        f"  glo 0 judging; mv 0 {at_first}; 1 waiting",
        f"  mv 0 {at_first}; 1 waiting; 1 done",
        "  mv 0 judging; 1 waiting; 1 done",  # once, though it was said twice
        "  1 waiting; 2 done",
        "  oracle 0 judging; 2 done",
        "  3 done",
    ]
    assert not any("nan" in line for line in lines)
    assert [line.split("step")[0].strip() for line in lines[9:]] == ["glo 0", "mv 0", "oracle 0"]  # the bars, as they ended
    assert "psnr 21.00 dB" in lines[9] and "psnr 21.00 dB" in lines[10] and "done" in lines[11]


def test_an_error_ends_it_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="training mv 0: too little memory"):
        told(monkeypatch, [("glo 0", row(1, 0.1)), ("mv 0", "too little memory")], ("glo 0", "mv 0"))


def test_a_training_says_when_it_is_over(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    settings = config(data, tmp_path / "run", steps=2)
    steps: list[dict[str, float]] = []
    train(settings, steps.append)
    assert [found.get("step") for found in steps] == [1, 2, None] and steps[-1] == TRAINED
    assert steps[-2]["progress"] == 1.0
    steps.clear()
    monkeypatch.setattr(Trainer, "advance", lambda *_: pytest.fail("trained again"))
    train(settings, steps.append)  # continued when there is nothing left to train: what follows is still told
    assert steps == [TRAINED]
