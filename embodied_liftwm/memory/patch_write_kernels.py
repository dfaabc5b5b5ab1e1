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
