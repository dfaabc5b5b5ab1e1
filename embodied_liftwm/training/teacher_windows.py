"""What teachers observed in an episode, brought to cells once, and what of it a window takes: tensors of fixed shapes.

Where a teacher has nothing on a frame, confidence is 0. Where it has more than a window takes, some are drawn, by the
window's own seed: the same for the same window, in any process and after any resumption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.objectives.observations import ObservedDepth, ObservedMatches, ObservedNormals, ObservedPoints
from embodied_liftwm.priors.cells import depth_cells, normal_cells, point_cells
from embodied_liftwm.priors.contract import Kind, PseudoObservations

MATCHES = 32
"""Matches of a teacher a context frame of a window."""
VIEWS = 2
"""Novel views of a teacher a window, each rendered as a target is."""
Arrays = dict[str, np.ndarray]
Observed = dict[Kind, dict[str, Any]]
"""What teachers observed in windows, by kind and prior: `ImaginedViews`, or of `objectives.observations` what fits the kind."""


class ImaginedViews(NamedTuple):
    """V views of each of B windows where the agent never was."""

    rgb: Tensor  # [B, V, 3, H, W]
    confidence: Tensor  # [B, V, H, W]
    world_from_camera: Tensor  # [B, V, 4, 4]
    frame: Tensor  # [B, V] int64: the frame of the episode that it was imagined from


class Window(NamedTuple):
    """Which frames of an episode are looked at."""

    context: np.ndarray  # [K] int64, ascending
    poses: np.ndarray  # [T + 1, 4, 4] float32 believed, of the whole episode


def on_cells(found: PseudoObservations, kind: Kind, stride: int) -> Arrays | None:
    """What a window needs of one kind of an episode, maps on the grid of cells; None where the teacher does not give it.

    Confidence, and what has a fixed scale, is kept in half precision, colours in bytes.
    """
    if kind == "depth" and found.depth is not None:
        values, confidence = depth_cells(found.depth, stride)
        return {"values": _array(values), "confidence": _half(confidence), "frames": _array(found.depth.frames)}
    if kind == "normals" and found.normals is not None:
        values, confidence = normal_cells(found.normals, stride)
        return {"values": _half(values), "confidence": _half(confidence), "frames": _array(found.normals.frames)}
    if kind == "points" and found.points is not None:
        points, confidence = point_cells(found.points, stride)
        numbers = {"frames": _array(found.points.frames), "references": _array(found.points.references)}
        return {"points": _array(points), "confidence": _half(confidence)} | numbers
    if kind == "matches" and found.matches is not None:
        return {name: _array(getattr(found.matches, name)) for name in ("pixels", "confidence", "frames")}
    if kind == "views" and found.views is not None:
        rgb = (found.views.rgb.clamp(0, 1) * 255).round().byte()
        rest = {name: _array(getattr(found.views, name)) for name in ("world_from_camera", "frames")}
        return {"rgb": _array(rgb), "confidence": _half(found.views.confidence)} | rest
    return None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


def _half(tensor: Tensor) -> np.ndarray:
    return _array(tensor.half())


def depth(kept: Arrays, window: Window, rng: np.random.Generator) -> ObservedDepth:
    """Depth of the context frames: values and confidence [K, h, w]."""
    return ObservedDepth(*_maps(kept, window, rng))


def normals(kept: Arrays, window: Window, rng: np.random.Generator) -> ObservedNormals:
    """Normals of the context frames: values [K, 3, h, w], confidence [K, h, w]."""
    return ObservedNormals(*_maps(kept, window, rng))


def _maps(kept: Arrays, window: Window, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    entries = _entries(kept["frames"], window.context, rng)
    return _take(kept["values"], entries), _take(kept["confidence"], entries)


def points(kept: Arrays, window: Window, rng: np.random.Generator) -> ObservedPoints:
    """One pointmap a context frame, of those there are: points [K, h, w, 3], confidence, reference_from_frame [K, 4, 4]."""
    entries = _entries(kept["frames"], window.context, rng)
    references = np.where(entries >= 0, _take(kept["references"], entries).numpy(), window.context)
    moved = _relative(window.poses, references, window.context)
    return ObservedPoints(_take(kept["points"], entries), _take(kept["confidence"], entries), moved)


def matches(kept: Arrays, window: Window, rng: np.random.Generator) -> ObservedMatches:
    """Matches with one end, at least, in the context, up to M = `MATCHES` a context frame; rows of zeros fill the rest."""
    frames, count = kept["frames"], MATCHES * len(window.context)
    usable = np.isin(frames, window.context) & (kept["confidence"] > 0)[:, None]
    number, end = np.nonzero(usable)
    if len(number) > count:
        drawn = np.sort(rng.choice(len(number), size=count, replace=False))
        number, end = number[drawn], end[drawn]
    lifted, partner = frames[number, end], frames[number, 1 - end]
    found = ObservedMatches(
        frame=torch.from_numpy(np.searchsorted(window.context, lifted).astype(np.int64)),
        pixels=torch.from_numpy(kept["pixels"][number, end]),
        partners=torch.from_numpy(kept["pixels"][number, 1 - end]),
        confidence=torch.from_numpy(kept["confidence"][number]),
        partner_from_frame=_relative(window.poses, partner, lifted),
    )
    return ObservedMatches(*(_filled(tensor, count) for tensor in found))


def views(kept: Arrays, window: Window, rng: np.random.Generator) -> ImaginedViews:
    """Views imagined from context frames, else from frames between: rgb [V, 3, H, W] uint8, confidence, cameras, frame [V]."""
    frames, context = kept["frames"], window.context
    options = np.flatnonzero(np.isin(frames, context))
    if not len(options):
        options = np.flatnonzero((frames >= context[0]) & (frames <= context[-1]))
    entries = np.full(VIEWS, -1)
    drawn = rng.permutation(options)[:VIEWS]
    entries[: len(drawn)] = drawn
    there = torch.from_numpy(entries >= 0)
    poses, own = _take(kept["world_from_camera"], entries), torch.from_numpy(np.array(window.poses[context[0]]))
    return ImaginedViews(
        _take(kept["rgb"], entries),
        _take(kept["confidence"], entries),
        torch.where(there[:, None, None], poses, own),
        torch.where(there, _take(frames, entries), int(context[0])),
    )


PICK: dict[Kind, Callable[[Arrays, Window, np.random.Generator], Any]] = {
    "depth": depth, "normals": normals, "points": points, "matches": matches, "views": views
}  # fmt: skip
"""What a window takes of each kind."""


def _entries(frames: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each wanted frame the number of an entry on it, -1 where there is none; of several, one is drawn."""
    found = np.full(len(wanted), -1)
    for k, frame in enumerate(wanted):
        options = np.flatnonzero(frames == frame)
        if len(options):
            found[k] = options[rng.integers(len(options))]
    return found


