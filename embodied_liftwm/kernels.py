"""How numba kernels are compiled: once for an installation where the disk lets them be kept, and not without a word."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import event

_modules: set[str] = set()  # whose kernels these are


def compiled(function: Callable, fastmath: bool | set[str] = False) -> Callable:
    """`njit` that releases the GIL, with numpy's rules of division, and with a cache on disk where the disk allows one."""
    _modules.add(function.__module__)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(function)
    except RuntimeError:  # no writable place for the cache: compile once a process instead
        return njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)


class _Notice(event.Listener):
    """Says on stderr, at the first kernel that no cache holds, why nothing happens for a while."""

    _asked = False

    def on_start(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        if self._asked or dispatcher.py_func.__module__ not in _modules:
            return
        self._asked = True
        if self._is_first(dispatcher.stats.cache_path or __file__):
            line = "liftwm: compiling the kernels that are needed, once for this installation; this can take a minute or two"
            print(line, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        return

    def _is_first(self, place: str) -> bool:
        """Whether no other process that fills this cache has said so. The system forgets it when this one ends."""
        try:
            self._held = os.open(place, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a disk without locks
            return True
        return True


event.register("numba:compile", _Notice())
