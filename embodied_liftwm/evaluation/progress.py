"""What is said of work while it runs and when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from embodied_liftwm.terminal import plain_console, text_column

Result = TypeVar("Result")

LINE_SECONDS = 60.0
"""Between two lines."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with an estimate on stderr while the block runs; where stderr is no terminal, a line a minute.

    Yields:
        A function to call with the number of units just done.
    """
    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, description, total)
        return
    columns = (text_column("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


class _Lines:
    """Prints how much is done, at most once in `LINE_SECONDS`."""

    def __init__(self, console: Console, description: str, total: int) -> None:
        self._console, self._description, self._total = console, description, total
        self._done, self._begun = 0, time.monotonic()
        self._told = self._begun

    def __call__(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._told < LINE_SECONDS or not self._done:
            return
        self._told = now
        left = (now - self._begun) * max(self._total - self._done, 0) / self._done
        minutes, seconds = divmod(round(left), 60)
        self._console.print(f"{self._description} {self._done}/{self._total}, left {minutes}:{seconds:02d}", soft_wrap=True)


def timed(console: Console, name: str, work: Callable[[], Result], describe: Callable[[Result], str]) -> Result:
    """Do some work, and print a line of what came out and how long it took."""
    started = time.perf_counter()
    result = work()
    console.print(f"{name}: {describe(result)}, {time.perf_counter() - started:.1f} s")
    return result
