"""Pseudo-observations as tensors of a safetensors file, and back; and what makes them fit a clip.

Confidence, colours and normals become float16. So do depth and points, times a power of two that brings the largest to 2^14
or more: rounding is then the only loss, at most 2^-11 of each value down to 2^-28 of the largest. Pixels and poses would lose
too much and stay float32; numbers of frames stay int64.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.contract import DepthMaps, Matches, NormalMaps, NovelViews, PointMaps, PseudoObservations

KINDS: dict[str, type] = {
    "depth": DepthMaps,
    "normals": NormalMaps,
    "points": PointMaps,
    "matches": Matches,
    "views": NovelViews,
}
SHAPES = {
    "depth": {"values": "K H W", "confidence": "K H W", "frames": "K"},
    "normals": {"values": "K 3 H W", "confidence": "K H W", "frames": "K"},
    "points": {"points": "K H W 3", "confidence": "K H W", "frames": "K", "references": "K"},
    "matches": {"pixels": "M 2 2", "confidence": "M", "frames": "M 2"},
    "views": {"rgb": "K 3 H W", "confidence": "K H W", "world_from_camera": "K 4 4", "frames": "K"},
}
"""Axes of every tensor, by kind and field; frame numbers are int64, all else float32."""
FRAME_FIELDS = ("frames", "references")
CONVENTIONS = {"depth": ("metric", "scale_free", "affine_inverse"), "points": ("metric", "scale_free")}
SCALED = ("depth.values", "points.points")
HALF = ("normals.values", "views.rgb")
TOP_EXPONENT = 15


def pack(found: PseudoObservations) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by `kind.field`, and the conventions and exponents that JSON keeps beside them."""
    tensors: dict[str, Tensor] = {}
    notes: dict[str, Any] = {}
    for kind, given in found.given().items():
        for field in fields(given):
            key, value = f"{kind}.{field.name}", getattr(given, field.name)
            if isinstance(value, str):
                notes[key] = value
            elif key in SCALED:
                notes[key] = _exponent(value)
                tensors[key] = _times_two_to(value, notes[key]).half()
            else:
                tensors[key] = value.half() if key in HALF or field.name == "confidence" else value
    # copies: safetensors takes no tensors that share memory, as the frames of several kinds may
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}, notes


def unpack(tensors: dict[str, Tensor], notes: dict[str, Any]) -> PseudoObservations:
    """The inverse of `pack`, up to its rounding. Raises KeyError where a tensor or a note is missing."""
    found = {}
    for kind in {key.partition(".")[0] for key in tensors}:
        values: dict[str, Any] = {}
        for field in fields(KINDS[kind]):
            key = f"{kind}.{field.name}"
            if field.name == "convention":
                values[field.name] = notes[key]
            elif key in SCALED:
                values[field.name] = _times_two_to(tensors[key].float(), -notes[key])
            else:
                values[field.name] = tensors[key].float() if tensors[key].is_floating_point() else tensors[key]
        found[kind] = KINDS[kind](**values)
    return PseudoObservations(**found)


def _exponent(values: Tensor) -> int:
    """Of the power of two that brings the largest magnitude into [2^14, 2^15)."""
    largest = values.abs().max().item() if values.numel() else 0.0
    return min(TOP_EXPONENT - math.frexp(largest)[1], 126)


def _times_two_to(values: Tensor, exponent: int) -> Tensor:
    return values * 2.0**exponent


def check_observations(where: str, found: PseudoObservations, frames: int, height: int, width: int) -> None:
    """Hold what a prior returned against the contract, for a clip of so many frames of this size.

    Raises:
        UserError: begins with `where`, and names the field, with what was expected and what was found.
    """
    if not isinstance(found, PseudoObservations):
        raise UserError(f"{where}: expected PseudoObservations, got {type(found).__name__}")
    for kind, given in found.given().items():
        sizes = {"H": height, "W": width, "2": 2, "3": 3, "4": 4}
        if not isinstance(given, KINDS[kind]):
            raise UserError(f"{where}: {kind}: expected {KINDS[kind].__name__}, got {type(given).__name__}")
        for name, shape in SHAPES[kind].items():
            value = getattr(given, name)
            _check_shape(f"{where}: {kind}.{name}", value, shape, sizes, torch.int64 if name in FRAME_FIELDS else torch.float32)
            _check_values(f"{where}: {kind}.{name}", name, value, frames)
        convention = getattr(given, "convention", None)
        if kind in CONVENTIONS and convention not in CONVENTIONS[kind]:
            raise UserError(f"{where}: {kind}.convention: expected {' | '.join(CONVENTIONS[kind])}, got {convention}")


def _check_shape(name: str, value: Tensor, shape: str, sizes: dict[str, int], dtype: torch.dtype) -> None:
    """Check one tensor, and bind K and M to the sizes first seen."""
    axes = shape.split()
    if not isinstance(value, Tensor):
        raise UserError(f"{name}: expected a tensor, got {type(value).__name__}")
    fits = value.dim() == len(axes) and all(sizes.setdefault(a, n) == n for a, n in zip(axes, value.shape, strict=True))
    if not fits or value.dtype != dtype or value.device.type != "cpu":
        expected = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
        got = f"{list(value.shape)} {value.dtype} on {value.device.type}"
        raise UserError(f"{name}: expected [{expected}] {dtype} on cpu, got {got}".replace("torch.", ""))


def _check_values(name: str, field: str, value: Tensor, frames: int) -> None:
    if not value.isfinite().all():
        raise UserError(f"{name}: holds NaN or infinity; where a prior says nothing, the value is any number and confidence 0")
    least, most = (value.min().item(), value.max().item()) if value.numel() else (0, 0)
    if field in ("confidence", "rgb") and not 0 <= least <= most <= 1:
        raise UserError(f"{name}: expected numbers in [0, 1], got {least:.3g} to {most:.3g}")
    if field in FRAME_FIELDS and not 0 <= least <= most < frames:
        raise UserError(f"{name}: expected frames 0 to {frames - 1}, got {least} to {most}")
