"""Fuse: new primitives meet the persistent map. Associate, merge, refute, and keep the best N.

Association is projective: an old primitive that falls into a cell of the new frame, at the depth the cell shows, *is* what
the cell sees. It is averaged with it, weighted by evidence. One that hangs in front of the surface which the cell sees
through it is refuted: what is seen to be gone must go. All others are out of sight and stay as they are, for as long as the
budget has room; that is what permanence means here. The cost of a step does not depend on how many came before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import project, resize_intrinsics
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.gaussian_map import GaussianMap
from embodied_liftwm.protocols import Camera

REFUTED_KEEPS = 0.5
"""Share of its evidence and opacity that a primitive keeps when the camera looks through it once."""
FORGOTTEN_OPACITY = 0.05
"""A primitive that was refuted below this opacity frees its slot."""
MAX_EVIDENCE_RATIO = 8.0
"""Old evidence counts at most this many times the new frame's, so that the map follows a world that changes."""


def fuse(old: GaussianMap, new: GaussianMap, depth: Tensor, camera: Camera, stride: int, tolerance: float) -> GaussianMap:
    """Write one frame's primitives into the map.

    Args:
        old: the map, N slots.
        new: the frame's primitives, one per cell in row-major order, h * w of them.
        depth: the frame's z-depth at cell centres, metres. [B, h, w]
        camera: the camera that saw the frame.
        stride: pixels a side of a cell.
        tolerance: relative depth difference below which two primitives are one.

    Returns:
        The new map, N slots.
    """
    cell, difference = _associate(old, depth, camera, stride)
    matched = difference.abs() < tolerance
    refuted = difference < -2.0 * tolerance
    distance = torch.where(matched, difference.abs(), torch.inf)
    nearest = torch.full_like(new.evidence, torch.inf).scatter_reduce(1, cell, distance, "amin")
    chosen = matched & (distance <= nearest.gather(1, cell))
    merged = _merge(old, new.gather(cell), chosen)
    kept = _refute(merged, refuted)
    fresh = replace(new, evidence=torch.where(torch.isfinite(nearest), 0.0, new.evidence))
    return _keep_best(kept, fresh)


@torch.no_grad()
def _associate(old: GaussianMap, depth: Tensor, camera: Camera, stride: int) -> tuple[Tensor, Tensor]:
    """The cell [B, N] that each slot falls into, and its relative depth difference to it [B, N], +inf if out of view."""
    height, width = depth.shape[-2:]
    intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / stride)
    pixels, z = project(old.means, intrinsics, inverse_pose(camera.world_from_camera))
    column, row = pixels.floor().unbind(-1)
    visible = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 1e-2) & old.occupied
    cell = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).nan_to_num(0).long()
    surface = depth.flatten(1).gather(1, cell)
    return cell, torch.where(visible, (z - surface) / surface, torch.inf)


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


def _keep_best(old: GaussianMap, fresh: GaussianMap) -> GaussianMap:
    """Of both, the `N` slots of most evidence; everything of this frame goes before anything older."""
    with torch.no_grad():
        above = old.evidence.amax(dim=1, keepdim=True) + 1.0
        now = torch.where(fresh.evidence > 0, above + fresh.evidence, -1.0)
        slots = torch.cat([old.evidence, now], dim=1).topk(old.evidence.shape[1], dim=1, sorted=False).indices
    best = old.concatenate(fresh).gather(slots)
    return replace(best, opacities=torch.where(best.occupied, best.opacities, 0.0))
