"""Compiled kernels of plane sweep, for one frame each; see `embodied_liftwm.kernels` for their rules.

A loop over planes does one thing at a time, so that all but the sampling itself vectorise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from embodied_liftwm.kernels import loosely_compiled

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_BEHIND = np.float32(1e-2)
_THIRD = np.float32(1.0 / 3.0)


class SweepRules(NamedTuple):
    """The constants of `plane_sweep`, the first an integer and the others float32."""

    stride: int  # pixels a side of a cell
    noise: Any
    texture_excuses: Any
    largest: Any
    unknown: Any


class SweepInputs(NamedTuple):
    """One frame of h x w cells, its S sources, and where each would find the cells."""

    target: np.ndarray  # [h, w, 4] colours of the cells, and the difference that their own texture excuses
    sources: np.ndarray  # [S, H, W, 4] colours, and what their texture excuses
    nearness: np.ndarray  # [h, w], and the next two: see `plane_sweep.Hypotheses`
    turns: np.ndarray  # [S, 3, 3]
    shifts: np.ndarray  # [S, 3, P]
    groups: np.ndarray  # [G, S] bool: which sources count in which group


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


@loosely_compiled
def with_excuse(rgb, rules, grey, image):
    """Colours, and the difference that texture excuses: rgb [3, H, W] -> image [H, W, 4]; grey [H, W] is scratch."""
    rows, columns = grey.shape
    for y in range(rows):
        for x in range(columns):
            grey[y, x] = (rgb[0, y, x] + rgb[1, y, x] + rgb[2, y, x]) * _THIRD
    least, largest = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for y in range(rows):
        above, here, below = grey[max(y - 1, 0)], grey[y], grey[min(y + 1, rows - 1)]
        for x in range(columns):
            least[x] = min(above[x], here[x], below[x])
            largest[x] = max(above[x], here[x], below[x])
        for x in range(columns):
            left, right = max(x - 1, 0), min(x + 1, columns - 1)
            span = max(largest[left], largest[x], largest[right]) - min(least[left], least[x], least[right])
            image[y, x, 0], image[y, x, 1], image[y, x, 2] = rgb[0, y, x], rgb[1, y, x], rgb[2, y, x]
            image[y, x, 3] = rules.texture_excuses * span


@loosely_compiled
def mean_cells(image, rules, target):
    """Means over cells of an image [H, W, 4] of `with_excuse`, noise added to what is excused: target [h, w, 4]."""
    stride = rules.stride
    share = _ONE / np.float32(stride * stride)
    for y in range(target.shape[0]):
        for x in range(target.shape[1]):
            for k in range(4):
                total = _ZERO
                for v in range(y * stride, (y + 1) * stride):
                    for u in range(x * stride, (x + 1) * stride):
                        total += image[v, u, k]
                target[y, x, k] = total * share
            target[y, x, 3] += rules.noise


@loosely_compiled
def sweep_band(given, rules, top, bottom, cost, known):
    """Mean, over each group of sources, of the matching costs of rows top..bottom; see `plane_sweep` for what they are.

    Args:
        given: see `SweepInputs`.
        cost: [G, h, w, P], written: `rules.unknown` where no source of a group knows.
        known: [G, h, w, P] bool, written: whether one does.
    """
    shifts, groups = given.shifts, given.groups
    planes = shifts.shape[2]
    column, row, sees = np.empty(planes, np.float32), np.empty(planes, np.float32), np.empty(planes, np.float32)
    red, green, blue = np.empty(planes, np.float32), np.empty(planes, np.float32), np.empty(planes, np.float32)
    value = np.empty(planes, np.float32)
    total = np.empty((groups.shape[0], planes), np.float32)
    count = np.empty((groups.shape[0], planes), np.float32)
    step = np.float32(rules.stride)
    for y in range(top, bottom):
        v = (np.float32(y) + _HALF) * step
        for x in range(given.target.shape[1]):
            u = (np.float32(x) + _HALF) * step
            total[:] = _ZERO
            count[:] = _ZERO
            for s in range(given.sources.shape[0]):
                turn = given.turns[s]
                a = turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]
                b = turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]
                c = turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]
                near = given.nearness[y, x]
                for p in range(planes):
                    sees[p] = c + shifts[s, 2, p] * near
                for p in range(planes):
                    column[p] = (a + shifts[s, 0, p] * near) / max(sees[p], _BEHIND)
                for p in range(planes):
                    row[p] = (b + shifts[s, 1, p] * near) / max(sees[p], _BEHIND)
                _sample(given.sources[s], column, row, sees, red, green, blue, value)
                mine = given.target[y, x]
                for p in range(planes):
                    difference = abs(red[p] - mine[0]) + abs(green[p] - mine[1]) + abs(blue[p] - mine[2])
                    value[p] = min(difference * _THIRD / (mine[3] + value[p]), rules.largest) * sees[p]
                for k in range(groups.shape[0]):
                    if groups[k, s]:
                        for p in range(planes):
                            total[k, p] += value[p]
                        for p in range(planes):
                            count[k, p] += sees[p]
            for k in range(groups.shape[0]):
                for p in range(planes):
                    cost[k, y, x, p] = total[k, p] / count[k, p] if count[k, p] > _ZERO else rules.unknown
                for p in range(planes):
                    known[k, y, x, p] = count[k, p] > _ZERO


@loosely_compiled
def _sample(image, column, row, sees, red, green, blue, excuse):
    """Sample an image [H, W, 4] at P places; `sees` [P] is how far ahead they are, and becomes 1 inside the image, else 0."""
    rows, columns = image.shape[:2]
    width, height = np.float32(columns), np.float32(rows)
    last_row, last_column = np.float32(rows - 1), np.float32(columns - 1)
    flat = image.reshape(-1)
    for p in range(column.shape[0]):
        x, y = column[p], row[p]
        if not (sees[p] > _BEHIND and x >= _ZERO and y >= _ZERO and x <= width and y <= height):
            sees[p] = red[p] = green[p] = blue[p] = excuse[p] = _ZERO
            continue
        x, y = min(max(x - _HALF, _ZERO), last_column), min(max(y - _HALF, _ZERO), last_row)
        left, upper = min(int(x), columns - 2), min(int(y), rows - 2)
        right, down = x - np.float32(left), y - np.float32(upper)
        w11 = right * down
        w01, w10 = right - w11, down - w11
        place = 4 * (upper * columns + left)
        q: tuple = _blend(flat, place, 4 * columns, _ONE - right - w10, w01, w10, w11)  # type: ignore
        red[p], green[p], blue[p], excuse[p] = q
        sees[p] = _ONE


@loosely_compiled
def window_band(cost, reach, top, bottom, out):
    """Means of costs [h, w, P] over windows that reach so far, within the image; rows top..bottom of out [h, w, P]."""
    height, width, planes = cost.shape
    for y in range(top, bottom):
        above, below = max(y - reach, 0), min(y + reach + 1, height)
        for x in range(width):
            first, end = max(x - reach, 0), min(x + reach + 1, width)
            share = _ONE / np.float32((below - above) * (end - first))
            out[y, x] = _ZERO
            for v in range(above, below):
                for u in range(first, end):
                    for p in range(planes):
                        out[y, x, p] += cost[v, u, p]
            for p in range(planes):
                out[y, x, p] *= share
