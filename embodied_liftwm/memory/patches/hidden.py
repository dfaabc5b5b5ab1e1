"""What is hidden is not contradicted: what something has come to stand in front of moves into a patch behind it.

Depth alone cannot tell the two: where a screen rises 15 cm in front of an object 3 m away, both lie within the doubt of either
depth, and averaged by evidence the object would become the screen within a few looks. Their colours tell. Texels that a pixel
meets at about their depth but in another colour, several of a patch together, are taken for hidden: the patch takes the new
surface, and a second one of the same cube and face (`map.HIDDEN`) keeps the old, which cannot be nearer than what hides
it. It is updated where it is seen again in its own colour, and goes where a ray passes through, as everything else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.memory.patches.map import HIDDEN, Patches, PatchMap, along, patch_keys
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.types import Association, Frame, Look

BEHIND = 0.03
"""How far behind a surface, as a share of its depth, what it hides lies at least (docs/experiments.md, section 41)."""


def of_another_colour(old: Patches, look: Look, frame: Frame) -> Tensor:
    """Texels that their pixel shows in another colour, wherever they are. [R, M] bool"""
    return (old.rgb - frame.rgb[look.pixel]).abs().mean(-1) > MEETING.other_colour


def is_behind(faces: Tensor) -> Tensor:
    """Which patches hold what is hidden. [R] bool"""
    return faces >= HIDDEN


def hidden_patches(old: Patches, batch: Tensor, found: Association, frame: Frame) -> tuple[Patches, Tensor]:
    """What a frame came to hide, in patches of its own.

    Args:
        old: patches before the frame. [R]
        batch: the row of the frame that each of them looks at. [R]
        found: what becomes of them.
        frame: what is seen.

    Returns:
        Patches [K], no nearer than what hides them, and their rows. [K]
    """
    some = found.hidden.any(1).nonzero().squeeze(1)
    kept, rows, hidden = old.take(some), batch[some], found.hidden[some]
    eye = frame.camera.world_from_camera[rows, :3, 3].gather(1, along(kept.faces)[:, :1])
    nearest = (1.0 + BEHIND) * frame.depth[found.look.pixel[some]]
    z = torch.where(hidden, found.look.z[some], nearest)
    heights = eye + (kept.heights - eye) * (nearest / z).clamp_min(1.0)
    aside = kept._replace(
        faces=kept.faces + HIDDEN,
        heights=torch.where(hidden, heights, kept.heights),
        evidence=torch.where(hidden, kept.evidence, 0.0),
    )
    return aside, rows


def places_behind(world: PatchMap, aside: Patches, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the patches `aside` [K] the map has a place for already, and where in its B * N. [K] bool, [K] int64"""
    same = world.keys()[batch] == patch_keys(aside.cells, aside.faces, aside.levels)[:, None]
    return same.any(1), batch * world.faces.shape[1] + same.to(torch.uint8).argmax(1)


def joined(held: Patches, aside: Patches) -> Patches:
    """One patch of two of the same key: of each texel, what has more evidence. [K]"""
    more = aside.evidence > held.evidence

    def choose(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(more if mine.dim() == 2 else more[..., None], mine, theirs)

    chosen = (choose(mine, theirs) for mine, theirs in zip(aside[3:], held[3:], strict=True))
    return Patches(*held[:3], *chosen)
