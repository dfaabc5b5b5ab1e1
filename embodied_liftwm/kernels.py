"""How numba kernels are compiled: once for an installation where the disk lets them be kept, and not without a word.

Kernels release the GIL and write to their own arguments alone, so that threads can share the work (`threads.for_each`).
Constants are float32, because numba promotes float32 arithmetic with Python's floats to float64. Numba's cache on disk notices
a change to a kernel's own file alone: after one to what several call, here or in `rasterizer/simd.py`, touch theirs. It names
the tuples that a kernel takes, too: one that is renamed in its place makes caches of before unreadable.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numba.core import event

_modules: set[str] = set()  # whose kernels these are
_LOOSE = {"contract", "nsz", "arcp"}  # liberties of arithmetic that neither need finite numbers nor change their order
_ONE, _HALF = np.float32(1.0), np.float32(0.5)


def compiled(function: Callable, fastmath: bool | set[str] = False) -> Callable:
    """`njit` that releases the GIL, with numpy's rules of division, and with a cache on disk where the disk allows one."""
    _modules.add(function.__module__)
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(function)
    except RuntimeError:  # no writable place for the cache: compile once a process instead
        return njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)


def loosely_compiled(function: Callable) -> Callable:
    """`compiled` with looser arithmetic."""
    return compiled(function, fastmath=_LOOSE)


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


@loosely_compiled
def exp(x):
    """exp(x) to 3e-7 of it, of x in [-80, 80]; of others at the nearer end. Plain arithmetic: libm's does not vectorise."""
    x = min(max(x, np.float32(-80.0)), np.float32(80.0))
    octaves = np.floor(x * np.float32(1.4426950408889634) + _HALF)
    r = x - octaves * np.float32(0.693359375) + octaves * np.float32(2.12194440e-4)  # log 2, in two parts
    value = _ONE + r * np.float32(1 / 7)  # the series to the seventh power
    value = _ONE + r * value * np.float32(1 / 6)
    value = _ONE + r * value * np.float32(1 / 5)
    value = _ONE + r * value * np.float32(1 / 4)
    value = _ONE + r * value * np.float32(1 / 3)
    value = _ONE + r * value * _HALF
    value = _ONE + r * value
    return value * np.int32((np.int32(octaves) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def project(matrix, x, y, z):
    """A point of the world through a matrix [3, 4]: its place in a camera, or its homogeneous pixel."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3],
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3],
        matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3],
    )
