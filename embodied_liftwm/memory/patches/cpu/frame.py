"""The surface that every pixel of a frame sees, a row of pixels at a time: `frame` on a CPU, without gradients.

Kernels release the GIL, and each call writes rows of its own, so that threads can share them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import inverse_intrinsics_array
from embodied_liftwm.geometry.compiled import arrays, as_scalars
from embodied_liftwm.kernels import compiled
from embodied_liftwm.memory.patches.map import texel_sizes
from embodied_liftwm.memory.patches.rules import FRAME
from embodied_liftwm.memory.patches.types import Surfaces
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each, ranges

LEAST_PIXELS = 8192
"""Pixels that are worth a thread."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


def surfaces(depth: Tensor, camera: Camera) -> Surfaces:
    """`frame.surfaces`."""
    batch, height, width = depth.shape
    found = Surfaces(
        points=depth.new_empty(*depth.shape, 3),
        normals=depth.new_empty(*depth.shape, 3),
        nearest=torch.empty_like(depth, memory_format=torch.contiguous_format),
        edge=torch.empty_like(depth, dtype=torch.bool, memory_format=torch.contiguous_format),
    )
    depths, intrinsics, poses = arrays(depth, camera.intrinsics, camera.world_from_camera)
    turn, eye, smooth = poses[:, :3, :3] @ inverse_intrinsics_array(intrinsics), poses[:, :3, 3].copy(), np.empty_like(depths)
    points, normals, nearest, edge = arrays(*found)
    rules = as_scalars(FRAME, depths.dtype)

    def smoothen(b: int, top: int, bottom: int) -> None:
        smooth_rows(depths[b], rules, top, bottom, smooth[b], nearest[b], edge[b])

    def lift(b: int, top: int, bottom: int) -> None:
        surface_rows(depths[b], smooth[b], turn[b], eye[b], top, bottom, points[b], normals[b])

    bands = [(b, top, bottom) for b in range(batch) for top, bottom in ranges(height, max(LEAST_PIXELS // width, 1))]
    for_each(smoothen, bands)
    for_each(lift, bands)
    return found


def measures(depth: Tensor, certainty: Tensor, edge: Tensor, camera: Camera, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`frame.measures`."""
    depths, certainties, edges, intrinsics, levels = arrays(depth, certainty, edge, camera.intrinsics, least)
    footprint, allocated, trusted = (np.empty_like(depths) for _ in range(3))
    sizes, trust = texel_sizes()[levels], np.float32(FRAME.edge_trust)
    for b in range(len(depths)):
        given = depths[b], certainties[b], edges[b], trust, intrinsics[b, 0, 0], sizes[b]
        measure(*given, footprint[b], allocated[b], trusted[b])
    return torch.from_numpy(footprint), torch.from_numpy(allocated), torch.from_numpy(trusted)


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
            length: Any = math.sqrt(n0 * n0 + n1 * n1 + n2 * n2)  # of the arrays' dtype, which mypy takes for float
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
