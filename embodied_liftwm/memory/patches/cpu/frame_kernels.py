"""Compiled kernels of `patch_frame`: the surface that every pixel of a frame sees, a row of pixels at a time.

As those of `patch_write_kernels`, they release the GIL, and each call writes rows of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from embodied_liftwm.kernels import compiled

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class Smoothing(NamedTuple):
    """The constants of `patch_frame`, as scalars of the tensors' dtype but for the first."""

    cells: int
    log: Any
    edge: Any


@compiled
def _decay(x):
    """exp(-x) to 4e-6 of it, of x in [0, 20]; of larger ones exp(-20). Plain arithmetic, exp(-x / 32)^32, vectorises."""
    r = min(x, np.float32(20.0)) * np.float32(1 / 32)
    value = _ONE - r * np.float32(1 / 8)  # the series to the eighth power
    value = _ONE - r * value * np.float32(1 / 7)
    value = _ONE - r * value * np.float32(1 / 6)
    value = _ONE - r * value * np.float32(1 / 5)
    value = _ONE - r * value * np.float32(1 / 4)
    value = _ONE - r * value * np.float32(1 / 3)
    value = _ONE - r * value * _HALF
    value = _ONE - r * value
    value *= value
    value *= value
    value *= value
    value *= value
    return value * value


@compiled
def smooth_rows(depth, rules, top, bottom, smooth, nearest, edge):
    """Rows top..bottom of one frame's smoothed depth, of its least depth of 3 x 3 pixels, and of its edges. All [H, W]"""
    last_row, last_column = depth.shape[0] - 1, depth.shape[1] - 1
    reach, sharpness = rules.cells, _ONE / rules.log
    logs = np.empty((bottom - top + 2 * reach, depth.shape[1] + 2 * reach), depth.dtype)  # borders repeat the last pixel
    for j in range(logs.shape[0]):
        for i in range(logs.shape[1]):
            logs[j, i] = math.log(depth[min(max(top + j - reach, 0), last_row), min(max(i - reach, 0), last_column)])
    total, mass = np.empty(depth.shape[1], depth.dtype), np.empty(depth.shape[1], depth.dtype)
    for y in range(top, bottom):
        here = logs[y - top + reach, reach:]
        total[:], mass[:] = _ZERO, _ZERO
        for j in range(2 * reach + 1):
            for i in range(2 * reach + 1):
                there = logs[y - top + j, i:]
                for x in range(depth.shape[1]):  # innermost, because it vectorises
                    away = (there[x] - here[x]) * sharpness
                    weight = _decay(away * away)
                    total[x] += there[x] * weight
                    mass[x] += weight
        for x in range(depth.shape[1]):
            smooth[y, x] = math.exp(total[x] / mass[x])
            least = most = depth[y, x]
            for j in range(max(y - 1, 0), min(y + 1, last_row) + 1):
                for i in range(max(x - 1, 0), min(x + 1, last_column) + 1):
                    least, most = min(least, depth[j, i]), max(most, depth[j, i])
            nearest[y, x] = least
            edge[y, x] = most - least > rules.edge * depth[y, x]


@compiled
def _slope(before, here, after):
    """Step to the neighbour, of both sides the smaller."""
    back = (here[0] - before[0], here[1] - before[1], here[2] - before[2])
    on = (after[0] - here[0], after[1] - here[1], after[2] - here[2])
    if back[0] * back[0] + back[1] * back[1] + back[2] * back[2] < on[0] * on[0] + on[1] * on[1] + on[2] * on[2]:
        return back
    return on


@compiled
def _point(depth, turn, x, y):
    """What a pixel shows, relative to the eye, along the world's axes."""
    u, v = np.float32(x) + _HALF, np.float32(y) + _HALF
    return (
        depth * (turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]),
        depth * (turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]),
        depth * (turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]),
    )


@compiled
def surface_rows(depth, smooth, turn, eye, top, bottom, points, normals):
    """Rows top..bottom of one frame's world points, and of its normals towards the camera.

    Args:
        depth, smooth: [H, W] metres.
        turn: from pixels (u, v, 1) to world directions of z-depth 1. [3, 3]
        eye: [3] metres.
        points, normals: [H, W, 3], written.
    """
    last_row, last_column = depth.shape[0] - 1, depth.shape[1] - 1
    for y in range(top, bottom):
        for x in range(depth.shape[1]):
            point = _point(depth[y, x], turn, x, y)
            here = _point(smooth[y, x], turn, x, y)
            left = _point(smooth[y, x - 1], turn, x - 1, y) if x > 0 else here
            right = _point(smooth[y, x + 1], turn, x + 1, y) if x < last_column else here
            above = _point(smooth[y - 1, x], turn, x, y - 1) if y > 0 else here
            below = _point(smooth[y + 1, x], turn, x, y + 1) if y < last_row else here
            a = _slope(left, here, right) if 0 < x < last_column else _difference(left, right)
            b = _slope(above, here, below) if 0 < y < last_row else _difference(above, below)
            n0, n1, n2 = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
            length: Any = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
            scale = _ONE / max(length, np.float32(1e-12))
            if n0 * here[0] + n1 * here[1] + n2 * here[2] > _ZERO:
                scale = -scale
            normals[y, x, 0], normals[y, x, 1], normals[y, x, 2] = n0 * scale, n1 * scale, n2 * scale
            for k in range(3):
                points[y, x, k] = eye[k] + point[k]


@compiled
def _difference(first, last):
    return (last[0] - first[0], last[1] - first[1], last[2] - first[2])


@compiled
def measure(depth, certainty, edge, trust, focal, least, footprint, finest, trusted):
    """What a frame's pixels cover, what they may allocate, and how far they are trusted.

    Args:
        depth, certainty, edge: [H, W] metres, 1/m^2, bool.
        trust: share of their certainty that pixels at an edge keep.
        focal: pixels.
        least: edge of the finest texels, metres. [H, W]
        footprint, finest, trusted: [H, W] metres, metres, 1/m^2; written.
    """
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            footprint[y, x] = depth[y, x] / focal
            finest[y, x] = max(footprint[y, x], least[y, x])
            trusted[y, x] = certainty[y, x] * trust if edge[y, x] else certainty[y, x]
