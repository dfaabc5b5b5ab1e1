"""A small process that outlives this one by a moment, and ends what this one started and could not end itself.

A process that is killed cleans up nothing. Its children are told by the system where they asked for it, but Ray's agents, which
are the children of a child, would stay for a minute. This file is the watcher's program too: it needs nothing but Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_S = 0.1
"""Between looks for new processes, seconds."""


class Watcher:
    """Ends processes as soon as this one is gone, or at `close`: those that are started while it follows."""

    def __init__(self) -> None:
        self._known = set(descendants(os.getpid()))
        command = [sys.executable, "-IS", __file__]  # in a session of its own: Ctrl-C is not meant for it
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        self._known.add(self._process.pid)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Learn of the processes that are started in this block, while it runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """End what is still there, and the watcher."""
        self._process.communicate()

    def _follow(self, over: threading.Event) -> None:
        assert self._process.stdin is not None
        last = False
        while not last:
            last = over.wait(LOOK_S)
            new = set(descendants(os.getpid())) - self._known
            self._known |= new
            self._process.stdin.write("".join(f"{pid} {_begun(pid)}\n" for pid in new).encode())
            self._process.stdin.flush()


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have; none where the system does not say."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:  # it is gone
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _begun(pid: int) -> str:
    """When a process began, in ticks, which tells it from a later one of the same number; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _watch() -> None:
    """Read numbers and times until the other end is gone, then end those processes."""
    for pid, begun in [line.split() for line in sys.stdin if " " in line.strip()]:
        if _begun(int(pid)) == begun:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


if __name__ == "__main__":
    _watch()
