"""Compiled kernels of semi-global matching, for one frame each, and how kernels of matching are compiled.

They release the GIL and write to their own arguments alone. Volumes are laid out [h, w, P]: planes are innermost, and
loops over them vectorise. Constants are float32, because numba promotes float32 arithmetic with Python's
floats to float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embodied_liftwm import kernels

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_LOOSE = {"contract", "nsz", "arcp"}
"""Liberties of arithmetic that neither need finite numbers nor change their order."""


def compiled(function: Callable) -> Callable:
    """`kernels.compiled` with looser arithmetic."""
    return kernels.compiled(function, fastmath=_LOOSE)


@compiled
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
def _advance(cost, step_penalty, jump_penalty, path, total):
    """One step along a path (Hirschmueller 2008, eq. 13): `path` [P + 2] becomes that of the cell, and `total` [P] gains it.

    The first and the last of `path` are guards, larger than any cost.
    """
    planes = cost.shape[0]
    least = path[1]
    for p in range(2, planes + 1):
        least = min(least, path[p])
    before, here = path[0], path[1]
    for p in range(planes):
        after = path[p + 2]
        best = min(min(here, least + jump_penalty), min(before, after) + step_penalty)
        path[p + 1] = cost[p] + best - least
        total[p] += path[p + 1]
        before, here = here, after


@compiled
def semi_global_rows(cost, across, step_penalty, guard, top, bottom, total):
    """Sum, in rows top..bottom, the costs of the best paths to every cell from the left and from the right.

    Args:
        cost: [h, w, P].
        across: price of a jump between a cell and its right neighbour. [h, w - 1]
        step_penalty: price of a step to the next plane.
        guard: a number larger than any cost.
        total: zeros [h, w, P], written.
    """
    width, planes = cost.shape[1:]
    path = np.empty(planes + 2, np.float32)
    path[0] = path[planes + 1] = guard
    for y in range(top, bottom):
        path[1:-1] = _ZERO
        for x in range(width):
            _advance(cost[y, x], step_penalty, across[y, x - 1] if x else _ZERO, path, total[y, x])
        path[1:-1] = _ZERO
        for x in range(width - 1, -1, -1):
            _advance(cost[y, x], step_penalty, across[y, x] if x < width - 1 else _ZERO, path, total[y, x])


@compiled
def semi_global_columns(cost, down, step_penalty, guard, first, end, total):
    """Add, in columns first..end, the costs of the best paths from above and from below; see `semi_global_rows`.

    Args:
        down: price of a jump between a cell and the one below. [h - 1, w]
    """
    height, _, planes = cost.shape
    paths = np.empty((end - first, planes + 2), np.float32)
    paths[:, 0] = paths[:, -1] = guard
    paths[:, 1:-1] = _ZERO
    for y in range(height):
        for x in range(first, end):
            _advance(cost[y, x], step_penalty, down[y - 1, x] if y else _ZERO, paths[x - first], total[y, x])
    paths[:, 1:-1] = _ZERO
    for y in range(height - 1, -1, -1):
        for x in range(first, end):
            _advance(cost[y, x], step_penalty, down[y, x] if y < height - 1 else _ZERO, paths[x - first], total[y, x])
