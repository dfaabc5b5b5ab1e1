"""Patches take in a frame, one at a time: `integrate` and parts of `write` on a CPU, without gradients.

The texels of a patch are associated, weighed and blended in place. Kernels release the GIL; threads take different patches, and
pixels that several explain get the same value.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays, as_scalars
from embodied_liftwm.kernels import compiled, exp
from embodied_liftwm.memory.patches.cpu.allocate import blank, in_view, insert
from embodied_liftwm.memory.patches.cpu.associate import (
    COARSE_HIDDEN,
    FILLED,
    GONE,
    HIDDEN,
    MATCHED,
    Meeting,
    Pixels,
    Sights,
    Texels,
    find,
    meeting_of,
    pixels_of,
)
from embodied_liftwm.memory.patches.look_weights import FEATURES, KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import NOWHERE, Patches, PatchMap, texel_sizes
from embodied_liftwm.memory.patches.rules import LEAST_TEXELS, MEETING
from embodied_liftwm.memory.patches.types import Frame
from embodied_liftwm.threads import for_each, ranges

_ZERO, _HALF, _ONE, _TWO, _THREE = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0), np.float32(3.0)
_FEATURES = FEATURES
_index = np.uint64  # numba checks signed indices for being negative
LEAST_PATCHES = 256
"""Patches that are worth a thread."""
CHANGED = ("heights", "rgb", "latents", "evidence")
"""What a frame changes of patches."""


class Weighing(NamedTuple):
    """The network of `LearnedWeights`; Kalman's have no units."""

    first: np.ndarray  # [units, 8]
    first_bias: np.ndarray  # [units]
    last: np.ndarray  # [2, units]
    last_bias: np.ndarray  # [2]


class Scratch(NamedTuple):
    """The matched texels of one patch."""

    texel: np.ndarray  # [M] int64
    features: np.ndarray  # [8, M]
    hidden: np.ndarray  # [M]
    factors: np.ndarray  # [2, M]


class Given(NamedTuple):
    """What integrating a frame takes besides the texels."""

    pixels: Pixels
    weighing: Weighing


def given(frame: Frame, weigher: KalmanWeights) -> Given:
    """Everything about a frame that does not depend on which patches it meets."""
    return Given(pixels_of(frame), _weighing(weigher))


def integrate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame, weigher: KalmanWeights) -> tuple[Patches, Tensor]:
    """`integrate.integrate`."""
    copies = {name: getattr(old, name).clone(memory_format=torch.contiguous_format) for name in CHANGED}
    new = old._replace(**copies)
    explained = np.zeros(len(frame.depth), np.uint8)
    change(new, meeting_of(batch, guess), given(frame, weigher), explained)
    return new, torch.from_numpy(explained.nonzero()[0])


def change(patches: Patches, meeting: Meeting, what: Given, explained: np.ndarray) -> np.ndarray:
    """Integrate a frame into some of the `patches`, in place: what changes of them must be contiguous.

    Marks the pixels that they explain. [B * H * W] uint8

    Returns how many texels of each patch are hidden now. [R] int64
    """
    texels = Texels(*arrays(*patches))
    rules, hidden = as_scalars(MEETING, texels.heights.dtype), np.zeros(len(meeting.rows), np.int64)

    def meet(first: int, end: int) -> None:
        _integrate(texels, meeting, what.pixels, what.weighing, rules, first, end, explained, hidden)

    for_each(meet, ranges(len(meeting.rows), LEAST_PATCHES))
    return hidden


