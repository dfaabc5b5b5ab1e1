"""Ctrl-C and SIGTERM: both raise KeyboardInterrupt, and work that must not be torn finishes its step first.

A KeyboardInterrupt with a text says what was kept; the command line shows it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

END_S = 60.0
"""How long processes that were asked to end may take to write what they have learned."""


@dataclass
class Asked:
    """Whether the work of a block is asked to stop."""

    stop: bool = False


@contextmanager
def terminable() -> Iterator[Asked]:
    """In this block SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Yields whether it came."""
    came = Asked()

    def terminate(number: int, frame: Any) -> NoReturn:
        came.stop = True
        raise KeyboardInterrupt

    with _handlers({signal.SIGTERM: terminate}):
        yield came


@contextmanager
def finishing() -> Iterator[Asked]:
    """Let the block finish what it does: the first signal only asks it to stop, the second raises KeyboardInterrupt at once.

    A block that was asked to stop ends in KeyboardInterrupt. Signals that do not raise it stay as they are: SIGTERM outside the
    command line, all of them outside the main thread.
    """
    asked = Asked()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        again, asked.stop = asked.stop, True
        handler: Any = before[signal.Signals(number)]
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            if again:
                raise
            if multiprocessing.parent_process() is None:  # else there is somebody who tells
                os.write(2, b"\nliftwm: stopping after this step; once more stops at once\n")

    with _handlers({number: ask for number, handler in before.items() if callable(handler)}):
        yield asked
    if asked.stop:
        raise KeyboardInterrupt


@contextmanager
def answering_parent() -> Iterator[None]:
    """In a spawned process: Ctrl-C is the parent's to answer; its SIGTERM, however often it comes, interrupts once."""
    came = Asked()

    def terminate(number: int, frame: Any) -> None:
        if not came.stop:
            came.stop = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end(processes: Sequence[Any]) -> None:
    """Ask started `multiprocessing` processes to end; those that have not after `END_S`, or at a second Ctrl-C, are killed."""
    give_up = time.monotonic() + END_S
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(max(0.0, give_up - time.monotonic()))
    finally:
        late = sum(process.is_alive() for process in processes)
        if late:
            lost = "what they did since their last checkpoint is lost"
            print(f"liftwm: {late} processes had to be killed: {lost}", file=sys.stderr)
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def _handlers(wanted: dict[signal.Signals, Any]) -> Iterator[None]:
    """Answer signals so in this block; nothing outside the main thread, which alone may. Signals that are ignored stay so."""
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in wanted.items():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
