"""What teachers observed in the windows of a batch, as the terms read it: by kind, and by the teacher's name."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ObservedDepth(NamedTuple):
    """Of the cells of F = B * K context frames."""

    values: Tensor  # [F, h, w] log-depth, or inverse depth where that is affine-invariant
    confidence: Tensor  # [F, h, w] in [0, 1], 0 where the teacher says nothing


class ObservedNormals(NamedTuple):
    """Of the cells of F = B * K context frames."""

    values: Tensor  # [F, 3, h, w] unit, camera frame, towards the camera
    confidence: Tensor  # [F, h, w]


class ObservedPoints(NamedTuple):
    """Of the cells of F = B * K context frames, each in the camera frame of a reference, any frame of the episode."""

    points: Tensor  # [F, h, w, 3]
    confidence: Tensor  # [F, h, w]
    reference_from_frame: Tensor  # [F, 4, 4] by the believed poses, metres


class ObservedMatches(NamedTuple):
    """M pixels of context frames, and where other frames of the episode show the same."""

    frame: Tensor  # [B, M] int64: of which context frame of the window
    pixels: Tensor  # [B, M, 2] (u, v) in it
    partners: Tensor  # [B, M, 2] (u, v) in the other frame
    confidence: Tensor  # [B, M], 0 where there is no match
    partner_from_frame: Tensor  # [B, M, 4, 4] by the believed poses, metres


class ObservedViews(NamedTuple):
    """F = B * V views where the agent never was, beside what the model renders there."""

    target_rgb: Tensor  # [F, 3, H, W]
    confidence: Tensor  # [F, H, W]
    rgb: Tensor  # [F, 3, H, W]
    scale: Tensor  # [F, H, W] standard deviation of the colours, the model's own


class TeacherObservations(NamedTuple):
    """Pseudo-observations of a window; of each kind, those of every teacher that gives it."""

    log_planes: Tensor  # [P] of the depths that `Lifted.log_belief` is over, ascending
    stride: int  # pixels a side of a cell
    depth: dict[str, ObservedDepth]
    normals: dict[str, ObservedNormals]
    points: dict[str, ObservedPoints]
    matches: dict[str, ObservedMatches]
    views: dict[str, ObservedViews]
