"""`engine=ray`: the very dataset that local processes give, whoever is killed on the way, and nothing on the terminal."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.storage import data_files, scan
from embodied_liftwm.evaluation.navigation.arena import random_agent
from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation
from liftwm_agents.collection.collect import collect
from tests.agents.test_collection import HERE, assert_same, config


@pytest.fixture(scope="module", autouse=True)
def _importable(ray_here: None) -> None:
    sys.path.insert(0, str(HERE))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "data"
    collect(config(folder, episodes=12))
    return folder


def test_the_same_episodes_as_local_processes(local: Path, tmp_path: Path) -> None:
    seen = []
    first = collect(config(tmp_path, episodes=5, engine="ray", workers=2))
    second = collect(config(tmp_path, episodes=12, engine="ray", workers=2), seen.append)
    assert (first.episodes, second.found, second.episodes) == (5, 5, 12)
    assert seen[-1] == second
    assert first.frames + second.frames == sum(len(episode.rgb) for episode in EvaluationReader(tmp_path))
    assert [path.name for path in data_files(tmp_path)] == [path.name for path in data_files(local)]
    assert_same(local, tmp_path)
    assert collect(config(tmp_path, episodes=12)).frames == 0, "local processes found something left to do"


def test_a_killed_worker_costs_nothing_that_was_finished(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    on_disk: list[int] = []

    def kill_once(progress: object) -> None:
        if not on_disk and getattr(progress, "episodes", 0) == 4:
            os.kill(ray_workers()[0], signal.SIGKILL)
            on_disk.extend(scan(tmp_path / "data"))

    ours = config(tmp_path / "data", env="toy_camera_env:make_logged", episodes=12, engine="ray", workers=2)
    collect(ours, kill_once)
    assert len(on_disk) >= 4
    times = Counter((tmp_path / "resets").read_text().split())
    assert all(times[str(index)] == 1 for index in on_disk), "a finished episode was collected again"
    assert len(times) == 12
    collect(config(tmp_path / "whole", env="toy_camera_env:make_logged", episodes=12))
    assert_same(tmp_path / "whole", tmp_path / "data")


def ray_workers() -> list[int]:
    """Workers of ours among what this process has started."""
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += [int(word) for word in children.read_text().split()]
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::LiftwmWorker"):
            found.append(pid)
    return found


def test_navigation_gives_the_same_rows() -> None:
    settings = EvaluateConfig(env="Revisit-S", navigation_episodes=3, workers=1)
    alone = evaluate_navigation({"random": random_agent}, settings)
    spread = evaluate_navigation({"random": random_agent}, dataclasses.replace(settings, workers=2, engine="ray"))
    assert alone.rows == spread.rows
    assert alone.traces == spread.traces
    assert alone.removed == spread.removed


def test_the_command_starts_ray_ends_it_and_keeps_it_quiet(tmp_path: Path) -> None:
    """Even when its workers die, of which Ray would print a page."""
    words = [
        "env=toy_camera_env:make_mortal",
        "policy=random",
        "episodes=2",
        "steps=8",
        "workers=1",
        f"out={tmp_path / 'data'}",
    ]
    command = [sys.executable, "-m", "embodied_liftwm.cli", "collect", "engine=ray", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("liftwm: error: a collecting process died 3 times over at episode 0 (")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "raylet" not in done.stdout
