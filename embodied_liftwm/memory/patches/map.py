"""A fixed budget of relief patches in the world frame of an episode.

Space is cut into cubes, of a size for each level. A *patch* is what stands in one cube and faces one of six directions: P x P
texels on that side of the cube, each with a height along the direction (its relief), a colour, a latent and its evidence. It is
a primitive whose position, orientation and extent are the lattice's and need not be stored, as in voxel hashing (Niessner et
al. 2013, "Real-time 3D reconstruction at scale using voxel hashing"), and whose surface is a relief texture (Oliveira et al.
2000); that one cube may hold several faces is the directional field of Splietker and Behnke (2019, arXiv:1906.03891). A second
patch of the same cube and face holds what something has come to stand in front of since, as depth layers do (Shade et al.
1998, "Layered depth images").

A texel with zero evidence is empty, and a patch without texels is free. Evidence is the inverse variance of where a texel is:
of the size of the pixel it was seen through, and of how unsure its depth was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.tensor_tree import TensorTree

TEXEL_M = 0.02
"""Edge of the texels of level 0, metres: what a pixel of a 64-pixel frame covers at 0.64 m. Each level's are sqrt(2)
times as large."""
MAX_LEVEL = 24  # texels of 82 m
OFFSET = 2**15
"""Cells of the lattice lie in [-OFFSET, OFFSET) on each axis: with face and level, 57 bits of a key."""
DETAIL_LEVELS = 4
"""Where a texel would mix colours or surfaces it is finer by so many levels than elsewhere, once the budget is full."""
NOWHERE = torch.iinfo(torch.int64).max
"""Key of what is no patch."""
HIDDEN = MEETING.behind
"""Added to the face of a patch that holds what another surface, of the same cube and face, has come to hide."""


@dataclass(frozen=True)
class PatchMap(TensorTree):
    """N relief patches of M = P * P texels per batch row."""

    cells: Tensor  # [B, N, 3] int64 the cube, on the lattice of its level
    faces: Tensor  # [B, N] int64: 2 * axis, one more where the surface faces down that axis; `HIDDEN` more behind another
    levels: Tensor  # [B, N] int64
    heights: Tensor  # [B, N, M] metres: the world coordinate along the face's axis
    rgb: Tensor  # [B, N, M, 3] in [0, 1]
    latents: Tensor  # [B, N, M, D]
    evidence: Tensor  # [B, N, M] 1/m^2, 0 in empty texels
    finest: Tensor  # [B] int64 least level of new patches, but for `DETAIL_LEVELS`; it rises when the budget is full

    @classmethod
    def empty(cls, batch_size: int, budget: int, texels: int, latent_dim: int, like: Tensor) -> Self:
        """A map whose patches of `texels` x `texels` are all free, on the device and of the dtype of `like`."""
        shape = (batch_size, budget, texels**2)
        return cls(
            cells=like.new_zeros(batch_size, budget, 3, dtype=torch.int64),
            faces=like.new_zeros(batch_size, budget, dtype=torch.int64),
            levels=like.new_zeros(batch_size, budget, dtype=torch.int64),
            heights=like.new_zeros(shape),
            rgb=like.new_zeros(*shape, 3),
            latents=like.new_zeros(*shape, latent_dim),
            evidence=like.new_zeros(shape),
            finest=like.new_zeros(batch_size, dtype=torch.int64),
        )

    @property
    def occupied(self) -> Tensor:
        """Patches that hold a texel. [B, N] bool"""
        return self.evidence.amax(-1) > 0  # many times faster than any()

    def patches(self) -> Patches:
        """All patches of all rows in one list, of length B * N."""
        flat = (self.cells, self.faces, self.levels, self.heights, self.rgb, self.latents, self.evidence)
        return Patches(*(t.flatten(0, 1) for t in flat))

    def points(self) -> Tensor:
        """Where the texels are; anything for empty ones. [B, N, M, 3] metres, world frame"""
        p = self.patches()
        return texel_points(p.cells, p.faces, p.levels, p.heights).unflatten(0, self.faces.shape)

    def keys(self) -> Tensor:
        """One integer a patch, `NOWHERE` for free ones. [B, N] int64"""
        return torch.where(self.occupied, patch_keys(self.cells, self.faces, self.levels), NOWHERE)


class Patches(NamedTuple):
    """R patches of any rows; see `PatchMap` for the fields."""

    cells: Tensor  # [R, 3]
    faces: Tensor  # [R]
    levels: Tensor  # [R]
    heights: Tensor  # [R, M]
    rgb: Tensor  # [R, M, 3]
    latents: Tensor  # [R, M, D]
    evidence: Tensor  # [R, M]

    def take(self, rows: Tensor) -> Patches:
        """Those at `rows` [K], or where `rows` [R] bool is true."""
        if rows.dtype == torch.bool:
            return Patches(*(t[rows] for t in self))
        return Patches(*(t.index_select(0, rows) for t in self))  # faster

    def mean_heights(self) -> Tensor:
        """Mean height of the texels that are not empty, 0 without any. [R]"""
        there = (self.evidence > 0).to(self.heights)
        return (self.heights * there).sum(-1) / there.sum(-1).clamp_min(1.0)


def texel_m(levels: Tensor, like: Tensor) -> Tensor:
    """Edge of a texel in metres, in the dtype of `like`."""
    return TEXEL_M * torch.exp2(0.5 * levels.to(like))


@cache
def texel_sizes() -> np.ndarray:
    """Edge of a texel at each level, metres. [MAX_LEVEL + 1] float32"""
    return texel_m(torch.arange(MAX_LEVEL + 1), torch.zeros(1)).numpy()


def level_of(size_m: Tensor) -> Tensor:
    """The level whose texels are nearest in size. int64"""
    return (2.0 * (size_m / TEXEL_M).log2()).round().clamp(0, MAX_LEVEL).long()


def patch_keys(cells: Tensor, faces: Tensor, levels: Tensor) -> Tensor:
    """Distinct integers below `NOWHERE` for distinct patches: cells [..., 3], faces [...], levels [...] -> [...] int64"""
    x, y, z = (cells.clamp(-OFFSET, OFFSET - 1) + OFFSET).unbind(-1)
    return ((((x * 2 * OFFSET + y) * 2 * OFFSET + z) * 16 + faces) * 32) + levels


def unpack_keys(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `patch_keys` packed: cells [..., 3], faces [...], levels [...]."""
    levels, rest = keys % 32, keys // 32
    faces, rest = rest % 16, rest // 16
    z, rest = rest % (2 * OFFSET), rest // (2 * OFFSET)
    return torch.stack([rest // (2 * OFFSET), rest % (2 * OFFSET), z], dim=-1) - OFFSET, faces, levels


def texel_points(cells: Tensor, faces: Tensor, levels: Tensor, heights: Tensor) -> Tensor:
    """World points of texels at `heights` [R, M] of patches: cells [R, 3], faces [R], levels [R] -> [R, M, 3] metres.

    Texel m = v P + u lies at column u along the axis after the face's, and at row v along the one after that.
    """
    side = math.isqrt(heights.shape[-1])
    size = texel_m(levels, heights)
    corner = cells.to(heights) * (side * size)[:, None]
    middle = torch.arange(side, device=heights.device, dtype=heights.dtype) + 0.5
    u, v = middle.repeat(side), middle.repeat_interleave(side)
    axes = along(faces)
    first = corner.gather(1, axes[:, 1:2]) + u * size[:, None]
    second = corner.gather(1, axes[:, 2:3]) + v * size[:, None]
    local = torch.stack([heights, first, second], dim=-1)  # along the face's axis, the next, and the one after
    return local.gather(2, _inverse(faces)[:, None].expand_as(local))


def along(faces: Tensor) -> Tensor:
    """World axes of a patch's height, columns and rows. [R] -> [R, 3] int64"""
    return (faces[:, None] // 2 + torch.arange(3, device=faces.device)) % 3


def _inverse(faces: Tensor) -> Tensor:
    """Where world axis i is among (height, column, row). [R] -> [R, 3] int64"""
    return (torch.arange(3, device=faces.device) - faces[:, None] // 2) % 3


def side_of(texels: Tensor) -> int:
    """P of any tensor [..., M] of texels."""
    return math.isqrt(texels.shape[-1])
