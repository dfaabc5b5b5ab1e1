"""Compiled kernels of plane sweep and of semi-global matching, for one frame each.

They release the GIL and write to their own arguments alone. Volumes are laid out [h, w, P]: planes are innermost, and
loops over them vectorise. Constants are float32, because numba promotes float32 arithmetic with Python's
floats to float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_BEHIND = np.float32(1e-2)
_THIRD = np.float32(1.0 / 3.0)
_LOOSE = {"contract", "nsz", "arcp"}
"""Liberties of arithmetic that neither need finite numbers nor change their order."""


def compiled(function: Callable) -> Callable:
    """`njit` with an on-disk cache where the disk allows one."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=_LOOSE)(function)
    except RuntimeError:  # no writable place for the cache: compile once a process instead
        return njit(nogil=True, error_model="numpy", fastmath=_LOOSE)(function)


@intrinsic
def _blend(typing_context, image, offset, row, w00, w01, w10, w11):
    """Blend four neighbours in an image of 4 float32 channels (1D), vectors at a time: LLVM's vectorizer does not find it.

    `offset` is where the upper left one begins, `row` the length of a row, both counted in numbers. Returns the 4 channels.
    """

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(ir.FloatType(), 4)
        below = builder.add(args[1], args[2])
        step = ir.Constant(args[1].type, 4)
        total = ir.Constant(vector, [0.0] * 4)
        for place, weight in zip((args[1], builder.add(args[1], step), below, builder.add(below, step)), args[3:], strict=True):
            value = builder.load(builder.bitcast(builder.gep(data, [place]), vector.as_pointer()), typ=vector)
            value.align = 4
            lane = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.Constant(ir.IntType(32), 0))
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4)
            spread = builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), zeros)
            total = builder.fadd(total, builder.fmul(spread, value, flags=("contract",)), flags=("contract",))
        channels = [builder.extract_element(total, ir.Constant(ir.IntType(32), k)) for k in range(4)]
        return context.make_tuple(builder, signature.return_type, channels)

    w = types.float32
    return types.UniTuple(w, 4)(image, types.intp, types.intp, w, w, w, w), codegen


@compiled
def sweep_band(target, tolerance, sources, nearness, turns, shifts, groups, limits, top, bottom, cost, count):
    """Sum, over each group of sources, the matching costs of rows top..bottom; see `plane_sweep` for what they are.

    Args:
        target: colours of the cells. [h, w, 3]
        tolerance: difference that the cells' own texture excuses. [h, w]
        sources: colours, and what their texture excuses. [S, H, W, 4]
        nearness, turns, shifts: where cells would be found, see `plane_sweep.Hypotheses`. [h, w], [S, 3, 3], [S, P, 3]
        groups: which sources count in which group. [G, S] bool
        limits: (pixels a side of a cell, largest cost).
        cost: zeros [G, h, w, P], written. count: zeros [G, h, w, P] float32, written: sources that know.
    """
    stride, largest = limits[0], limits[1]
    height, width = np.float32(sources.shape[1]), np.float32(sources.shape[2])
    rows, columns = sources.shape[1], sources.shape[2]
    last_row, last_column = np.float32(rows - 1), np.float32(columns - 1)
    for s in range(sources.shape[0]):
        if not groups[:, s].any():
            continue
        image, turn, shift = sources[s].reshape(-1), turns[s], shifts[s]
        for y in range(top, bottom):
            v = (np.float32(y) + _HALF) * stride
            for x in range(target.shape[1]):
                u = (np.float32(x) + _HALF) * stride
                a = turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]
                b = turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]
                c = turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]
                red, green, blue, excuse = target[y, x, 0], target[y, x, 1], target[y, x, 2], tolerance[y, x]
                near = nearness[y, x]
                for p in range(shift.shape[0]):
                    ahead = c + shift[p, 2] * near
                    if ahead <= _BEHIND:
                        continue
                    scale = _ONE / ahead
                    column, row = (a + shift[p, 0] * near) * scale, (b + shift[p, 1] * near) * scale
                    if column < _ZERO or row < _ZERO or column > width or row > height:
                        continue
                    column = min(max(column - _HALF, _ZERO), last_column)
                    row = min(max(row - _HALF, _ZERO), last_row)
                    left, upper = min(int(column), columns - 2), min(int(row), rows - 2)
                    right, down = column - np.float32(left), row - np.float32(upper)
                    w11 = right * down
                    w01, w10 = right - w11, down - w11
                    place = 4 * (upper * columns + left)
                    q: tuple = _blend(image, place, 4 * columns, _ONE - right - w10, w01, w10, w11)  # type: ignore
                    difference, theirs = abs(q[0] - red) + abs(q[1] - green) + abs(q[2] - blue), q[3]
                    value = min(difference * _THIRD / (excuse + theirs), largest)
                    for g in range(groups.shape[0]):
                        if groups[g, s]:
                            cost[g, y, x, p] += value
                            count[g, y, x, p] += _ONE


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
