"""Which patches of a map are in view and which ones a frame wants, on a CPU: compiled kernels, a row of the map a task."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.backend import arrays, viewmats_of
from embodied_liftwm.memory.patches.cpu import allocate_kernels as patch_allocate_kernels
from embodied_liftwm.memory.patches.cpu.allocate_kernels import Lattice, Row, Shown
from embodied_liftwm.memory.patches.cpu.frame import texel_sizes
from embodied_liftwm.memory.patches.frame import Frame
from embodied_liftwm.memory.patches.map import NOWHERE, OFFSET, Patches, PatchMap, side_of, unpack_keys
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each


@cache
def _lattice(side: int) -> Lattice:
    return Lattice(side, texel_sizes(), OFFSET, NOWHERE)


def _rows(world: PatchMap) -> list[Row]:
    return [
        Row._make(row)
        for row in zip(*arrays(world.cells, world.faces, world.levels, world.heights, world.evidence), strict=True)
    ]


def in_view(world: PatchMap, camera: Camera, margin: float) -> Tensor:
    """Occupied patches whose cubes, with a margin in edges of them, reach into the image. [R] int64 of B * N"""
    return torch.from_numpy(in_view_from(world, camera, margin)[0])


def in_view_from(world: PatchMap, camera: Camera, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """`in_view`, and the mean heights of these patches. [R] metres"""
    batch, budget = world.faces.shape
    found, means, counts = np.empty((batch, budget), np.int64), np.empty((batch, budget), np.float32), [0] * batch
    rows, lattice = _rows(world), _lattice(side_of(world.evidence))
    intrinsics, poses = arrays(camera.intrinsics, camera.world_from_camera)
    viewmats = viewmats_of(poses)
    half = np.array([0.5 * camera.width, 0.5 * camera.height], np.float32) / intrinsics[:, (0, 1), (0, 1)]

    def find(b: int) -> None:
        given = rows[b], lattice, viewmats[b], half[b], np.float32(margin)
        counts[b] = patch_allocate_kernels.in_view(*given, found[b], means[b])

    for_each(find, [(b,) for b in range(batch)])
    listed = [found[b, : counts[b]] + b * budget for b in range(batch)]
    return np.concatenate(listed), np.concatenate([means[b, : counts[b]] for b in range(batch)])


def wanted(world: PatchMap, frame: Frame, explained: Tensor, least: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches that unexplained pixels fall into, by ascending key.

    Args:
        explained: the pixels that need no patch. [B, H, W] bool
        least: pixels without which a patch is not wanted.

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
        most[b] = patch_allocate_kernels.wanted(pixels[b], rows[b], lattice, least, keys[b], counts[b], guess[b])

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