def _relative(poses: np.ndarray, to: np.ndarray, frames: np.ndarray) -> Tensor:
    """Poses of the cameras of `frames` in those of the frames `to`. [N, 4, 4] float32"""
    moved = np.linalg.inv(poses[to].astype(np.float64)) @ poses[frames]
    return torch.from_numpy(moved.astype(np.float32))


def _take(array: np.ndarray, entries: np.ndarray) -> Tensor:
    """Rows of an array, zeros for -1."""
    found = np.zeros((len(entries), *array.shape[1:]), array.dtype)
    found[entries >= 0] = array[entries[entries >= 0]]
    return torch.from_numpy(found)


def _filled(tensor: Tensor, count: int) -> Tensor:
    """Rows of zeros added up to `count`; of poses, whose rows of zeros would be none, the identity."""
    fill = torch.eye(4) if tensor.shape[1:] == (4, 4) else tensor.new_zeros(tensor.shape[1:])
    return torch.cat([tensor, fill.to(tensor.dtype).expand(count - len(tensor), *fill.shape)])


def map_observed(observed: Observed, change: Callable[[Tensor], Tensor]) -> Observed:
    """The same observations with every tensor changed."""
    return {kind: {name: type(o)(*map(change, o)) for name, o in of.items()} for kind, of in observed.items()}


def as_number(tensor: Tensor) -> Tensor:
    """What is kept in half precision or in bytes as float32, colours in [0, 1]; whole numbers stay."""
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255.0
    return tensor.float() if tensor.is_floating_point() else tensor
