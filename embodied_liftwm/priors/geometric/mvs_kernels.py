"""Compiled kernels of multi-view stereo: what the depths of other frames say of a frame's.

Their rules are those of `embodied_liftwm.kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from embodied_liftwm.kernels import loosely_compiled

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_BEHIND = np.float32(1e-2)


class Voters(NamedTuple):
    """S frames whose depths are known, and how they lie to one more frame.

    A pixel u of that frame at depth z is seen by voter s at the pixel turns[s] u z + shifts[s], up to scale, and the third of
    these numbers is its depth there; `turns_back` and `shifts_back` lead from the voter's pixels to the frame's.
    """

    depth: np.ndarray  # [S, h, w] metres
    confidence: np.ndarray  # [S, h, w] in [0, 1]
    turns: np.ndarray  # [S, 3, 3]
    shifts: np.ndarray  # [S, 3]
    turns_back: np.ndarray  # [S, 3, 3]
    shifts_back: np.ndarray  # [S, 3]


class Agreement(NamedTuple):
    """Of every pixel's depth, what the voters say. Each [h, w], written."""

    agree: np.ndarray  # voters that see a surface there
    conflict: np.ndarray  # voters that see through it
    depth: np.ndarray  # sum over the agreeing of where their surface lies, metres


@loosely_compiled
def vote(voters, planes, tolerance, share):
    """Of the voters that would see a surface on a plane, the share that does see one there, each by its confidence.

    One whose surface lies nearer does not see that far and has no vote; one whose surface lies farther votes against. One vote
    more is against every plane, so that few voters count for little.

    Args:
        voters: see `Voters`.
        planes: z-depths in metres. [P]
        tolerance: relative difference of depth at which a vote has no weight left.
        share: [h, w, P] in [0, 1), written.
    """
    number, rows, columns = voters.depth.shape
    width, height = np.float32(columns), np.float32(rows)
    last = planes.shape[0]
    away, column, row = np.empty(last, np.float32), np.empty(last, np.float32), np.empty(last, np.float32)
    total = np.empty(last, np.float32)
    for y in range(rows):
        v = np.float32(y) + _HALF
        for x in range(columns):
            u = np.float32(x) + _HALF
            share[y, x] = _ZERO
            total[:] = _ONE
            for s in range(number):
                turn, shift = voters.turns[s], voters.shifts[s]
                a = turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]
                b = turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]
                c = turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]
                for p in range(last):
                    away[p] = c * planes[p] + shift[2]
                for p in range(last):
                    column[p] = (a * planes[p] + shift[0]) / max(away[p], _BEHIND)
                for p in range(last):
                    row[p] = (b * planes[p] + shift[1]) / max(away[p], _BEHIND)
                for p in range(last):
                    if away[p] > _BEHIND and column[p] >= _ZERO and row[p] >= _ZERO and column[p] < width and row[p] < height:
                        i, j = int(row[p]), int(column[p])
                        farther = (away[p] - voters.depth[s, i, j]) / voters.depth[s, i, j]
                        if farther < tolerance:
                            weight = voters.confidence[s, i, j]
                            total[p] += weight
                            share[y, x, p] += weight * max(_ZERO, _ONE - abs(farther) / tolerance)
            for p in range(last):
                share[y, x, p] /= total[p]


@loosely_compiled
def compare(depth, voters, pixels, tolerance, found):
    """Reproject every pixel into the voters and their surfaces back, and count who agrees (Schoenberger et al. 2016, ECCV).

    A voter agrees if its surface, seen where the pixel's point falls, comes back within `pixels` of the pixel and within
    `tolerance` of its depth. Of the four pixels around that place the one nearest in depth speaks: a mean of two surfaces
    lies on neither.

    Args:
        depth: of the frame, metres. [h, w]
        voters: see `Voters`.
        pixels: largest distance after the way there and back.
        tolerance: largest relative difference of depth.
        found: see `Agreement`; zeros, written.
    """
    number, rows, columns = voters.depth.shape
    width, height = np.float32(columns), np.float32(rows)
    for y in range(rows):
        v = np.float32(y) + _HALF
        for x in range(columns):
            u, z = np.float32(x) + _HALF, depth[y, x]
            for s in range(number):
                column, row, away = _carry(voters.turns[s], voters.shifts[s], u, v, z)
                if not (away > _BEHIND and column >= _ZERO and row >= _ZERO and column < width and row < height):
                    continue
                i, j = _nearest_in_depth(voters.depth[s], column, row, away)
                theirs, weight = voters.depth[s, i, j], voters.confidence[s, i, j]
                back_u, back_v, back_z = _carry(voters.turns_back[s], voters.shifts_back[s], column, row, theirs)
                beside = (back_u - u) * (back_u - u) + (back_v - v) * (back_v - v)
                if beside < pixels * pixels and abs(back_z - z) < tolerance * z:
                    found.agree[y, x] += weight
                    found.depth[y, x] += weight * back_z
                elif theirs > away:
                    found.conflict[y, x] += weight


@loosely_compiled
def _carry(turn, shift, u, v, z):
    """Pixel (u, v) and depth at which another camera sees what one sees at (u, v) and depth z."""
    away = (turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]) * z + shift[2]
    scale = _ONE / max(away, _BEHIND)
    column = ((turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]) * z + shift[0]) * scale
    row = ((turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]) * z + shift[1]) * scale
    return column, row, away


@loosely_compiled
def _nearest_in_depth(depth, column, row, away):
    """Row and column of that one of the four pixels around a place whose depth is nearest to `away`."""
    upper = min(max(int(np.floor(row - _HALF)), 0), depth.shape[0] - 2)
    left = min(max(int(np.floor(column - _HALF)), 0), depth.shape[1] - 2)
    best, i, j = np.float32(np.inf), upper, left
    for y in range(upper, upper + 2):
        for x in range(left, left + 2):
            error = abs(depth[y, x] - away)
            if error < best:
                best, i, j = error, y, x
    return i, j
