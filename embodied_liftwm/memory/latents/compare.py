"""What a new frame makes of tokens that it should show: they are merged with it, or doubted, or none of both.

A token falls into a cell. Where the cell shows a surface at the token's depth with a latent like its own, both are one, and are
averaged as a Kalman filter would, by evidence. Where it shows another latent there, or sees through the token to something
farther, also in the cells around, the token is contradicted. A token behind what the cell shows is hidden, and stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import project
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.gaussians.merge import GATE_RANGE, GATE_SIGMAS, MAX_EVIDENCE_RATIO
from embodied_liftwm.memory.latents.cache import CellFrame
from embodied_liftwm.memory.latents.read import NEAR_M
from embodied_liftwm.memory.latents.tokens import Tokens
from embodied_liftwm.protocols import Camera

SIMILAR = 0.6
"""Mean difference of latents, which vary by about 1, up to which a token and what is seen in its place are one."""
DOUBT, FORGOTTEN = 0.1, 0.2
"""A contradicted token keeps this share of its evidence, and is forgotten with less than the second share of that of the look:
a token that was seen once is outweighed by one look, one that was seen often needs two or three."""
CONFIRMED = 2
"""Times after which a token that is found elsewhere is believed to move; the first may be a mistake."""
MOST_RELOCATIONS = 100
"""Counted no further: eight bits hold them."""


class Found(NamedTuple):
    """What a frame says of N tokens."""

    cell: Tensor  # [B, N] int64 the cell it falls into, 0 outside
    z: Tensor  # [B, N] its depth, metres
    shown: Tensor  # [B, N] bool: it is what the cell shows
    contradicted: Tensor  # [B, N] bool: it should be visible, and is not


@torch.no_grad()
def compare(tokens: Tokens, places: Tensor, frame: CellFrame, cells: Camera) -> Found:
    """Hold tokens against a frame.

    Args:
        tokens: unpacked.
        places: where they are now, metres from the origin. [B, N, 3]
        frame: the frame.
        cells: its camera, a pixel a cell, counted from the origin.
    """
    uv, z = project(places, cells.intrinsics, inverse_pose(cells.world_from_camera))
    column, row = uv.floor().unbind(-1)
    inside = (z > NEAR_M) & (column >= 0) & (column < cells.width) & (row >= 0) & (row < cells.height) & tokens.occupied
    cell = torch.where(inside, row * cells.width + column, 0.0).long()
    latents, evidence = frame.tokens()
    certainty, known = evidence.gather(1, cell), (evidence > 0).gather(1, cell)
    depth = torch.where(frame.evidence > 0, frame.depth, torch.inf)
    nearest = -F.max_pool2d(-depth.unsqueeze(1), 3, stride=1, padding=1).flatten(1).gather(1, cell)
    surface = torch.where(known, frame.depth.flatten(1).gather(1, cell), 1.0)
    variance = 1.0 / tokens.evidence.clamp_min(1e-6) + 1.0 / certainty.clamp_min(1e-6)
    gate = (GATE_SIGMAS * variance.sqrt() / surface).clamp(*GATE_RANGE)
    there = inside & known & ((z - surface).abs() < gate * surface)
    unlike = (tokens.looks - _cells_of(latents[..., :-1], cell)).abs().mean(-1) > SIMILAR
    through = inside & known & (z < (1.0 - gate) * nearest)
    return Found(cell, z, there & ~unlike, through | (there & unlike))


def merge(tokens: Tokens, places: Tensor, found: Found, frame: CellFrame, cells: Camera, clock: Tensor) -> Tokens:
    """Average tokens that are shown with their cells, doubt those that are contradicted; differentiable in latents and depth.

    A token moves along its line of sight alone: where in the cell it lies is its own, which a coarse look does not tell.
    """
    latents, evidence = frame.tokens()
    seen = evidence.gather(1, found.cell)
    kept = torch.minimum(tokens.evidence, MAX_EVIDENCE_RATIO * seen)
    share = torch.where(found.shown, seen / (seen + kept).clamp_min(1e-9), 0.0)
    # Only where they are shown: other cells may hold anything.
    there = found.shown[..., None]
    surface = torch.where(found.shown, frame.depth.flatten(1).gather(1, found.cell), found.z)
    look = torch.where(there, _cells_of(latents, found.cell), tokens.latents)
    eye = cells.world_from_camera[:, None, :3, 3]
    stretch = torch.where(found.shown, 1.0 + share * (surface / found.z - 1.0), 1.0)
    doubted = tokens.evidence * DOUBT
    doubted = torch.where(doubted < FORGOTTEN * seen, 0.0, doubted)
    mistaken = found.shown & (tokens.relocations < CONFIRMED)  # what is where it was does not move
    return Tokens(
        offsets=torch.where(there, eye + stretch[..., None] * (places - eye), tokens.offsets),
        velocities=torch.where(mistaken[..., None], 0.0, tokens.velocities),
        latents=tokens.latents + share[..., None] * (look - tokens.latents),
        evidence=torch.where(found.shown, kept + seen, torch.where(found.contradicted, doubted, tokens.evidence)),
        seen_at=torch.where(found.shown, clock[:, None], tokens.seen_at),
        relocations=torch.where(mistaken, 0, tokens.relocations).to(torch.int8),
    )


def forget_lost_movers(tokens: Tokens, lost: Tensor) -> Tokens:
    """Without tokens that were believed to move and are not to be found, `lost` [B, N] bool."""
    gone = lost & (tokens.relocations >= CONFIRMED)
    return replace(tokens, evidence=torch.where(gone, 0.0, tokens.evidence))


def explained_cells(found: Found, cells: int) -> Tensor:
    """Which cells show a token. [B, cells] bool"""
    hits = torch.zeros(len(found.cell), cells, device=found.cell.device)
    return hits.scatter_reduce(1, found.cell, found.shown.float(), "amax") > 0


def _cells_of(values: Tensor, cell: Tensor) -> Tensor:
    """Values [B, C, D] of the cells [B, N]. [B, N, D]"""
    return values.gather(1, cell[..., None].expand(-1, -1, values.shape[-1]))
