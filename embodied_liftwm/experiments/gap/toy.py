"""The 3D-awareness gap in closed form: which losses know the depth of 36 points, from which camera support.

One surface, one camera, and partner views from `support_m` aside; `depth_information` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from embodied_liftwm.experiments.gap.information import (
    Measurement,
    Points,
    consistency,
    frames,
    information,
    knowledge,
    normals,
    pseudo_depth,
)
from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.se3 import look_at, make_pose, so3_exp

SIZE = 6
"""Pixels a side."""
FIELD_OF_VIEW_RAD = math.radians(80.0)
TURN_RAD = 0.2
"""Partner views look back at what is seen, turned aside by so much."""
PARTNER_M = 0.3
"""Baseline of the one translating partner that is lent to a camera that only turns."""
PIXEL_NOISE = SIZE / 64
"""Matching error: one pixel of a frame of 64."""
POINT_NOISE_M = 0.1
TEACHER_NOISE = 0.1
"""Of a teacher's log-depths, and of its normals."""
DIRECTION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ToyRow:
    """What one set of terms knows at one camera support."""

    support_m: float  # distance of the partner views; 0: they only turn
    terms: str
    rank: int  # directions of log-depth that are known, out of `points`
    points: int
    least: float  # Fisher information in the worst direction, 1 / nat^2
    median: float  # and of the median point, the others given
    error: float  # Cramer-Rao bound: least standard deviation of log-depth in the worst direction; inf where it is free
    free: str  # what stays open


def support_rows(supports_m: Sequence[float]) -> list[ToyRow]:
    """The 2D loss, and GLO without and with teachers, by camera support."""
    points, found = bumpy(), []
    for support in supports_m:
        views = partners(points, support)
        two_d = frames(points, views, PIXEL_NOISE)
        alone = [consistency(points, views[0], POINT_NOISE_M), normals(points, TEACHER_NOISE, observed=False)]
        taught = [normals(points, TEACHER_NOISE), pseudo_depth(points, TEACHER_NOISE)]
        found += [
            toy_row(points, support, "2D", [two_d]),
            toy_row(points, support, "GLO without a teacher", alone),
            toy_row(points, support, "2D + GLO with teachers", [two_d, *taught]),
        ]
    return found


def term_rows() -> list[ToyRow]:
    """Each term by itself for a camera that only turns: which of them lift the 2D loss out of rank 0, and which do not."""
    points = bumpy()
    turned, moved = partners(points, 0.0), partners(points, PARTNER_M)
    normal, one = normals(points, TEACHER_NOISE), pseudo_depth(points, TEACHER_NOISE, only=[0])
    terms: dict[str, list[Measurement]] = {
        "multi-view consistency, turned views": [consistency(points, turned[0], POINT_NOISE_M)],
        f"multi-view consistency, {PARTNER_M:g} m aside": [consistency(points, moved[0], POINT_NOISE_M)],
        "depth-normal coherence, own normals": [normals(points, TEACHER_NOISE, observed=False)],
        "depth-normal coherence, pseudo-normals": [normal],
        "pseudo-depth, metric": [pseudo_depth(points, TEACHER_NOISE)],
        "pseudo-depth, up to scale": [pseudo_depth(points, TEACHER_NOISE, "scale")],
        "pseudo-depth, affine inverse": [pseudo_depth(points, TEACHER_NOISE, "affine")],
        "pseudo-normals and one metric depth": [normal, one],
    }
    two_d = frames(points, turned, PIXEL_NOISE)
    rows = [toy_row(points, 0.0, "2D", [two_d])]
    return rows + [toy_row(points, 0.0, f"2D + {name}", [two_d, *added]) for name, added in terms.items()]


def toy_row(points: Points, support_m: float, terms: str, measurements: Sequence[Measurement]) -> ToyRow:
    """What these measurements know together."""
    known = knowledge(information(measurements, points.log_depth))
    error = 1.0 / math.sqrt(known.least) if known.least else math.inf
    free = _describe(known.free, points)
    return ToyRow(support_m, terms, known.rank, points.depth.numel(), known.least, known.median, error, free)


def _describe(free: Tensor, points: Points) -> str:
    """Directions of log-depth that are free, by name: the scale, and a shift of the inverse depth (dz / z = -z d(1 / z))."""
    if free.shape[1] in (0, len(free)):
        return "every depth" if free.shape[1] else "nothing"
    named = {"scale": torch.ones(len(free), dtype=free.dtype), "shift": points.log_depth.exp()}
    inside = [
        name
        for name, direction in named.items()
        if float((direction - free @ (free.T @ direction)).norm()) < DIRECTION_TOLERANCE * float(direction.norm())
    ]
    others = free.shape[1] - len(inside)
    return " and ".join(inside + ([f"{others} more"] if others else []))


def bumpy(size: int = SIZE) -> Points:
    """A surface some 2.5 m away, neither flat nor frontal, seen through an 80 degree lens."""
    u, v = (pixel_centres(size, size, dtype=torch.float64) / size).unbind(-1)
    depth = 2.5 + 0.6 * torch.sin(5.0 * u) * torch.cos(4.0 * v) + 0.4 * u
    focal, half = 0.5 * size / math.tan(0.5 * FIELD_OF_VIEW_RAD), 0.5 * size
    return Points(depth.new_tensor([[[focal, 0.0, half], [0.0, focal, half], [0.0, 0.0, 1.0]]]), depth)


def partners(points: Points, support_m: float) -> Tensor:
    """Two views from `support_m` to the right and left, turned back to what is seen and then a little aside. [2, 4, 4]"""
    middle, up = points.depth.new_tensor([0.0, 0.0, float(points.depth.mean())]), points.depth.new_tensor([0.0, -1.0, 0.0])
    found = []
    for side in (1.0, -1.0):
        towards = look_at(points.depth.new_tensor([side * support_m, 0.0, 0.0]), middle, up)
        aside = so3_exp(points.depth.new_tensor([0.0, side * TURN_RAD, 0.0]))
        found.append(towards @ make_pose(aside, points.depth.new_zeros(3)))
    return torch.stack(found)
