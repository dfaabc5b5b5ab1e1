"""Fuse: new primitives meet the persistent map. Associate, merge, refute, and keep within the budget.

Association is projective: an old primitive that falls into a cell of the new frame, at the depth the cell shows as far as
both can tell, *is* what the cell sees. The two are averaged, weighted by evidence, as a Kalman filter would. One that hangs
in front of the surface which the cell sees through it is refuted: what is seen to be gone must go. All others are out of
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
from embodied_liftwm.memory.coarsen import coarsen
from embodied_liftwm.memory.gaussian_map import GaussianMap
from embodied_liftwm.protocols import Camera

GATE_SIGMAS = 1.5
"""Two depths are one when they differ by less than this many of their joint standard deviations,"""
GATE_RANGE = (0.04, 0.35)
"""but in any case when they differ by less than the first share of the depth, and never by more than the second."""
REFUTED_KEEPS = 0.25
"""Share of its evidence and opacity that a primitive keeps when the camera looks through it once."""
FORGOTTEN_OPACITY = 0.1
"""A primitive that was refuted below this opacity frees its slot."""
MAX_EVIDENCE_RATIO = 8.0
"""Old evidence counts at most this many times the new frame's, so that the map follows a world that changes."""


def fuse(old: GaussianMap, new: GaussianMap, depth: Tensor, camera: Camera, stride: int) -> GaussianMap:
    """Write one frame's primitives into the map.

    Args:
        old: the map, N slots.
        new: the frame's primitives, one per cell in row-major order, h * w of them.
        depth: the frame's z-depth at cell centres, metres. [B, h, w]
        camera: the camera that saw the frame.
        stride: pixels a side of a cell.

    Returns:
        The new map, N slots.
    """
    found = _associate(old, new, depth, camera, stride)
    explained = torch.zeros_like(new.evidence).scatter_reduce(1, found.cell, found.matched.to(depth), "amax")
    kept = _refute(_merge(old, new.gather(found.cell), found.matched), found.refuted)
    return _keep(kept, replace(new, evidence=torch.where(explained > 0, 0.0, new.evidence)))


class Association(NamedTuple):
    """What the new frame says of each slot."""

    cell: Tensor  # [B, N] the cell it falls into
    matched: Tensor  # [B, N] bool: it is what the cell sees
    refuted: Tensor  # [B, N] bool: the cell and its neighbours look through it


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
    matched = visible & ((z - surface).abs() < gate * surface)
    return Association(cell, matched, visible & (z < (1.0 - gate) * nearest))


def _merge(old: GaussianMap, seen: GaussianMap, chosen: Tensor) -> GaussianMap:
    """Average `old` with what is `seen` now, slot by slot, where `chosen` [B, N]; evidence weighs."""
    weight = torch.minimum(old.evidence, MAX_EVIDENCE_RATIO * seen.evidence)
    share = torch.where(chosen, seen.evidence / (seen.evidence + weight).clamp_min(1e-9), 0.0)
    newer = (share > 0.5)[..., None]

    def blend(mine: Tensor, theirs: Tensor) -> Tensor:
        part = share if mine.dim() == 2 else share[..., None]
        return mine + part * (theirs - mine)

    return GaussianMap(
        means=blend(old.means, seen.means),
        quats=torch.where(newer, seen.quats, old.quats),
        scales=blend(old.scales, seen.scales),
        opacities=blend(old.opacities, seen.opacities),
        rgb=blend(old.rgb, seen.rgb),
        latents=blend(old.latents, seen.latents),
        evidence=torch.where(chosen, weight + seen.evidence, old.evidence),
    )


def _refute(gaussians: GaussianMap, refuted: Tensor) -> GaussianMap:
    """Fade primitives that the camera looked through; free the slots of those that faded away."""
    keep = torch.where(refuted, REFUTED_KEEPS, 1.0)
    opacities = gaussians.opacities * keep
    gone = opacities < FORGOTTEN_OPACITY
    return replace(
        gaussians,
        opacities=torch.where(gone, 0.0, opacities),
        evidence=torch.where(gone, 0.0, gaussians.evidence * keep),
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
