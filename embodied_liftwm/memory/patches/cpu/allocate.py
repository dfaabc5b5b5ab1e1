"""Which patches of a map are in view and which ones a frame wants: part of `write` on a CPU, a row of the map a task.

Kernels release the GIL and write to their own arguments alone.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays
from embodied_liftwm.geometry.se3 import viewmats_array
from embodied_liftwm.kernels import compiled, project
from embodied_liftwm.memory.patches.map import NOWHERE, OFFSET, Patches, PatchMap, side_of, texel_sizes, unpack_keys
from embodied_liftwm.memory.patches.rules import LEAST_PIXELS, REACH
from embodied_liftwm.memory.patches.types import Frame
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class Lattice(NamedTuple):
    """What is the same for all patches."""

    side: int  # texels a side of a patch
    sizes: np.ndarray  # [levels] edge of a texel, metres
    offset: int  # cells lie in [-offset, offset)
    nowhere: int  # key of what is no patch


class Row(NamedTuple):
    """N patches of M texels: see `PatchMap`."""

    cells: np.ndarray  # [N, 3] int64
    faces: np.ndarray  # [N] int64
    levels: np.ndarray  # [N] int64
    heights: np.ndarray  # [N, M] metres
    evidence: np.ndarray  # [N, M]


class Shown(NamedTuple):
    """One frame's pixels: see `Frame`."""

    explained: np.ndarray  # [K] bool
    certainty: np.ndarray  # [K]
    points: np.ndarray  # [K, 3]
    normals: np.ndarray  # [K, 3]
    finest: np.ndarray  # [K]


@cache
def _lattice(side: int) -> Lattice:
    return Lattice(side, texel_sizes(), OFFSET, NOWHERE)


def _rows(world: PatchMap) -> list[Row]:
    return [
        Row._make(row)
        for row in zip(*arrays(world.cells, world.faces, world.levels, world.heights, world.evidence), strict=True)
    ]


def in_view(world: PatchMap, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Occupied patches that reach into the image, [R] int64 of B * N, and their mean heights. [R] metres"""
    batch, budget = world.faces.shape
    found, means, counts = np.empty((batch, budget), np.int64), np.empty((batch, budget), np.float32), [0] * batch
    rows, lattice = _rows(world), _lattice(side_of(world.evidence))
    intrinsics, poses = arrays(camera.intrinsics, camera.world_from_camera)
    viewmats = viewmats_array(poses)
    half = np.array([0.5 * camera.width, 0.5 * camera.height], np.float32) / intrinsics[:, (0, 1), (0, 1)]

    def find(b: int) -> None:
        given = rows[b], lattice, viewmats[b], half[b], np.float32(REACH)
        counts[b] = _in_view(*given, found[b], means[b])

    for_each(find, [(b,) for b in range(batch)])
    listed = [found[b, : counts[b]] + b * budget for b in range(batch)]
    return np.concatenate(listed), np.concatenate([means[b, : counts[b]] for b in range(batch)])


def wanted(world: PatchMap, frame: Frame, explained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches that unexplained pixels fall into, by ascending key.

    Args:
        explained: the pixels that need no patch. [B, H, W] bool

    Returns:
        Keys [B, L], `NOWHERE` after the last; numbers of their pixels [B, L] float32, 0 for those that are in the map or have
        too few; mean heights of their pixels [B, L]. L is the largest number of unexplained pixels of a row.
    """
    batch = len(explained)
    rows, lattice = _rows(world), _lattice(side_of(world.evidence))
    flat = explained.flatten(), frame.certainty, frame.points, frame.normals, frame.finest
    by_row = (array.reshape(batch, -1, *array.shape[1:]) for array in arrays(*flat))
    images = zip(*by_row, strict=True)
    pixels = [Shown._make(image) for image in images]
    shape = (batch, explained[0].numel())
    keys, counts, guess = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.float32)
    most = [0] * batch

    def sort(b: int) -> None:
        most[b] = _sort(pixels[b], rows[b], lattice, LEAST_PIXELS, keys[b], counts[b], guess[b])

    for_each(sort, [(b,) for b in range(batch)])
    return tuple(torch.from_numpy(array[:, : max(most)]) for array in (keys, counts, guess))  # type: ignore[return-value]


def blank(keys: np.ndarray, texels: int, channels: int) -> Patches:
    """Empty patches of `keys` [R], of M `texels` with D `channels`."""
    cells, faces, levels = unpack_keys(torch.from_numpy(keys))
    zeros = (np.zeros((len(keys), texels, *more), np.float32) for more in ((), (3,), (channels,), ()))
    return Patches(cells, faces, levels, *(torch.from_numpy(array) for array in zeros))


def insert(world: PatchMap, new: Patches, batch: np.ndarray, kept: np.ndarray) -> bool:
    """Put the patches `kept` [K] of `new` [R] into free places of their rows `batch` [R], in place.

    Returns False, with nothing done, where a row has too few.
    """
    free = ~(world.evidence.numpy().max(2) > 0)
    wanted = np.bincount(batch[kept], minlength=len(free))
    if (wanted > free.sum(1)).any():
        return False
    budget = free.shape[1]
    places = np.concatenate([np.flatnonzero(row)[: wanted[b]] + b * budget for b, row in enumerate(free)])
    for held, values in zip(world.patches(), new, strict=True):
        held.numpy()[places] = values.numpy()[kept]
    return True


