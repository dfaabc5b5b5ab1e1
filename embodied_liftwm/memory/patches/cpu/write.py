"""The no-gradient parts of `patch_integrate` and of `patch_write._update` on a CPU: compiled kernels, shared among threads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.memory.patches import hidden as patch_hidden
from embodied_liftwm.memory.patches import integrate as patch_integrate
from embodied_liftwm.memory.patches import look_weights as fusion
from embodied_liftwm.memory.patches import map as patch_map
from embodied_liftwm.memory.patches.association import Association, Look
from embodied_liftwm.memory.patches.backend import arrays, as_scalars, matrices_of, ranges
from embodied_liftwm.memory.patches.cpu import integrate_kernels as patch_integrate_kernels
from embodied_liftwm.memory.patches.cpu import write_kernels as patch_write_kernels
from embodied_liftwm.memory.patches.cpu.allocate import blank, in_view_from, insert
from embodied_liftwm.memory.patches.cpu.frame import texel_sizes
from embodied_liftwm.memory.patches.cpu.integrate_kernels import Weighing
from embodied_liftwm.memory.patches.cpu.write_kernels import (
    COARSE_HIDDEN,
    FILLED,
    GONE,
    HIDDEN,
    MATCHED,
    Meeting,
    Pixels,
    Rules,
    Sights,
    Texels,
)
from embodied_liftwm.memory.patches.frame import Frame
from embodied_liftwm.memory.patches.look_weights import KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import NOWHERE, Patches, PatchMap
from embodied_liftwm.threads import for_each


@cache
def _rules(dtype: np.dtype) -> Rules:
    rules = Rules(
        settle=patch_integrate.SETTLE,
        near_m=patch_integrate.NEAR_M,
        gate_sigmas=patch_integrate.GATE_SIGMAS,
        gate_low=patch_integrate.GATE_RANGE[0],
        gate_high=patch_integrate.GATE_RANGE[1],
        coarse=patch_integrate.COARSE,
        fill_gate=patch_integrate.FILL_GATE,
        fill_reach=patch_integrate.FILL_REACH,
        facing_cosine=patch_integrate.FACING_COSINE,
        least_evidence=fusion.LEAST_EVIDENCE,
        other_colour=patch_hidden.OTHER_COLOUR,
        least_hidden=patch_hidden.LEAST_HIDDEN,
        least_share=patch_hidden.LEAST_SHARE,
        behind=patch_map.HIDDEN,
    )
    return as_scalars(rules, dtype)


LEAST_PATCHES = 256
"""Patches that are worth a thread."""
CHANGED = ("heights", "rgb", "latents", "evidence")
"""What a frame changes of patches."""


class Given(NamedTuple):
    """What integrating a frame takes besides the texels."""

    pixels: Pixels
    weighing: Weighing


def given(frame: Frame, weigher: KalmanWeights) -> Given:
    """Everything about a frame that does not depend on which patches it meets."""
    return Given(_pixels(frame), _weighing(weigher))


def associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """`patch_integrate.associate`."""
    texels, pixels = Texels(*arrays(*old)), _pixels(frame)
    shape, dtype = texels.heights.shape, texels.heights.dtype
    sights = Sights(
        heights=np.empty(shape, dtype),
        pixel=np.empty(shape, np.int64),
        uv=np.empty((*shape, 2), dtype),
        z=np.empty(shape, dtype),
        inside=np.empty(shape, np.bool_),
        fate=np.empty(shape, np.uint8),
    )
    meeting, rules = _meeting(batch, guess), _rules(dtype)

    def find(first: int, end: int) -> None:
        patch_write_kernels.associate(texels, meeting, pixels, rules, first, end, sights)

    for_each(find, ranges(shape[0]))
    heights, pixel, uv, z, inside, fate = (torch.from_numpy(array) for array in sights)
    coarse = fate == COARSE_HIDDEN
    hidden = (fate == HIDDEN) | coarse
    gone, filled = (fate == GONE) | coarse, (fate == FILLED) | (fate == HIDDEN)
    return Association(heights, Look(pixel, uv, z, inside), fate == MATCHED, hidden, gone, filled)


def integrate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame, weigher: KalmanWeights) -> tuple[Patches, Tensor]:
    """`patch_integrate.integrate`, without gradients."""
    copies = {name: getattr(old, name).clone(memory_format=torch.contiguous_format) for name in CHANGED}
    new = old._replace(**copies)
    explained = np.zeros(len(frame.depth), np.uint8)
    change(new, _meeting(batch, guess), given(frame, weigher), explained)
    return new, torch.from_numpy(explained.nonzero()[0])


def change(patches: Patches, meeting: Meeting, what: Given, explained: np.ndarray) -> np.ndarray:
    """Integrate a frame into some of the `patches`, in place: what changes of them must be contiguous.

    Marks the pixels that they explain. [B * H * W] uint8

    Returns how many texels of each patch are hidden now. [R] int64
    """
    texels = Texels(*arrays(*patches))
    rules, hidden = _rules(texels.heights.dtype), np.zeros(len(meeting.rows), np.int64)

    def meet(first: int, end: int) -> None:
        patch_integrate_kernels.integrate(texels, meeting, what.pixels, what.weighing, rules, first, end, explained, hidden)

    for_each(meet, ranges(len(meeting.rows), LEAST_PATCHES))
    return hidden


def update(world: PatchMap, frame: Frame, what: Given, margin: float) -> tuple[PatchMap, Tensor, Tensor]:
    """`patch_write._update` without gradients; the map is a copy of its own.

    Also returns which of the B * N patches have something to hide. [K] int64
    """
    rows, guess = in_view_from(world, frame.camera, margin)
    # Torch would copy with its own threads, whose barriers wait for a core on a busy machine.
    copied = {name: torch.from_numpy(getattr(world, name).detach().numpy().copy()) for name in Patches._fields}
    world = replace(world, **copied)
    camera = frame.camera
    explained = np.zeros(len(frame.depth), np.uint8)
    hidden = change(world.patches(), Meeting(rows, rows // world.faces.shape[1], guess, texel_sizes()), what, explained)
    dilated = np.empty((len(camera.intrinsics), camera.height, camera.width), np.bool_)
    patch_integrate_kernels.dilate(explained.reshape(dilated.shape), dilated)
    return world, torch.from_numpy(dilated), torch.from_numpy(rows[hidden > 0])


def allocate(world: PatchMap, keys: Tensor, guess: Tensor, what: Given, least: int) -> tuple[Patches, Tensor] | None:
    """Fill the patches `keys` [B, S], and put those of `least` texels or more into the map, in place.

    Returns those and their rows, where a row of the map has too few places; otherwise None.
    """
    listed = keys.numpy()
    batch, nth = (listed != NOWHERE).nonzero()
    if not len(batch):
        return None
    new = blank(listed[batch, nth], world.evidence.shape[2], world.latents.shape[3])
    meeting = Meeting(np.arange(len(batch)), batch, guess.numpy()[batch, nth], texel_sizes())
    change(new, meeting, what, np.zeros(what.pixels.depth.shape, np.uint8))
    kept = np.flatnonzero((new.evidence.numpy() > 0).sum(1) >= least)
    if insert(world, new, batch, kept):
        return None
    return new.take(torch.from_numpy(kept)), torch.from_numpy(batch[kept])


def _meeting(batch: Tensor, guess: Tensor) -> Meeting:
    """All patches of a list."""
    rows, heights = arrays(batch, guess)
    return Meeting(np.arange(len(rows)), rows, heights, texel_sizes())


def _pixels(frame: Frame) -> Pixels:
    camera = frame.camera
    poses, matrices = matrices_of(camera)
    images = (frame.depth, frame.certainty, frame.rgb, frame.latents, frame.points, frame.normals, frame.nearest, frame.edge)
    listed = arrays(*images, frame.footprint, frame.finest)
    cells = _cells(len(poses), camera.height, camera.width, frame.stride)
    eyes = np.ascontiguousarray(poses[:, :3, 3])
    return Pixels._make([matrices, eyes, *listed, cells, camera.height, camera.width])


@cache
def _cells(batch: int, height: int, width: int, stride: int) -> np.ndarray:
    """`patch_frame.cell_of` for every pixel. [B * H * W] int64"""
    cells = np.arange(batch * (height // stride) * (width // stride)).reshape(batch, height // stride, width // stride)
    return cells.repeat(stride, axis=1).repeat(stride, axis=2).reshape(-1)


def _weighing(weigher: KalmanWeights) -> Weighing:
    limits = np.float32(fusion.MAX_EVIDENCE_RATIO), np.float32(fusion.LARGEST_LOG_FACTOR)
    if not isinstance(weigher, LearnedWeights):
        return Weighing._make([*_no_units(), *limits])
    first, last = (weigher.compare.get_submodule(name) for name in ("0", "2"))
    parameters = [parameter for layer in (first, last) for parameter in (layer.weight, layer.bias)]
    return Weighing._make([*arrays(*cast(list[Tensor], parameters)), *limits])


@cache
def _no_units() -> list[np.ndarray]:
    shapes = (0, fusion.FEATURES), (0,), (2, 0), (2,)
    return [np.zeros(shape, np.float32) for shape in shapes]
