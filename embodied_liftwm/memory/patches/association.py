"""How the texels of a patch map and a frame belong together: what `patch_integrate` finds and `fusion` weighs."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Look(NamedTuple):
    """Where texels of R patches fall in the frames of their rows."""

    pixel: Tensor  # [R, M] int64 in the list of all pixels, 0 outside
    uv: Tensor  # [R, M, 2] pixels
    z: Tensor  # [R, M] metres
    inside: Tensor  # [R, M] bool


class Association(NamedTuple):
    """What becomes of the texels of R patches."""

    heights: Tensor  # [R, M] metres: theirs, or where empty ones meet the surface
    look: Look
    matched: Tensor  # [R, M] bool: what its pixel sees
    hidden: Tensor  # [R, M] bool: something of another colour is in front of them now
    gone: Tensor  # [R, M] bool
    filled: Tensor  # [R, M] bool: empty ones that meet a surface