@compiled
def _occupied(evidence):
    """Whether any of a patch's texels [M] holds something."""
    for value in evidence:  # noqa: SIM110
        if value > _ZERO:
            return True
    return False


@compiled
def _in_view(row, lattice, viewmat, half_width, margin, found, means):
    """Number the occupied patches whose cubes reach into an image.

    Args:
        viewmat: camera_from_world. [3, 4]
        half_width: tangents of half the fields of view, across and down, float32. [2]
        margin: reach of a patch beyond its middle, in edges of its cube, float32.
        found: [N] int64, written. Returns how many.
        means: their mean heights. [N] metres, written
    """
    count = 0
    for n in range(len(row.faces)):
        if not _occupied(row.evidence[n]):
            continue
        edge = np.float32(lattice.side) * lattice.sizes[row.levels[n]]
        a, b, c = (
            (np.float32(row.cells[n, 0]) + _HALF) * edge,
            (np.float32(row.cells[n, 1]) + _HALF) * edge,
            (np.float32(row.cells[n, 2]) + _HALF) * edge,
        )
        x, y, z = project(viewmat, a, b, c)
        reach = margin * edge
        ahead, beside = max(z, _ZERO), np.float32(1.5) * reach
        if z > -reach and abs(x) < ahead * half_width[0] + beside and abs(y) < ahead * half_width[1] + beside:
            found[count], means[count] = n, _mean_height(row.heights, row.evidence, n)
            count += 1
    return count


@compiled
def _mean_height(heights, evidence, n):
    """`Patches.mean_heights` of patch n."""
    total, count = _ZERO, _ZERO
    for m in range(heights.shape[1]):
        if evidence[n, m] > _ZERO:
            total += heights[n, m]
            count += _ONE
    return total / max(count, _ONE)


@compiled
def _key(x, y, z, face, level, offset):
    """`map.patch_keys` of one patch."""
    x, y, z = (
        min(max(x, -offset), offset - 1) + offset,
        min(max(y, -offset), offset - 1) + offset,
        min(max(z, -offset), offset - 1) + offset,
    )
    return (((x * 2 * offset + y) * 2 * offset + z) * 16 + face) * 32 + level


@compiled
def _unexplained(shown, lattice, keys, heights):
    """Keys of the patches that the unexplained pixels fall into, and the pixels' heights: both [K], written.

    Returns how many there are.
    """
    count, top = 0, len(lattice.sizes) - 1
    for k in range(len(shown.finest)):
        if shown.explained[k] or not shown.certainty[k] > _ZERO:
            continue
        face, largest = 0, abs(shown.normals[k, 0])
        for axis in (1, 2):
            if abs(shown.normals[k, axis]) > largest:
                face, largest = axis, abs(shown.normals[k, axis])
        heights[count] = shown.points[k, face]
        face = 2 * face + (1 if shown.normals[k, face] < _ZERO else 0)
        octaves: float = math.log2(shown.finest[k] / lattice.sizes[0])
        level = min(max(int(np.rint(octaves + octaves)), 0), top)
        edge = np.float32(lattice.side) * lattice.sizes[level]
        keys[count] = _key(
            int(math.floor(shown.points[k, 0] / edge)),
            int(math.floor(shown.points[k, 1] / edge)),
            int(math.floor(shown.points[k, 2] / edge)),
            face,
            level,
            lattice.offset,
        )
        count += 1
    return count


@compiled
def _sort(shown, row, lattice, least, keys, counts, guess):
    """Sort the unexplained pixels into patches, by ascending key.

    Args:
        least: pixels without which a patch is not wanted.
        keys: of the patches, `nowhere` after the last. [K] int64, written
        counts: pixels of each, 0 where it is in the map or has too few of them. [K], written
        guess: mean height of the pixels of each. [K] metres, written

    Returns how many unexplained pixels there are.
    """
    listed, heights = np.empty_like(keys), np.empty_like(guess)
    count = _unexplained(shown, lattice, listed, heights)
    order = np.argsort(listed[:count], kind="mergesort")
    known = _known_keys(row, lattice)
    keys[:], counts[:], guess[:] = lattice.nowhere, _ZERO, _ZERO
    groups = 0
    for i in range(count):
        k = order[i]
        if i == 0 or listed[k] != keys[groups - 1]:
            keys[groups] = listed[k]
            groups += 1
        counts[groups - 1] += _ONE
        guess[groups - 1] += heights[k]
    for g in range(groups):
        guess[g] /= counts[g]
        place = np.searchsorted(known, keys[g])
        if counts[g] < least or (place < len(known) and known[place] == keys[g]):
            counts[g] = _ZERO
    return count


@compiled
def _known_keys(row, lattice):
    """Keys of the patches of a map, ascending."""
    known = np.empty(len(row.faces), np.int64)
    count = 0
    for n in range(len(row.faces)):
        if _occupied(row.evidence[n]):
            x, y, z = row.cells[n, 0], row.cells[n, 1], row.cells[n, 2]
            known[count] = _key(x, y, z, row.faces[n], row.levels[n], lattice.offset)
            count += 1
    known = known[:count]
    known.sort()
    return known
