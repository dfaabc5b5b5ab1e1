"""What workers do, what they say, and what an engine that runs them offers."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import users_fault

Task = TypeVar("Task")
Message = TypeVar("Message")


class Work(Protocol[Task, Message]):
    """What is to be done with each of many tasks. Workers receive it pickled: a dataclass of plain data, say."""

    @property
    def name(self) -> str:
        """What the workers are doing, for messages: `collecting`."""
        ...

    def start(self, report: Callable[[Message], None]) -> Callable[[Task], None]:
        """In the worker, once, before its first task: prepare.

        Args:
            report: sends a message to the parent; may be called from any thread until the task is done.

        Returns:
            What does a task, always called from the same thread.
        """
        ...

    def left(self, task: Task, message: Message) -> Task:
        """In the parent: what is left of a task once a worker has sent this message. A replacement does only that.

        What a worker says just before it dies may be lost, so that doing a part again must do no harm.
        """
        ...

    def place(self, task: Task) -> str:
        """Where a worker with this left to do is, for messages: `episode 3`."""
        ...


@dataclass(frozen=True)
class Done:
    """A worker has finished its task."""


@dataclass(frozen=True)
class Failed:
    """A worker met an error and does nothing more."""

    reason: str  # one line for the user to mend, else a traceback
    user_error: bool
    leaving: SystemExit | KeyboardInterrupt | None = None  # raised by code of the user's, who wants the program to end so

    def error(self, name: str) -> BaseException:
        """What the parent raises, for work of this name."""
        if self.leaving is not None:
            return self.leaving
        return UserError(self.reason) if self.user_error else RuntimeError(f"a {name} process failed\n{self.reason}")


@dataclass(frozen=True)
class Died:
    """A worker is gone."""

    cause: str  # as far as the system tells


class Worker(Protocol):
    """The parent's view of a process that does tasks, one at a time."""

    def give(self, task: Any) -> None:
        """Begin a task. A worker that is dead says so at the next `receive`."""
        ...

    def receive(self) -> Any:
        """The next message of the work, or Done, Failed or Died; waits for it."""
        ...

    def dismiss(self) -> None:
        """Let it end by itself: its task is done, and there is no other."""
        ...

    def kill(self) -> None:
        """End it at once, if it is not dead yet, and free what belonged to it here."""
        ...


class Engine(AbstractContextManager[Any], Protocol):
    """Starts workers while its context is entered."""

    workers: int  # how many at a time

    def start(self, work: Work[Any, Any]) -> Worker:
        """A new worker, which has no task yet."""
        ...

    def ready(self, workers: Sequence[Worker]) -> list[Worker]:
        """Wait until at least one of these, each with a task, has something to receive; return those that have."""
        ...


LEAVING = (SystemExit, KeyboardInterrupt)


def failure(error: Exception | SystemExit | KeyboardInterrupt) -> Failed:
    """What a worker says of an error it met."""
    if isinstance(error, LEAVING):
        return Failed("", True, error)
    # By name: EnvError belongs to liftwm_envs, which may not be imported here.
    user_error = isinstance(error, ValueError) and type(error).__name__ in ("UserError", "EnvError", "TruthAccessError")
    line = str(error) if user_error else users_fault(error)
    if line is not None and os.environ.get("LIFTWM_TRACEBACK") == "1":
        traceback.print_exc()
    return Failed(traceback.format_exc() if line is None else line, line is not None)
