"""Where view generators that know objects may look in a room: cameras that circle the point a frame looks at.

Zero-1-to-3 and MVDream were trained on single objects, seen from around them. Here the object is whatever surface the middle of
a frame shows: its distance is swept from the agent's other frames, and new cameras turn about that point. The world's z is up.
Only the middle of a frame, as wide as the generator's own cameras, is shown to it, and only there is it believed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.matching.plane_sweep import plane_sweep
from embodied_liftwm.geometry.se3 import make_pose, so3_exp
from embodied_liftwm.geometry.view_selection import choose_views
from embodied_liftwm.priors.contract import Clip
from embodied_liftwm.protocols import Camera

GUESSED_DEPTH_M = 2.0
"""How far the middle of a frame is taken to be where the agent's other frames do not tell."""
GUESSED_FACTOR = 0.25
"""Times the confidence there: views turn about the wrong point."""
PLANES_M = (0.4, 8.0, 128)
"""Nearest and farthest depth tried, and how many, evenly in inverse depth."""
SOURCES, STRIDE, REACH = 4, 2, 2
"""Frames to match with, pixels a side of a cell, and cells to every side of the optical axis that are matched."""
TOLD = 0.75
"""The best plane must cost less than this share of the mean of all planes to count as told."""


class LookAt(NamedTuple):
    """What frames look at."""

    points: Tensor  # [K, 3] world, metres: where the optical axis meets a surface
    told: Tensor  # [K] bool: by the agent's other frames, else guessed


class Window(NamedTuple):
    """Pixels in the middle of a frame."""

    top: int
    left: int
    height: int
    width: int


def chosen_frames(count: int, wanted: int) -> Tensor:
    """At most `wanted` frames of `count`, evenly spread: the middles of as many equal parts. [K] int64"""
    wanted = min(count, wanted)
    return ((torch.arange(wanted) + 0.5) * count / wanted).long()


@torch.no_grad()
def look_at_points(clip: Clip, frames: Tensor) -> LookAt:
    """Sweep the depth of the middle of `frames` [K] from the clip's other frames; frames without parallax have it guessed."""
    poses, height, width = clip.world_from_camera, *clip.rgb.shape[-2:]
    camera = Camera(clip.intrinsics.expand(len(frames), 3, 3), poses[frames], height, width)
    others = poses.expand(len(frames), -1, -1, -1)
    sources, useful = choose_views(camera, others, poses.new_ones(others.shape[:2]), min(SOURCES, len(poses)))
    nearest, farthest, count = PLANES_M
    planes = 1.0 / torch.linspace(1.0 / nearest, 1.0 / farthest, count)
    sweep = plane_sweep(clip.rgb[frames], camera, clip.rgb[sources], poses[sources], useful[:, None], planes, STRIDE)
    u, v = (float(clip.intrinsics[k, 2]) / STRIDE for k in (0, 1))
    rows, columns = (slice(max(round(centre) - REACH, 0), round(centre) + REACH) for centre in (v, u))
    cost = sweep.cost[:, 0, :, rows, columns].mean(dim=(-2, -1))
    best = cost.min(dim=1)
    told = useful.any(1) & (best.values < TOLD * cost.mean(1))
    depth = torch.where(told, planes[best.indices], GUESSED_DEPTH_M)
    return LookAt(poses[frames, :3, 3] + depth[:, None] * poses[frames, :3, 2], told)


def spherical(eye: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Polar angle from +z, azimuth from +x towards +y, and distance of `eye` [..., 3] as seen from `point`. Each [...]"""
    x, y, z = (eye - point).unbind(-1)
    across = torch.hypot(x, y)
    return torch.atan2(across, z), torch.atan2(y, x), torch.hypot(across, z)


def turned(world_from_camera: Tensor, point: Tensor, polar: Tensor, azimuth: Tensor) -> Tensor:
    """Turn cameras about points: the point stays where it was in their images, and so does their roll.

    Args:
        world_from_camera: poses that look at the points. [K, 4, 4]
        point: metres. [K, 3]
        polar: radians by which the angle from +z grows: downwards. [K]
        azimuth: radians about +z, counter-clockwise as seen from above. [K]
    """
    offset = world_from_camera[:, :3, 3] - point
    up = offset.new_tensor([0.0, 0.0, 1.0]).expand_as(offset)
    sideways = torch.linalg.cross(up, offset)
    # Straight above the point no direction is sideways: the image's own is taken.
    above = sideways.norm(dim=-1, keepdim=True) < 1e-6
    axis = F.normalize(torch.where(above, world_from_camera[:, :3, 0], sideways), dim=-1)
    turn = so3_exp(azimuth[:, None] * up) @ so3_exp(polar[:, None] * axis)
    moved = point + (turn @ offset[..., None]).squeeze(-1)
    return make_pose(turn @ world_from_camera[:, :3, :3], moved)


def middle_window(intrinsics: Tensor, height: int, width: int, field_of_view: float) -> Window:
    """The pixels within a square field of view about the optical axis, or the widest square one that the image holds.

    Args:
        intrinsics: pixels. [3, 3]
        field_of_view: radians, edge to edge.
    """
    (focal_x, _, u), (_, focal_y, v), _ = intrinsics.tolist()
    half = torch.tensor(field_of_view / 2.0).tan().item()
    half = min(half, u / focal_x, (width - u) / focal_x, v / focal_y, (height - v) / focal_y)
    left, right = round(u - half * focal_x), round(u + half * focal_x)
    top, bottom = round(v - half * focal_y), round(v + half * focal_y)
    return Window(top, left, bottom - top, right - left)


def cut(rgb: Tensor, window: Window, size: int) -> Tensor:
    """Show a window to a generator. [B, 3, H, W] -> [B, 3, size, size]"""
    top, left, height, width = window
    return _resize(rgb[..., top : top + height, left : left + width], size, size)


def paste(pictures: Tensor, window: Window, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Put what a generator drew [B, 3, h, w] where the window was: rgb [B, 3, H, W], and 1 inside, 0 around it [B, H, W]."""
    rgb, inside = pictures.new_zeros(len(pictures), 3, height, width), pictures.new_zeros(len(pictures), height, width)
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    rgb[..., rows, columns] = _resize(pictures, window.height, window.width).clamp(0.0, 1.0)
    inside[:, rows, columns] = 1.0
    return rgb, inside


def _resize(pictures: Tensor, height: int, width: int) -> Tensor:
    """Between half-integer pixel centres; averaging where it shrinks."""
    return F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True)
