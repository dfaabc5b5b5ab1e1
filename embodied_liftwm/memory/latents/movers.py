"""Tokens that are not where they should be visible are looked for elsewhere: found again, they are moved and have a velocity.

A frame shows cells that no token explains. A contradicted token and such a cell are one where each is the other's nearest, in
place and latent, within the reach of what moves. Things are rigid: neighbours that were found again share their mean velocity.
Found elsewhere twice in a row, a token is believed to move, and goes on while nothing sees it. Nothing is known of things as
wholes: one of a single colour that is wider than its step slides through its own tokens, and only its edges are found to move.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from embodied_liftwm.memory.latents.compare import MOST_RELOCATIONS, Found
from embodied_liftwm.memory.latents.tokens import Tokens

MOST_LOST = 256
"""Tokens a row that are looked for at once, the surest first."""
SPEED_M, REACH_M = 0.25, 1.0
"""A token is looked for within so many metres for each step that it was not seen, but never farther than the second."""
ALIKE = 0.4
"""Root mean square difference of latents up to which a token is found again."""
RIGID_M = 0.3
"""Tokens nearer than this move alike."""


def relocate(tokens: Tokens, places: Tensor, found: Found, fresh: Tokens, clock: Tensor) -> tuple[Tokens, Tensor, Tensor]:
    """Move contradicted tokens to the cells that show them now.

    Args:
        tokens: unpacked.
        places: where they were expected. [B, N, 3] metres from the origin
        found: what the frame says of them.
        fresh: the frame's cells as tokens, those that nothing explains. [B, C]
        clock: the step. [B]

    Returns:
        the tokens, which of them were found elsewhere [B, N] bool, and which cells show them [B, C] bool.
    """
    lost = found.contradicted & tokens.occupied
    nothing = torch.zeros_like(lost), torch.zeros_like(fresh.occupied)
    if not bool(lost.any()) or not bool(fresh.occupied.any()):
        return tokens, *nothing
    slots = torch.where(lost, tokens.evidence, 0.0).topk(min(MOST_LOST, lost.shape[1]), dim=1).indices
    sought = tokens.gather(slots)
    expected = places.gather(1, slots[..., None].expand(-1, -1, 3))
    match, matched = _match(sought, expected, lost.gather(1, slots), fresh, clock)
    moved = _moved(sought, fresh.gather(match), matched, clock)
    elsewhere = nothing[0].scatter(1, slots, matched)
    shown = nothing[1].float().scatter_reduce(1, match, matched.float(), "amax") > 0
    return tokens.put(slots, moved.choose(matched, sought)), elsewhere, shown


@torch.no_grad()
def _match(sought: Tokens, expected: Tensor, lost: Tensor, fresh: Tokens, clock: Tensor) -> tuple[Tensor, Tensor]:
    """The cell [B, K] that each token is nearest to, and whether it is that cell's nearest as well. [B, K] bool"""
    elapsed = (clock[:, None] - sought.seen_at).clamp_min(1.0)
    far = torch.cdist(expected, fresh.offsets) / (SPEED_M * elapsed).clamp_max(REACH_M)[..., None]
    unlike = torch.cdist(sought.looks, fresh.looks) / (ALIKE * math.sqrt(sought.looks.shape[-1]))
    possible = (far < 1.0) & (unlike < 1.0) & lost[..., None] & fresh.occupied[:, None]
    price = torch.where(possible, far + unlike, torch.inf)
    best, match = price.min(2)
    mutual = price.argmin(1).gather(1, match) == torch.arange(match.shape[1], device=match.device)
    return match, mutual & best.isfinite()


def _moved(sought: Tokens, seen: Tokens, matched: Tensor, clock: Tensor) -> Tokens:
    """Tokens [B, K] where they were found, with their velocities."""
    elapsed = (clock[:, None] - sought.seen_at).clamp_min(1.0)
    velocity = _shared((seen.offsets - sought.offsets).detach() / elapsed[..., None], seen.offsets.detach(), matched)
    looks = sought.relocations.to(velocity)[..., None] + 1.0
    return Tokens(
        offsets=seen.offsets,
        velocities=sought.velocities + (velocity - sought.velocities) / looks,
        latents=0.5 * (sought.latents + seen.latents),
        evidence=seen.evidence,
        seen_at=clock[:, None].expand_as(sought.seen_at),
        relocations=(sought.relocations + 1).clamp_max(MOST_RELOCATIONS),
    )


@torch.no_grad()
def _shared(velocities: Tensor, places: Tensor, matched: Tensor) -> Tensor:
    """Mean velocities of what was found again nearby. [B, K, 3]"""
    near = (torch.cdist(places, places) < RIGID_M) & matched[:, None]
    weight = near.to(velocities)
    return weight @ velocities / weight.sum(-1, keepdim=True).clamp_min(1.0)
