"""Tasks to workers, whatever engine runs them; a worker that dies is replaced by one that does what was left undone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic

from embodied_liftwm.errors import UserError
from embodied_liftwm.workers.contract import Died, Done, Engine, Failed, Message, Task, Work

DEATHS = 3
"""A worker that dies so often without getting anything done is not replaced again."""


def run_tasks(work: Work[Task, Message], tasks: Iterable[Task], engine: Engine) -> Iterator[Message]:
    """Do all tasks; yield the workers' messages as they come.

    A message may come twice if its worker died right after sending it and `work.left` did not take it off the task.

    Raises:
        UserError: a worker met one, or workers keep dying.
        RuntimeError: a bug, with the worker's traceback.
    """
    todo = deque(tasks)
    if not todo:
        return
    seats: list[_Seat[Task, Message]] = []
    with engine:
        try:
            while todo and len(seats) < engine.workers:
                seats.append(_Seat(engine, work, todo.popleft()))
            while seats:
                ready = engine.ready([seat.worker for seat in seats])
                for seat in [seat for seat in seats if seat.worker in ready]:
                    event = seat.worker.receive()
                    if isinstance(event, Failed):
                        raise event.error(work.name)
                    if isinstance(event, Died):
                        seat.replace(event.cause)
                    elif not isinstance(event, Done):
                        seat.note(event)
                        yield event
                    elif todo:
                        seat.begin(todo.popleft())
                    else:
                        seats.remove(seat)
                        seat.worker.dismiss()
        finally:
            for seat in seats:
                seat.worker.kill()


class _Seat(Generic[Task, Message]):
    """A worker, what it has left to do, and how often it was replaced without getting anything done."""

    def __init__(self, engine: Engine, work: Work[Task, Message], task: Task) -> None:
        self._engine, self._work = engine, work
        self.worker = engine.start(work)
        self.begin(task)

    def begin(self, task: Task) -> None:
        self._task, self._deaths = task, 0
        self.worker.give(task)

    def note(self, message: Message) -> None:
        left = self._work.left(self._task, message)
        if left != self._task:
            self._task, self._deaths = left, 0

    def replace(self, cause: str) -> None:
        self._deaths += 1
        self.worker.kill()
        if self._deaths >= DEATHS:
            where = f"{self._deaths} times over at {self._work.place(self._task)} ({cause})"
            raise UserError(f"a {self._work.name} process died {where}: is there enough memory?")
        self.worker = self._engine.start(self._work)
        self.worker.give(self._task)
