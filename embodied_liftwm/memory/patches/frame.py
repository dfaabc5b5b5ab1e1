"""One frame as a patch map takes it: the surface that every pixel sees, and how well it is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.memory.patches.cpu import frame as on_cpu
from embodied_liftwm.memory.patches.map import DETAIL_LEVELS, texel_m
from embodied_liftwm.memory.patches.rules import FRAME
from embodied_liftwm.memory.patches.types import Frame, Surfaces
from embodied_liftwm.protocols import Camera

DETAIL_CHROMA = 0.18
"""A texel of the usual size would not do where, within it, chroma ranges over so much. By brightness or relief nearly
everything is detail (docs/experiments.md, section 42)."""
WINDOWS = (3, 5, 9, 17)
"""Pixels a side of the windows in which that is looked for, the least that such a texel fits into; each is made of the last."""


def frame_of(depth: Tensor, certainty: Tensor, latents: Tensor, rgb: Tensor, camera: Camera, finest: Tensor) -> Frame:
    """Prepare a frame a row for writing; `finest` [B] as in `PatchMap`, the rest as of `write_patches`."""
    shown = surfaces(depth, camera)
    least = least_levels(rgb, depth, camera, finest)
    footprint, allocated, trusted = measures(depth, certainty, shown.edge, camera, least)
    return Frame(
        camera=camera,
        depth=depth.flatten(),
        certainty=trusted.flatten(),
        rgb=rgb.movedim(1, -1).flatten(0, 2),
        latents=latents.movedim(1, -1).flatten(0, 2),
        stride=rgb.shape[-1] // latents.shape[-1],
        points=shown.points.flatten(0, 2),
        normals=shown.normals.flatten(0, 2),
        nearest=shown.nearest.flatten(),
        edge=shown.edge.flatten(),
        footprint=footprint.flatten(),
        finest=allocated.flatten(),
    )


@torch.no_grad()
def least_levels(rgb: Tensor, depth: Tensor, camera: Camera, finest: Tensor) -> Tensor:
    """Least level of what each pixel allocates: `finest` [B], less by `DETAIL_LEVELS` where a texel so large would mix colours.

    Returns:
        Levels. [B, H, W] int64
    """
    coarse = finest[:, None, None].expand_as(depth)
    if not bool(finest.any()):
        return coarse
    across = texel_m(coarse, depth) * camera.intrinsics[:, None, None, 0, 0] / depth  # pixels
    tints = chroma(rgb, 1)
    extremes = torch.cat([tints, -tints], dim=1)
    detail = torch.zeros_like(depth, dtype=torch.bool)
    for less, window in zip((1, *WINDOWS), WINDOWS, strict=False):
        extremes = _largest(extremes, window - less + 1)
        highest, negated_lowest = extremes.chunk(2, dim=1)
        wide = (highest + negated_lowest).amax(1) > DETAIL_CHROMA
        detail |= wide & (across > less) & ((across <= window) | (window == WINDOWS[-1]))
        if not bool((across > window).any()):
            break
    return torch.where(detail, (coarse - DETAIL_LEVELS).clamp_min(0), coarse)


def _largest(x: Tensor, window: int) -> Tensor:
    """Maxima of x [B, C, H, W] over square windows, along one axis after the other: windows are large."""
    along_rows = F.max_pool2d(x, (1, window), stride=1, padding=(0, window // 2))
    return F.max_pool2d(along_rows, (window, 1), stride=1, padding=(window // 2, 0))


def chroma(rgb: Tensor, dim: int) -> Tensor:
    """What is left of colours without their brightness, which texture and shading change most. As `rgb`."""
    return rgb - rgb.mean(dim, keepdim=True)


def measures(depth: Tensor, certainty: Tensor, edge: Tensor, camera: Camera, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`footprint`, `finest` and `certainty` of a `Frame`; `edge` is of its surfaces, `least` as found above. [B, H, W] each"""
    if compilable(depth, certainty, camera):
        return on_cpu.measures(depth, certainty, edge, camera, least)
    footprint = depth.detach() / camera.intrinsics[:, None, None, 0, 0]
    return footprint, torch.maximum(footprint, texel_m(least, footprint)), certainty * torch.where(edge, FRAME.edge_trust, 1.0)


@torch.no_grad()
def surfaces(depth: Tensor, camera: Camera) -> Surfaces:
    """Points, normals and edges of frames of `depth` [B, H, W]."""
    if compilable(depth, camera):
        return on_cpu.surfaces(depth, camera)
    nearest = -F.max_pool2d(-depth.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    farthest = F.max_pool2d(depth.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    points = back_project(depth, camera.intrinsics, camera.world_from_camera)
    return Surfaces(points, _normals(depth, camera), nearest, farthest - nearest > FRAME.edge * depth)


def _normals(depth: Tensor, camera: Camera) -> Tensor:
    """Normals of the smoothed depth, towards the camera, in the world frame. [B, H, W, 3]"""
    reach = 2 * FRAME.smoothing_cells + 1
    log_depth = depth.log().unsqueeze(1)
    padded = F.pad(log_depth, (FRAME.smoothing_cells,) * 4, mode="replicate")
    around = F.unfold(padded, reach).unflatten(2, depth.shape[-2:])
    weight = torch.exp(-((around - log_depth) / FRAME.smoothing_log).square())
    smooth = ((around * weight).sum(1) / weight.sum(1)).exp()
    points = back_project(smooth, camera.intrinsics, camera.world_from_camera)
    normal = F.normalize(torch.linalg.cross(_slope(points, 2), _slope(points, 1)), dim=-1)
    sight = points - camera.world_from_camera[:, None, None, :3, 3]
    return torch.where((normal * sight).sum(-1, keepdim=True) > 0, -normal, normal)


def _slope(points: Tensor, dim: int) -> Tensor:
    """Change to the neighbour along `dim`, of both sides the smaller: edges of objects do not tilt their surfaces."""
    step = points.diff(dim=dim)
    first, last = step.narrow(dim, 0, 1), step.narrow(dim, step.shape[dim] - 1, 1)
    before, after = torch.cat([first, step], dim=dim), torch.cat([step, last], dim=dim)
    return torch.where(before.square().sum(-1, keepdim=True) < after.square().sum(-1, keepdim=True), before, after)
