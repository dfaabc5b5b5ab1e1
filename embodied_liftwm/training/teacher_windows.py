"""What teachers said of an episode, brought to cells once, and what of it a window takes: arrays of fixed shapes.

Where a teacher has nothing on a frame, confidence is 0. Where it has more than a window takes, some are drawn, by the
window's own seed: the same for the same window, in any process and after any resumption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.priors.cells import depth_cells, normal_cells, point_cells
from embodied_liftwm.priors.contract import Gift, PseudoObservations

MATCHES = 32
"""Matches of a teacher a context frame of a window."""
VIEWS = 2
"""Novel views of a teacher a window, each rendered as a target is."""
PREFIX = "teachers"
Arrays = dict[str, np.ndarray]


class Window(NamedTuple):
    """Which frames of an episode are looked at."""

    context: np.ndarray  # [K] int64, ascending
    poses: np.ndarray  # [T + 1, 4, 4] float32 believed, of the whole episode


def on_cells(found: PseudoObservations, gift: Gift, stride: int) -> Arrays | None:
    """What a window needs of one kind of an episode, maps on the grid of cells; None where the teacher does not give it.

    Confidence, and what has a fixed scale, is kept in half precision, colours in bytes.
    """
    if gift == "depth" and found.depth is not None:
        values, confidence = depth_cells(found.depth, stride)
        return {"values": _array(values), "confidence": _half(confidence), "frames": _array(found.depth.frames)}
    if gift == "normals" and found.normals is not None:
        values, confidence = normal_cells(found.normals, stride)
        return {"values": _half(values), "confidence": _half(confidence), "frames": _array(found.normals.frames)}
    if gift == "points" and found.points is not None:
        points, confidence = point_cells(found.points, stride)
        numbers = {"frames": _array(found.points.frames), "references": _array(found.points.references)}
        return {"points": _array(points), "confidence": _half(confidence)} | numbers
    if gift == "matches" and found.matches is not None:
        return {name: _array(getattr(found.matches, name)) for name in ("pixels", "confidence", "frames")}
    if gift == "views" and found.views is not None:
        rgb = (found.views.rgb.clamp(0, 1) * 255).round().byte()
        rest = {name: _array(getattr(found.views, name)) for name in ("world_from_camera", "frames")}
        return {"rgb": _array(rgb), "confidence": _half(found.views.confidence)} | rest
    return None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().numpy()


def _half(tensor: Tensor) -> np.ndarray:
    return _array(tensor.half())


def depth_or_normals(kept: Arrays, window: Window, rng: np.random.Generator) -> Arrays:
    """Maps of the context frames: values [K, ..., h, w], confidence [K, h, w]."""
    entries = _entries(kept["frames"], window.context, rng)
    return {name: _take(kept[name], entries) for name in ("values", "confidence")}


def points(kept: Arrays, window: Window, rng: np.random.Generator) -> Arrays:
    """One pointmap a context frame, of those there are: points [K, h, w, 3], confidence, reference_from_frame [K, 4, 4]."""
    entries = _entries(kept["frames"], window.context, rng)
    references = np.where(entries >= 0, _take(kept["references"], entries), window.context)
    moved = np.linalg.inv(window.poses[references].astype(np.float64)) @ window.poses[window.context]
    found = {name: _take(kept[name], entries) for name in ("points", "confidence")}
    return found | {"reference_from_frame": moved.astype(np.float32)}


def matches(kept: Arrays, window: Window, rng: np.random.Generator) -> Arrays:
    """Matches with one end, at least, in the context, up to M = `MATCHES` a context frame: the fields of `TaughtMatches`."""
    frames, count = kept["frames"], MATCHES * len(window.context)
    usable = np.isin(frames, window.context) & (kept["confidence"] > 0)[:, None]
    number, end = np.nonzero(usable)
    if len(number) > count:
        drawn = np.sort(rng.choice(len(number), size=count, replace=False))
        number, end = number[drawn], end[drawn]
    lifted, partner = frames[number, end], frames[number, 1 - end]
    moved = np.linalg.inv(window.poses[partner].astype(np.float64)) @ window.poses[lifted]
    found = {
        "frame": np.searchsorted(window.context, lifted).astype(np.int64),
        "pixels": kept["pixels"][number, end],
        "partners": kept["pixels"][number, 1 - end],
        "confidence": kept["confidence"][number],
        "partner_from_frame": moved.astype(np.float32),
    }
    return {name: _filled(array, count) for name, array in found.items()}


def views(kept: Arrays, window: Window, rng: np.random.Generator) -> Arrays:
    """Views imagined from context frames, else from frames between: rgb [V, 3, H, W] uint8, confidence, cameras, frame [V]."""
    frames, context = kept["frames"], window.context
    options = np.flatnonzero(np.isin(frames, context))
    if not len(options):
        options = np.flatnonzero((frames >= context[0]) & (frames <= context[-1]))
    entries = np.full(VIEWS, -1)
    drawn = rng.permutation(options)[:VIEWS]
    entries[: len(drawn)] = drawn
    there = entries >= 0
    found = {name: _take(kept[name], entries) for name in ("rgb", "confidence")}
    pose = np.where(there[:, None, None], _take(kept["world_from_camera"], entries), window.poses[context[0]])
    return found | {"world_from_camera": pose, "frame": np.where(there, _take(frames, entries), context[0])}


PICK: dict[Gift, Callable[[Arrays, Window, np.random.Generator], Arrays]] = {
    "depth": depth_or_normals,
    "normals": depth_or_normals,
    "points": points,
    "matches": matches,
    "views": views,
}
"""What a window takes of each kind."""


def _entries(frames: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each wanted frame the number of an entry on it, -1 where there is none; of several, one is drawn."""
    found = np.full(len(wanted), -1)
    for k, frame in enumerate(wanted):
        options = np.flatnonzero(frames == frame)
        if len(options):
            found[k] = options[rng.integers(len(options))]
    return found


def _take(array: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Rows of an array, zeros for -1."""
    found = np.zeros((len(entries), *array.shape[1:]), array.dtype)
    found[entries >= 0] = array[entries[entries >= 0]]
    return found


def _filled(array: np.ndarray, count: int) -> np.ndarray:
    """Rows of zeros added up to `count`; of poses, whose rows of zeros would be none, the identity."""
    fill = np.eye(4, dtype=array.dtype) if array.shape[1:] == (4, 4) else np.zeros(array.shape[1:], array.dtype)
    return np.concatenate([array, np.broadcast_to(fill, (count - len(array), *fill.shape))])


def key(gift: str, prior: str, field: str) -> str:
    """The name of an array among the tensors of a batch."""
    return "/".join((PREFIX, gift, prior, field))


def said_in(tensors: dict[str, Tensor]) -> dict[str, dict[str, dict[str, Any]]]:
    """What teachers said among the tensors of a batch, by kind, prior and field; numbers as float32, colours in [0, 1]."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{PREFIX}/"):
            _, gift, prior, field = name.split("/")
            value = tensor.float() / 255.0 if tensor.dtype == torch.uint8 else tensor
            found.setdefault(gift, {}).setdefault(prior, {})[field] = value.float() if value.is_floating_point() else value
    return found
