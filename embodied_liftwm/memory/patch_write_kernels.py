"""Compiled kernels of writing a frame into a patch map: what `patch_write` does in torch, a texel or a pixel at a time.

They release the GIL and each call writes rows or patches of its own, so that several threads can share the work. Numbers of the
rules come as arguments, in the dtype of the tensors: numba promotes float32 arithmetic with Python's floats to float64, and its
cache on disk would not notice a constant that changed in another file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_index = np.uint64  # numba checks signed indices for being negative
MATCHED, GONE, FILLED = 1, 2, 3
"""What becomes of a texel; 0 where it stays as it is."""


def compiled(function: Callable) -> Callable:
    """`njit` with an on-disk cache where the disk allows one."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no writable place for the cache: compile once a process instead
        return njit(nogil=True, error_model="numpy")(function)


class Rules(NamedTuple):
    """The constants of `patch_write`, as scalars of the tensors' dtype but for the first two."""

    settle: int
    smoothing_cells: int
    smoothing_log: Any
    edge: Any
    near_m: Any
    gate_sigmas: Any
    gate_low: Any
    gate_high: Any
    coarse: Any
    fill_gate: Any
    fill_reach: Any
    facing_cosine: Any
    least_evidence: Any


class Texels(NamedTuple):
    """R patches of M texels: see `Patches`."""

    cells: np.ndarray  # [R, 3] int64
    faces: np.ndarray  # [R] int64
    sizes: np.ndarray  # [R] edge of a texel, metres
    batch: np.ndarray  # [R] int64 row of the frame
    guess: np.ndarray  # [R] metres
    heights: np.ndarray  # [R, M]
    evidence: np.ndarray  # [R, M]


class Content(NamedTuple):
    """What `blend` changes of R patches of M texels."""

    faces: np.ndarray  # [R] int64
    batch: np.ndarray  # [R] int64 row of the frame
    heights: np.ndarray  # [R, M]
    rgb: np.ndarray  # [R, M, 3]
    latents: np.ndarray  # [R, M, D]


class Change(NamedTuple):
    """Where R x M texels are seen, and how much of it they take: see `Look` and `Update`."""

    heights: np.ndarray  # [R, M] settled
    pixel: np.ndarray  # [R, M] int64
    uv: np.ndarray  # [R, M, 2]
    z: np.ndarray  # [R, M]
    share: np.ndarray  # [R, M]


class Pixels(NamedTuple):
    """B frames of H x W pixels, all in one list: see `Frame`."""

    matrices: np.ndarray  # [B, 3, 4] from world points to homogeneous pixels
    eyes: np.ndarray  # [B, 3] metres
    depth: np.ndarray
    certainty: np.ndarray
    rgb: np.ndarray
    latents: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    nearest: np.ndarray
    edge: np.ndarray
    footprint: np.ndarray
    finest: np.ndarray
    height: int
    width: int
    stride: int


class Sights(NamedTuple):
    """What `associate` finds of R x M texels: see `Look`."""

    heights: np.ndarray  # [R, M] settled
    pixel: np.ndarray  # [R, M] int64
    uv: np.ndarray  # [R, M, 2]
    z: np.ndarray  # [R, M]
    inside: np.ndarray  # [R, M] bool
    fate: np.ndarray  # [R, M] uint8


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
    reach, sharpness = rules.smoothing_cells, _ONE / rules.smoothing_log
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
def _project(base, column, height, near):
    """Pixel coordinates and z-depth of a texel: `base` is where it would be at height 0. Each [3]"""
    z = base[2] + column[2] * height
    scale = max(z, near)
    return (base[0] + column[0] * height) / scale, (base[1] + column[1] * height) / scale, z


@compiled
def _pixel(u, v, z, row, frame, near):
    """The pixel of the list at (u, v) of frame `row`; -1 outside."""
    if z > near and u >= _ZERO and v >= _ZERO and u < np.float32(frame.width) and v < np.float32(frame.height):
        return (row * frame.height + int(v)) * frame.width + int(u)
    return -1


