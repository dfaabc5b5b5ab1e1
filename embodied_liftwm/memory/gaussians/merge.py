"""Merge a frame's primitives into the map: associate, average, refute, and keep within the budget.

Association is projective: an old primitive that falls into a cell of the new frame, at the depth the cell shows as far as
both can tell, *is* what the cell sees. The two are averaged, weighted by evidence, as a Kalman filter would. One that hangs
in front of the surface which the cell sees through it is refuted: what is seen to be gone must go. So must what is seen from
much closer now: finer primitives take its place. All others are out of
sight and stay; that is what permanence means here. A full budget is made coarser, not forgetful (`coarsen`). The cost of a
step does not depend on how many came before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import project, resize_intrinsics
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.gaussians.coarsen import coarsen
from embodied_liftwm.memory.gaussians.map import GaussianMap
from embodied_liftwm.protocols import Camera

GATE_SIGMAS = 2.0
"""Two depths are one when they differ by less than this many of their joint standard deviations,"""
GATE_RANGE = (0.04, 0.5)
"""but in any case when they differ by less than the first share of the depth, and never by more than the second
(docs/experiments.md, sections 5 and 8)."""
REPLACED_WHEN_COARSER = 2.0
"""A primitive this many times larger than the cell that sees it gives way to the finer ones."""
MAX_EVIDENCE_RATIO = 8.0
"""Old evidence counts at most this many times the new frame's, so that the map follows a world that changes."""


def merge(old: GaussianMap, new: GaussianMap, depth: Tensor, camera: Camera, stride: int) -> GaussianMap:
    """Write one frame's primitives into the map.

    Args:
        old: the map, N slots.
        new: the frame's primitives, one per cell in row-major order, h * w of them; those without evidence are not written.
        depth: the frame's z-depth at cell centres, metres. [B, h, w]
        camera: the camera that saw the frame.
        stride: pixels a side of a cell.

    Returns:
        The new map, N slots.
    """
    found = _associate(old, new, depth, camera, stride)
    explained = torch.zeros_like(new.evidence).scatter_reduce(1, found.cell, found.matched.to(depth), "amax")
    averaged = _average(old, new.gather(found.cell), found.matched)
    kept = replace(averaged, evidence=torch.where(found.gone, 0.0, averaged.evidence))
    return _keep(kept, replace(new, evidence=torch.where(explained > 0, 0.0, new.evidence)))


class Association(NamedTuple):
    """What the new frame says of each slot."""

    cell: Tensor  # [B, N] the cell it falls into
    matched: Tensor  # [B, N] bool: it is what the cell sees
    gone: Tensor  # [B, N] bool: the cell and its neighbours look through it, or see much more finely what it stood for


@torch.no_grad()
def _associate(old: GaussianMap, new: GaussianMap, depth: Tensor, camera: Camera, stride: int) -> Association:
    height, width = depth.shape[-2:]
    intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / stride)
    pixels, z = project(old.means, intrinsics, inverse_pose(camera.world_from_camera))
    column, row = pixels.floor().unbind(-1)
    visible = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 1e-2) & old.occupied
    cell = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).nan_to_num(0).long()
    surface = depth.flatten(1).gather(1, cell)
    nearest = -F.max_pool2d(-depth.unsqueeze(1), 3, stride=1, padding=1).flatten(1).gather(1, cell)
    variance = 1.0 / old.evidence.clamp_min(1e-6) + 1.0 / new.evidence.gather(1, cell)
    gate = (GATE_SIGMAS * variance.sqrt() / surface).clamp(*GATE_RANGE)
    visible = visible & (new.evidence.gather(1, cell) > 0)
    same = visible & ((z - surface).abs() < gate * surface)
    coarse = old.scales[..., 0] > REPLACED_WHEN_COARSER * new.scales[..., 0].gather(1, cell)
    refuted = visible & (z < (1.0 - gate) * nearest)
    return Association(cell, same & ~coarse, refuted | (same & coarse))


def _average(old: GaussianMap, seen: GaussianMap, matched: Tensor) -> GaussianMap:
    """Average each matched slot with the cell that sees it, weighted by evidence. Primitives shrink, and never grow."""
    weight = torch.minimum(old.evidence, MAX_EVIDENCE_RATIO * seen.evidence)
    share = torch.where(matched, seen.evidence / (seen.evidence + weight).clamp_min(1e-9), 0.0)

    def blend(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine + (share if mine.dim() == 2 else share[..., None]) * (theirs - mine)

    return GaussianMap(
        means=blend(old.means, seen.means),
        quats=torch.where((share > 0.5)[..., None], seen.quats, old.quats),
        scales=torch.minimum(old.scales, blend(old.scales, seen.scales)),
        opacities=blend(old.opacities, seen.opacities),
        rgb=blend(old.rgb, seen.rgb),
        latents=blend(old.latents, seen.latents),
        evidence=torch.where(matched, weight + seen.evidence, old.evidence),
    )


def _keep(old: GaussianMap, fresh: GaussianMap) -> GaussianMap:
    """Put the new primitives into free slots; rows that have too few of them are coarsened first."""
    budget = old.evidence.shape[1]
    everything = old.concatenate(fresh)
    with torch.no_grad():
        full = everything.occupied.sum(1) > budget
        slots = everything.occupied.to(torch.uint8).topk(budget, dim=1, sorted=False).indices
    kept = everything.gather(slots)
    if bool(full.any()):
        kept = coarsen(everything, budget).where(full, kept)
    return replace(kept, opacities=torch.where(kept.occupied, kept.opacities, 0.0))