def update(world: PatchMap, frame: Frame, what: Given) -> tuple[PatchMap, Tensor, Tensor]:
    """`write._update`; the map is a copy of its own.

    Also returns which of the B * N patches have something to hide. [K] int64
    """
    rows, guess = in_view(world, frame.camera)
    # Torch would copy with its own threads, whose barriers wait for a core on a busy machine.
    copied = {name: torch.from_numpy(getattr(world, name).detach().numpy().copy()) for name in Patches._fields}
    world = replace(world, **copied)
    camera = frame.camera
    explained = np.zeros(len(frame.depth), np.uint8)
    hidden = change(world.patches(), Meeting(rows, rows // world.faces.shape[1], guess, texel_sizes()), what, explained)
    dilated = np.empty((len(camera.intrinsics), camera.height, camera.width), np.bool_)
    dilate(explained.reshape(dilated.shape), dilated)
    return world, torch.from_numpy(dilated), torch.from_numpy(rows[hidden > 0])


def allocate(world: PatchMap, keys: Tensor, guess: Tensor, what: Given) -> tuple[Patches, Tensor] | None:
    """Fill the patches `keys` [B, S], and put those of enough texels into the map, in place.

    Returns those and their rows, where a row of the map has too few places; otherwise None.
    """
    listed = keys.numpy()
    batch, nth = (listed != NOWHERE).nonzero()
    if not len(batch):
        return None
    new = blank(listed[batch, nth], world.evidence.shape[2], world.latents.shape[3])
    meeting = Meeting(np.arange(len(batch)), batch, guess.numpy()[batch, nth], texel_sizes())
    change(new, meeting, what, np.zeros(what.pixels.depth.shape, np.uint8))
    kept = np.flatnonzero((new.evidence.numpy() > 0).sum(1) >= LEAST_TEXELS)
    if insert(world, new, batch, kept):
        return None
    return new.take(torch.from_numpy(kept)), torch.from_numpy(batch[kept])


def _weighing(weigher: KalmanWeights) -> Weighing:
    if not isinstance(weigher, LearnedWeights):
        return _no_units()
    first, last = (weigher.compare.get_submodule(name) for name in ("0", "2"))
    parameters = [parameter for layer in (first, last) for parameter in (layer.weight, layer.bias)]
    return Weighing(*arrays(*cast(list[Tensor], parameters)))


@cache
def _no_units() -> Weighing:
    return Weighing(*(np.zeros(shape, np.float32) for shape in ((0, _FEATURES), (0,), (2, 0), (2,))))


@compiled
def _integrate(texels, meeting, frame, weighing, rules, first, end, explained, hidden):
    """Integrate a frame into patches first..end of a meeting, in place.

    Args:
        explained: [B * H * W] uint8, set to one where a texel is what the pixel sees.
        hidden: [R] int64 texels that are hidden now, written.
    """
    count = texels.heights.shape[1]
    real = texels.heights.dtype
    found = Sights(
        np.empty((1, count), real),
        np.empty((1, count), np.int64),
        np.empty((1, count, 2), real),
        np.empty((1, count), real),
        np.empty((1, count), np.bool_),
        np.empty((1, count), np.uint8),
    )
    scratch = Scratch(
        np.empty(count, np.int64), np.empty((_FEATURES, count), real), np.empty(count, real), np.empty((2, count), real)
    )
    for r in range(first, end):
        hidden[r] = find(texels, meeting, r, frame, rules, found, 0)
        matched = _matched(found, scratch)
        if len(weighing.first_bias) and matched:
            _compare(texels, meeting, r, frame, rules, found, matched, scratch)
            _weigh(weighing, rules, matched, scratch)
        else:
            scratch.factors[:, :matched] = _ONE
        _blend(texels, meeting, r, frame, rules, found, scratch, explained)


@compiled
def _matched(found, scratch):
    """Number the texels that match; returns how many do."""
    count = 0
    for m in range(found.fate.shape[1]):
        if found.fate[0, m] == MATCHED:
            scratch.texel[count] = m
            count += 1
    return count


@compiled
def _limited(value, limit):
    return min(max(value, -limit), limit)


@compiled
def _compare(texels, meeting, r, frame, rules, found, matched, scratch):
    """`look_weights.compare` of the matched texels, into `scratch.features`."""
    n = meeting.rows[r]
    size, features = meeting.sizes[texels.levels[n]], scratch.features
    channels = texels.latents.shape[2]
    for k in range(matched):
        m = _index(scratch.texel[k])
        pixel = _index(found.pixel[0, m])
        cell = _index(frame.cells[pixel])
        depth, seen = frame.depth[pixel], max(frame.certainty[pixel], rules.least_evidence)
        kept = max(texels.evidence[n, m], rules.least_evidence)
        behind = found.z[0, m] - depth
        latents, colours = _ZERO, _ZERO
        for d in range(channels):
            latents += abs(texels.latents[n, m, d] - frame.latents[cell, d])
        for c in range(3):
            colours += abs(texels.rgb[n, m, c] - frame.rgb[pixel, c])
        features[0, k] = _limited(np.float32(20.0) * behind / depth, _TWO)
        features[1, k] = min(abs(behind) / math.sqrt(_ONE / seen + _ONE / kept), _TWO)
        features[2, k] = _limited(np.float32(0.25) * math.log(kept / seen), _TWO)
        features[3, k] = _limited(_THREE - _HALF * math.log(seen * depth * depth), _TWO)
        features[4, k] = min(latents / np.float32(channels), _THREE)
        features[5, k] = min(np.float32(5.0 / 3.0) * colours, _THREE)
        features[6, k] = _limited(math.log(size / frame.footprint[pixel]), _TWO)
        features[7, k] = _ONE if frame.edge[pixel] else _ZERO


@compiled
def _weigh(weighing, rules, matched, scratch):
    """`LearnedWeights.factors`, with texels innermost, because that vectorises."""
    features, hidden, factors = scratch.features, scratch.hidden, scratch.factors
    for i in range(2):
        factors[i, :matched] = weighing.last_bias[i]
    for u in range(len(weighing.first_bias)):
        hidden[:matched] = weighing.first_bias[u]
        for f in range(_FEATURES):
            weight, feature = weighing.first[u, f], features[f]
            for k in range(matched):
                hidden[k] += weight * feature[k]
        seen, kept, to_seen, to_kept = factors[0], factors[1], weighing.last[0, u], weighing.last[1, u]
        for k in range(matched):
            value = hidden[k] / (_ONE + exp(-hidden[k]))
            seen[k] += to_seen * value
            kept[k] += to_kept * value
    for i in range(2):
        factor = factors[i]
        for k in range(matched):
            tanh = _ONE - _TWO / (_ONE + exp(_TWO * factor[k]))
            factor[k] = exp(rules.largest_log_factor * tanh)


@compiled
def _blend(texels, meeting, r, frame, rules, found, scratch, explained):
    """Let the texels of a patch become what they are and see, by shares of their evidence."""
    n, start = meeting.rows[r], meeting.batch[r] * frame.height * frame.width
    eye = frame.eyes[meeting.batch[r], texels.faces[n] // 2 % 3]
    matched = 0
    for m in range(texels.heights.shape[1]):
        fate, pixel = found.fate[0, m], _index(found.pixel[0, m])
        if fate in (GONE, COARSE_HIDDEN):
            texels.evidence[n, m] = _ZERO
        if fate not in (MATCHED, FILLED, HIDDEN):
            continue
        seen, kept = frame.certainty[pixel], _ZERO
        if fate == MATCHED:
            kept = min(texels.evidence[n, m], rules.max_evidence_ratio * seen) * scratch.factors[1, matched]
            seen *= scratch.factors[0, matched]
            matched += 1
        total = seen + kept
        share = seen / max(total, rules.least_evidence)
        explained[pixel], texels.evidence[n, m] = 1, total
        scale = frame.depth[pixel] / max(found.z[0, m], rules.near_m)
        height = eye + (found.heights[0, m] - eye) * scale
        texels.heights[n, m] += share * (height - texels.heights[n, m])
        _blend_colour(texels.rgb, n, m, found.uv[0, m, 0], found.uv[0, m, 1], pixel, start, share, frame)
        cell = _index(frame.cells[pixel])
        for d in range(texels.latents.shape[2]):
            texels.latents[n, m, d] += share * (frame.latents[cell, d] - texels.latents[n, m, d])


@compiled
def _blend_colour(rgb, n, m, u, v, pixel, start, share, frame):
    """Blend the frame's colour at (u, v) into rgb[n, m]: bilinear, but of the pixel itself at an edge.

    Args:
        start: first pixel of the frame in the list.
    """
    if frame.edge[pixel]:
        for k in range(3):
            rgb[n, m, k] += share * (frame.rgb[pixel, k] - rgb[n, m, k])
        return
    x, y = u - _HALF, v - _HALF
    column, line = int(math.floor(x)), int(math.floor(y))
    right, down = x - np.float32(column), y - np.float32(line)
    left_column, right_column = max(column, 0), min(column + 1, frame.width - 1)
    upper_row, lower_row = start + max(line, 0) * frame.width, start + min(line + 1, frame.height - 1) * frame.width
    a, b = _index(upper_row + left_column), _index(upper_row + right_column)
    c, d = _index(lower_row + left_column), _index(lower_row + right_column)
    for k in range(3):
        upper = frame.rgb[a, k] + right * (frame.rgb[b, k] - frame.rgb[a, k])
        lower = frame.rgb[c, k] + right * (frame.rgb[d, k] - frame.rgb[c, k])
        rgb[n, m, k] += share * (upper + down * (lower - upper) - rgb[n, m, k])


@compiled
def dilate(explained, around):
    """Which pixels have one that is explained [B, H, W] uint8 among the 3 x 3 around them. [B, H, W] bool, written"""
    last_row, last_column = explained.shape[1] - 1, explained.shape[2] - 1
    line = np.empty(explained.shape[2], np.uint8)
    for b in range(explained.shape[0]):
        for y in range(explained.shape[1]):
            above, here, below = explained[b, max(y - 1, 0)], explained[b, y], explained[b, min(y + 1, last_row)]
            for x in range(last_column + 1):
                line[x] = above[x] | here[x] | below[x]
            for x in range(last_column + 1):
                around[b, y, x] = (line[max(x - 1, 0)] | line[x] | line[min(x + 1, last_column)]) > 0