@compiled
def associate(texels, frame, rules, first, end, found):
    """Settle the texels of patches first..end, and say where they fall and what becomes of them; writes `found`."""
    count = texels.heights.shape[1]
    side = int(round(math.sqrt(count)))
    for r in range(first, end):
        row, size, axis = texels.batch[r], texels.sizes[r], texels.faces[r] // 2
        second, third = (axis + 1) % 3, (axis + 2) % 3
        matrix = frame.matrices[row]
        edge = np.float32(side) * size
        corner, top = np.float32(texels.cells[r, second]) * edge, np.float32(texels.cells[r, third]) * edge
        column = (matrix[0, axis], matrix[1, axis], matrix[2, axis])
        low = np.float32(texels.cells[r, axis]) * edge
        for m in range(count):
            a = corner + (np.float32(_index(m) % side) + _HALF) * size
            b = top + (np.float32(_index(m) // side) + _HALF) * size
            base = (
                matrix[0, second] * a + matrix[0, third] * b + matrix[0, 3],
                matrix[1, second] * a + matrix[1, third] * b + matrix[1, 3],
                matrix[2, second] * a + matrix[2, third] * b + matrix[2, 3],
            )
            evidence = texels.evidence[r, m]
            height = texels.heights[r, m] if evidence > _ZERO else texels.guess[r]
            u, v, z = _project(base, column, height, rules.near_m)
            pixel = _pixel(u, v, z, row, frame, rules.near_m)
            if not evidence > _ZERO:
                for _ in range(rules.settle):
                    if pixel < 0:
                        break
                    height = frame.points[_index(pixel), axis]
                    u, v, z = _project(base, column, height, rules.near_m)
                    pixel = _pixel(u, v, z, row, frame, rules.near_m)
            found.heights[r, m], found.z[r, m], found.inside[r, m] = height, z, pixel >= 0
            found.uv[r, m, 0], found.uv[r, m, 1] = u, v
            found.pixel[r, m], found.fate[r, m] = max(pixel, 0), 0
            if pixel >= 0 and frame.certainty[pixel] > _ZERO:
                if evidence > _ZERO:
                    found.fate[r, m] = _known(evidence, size, z, _index(pixel), frame, rules)
                elif _meets(height, low, edge, size, z, texels.faces[r], _index(pixel), frame, rules):
                    found.fate[r, m] = FILLED


@compiled
def _known(evidence, size, z, pixel, frame, rules):
    """What becomes of a texel that is there and falls onto a pixel that knows its depth."""
    depth, certainty = frame.depth[pixel], frame.certainty[pixel]
    floor = rules.least_evidence
    variance = _ONE / max(evidence, floor) + _ONE / max(certainty, floor)
    gate = min(max(rules.gate_sigmas * math.sqrt(variance) / depth, rules.gate_low), rules.gate_high)
    if abs(z - depth) / depth < gate:
        return GONE if size > rules.coarse * frame.finest[pixel] else MATCHED
    doubt = rules.gate_sigmas / (math.sqrt(max(certainty, floor)) * depth)
    doubt = min(max(doubt, rules.gate_low), rules.gate_high)
    return GONE if z < (_ONE - doubt) * frame.nearest[pixel] else 0


@compiled
def _meets(height, low, edge, size, z, face, pixel, frame, rules):
    """Whether an empty texel meets a surface that is its patch's to hold."""
    depth = frame.depth[pixel]
    if not abs(z - depth) / depth < rules.fill_gate or not frame.footprint[pixel] < rules.coarse * size:
        return False
    if not height > low - rules.fill_reach * edge or not height < low + (_ONE + rules.fill_reach) * edge:
        return False
    towards = frame.normals[pixel, face // 2]
    return (-towards if face % 2 else towards) > rules.facing_cosine


@compiled
def blend(texels, frame, change, rules, first, end):
    """Change the texels of patches first..end, in place, by their shares of what is seen."""
    inner = frame.height * frame.width
    columns = frame.width // frame.stride
    cells = columns * (frame.height // frame.stride)
    for r in range(first, end):
        row, axis = texels.batch[r], texels.faces[r] // 2
        eye = frame.eyes[row, axis]
        for m in range(texels.heights.shape[1]):
            share = change.share[r, m]
            if not share > _ZERO:
                continue
            pixel = change.pixel[r, m]
            seen = eye + (change.heights[r, m] - eye) * frame.depth[pixel] / max(change.z[r, m], rules.near_m)
            texels.heights[r, m] += share * (seen - texels.heights[r, m])
            _blend_colour(texels.rgb[r, m], change.uv[r, m], pixel, share, frame)
            y, x = pixel % inner // frame.width, pixel % frame.width
            cell = row * cells + y // frame.stride * columns + x // frame.stride
            for d in range(texels.latents.shape[2]):
                texels.latents[r, m, d] += share * (frame.latents[cell, d] - texels.latents[r, m, d])


@compiled
def _blend_colour(rgb, uv, pixel, share, frame):
    """Blend the frame's colour at `uv` [2] into rgb [3]: bilinear, but of the pixel itself at an edge."""
    if frame.edge[pixel]:
        for k in range(3):
            rgb[k] += share * (frame.rgb[pixel, k] - rgb[k])
        return
    x, y = uv[0] - _HALF, uv[1] - _HALF
    column, line = int(math.floor(x)), int(math.floor(y))
    right, down = x - np.float32(column), y - np.float32(line)
    start = pixel - pixel % (frame.height * frame.width)
    left_column, right_column = max(column, 0), min(column + 1, frame.width - 1)
    upper_row = start + max(line, 0) * frame.width
    lower_row = start + min(line + 1, frame.height - 1) * frame.width
    for k in range(3):
        upper = frame.rgb[upper_row + left_column, k]
        upper += right * (frame.rgb[upper_row + right_column, k] - upper)
        lower = frame.rgb[lower_row + left_column, k]
        lower += right * (frame.rgb[lower_row + right_column, k] - lower)
        rgb[k] += share * (upper + down * (lower - upper) - rgb[k])
