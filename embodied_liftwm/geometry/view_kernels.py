"""Compiled kernels of view selection and of depth at every pixel, for one frame each; they write to their arguments alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from embodied_liftwm.geometry.matching.semi_global_kernels import compiled

_ZERO, _HALF, _ONE, _THIRD = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(1.0 / 3.0)


class Preference(NamedTuple):
    """The constants of `view_selection`, float32 but for the first."""

    grid: int
    depths: np.ndarray  # metres
    nearest: np.float32
    farthest: np.float32
    best: np.float32
    octaves: np.float32
    crowding: np.float32


@compiled
def choose(turn, intrinsics, pose, others, allowed, size, rules, chosen, good):
    """`view_selection.choose_views` of one camera.

    Args:
        turn: from pixels (u, v, 1) to world directions of z-depth 1. [3, 3]
        intrinsics, pose: [3, 3], [4, 4] world_from_camera.
        others, allowed: [M, 4, 4], [M] float32.
        size: width and height of the images, float32.
        chosen, good: [count] int64 and bool, written.
    """
    points = _grid(turn, pose, size, rules)
    worth = np.zeros((len(others), len(points)), np.float32)
    for m in range(len(others)):
        value = allowed[m] * _triangulates(pose, others[m], rules)
        if value > _ZERO:
            for p in range(len(points)):
                if _falls_on(points[p], intrinsics, others[m], size):
                    worth[m, p] = value
    covered = np.zeros(len(points), np.float32)
    for k in range(len(chosen)):
        best, number = _ZERO, 0
        for m in range(len(others)):
            gain = _ZERO
            for p in range(len(points)):
                gain += worth[m, p] / (_ONE + rules.crowding * covered[p])
            if gain > best:
                best, number = gain, m
        chosen[k], good[k] = number, best > _ZERO
        covered += worth[number]
        worth[number] = _ZERO


@compiled
def _grid(turn, pose, size, rules):
    """World points by which it is judged what the camera sees. [points, 3]"""
    points = np.empty((len(rules.depths) * rules.grid * rules.grid, 3), np.float32)
    p = 0
    for depth in rules.depths:
        for j in range(rules.grid):
            v = (np.float32(j) + _HALF) / np.float32(rules.grid) * size[1]
            for i in range(rules.grid):
                u = (np.float32(i) + _HALF) / np.float32(rules.grid) * size[0]
                for k in range(3):
                    points[p, k] = (turn[k, 0] * u + turn[k, 1] * v + turn[k, 2]) * depth + pose[k, 3]
                p += 1
    return points


@compiled
def _triangulates(pose, other, rules):
    """How well a view triangulates, whatever it sees; 0 without parallax."""
    squared, cosine = _ZERO, _ZERO
    for k in range(3):
        step = other[k, 3] - pose[k, 3]
        squared += step * step
        cosine += other[k, 2] * pose[k, 2]
    baseline = np.float32(math.sqrt(squared))
    if not (rules.nearest < baseline < rules.farthest and cosine > _ZERO):
        return _ZERO
    octaves = np.float32(math.log(baseline / rules.best)) / rules.octaves
    return np.float32(math.exp(-_HALF * octaves * octaves)) * (np.float32(0.2) + np.float32(0.8) * cosine)


@compiled
def _falls_on(point, intrinsics, other, size):
    """Whether a world point falls on the image of the camera at `other`."""
    a, b, c = point[0] - other[0, 3], point[1] - other[1, 3], point[2] - other[2, 3]
    x = other[0, 0] * a + other[1, 0] * b + other[2, 0] * c
    y = other[0, 1] * a + other[1, 1] * b + other[2, 1] * c
    z = other[0, 2] * a + other[1, 2] * b + other[2, 2] * c
    if not z > np.float32(0.05):
        return False
    u = (intrinsics[0, 0] * x + intrinsics[0, 1] * y + intrinsics[0, 2] * z) / z
    v = (intrinsics[1, 0] * x + intrinsics[1, 1] * y + intrinsics[1, 2] * z) / z
    return u >= _ZERO and v >= _ZERO and u <= size[0] and v <= size[1]


@compiled
def depth_of_like_colour(cells, colours, rgb, stride, nearness, chosen):
    """`pixel_depth` of one frame.

    Args:
        cells, colours: [h, w] metres, and their mean colours [3, h, w].
        rgb: [3, H, W]
        stride: pixels a side of a cell.
        nearness: price of a cell that lies one step further.
        chosen: [H, W] metres, written.
    """
    rows, columns = cells.shape
    for y in range(chosen.shape[0]):
        cell_row = y // stride
        for x in range(chosen.shape[1]):
            cell_column = x // stride
            red, green, blue = rgb[0, y, x], rgb[1, y, x], rgb[2, y, x]
            best = np.float32(np.inf)
            for down in (0, -1, 1):  # the pixel's own cell first: it wins a tie
                j = min(max(cell_row + down, 0), rows - 1)
                for across in (0, -1, 1):
                    i = min(max(cell_column + across, 0), columns - 1)
                    away = abs(colours[0, j, i] - red) + abs(colours[1, j, i] - green) + abs(colours[2, j, i] - blue)
                    price = away * _THIRD + nearness * np.float32(abs(down) + abs(across))
                    if price < best:
                        best = price
                        chosen[y, x] = cells[j, i]
