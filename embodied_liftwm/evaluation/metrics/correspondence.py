"""Epipolar error: do correspondences between a rendered view and a true frame agree with the true cameras?

A depth map that is projected with the true cameras lies on their epipolar lines whatever its depths are, so that it can show
no error. Correspondences are therefore found in pictures: a classical matcher (zero-mean normalised cross-correlation of
patches; Hartley and Zisserman, Multiple View Geometry, section 4.8 "putative correspondences") looks for what the model
*renders* at the target camera in a *true* frame of another camera, over a window of both image axes. A match is as wrong as
it lies off the epipolar line of the true cameras (symmetric epipolar distance; ibid., section 11.4.3).

The points are chosen by truth alone and are the same for every model: they were seen in the context, are visible in the other
frame, have texture, and the same matcher finds their true partner when it is given the *true* target frame. So the floor of
the measure is what true frames score (`Reference.floor_px`, 0.3 px or so), and its ceiling what a match drawn at random from
the window does, about half the window's reach. A rendering without texture at a point is scored as such a draw.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.evaluation.metrics.visibility import Visibility
from embodied_liftwm.geometry.epipolar import fundamental_matrix, symmetric_epipolar_distance
from embodied_liftwm.protocols import Camera

PATCH_REACH = 3
"""Patches are 7 x 7 pixels."""
WINDOW_REACH = 8
"""Partners are looked for this many pixels around the true one, along both axes."""
LEAST_CONTRAST = 0.2
"""Norm of a patch without its mean from which it has texture: 0.016 a pixel and channel."""
BLANK = 1e-3
"""Norm under which a rendered patch cannot be matched."""
RIGHT_PX = 1.5
"""The matcher has found a true partner when it comes this near."""
BASELINE_M = (0.15, 0.8)
"""Distance of the other frame's camera: with parallax, and still much alike."""
MOST_POINTS, LEAST_POINTS = 512, 32
"""Points of a view; one with fewer has no figure."""


class Reference(NamedTuple):
    """What the renders of one target view are held against."""

    frame: int  # the other frame
    points: Tensor  # [P] int64 pixels of the target, row-major
    partners: Tensor  # [P, 2] their true (u, v) in the other frame
    fundamental: Tensor  # [3, 3] of the true cameras, from target to other frame
    floor_px: float  # the error of the true target frame


def find_reference(rgb: Tensor, cameras: Camera, target: int, sight: Visibility, seen: Tensor) -> Reference | None:
    """Choose the frame that shares most points with a target, and the points.

    Args:
        rgb: true frames of an episode. [F, 3, H, W] in [0, 1]
        cameras: their true cameras.
        target: which of the frames.
        sight: the target's points in all frames.
        seen: pixels of the target that were seen in the context. bool [H, W]

    Returns:
        None where no frame has enough of them.
    """
    height, width = rgb.shape[-2:]
    centres = cameras.world_from_camera[:, :3, 3]
    baseline = (centres - centres[target]).norm(dim=-1)
    apart = (baseline >= BASELINE_M[0]) & (baseline <= BASELINE_M[1])
    textured = (_patches(rgb[target]).norm(dim=1) > LEAST_CONTRAST) & seen.flatten() & _interior(height, width)
    inside = _interior(height, width)[_flat(sight.pixels, height, width)]
    usable = sight.visible & inside & textured & apart[:, None]
    frame = int(usable.sum(1).argmax())
    points = torch.nonzero(usable[frame])[:, 0]
    if len(points) < LEAST_POINTS:
        return None
    points = points[torch.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().long()]
    pair = fundamental_matrix(cameras.index([target]), cameras.index([frame]))[0]
    partners = sight.pixels[frame, points]
    found, _ = _match(rgb[target], rgb[frame], points, partners)
    right = (found - partners).norm(dim=-1) < RIGHT_PX
    if int(right.sum()) < LEAST_POINTS:
        return None
    floor_px = float(_off_lines(points[right], found[right], pair, width).mean())
    return Reference(frame, points[right], partners[right], pair, floor_px)


