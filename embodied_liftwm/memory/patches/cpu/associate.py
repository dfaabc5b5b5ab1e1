"""Where texels fall in a frame and what becomes of them, a texel at a time: `integrate.associate` on a CPU.

Kernels release the GIL, and each call writes patches of its own, so that threads can share them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays, as_scalars
from embodied_liftwm.geometry.se3 import viewmats_array
from embodied_liftwm.kernels import compiled
from embodied_liftwm.memory.patches.map import Patches, texel_sizes
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.types import Association, Frame, Look
from embodied_liftwm.threads import for_each, ranges

_ZERO, _HALF, _ONE, _THREE = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(3.0)
_index = np.uint64  # numba checks signed indices for being negative
MATCHED, GONE, FILLED, HIDDEN, COARSE_HIDDEN = 1, 2, 3, 4, 5
"""What becomes of a texel; 0 where it stays as it is. Of those that are hidden now, large ones leave an empty place."""
COARSE_MATCHED = 6  # gone, unless it is hidden


class Texels(NamedTuple):
    """N patches of M texels: see `Patches`. `integrate` changes the last four."""

    cells: np.ndarray  # [N, 3] int64
    faces: np.ndarray  # [N] int64
    levels: np.ndarray  # [N] int64
    heights: np.ndarray  # [N, M]
    rgb: np.ndarray  # [N, M, 3]
    latents: np.ndarray  # [N, M, D]
    evidence: np.ndarray  # [N, M]


class Meeting(NamedTuple):
    """R of the patches, and what they look at."""

    rows: np.ndarray  # [R] int64 of the N patches
    batch: np.ndarray  # [R] int64 row of the frame
    guess: np.ndarray  # [R] metres
    sizes: np.ndarray  # [levels] edge of a texel, metres


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
    cells: np.ndarray  # [B * H * W] int64 of the latents
    height: int
    width: int


class Sights(NamedTuple):
    """What `associate` finds of R x M texels: see `Look`."""

    heights: np.ndarray  # [R, M] settled
    pixel: np.ndarray  # [R, M] int64
    uv: np.ndarray  # [R, M, 2]
    z: np.ndarray  # [R, M]
    inside: np.ndarray  # [R, M] bool
    fate: np.ndarray  # [R, M] uint8


def associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """`integrate.associate`."""
    texels, pixels = Texels(*arrays(*old)), pixels_of(frame)
    shape, dtype = texels.heights.shape, texels.heights.dtype
    sights = Sights(
        heights=np.empty(shape, dtype),
        pixel=np.empty(shape, np.int64),
        uv=np.empty((*shape, 2), dtype),
        z=np.empty(shape, dtype),
        inside=np.empty(shape, np.bool_),
        fate=np.empty(shape, np.uint8),
    )
    meeting, rules = meeting_of(batch, guess), as_scalars(MEETING, dtype)

    def find(first: int, end: int) -> None:
        _associate(texels, meeting, pixels, rules, first, end, sights)

    for_each(find, ranges(shape[0]))
    heights, pixel, uv, z, inside, fate = (torch.from_numpy(array) for array in sights)
    coarse = fate == COARSE_HIDDEN
    hidden = (fate == HIDDEN) | coarse
    gone, filled = (fate == GONE) | coarse, (fate == FILLED) | (fate == HIDDEN)
    return Association(heights, Look(pixel, uv, z, inside), fate == MATCHED, hidden, gone, filled)


def meeting_of(batch: Tensor, guess: Tensor) -> Meeting:
    """All patches of a list."""
    rows, heights = arrays(batch, guess)
    return Meeting(np.arange(len(rows)), rows, heights, texel_sizes())


def pixels_of(frame: Frame) -> Pixels:
    camera = frame.camera
    intrinsics, poses = arrays(camera.intrinsics, camera.world_from_camera)
    images = (frame.depth, frame.certainty, frame.rgb, frame.latents, frame.points, frame.normals, frame.nearest, frame.edge)
    listed = arrays(*images, frame.footprint, frame.finest)
    cells = _cells(len(poses), camera.height, camera.width, frame.stride)
    eyes = np.ascontiguousarray(poses[:, :3, 3])
    return Pixels._make([intrinsics @ viewmats_array(poses), eyes, *listed, cells, camera.height, camera.width])


@cache
def _cells(batch: int, height: int, width: int, stride: int) -> np.ndarray:
    """`types.cell_of` for every pixel. [B * H * W] int64"""
    cells = np.arange(batch * (height // stride) * (width // stride)).reshape(batch, height // stride, width // stride)
    return cells.repeat(stride, axis=1).repeat(stride, axis=2).reshape(-1)


@compiled
def _project(base, column, height, near):
    """Pixel coordinates and z-depth of a texel: `base` is where it would be at height 0. Each [3]"""
    z = base[2] + column[2] * height
    scale = max(z, near)
    return (base[0] + column[0] * height) / scale, (base[1] + column[1] * height) / scale, z


@compiled
def _pixel(u, v, z, row, height, width, near):
    """The pixel of the list at (u, v) of frame `row`; -1 outside."""
    if z > near and u >= _ZERO and v >= _ZERO and u < np.float32(width) and v < np.float32(height):
        return (row * height + int(v)) * width + int(u)
    return -1


@compiled
def _column(texels, n, matrix, sizes):
    """The column of space over the texels of patch n: where its corner projects to at height 0, and what the axes add."""
    axis = texels.faces[n] // 2 % 3
    second, third = (axis + 1) % 3, (axis + 2) % 3
    size = sizes[texels.levels[n]]
    edge = np.float32(math.sqrt(np.float32(texels.heights.shape[1]))) * size
    corner, top = np.float32(texels.cells[n, second]) * edge, np.float32(texels.cells[n, third]) * edge
    along = (matrix[0, axis], matrix[1, axis], matrix[2, axis])
    across = (matrix[0, second] * size, matrix[1, second] * size, matrix[2, second] * size)
    down = (matrix[0, third] * size, matrix[1, third] * size, matrix[2, third] * size)
    start = (
        matrix[0, second] * corner + matrix[0, third] * top + matrix[0, 3],
        matrix[1, second] * corner + matrix[1, third] * top + matrix[1, 3],
        matrix[2, second] * corner + matrix[2, third] * top + matrix[2, 3],
    )
    return start, along, across, down


@compiled
def _associate(texels, meeting, frame, rules, first, end, found):
    """Settle the texels of patches first..end, and say where they fall and what becomes of them; writes `found`."""
    for r in range(first, end):
        find(texels, meeting, r, frame, rules, found, r)


@compiled
def find(texels, meeting, r, frame, rules, found, out):
    """`_associate` for patch r, into row `out` of `found`. Returns how many of its texels are hidden now."""
    side = _index(math.sqrt(texels.heights.shape[1]))
    n, row = meeting.rows[r], meeting.batch[r]
    axis, down, size = texels.faces[n] // 2 % 3, texels.faces[n] % 2, meeting.sizes[texels.levels[n]]
    edge = np.float32(side) * size
    low = np.float32(texels.cells[n, axis]) * edge
    start, along, across, up = _column(texels, n, frame.matrices[row], meeting.sizes)
    behind, hidden = texels.faces[n] >= rules.behind, 0
    met = 0  # texels at the depth of their pixels
    for line in range(side):
        b = np.float32(line) + _HALF
        first = (start[0] + up[0] * b, start[1] + up[1] * b, start[2] + up[2] * b)
        for column in range(side):
            m, a = _index(line) * side + _index(column), np.float32(column) + _HALF
            base = (first[0] + across[0] * a, first[1] + across[1] * a, first[2] + across[2] * a)
            evidence = texels.evidence[n, m]
            height = texels.heights[n, m] if evidence > _ZERO else meeting.guess[r]
            u, v, z = _project(base, along, height, rules.near_m)
            pixel = _pixel(u, v, z, row, frame.height, frame.width, rules.near_m)
            if not evidence > _ZERO:
                for _ in range(rules.settle):
                    if pixel < 0:
                        break
                    height, before = frame.points[_index(pixel), axis], pixel
                    u, v, z = _project(base, along, height, rules.near_m)
                    pixel = _pixel(u, v, z, row, frame.height, frame.width, rules.near_m)
                    if pixel == before:  # settled
                        break
            found.heights[out, m], found.z[out, m], found.inside[out, m] = height, z, pixel >= 0
            found.uv[out, m, 0], found.uv[out, m, 1] = u, v
            found.pixel[out, m], found.fate[out, m] = max(pixel, 0), 0
            if pixel < 0:
                continue
            k = _index(pixel)
            depth, certainty = frame.depth[k], frame.certainty[k]
            if certainty > _ZERO and evidence > _ZERO:
                fate = _known(evidence, size, z, depth, certainty, frame.finest[k], frame.nearest[k], rules)
                if fate in (MATCHED, COARSE_MATCHED):
                    met += 1
                    if _is_other(texels.rgb, n, m, frame.rgb, k, rules):
                        fate = 0 if behind else (HIDDEN if fate == MATCHED else COARSE_HIDDEN)
                        hidden += 1
                found.fate[out, m] = GONE if fate == COARSE_MATCHED else fate
            elif not behind and certainty > _ZERO and abs(z - depth) / depth < rules.fill_gate:
                towards = -frame.normals[k, axis] if down else frame.normals[k, axis]
                if _holds(height - low, edge, size, frame.footprint[k], towards, rules):
                    found.fate[out, m] = FILLED
    if not behind and np.float32(hidden) < max(np.float32(rules.least_hidden), rules.least_share * np.float32(met)):
        hidden = 0
        for texel in range(texels.heights.shape[1]):
            if found.fate[out, texel] == HIDDEN:
                found.fate[out, texel] = MATCHED
            elif found.fate[out, texel] == COARSE_HIDDEN:
                found.fate[out, texel] = GONE
    return 0 if behind else hidden


@compiled
def _is_other(mine, n, m, theirs, k, rules):
    """Whether texel m of patch n and pixel k differ in colour."""
    difference = abs(mine[n, m, 0] - theirs[k, 0]) + abs(mine[n, m, 1] - theirs[k, 1]) + abs(mine[n, m, 2] - theirs[k, 2])
    return difference > _THREE * rules.other_colour


@compiled
def _known(evidence, size, z, depth, certainty, finest, nearest, rules):
    """What becomes of a texel that is there and falls onto a pixel that knows its depth."""
    floor = rules.least_evidence
    variance = _ONE / max(evidence, floor) + _ONE / max(certainty, floor)
    gate = min(max(rules.gate_sigmas * math.sqrt(variance) / depth, rules.gate_low), rules.gate_high)
    if abs(z - depth) / depth < gate:
        return COARSE_MATCHED if size > rules.coarse * finest else MATCHED
    doubt = rules.gate_sigmas / (math.sqrt(max(certainty, floor)) * depth)
    doubt = min(max(doubt, rules.gate_low), rules.gate_high)
    return GONE if z < (_ONE - doubt) * nearest else 0


@compiled
def _holds(above, edge, size, footprint, towards, rules):
    """Whether a surface, so far above the foot of a patch's cube, is the patch's to hold."""
    near = above > -rules.fill_reach * edge and above < (_ONE + rules.fill_reach) * edge
    return near and footprint < rules.coarse * size and towards > rules.facing_cosine
