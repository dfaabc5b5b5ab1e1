"""Episodes judged one by one, in this process or spread over others; what comes out does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.workers import find_engine, run_tasks

Task = TypeVar("Task", contravariant=True)
Found = TypeVar("Found", covariant=True)


class Judge(Protocol[Task, Found]):
    """Made once in each process: holds the models and the environment."""

    def judge(self, task: Task) -> Found:
        """Do one task. What it returns depends on the task alone, and can be pickled."""
        ...

    def close(self) -> None:
        """Free the renderer."""
        ...


def judge_each(
    tasks: Sequence[Any],
    make: Callable[[], Judge[Any, Any]],
    config: EvaluateConfig,
    title: str,
    here: Callable[[], Judge[Any, Any]] | None = None,
) -> list[Any]:
    """Do all tasks on `config.workers` processes, and return what was found in the order of the tasks.

    Args:
        tasks: plain data, sent to other processes.
        make: makes a judge in another process: a function of a module, or a partial of one.
        config: `workers`, `engine` and `ray_address` are read.
        title: of the progress bar.
        here: makes the judge of this process, where one is enough; `make` by default.

    Raises:
        UserError: as the judges do, or workers that keep dying.
    """
    engine = find_engine(config.engine, min(config.workers, len(tasks)), config.ray_address)
    with progress(title, len(tasks)) as advance:
        if engine.workers <= 1 and config.engine == "local":
            return _judge_here(tasks, here or make, advance)
        found: dict[int, Any] = {}
        work = _Spread(make, max(1, (os.cpu_count() or 1) // config.workers), title)
        for number, outcome in run_tasks(work, list(enumerate(tasks)), engine):
            advance(number not in found)
            found[number] = outcome
        return [found[number] for number in range(len(tasks))]


def _judge_here(tasks: Sequence[Any], make: Callable[[], Judge[Any, Any]], advance: Callable[[int], None]) -> list[Any]:
    judge, found = make(), []
    try:
        for task in tasks:
            found.append(judge.judge(task))
            advance(1)
    finally:
        judge.close()
    return found


@dataclass(frozen=True)
class _Spread:
    """The work of a process: a task with its number, and what was found of it as the one message."""

    make: Callable[[], Judge[Any, Any]]
    threads: int
    name: str

    def start(self, report: Callable[[tuple[int, Any]], None]) -> Callable[[tuple[int, Any]], None]:
        import torch

        torch.set_num_threads(self.threads)
        judge = self.make()
        return lambda task: report((task[0], judge.judge(task[1])))

    def left(self, task: tuple[int, Any], message: tuple[int, Any]) -> tuple[int, Any]:
        return task

    def place(self, task: tuple[int, Any]) -> str:
        return f"task {task[0]}"
