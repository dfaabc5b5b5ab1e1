"""One contract, and both engines keep it: every task is done once, whoever dies, and errors say what was wrong."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import frame_size_of
from embodied_liftwm.workers import Engine, find_engine, run_tasks
from embodied_liftwm.workers.contract import Died, failure
from embodied_liftwm.workers.ray_engine import RayEngine
from tests.workers.toy_work import Squares

TASKS = [[1, 2, 3], [4], [5, 6], [7, 8]]


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return find_engine(request.param, 2)


def test_every_task_is_done_once(engine: Engine, tmp_path: Path) -> None:
    assert sorted(run_tasks(Squares(tmp_path), TASKS, engine)) == [(n, n * n) for n in range(1, 9)]
    assert sorted((tmp_path / "log").read_text().split()) == list("12345678")


def test_a_replacement_does_what_was_left(engine: Engine, tmp_path: Path) -> None:
    assert sorted(run_tasks(Squares(tmp_path, die_once_at=3), TASKS, engine)) == [(n, n * n) for n in range(1, 9)]
    assert (tmp_path / "died").exists()
    times = Counter((tmp_path / "log").read_text().split())
    twice = {number for number in times if times[number] > 1}
    assert set(times) == set("12345678")
    assert twice <= (set("12") if isinstance(engine, RayEngine) else set()), "done again, though it was reported"


def test_workers_that_keep_dying_are_reported(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^a squaring process died 3 times over at number 4 \(.+\): is there enough memory\?$"):
        list(run_tasks(Squares(tmp_path, die_at=4), TASKS, engine))


def test_errors_of_the_user_are_one_line(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^4 has no square$"):
        list(run_tasks(Squares(tmp_path, refuse_at=4), TASKS, engine))


def test_errors_in_code_that_is_not_ours_show_its_line(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^\S*toy_work.py:\d+ \(raise .*\): ZeroDivisionError: a bug$"):
        list(run_tasks(Squares(tmp_path, fail_at=4), TASKS, engine))


def test_bugs_keep_their_traceback() -> None:
    try:
        frame_size_of(SimpleNamespace(image_size=object()))
    except TypeError as error:
        assert error.__traceback__ is not None
        failed = failure(error.with_traceback(error.__traceback__.tb_next)).error("squaring")  # without the line of this file
    assert isinstance(failed, RuntimeError)
    assert "a squaring process failed\n" in str(failed) and "TypeError" in str(failed)


def test_a_worker_that_is_dead_when_it_gets_a_task_says_so(engine: Engine, tmp_path: Path) -> None:
    with engine:
        worker = engine.start(Squares(tmp_path, die_at=1))
        for task in ([1], [2]):
            worker.give(task)
            assert engine.ready([worker]) == [worker]
            assert isinstance(worker.receive(), Died)
        worker.kill()


def test_no_tasks_start_nothing(tmp_path: Path) -> None:
    class Unstartable:
        def __enter__(self) -> None:
            raise AssertionError

    assert list(run_tasks(Squares(tmp_path), [], Unstartable())) == []


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks what cannot be imported
    with pytest.raises(
        UserError, match=r"^engine=ray needs Ray \(.*\): pip install 'embodied-liftwm\[dist\]', or use engine=local$"
    ):
        find_engine("ray", 2)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        (
            "127.0.0.1:1",
            r"ray_address=127.0.0.1:1: nothing answers there \(.*refused\); begin a cluster with `ray start --head`",
        ),
        ("ray://head:10001", r"ray_address=ray://head:10001: must be auto or HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, line: str) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=line):
        list(run_tasks(Squares(tmp_path), TASKS, find_engine("ray", 2, address)))
