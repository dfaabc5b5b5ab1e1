"""`liftwm bench state` at tiny sizes: what it measures and writes, not how fast it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from embodied_liftwm import cli
from embodied_liftwm.bench import state as bench_state
from embodied_liftwm.bench.table import seconds_in_turn

TINY = ["env_options.image_size=32", "steps=30", "repeats=2", "model.width=8", "threads=1"]


def bench(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, list[dict[str, str]]]:
    """Run it and return the rows of each CSV."""
    monkeypatch.setattr(bench_state, "CALLS", 1)
    assert cli.main(["bench", "state", *TINY, f"out={folder}", *words]) == 0
    return {path.stem: list(csv.DictReader(path.open())) for path in folder.glob("*.csv")}


def test_every_budget_call_and_size_has_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    tables = bench(tmp_path, monkeypatch, "model.patches.budget=640")
    assert torch.get_num_threads() == threads
    calls, walks = tables["bench_state"], tables["bench_state_walk"]
    assert [(row["budget"], row["repeat"]) for row in calls] == [("512", "0"), ("512", "1"), ("640", "0"), ("640", "1")]
    for row in calls:
        assert all(float(row[f"{name}, ms"]) > 0 for name in ("observe", "render", "imagine", "predict", "summarize"))
        assert 0 < float(row["primitives"]) <= int(row["budget"])
    # A patch is 5 numbers of 8 bytes and 64 texels of 1 + 3 + 4 + 1 numbers of 4; the budgets differ by 128 of them alone.
    sizes = {row["budget"]: float(row["state, MiB"]) for row in calls}
    assert sizes["640"] - sizes["512"] == pytest.approx(128 * (5 * 8 + 64 * 9 * 4) / 2**20, rel=1e-2)
    for row in walks:
        first, last = float(row["first tenth, ms"]), float(row["last tenth, ms"])
        assert float(row["last / first"]) == pytest.approx(last / first, rel=1e-3)
        assert float(row["state first, MiB"]) == float(row["state last, MiB"]) == sizes[row["budget"]]
        before, after = float(row["process first, MiB"]), float(row["process last, MiB"])
        assert before > 50 and float(row["process grew, MiB"]) == pytest.approx(after - before, abs=0.1 + 1e-4 * after)
    assert all(row["cpu"] and row["cores"] and row["threads"] == "1" and row["torch"] for row in (*calls, *walks))
    shown = capsys.readouterr().out
    assert "a call after 30 observes" in shown and "30 observes in a row" in shown


def test_a_memory_without_primitives_has_rows_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = bench(tmp_path, monkeypatch, "model.memory=recurrent", "repeats=1", "model.recurrent.units=16")["bench_state"]
    assert [row["memory"] for row in calls] == ["recurrent"] and "primitives" not in calls[0]


def test_a_trained_model_is_timed_at_its_own_budget_on_frames_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = bench(tmp_path, monkeypatch, "checkpoint=base", "env_options.image_size=64", "repeats=1")["bench_state"]
    assert [(row["model"], row["budget"], row["image_size"]) for row in calls] == [("base", "512", "64")]
    assert cli.main(["bench", "state", *TINY, "checkpoint=base", f"out={tmp_path}"]) == 2
    assert "env_options.image_size=32: base sees frames of 64 pixels, set 64" in capsys.readouterr().err


def test_works_are_timed_in_turn() -> None:
    done: list[str] = []
    found = seconds_in_turn({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3)
    assert done == ["a", "b"] * 4 and [len(times) for times in found.values()] == [3, 3]


def test_a_walk_goes_there_and_back_and_forgets_only_once() -> None:
    class Recorder:
        def initial_state(self, batch_size: int) -> list[tuple[int, bool]]:
            return []

        def observe(self, state: list[tuple[int, bool]], observation) -> list[tuple[int, bool]]:
            return [*state, (int(observation.action), bool(observation.is_first))]

    from embodied_liftwm.protocols import Camera, Observation

    camera = Camera(torch.eye(3)[None], torch.eye(4)[None], 8, 8)
    tour = [Observation(torch.zeros(1, 3, 8, 8), camera, torch.tensor([[t]]), torch.tensor([False])) for t in range(3)]
    walk = bench_state.Walk(Recorder(), tour)  # type: ignore[arg-type]
    for _ in range(6):
        walk.step()
    assert walk.state == [(0, True), (1, False), (2, False), (1, False), (0, False), (1, False), (2, False)]
    assert int(walk.now.action) == 2
