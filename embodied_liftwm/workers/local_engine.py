"""Workers that are processes of this machine, each at the end of a pipe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from embodied_liftwm.workers.contract import LEAVING, Died, Done, Work, failure


class LocalEngine:
    """Spawned processes, not forked ones: GL contexts and torch's threads do not survive a fork."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def start(self, work: Work[Any, Any]) -> LocalWorker:
        threads = str(max(1, (os.cpu_count() or 1) // self.workers))
        with environment(OMP_NUM_THREADS=threads), safe_spawning():
            return LocalWorker(work)

    def ready(self, workers: Sequence[Any]) -> list[Any]:
        found = wait([worker.connection for worker in workers])
        return [worker for worker in workers if worker.connection in found]


class LocalWorker:
    """The parent's end of the pipe."""

    def __init__(self, work: Work[Any, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Any) -> None:
        with suppress(OSError):  # it died: `receive` will say so
            self.connection.send(task)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
        code = self.process.exitcode or 0
        return Died(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def dismiss(self) -> None:
        self.connection.close()  # it reads the end of its tasks there
        self.process.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Have processes started in this block see these variables, but for those that the user has set."""
    mine = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


def safe_spawning() -> AbstractContextManager[None]:
    """For a block that spawns: new interpreters would look in the working folder first, where a stray random.py may be."""
    return environment(PYTHONSAFEPATH="1")


def _serve(work: Work[Any, Any], connection: Connection) -> None:
    """A worker's life: tasks come in, messages go out, the end of the pipe ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.environ.pop("PYTHONSAFEPATH", None)  # it was for this interpreter, not for what an environment may start
    die_with_parent()
    lock = threading.Lock()

    def report(message: Any) -> None:
        with lock:
            try:
                connection.send(message)
            except OSError:
                os._exit(1)  # the parent is gone

    try:
        perform = work.start(report)
        for task in _tasks(connection):
            perform(task)
            report(Done())
    except (Exception, *LEAVING) as error:
        report(failure(error))


def _tasks(connection: Connection) -> Iterator[Any]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def die_with_parent() -> None:
    """End this process as soon as the one that spawned it is gone: nobody may be left who writes where its next run will."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