def epipolar_error(rendered: Tensor, other: Tensor, reference: Reference) -> float:
    """Mean symmetric epipolar distance of a rendering's matches, pixels.

    Args:
        rendered: the target view. [3, H, W] in [0, 1]
        other: the true frame `reference.frame`. [3, H, W] in [0, 1]
        reference: of that view.
    """
    found, blank = _match(rendered, other, reference.points, reference.partners)
    height, width = rendered.shape[-2:]
    distances = _off_lines(reference.points, found, reference.fundamental, width)
    if bool(blank.any()):
        anywhere, inside = _candidates(reference.partners[blank], height, width)
        points = reference.points[blank].repeat_interleave(anywhere.shape[1])
        random = _off_lines(points, anywhere.flatten(0, 1), reference.fundamental, width).view(inside.shape)
        distances[blank] = (random * inside).sum(1) / inside.sum(1)
    return float(distances.mean())


def _off_lines(points: Tensor, partners: Tensor, fundamental: Tensor, width: int) -> Tensor:
    """Symmetric epipolar distance of pixels [P] of the target and their partners (u, v) [P, 2]. [P] pixels"""
    own = torch.stack([points % width, points // width], dim=-1) + 0.5
    return symmetric_epipolar_distance(own[None], partners[None], fundamental[None])[0]


def _match(rgb: Tensor, other: Tensor, points: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
    """Best partners [P, 2] (u, v) of patches of `rgb` in `other`, within the window; and which patches are blank. [P] bool"""
    height, width = rgb.shape[-2:]
    mine, theirs = _patches(rgb)[points], F.normalize(_patches(other), dim=1)
    candidates, inside = _candidates(around, height, width)
    scores = (F.normalize(mine, dim=1) @ theirs.T).gather(1, _flat(candidates, height, width)).masked_fill(~inside, -2.0)
    best = scores.argmax(1)
    side = 2 * WINDOW_REACH + 1
    rows = torch.arange(len(points), device=rgb.device)
    place = torch.stack([best % side, best // side], dim=-1)
    offset = torch.stack([_peak(scores, best, place[:, 0], 1), _peak(scores, best, place[:, 1], side)], dim=-1)
    return candidates[rows, best] + offset, mine.norm(dim=1) < BLANK


def _peak(scores: Tensor, best: Tensor, place: Tensor, step: int) -> Tensor:
    """Where the parabola through a maximum and its two neighbours along an axis has its top, from the maximum. [P] pixels"""
    last = scores.shape[1] - 1
    before, top, after = (scores.gather(1, (best + k * step).clamp(0, last)[:, None])[:, 0] for k in (-1, 0, 1))
    curvature = before - 2 * top + after
    usable = (place > 0) & (place < 2 * WINDOW_REACH) & (before >= -1) & (after >= -1) & (curvature < -1e-6)
    return torch.where(usable, (0.5 * (before - after) / curvature).clamp(-0.5, 0.5), torch.zeros_like(top))


def _candidates(around: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pixel centres of the window around points [P, 2]: (u, v) [P, K, 2], row-major, and which lie in the image. [P, K]"""
    reach = torch.arange(-WINDOW_REACH, WINDOW_REACH + 1, device=around.device)
    window = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), dim=-1).reshape(1, -1, 2)
    pixels = around.floor().long()[:, None] + window
    inside = ((pixels >= 0) & (pixels < torch.tensor([width, height], device=around.device))).all(-1)
    return pixels + 0.5, inside


def _patches(rgb: Tensor) -> Tensor:
    """The patch around every pixel of [3, H, W] as a vector, its mean taken out of each channel. [H * W, 3 * 7 * 7]"""
    reach, side = (PATCH_REACH,) * 4, 2 * PATCH_REACH + 1
    patches = F.unfold(F.pad(rgb[None], reach, mode="reflect"), side)[0].T.unflatten(1, (3, side * side))
    return (patches - patches.mean(-1, keepdim=True)).flatten(1)


def _interior(height: int, width: int) -> Tensor:
    """Pixels whose patch lies in the image. bool [H * W]"""
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[PATCH_REACH:-PATCH_REACH, PATCH_REACH:-PATCH_REACH] = True
    return inside.flatten()


def _flat(pixels: Tensor, height: int, width: int) -> Tensor:
    """Row-major index of the pixel that holds (u, v), clamped to the image."""
    column, row = pixels.nan_to_num(0).floor().long().unbind(-1)
    return row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
