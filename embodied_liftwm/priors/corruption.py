"""Teachers made worse on purpose, by a stated dose: to find where distillation turns from help to harm.

A corruption is a function of what a teacher said of a clip, and of a random generator; the same seed and episode give the same.
Its local strength s varies over each image: a smooth random field of mean 1, in [0, 2]. Errors grow with it. In the weighted
form confidence knows: it is the teacher's own times the probability that the corruption leaves a depth within `NEAR_ENOUGH`, a
normal within `NEAR_ENOUGH_DEG`. In the unweighted form values are the same, and confidence is 1 wherever the teacher speaks.

    clean       nothing; unweighted it is the teacher as it is, equally sure of everything
    noise       white noise of log-depth, and of normals in radians, of deviation dose
    outliers    blocks of pixels replaced by one depth, log-uniform, and one normal; the dose is their share
    pure_noise  log-uniform depth and any normal at every pixel
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.priors.contract import Clip, DepthMaps, NormalMaps, PseudoObservations

VERSION = 1
"""Of the corruptions; a part of their fingerprints."""
NEAR_ENOUGH = 1.1
"""Confidence in a depth is the probability that it is within this factor of the truth."""
NEAR_ENOUGH_DEG = 11.25
"""Confidence in a normal is the probability that it is within this angle of the truth."""
NEAREST_M, FARTHEST_M = 0.15, 10.0
"""Between them depths that have nothing to do with the scene are drawn, uniform in log-depth."""
BY_CHANCE = 2.0 * math.log(NEAR_ENOUGH) / math.log(FARTHEST_M / NEAREST_M)
"""Probability that such a depth is near enough."""
NORMAL_BY_CHANCE = 1.0 - math.cos(math.radians(NEAR_ENOUGH_DEG))
"""Probability that a direction of a hemisphere is near enough to another one of it."""
BLOCK_PX = 8
"""Side of a block of outliers."""
FIELD_NODES = 4
"""A field of strengths is interpolated between so many random numbers a side."""


@dataclass(frozen=True)
class Corruption:
    """What is done to a teacher."""

    kind: str  # of KINDS
    dose: float  # see the head of this module; `clean` and `pure_noise` have none
    weighted: bool  # whether confidence knows of it
    seed: int  # of everything random in it

    @property
    def name(self) -> str:
        """As files and rows call it: `noise-0.3-weighted`."""
        dose = "" if self.kind in ("clean", "pure_noise") else f"-{self.dose:g}"
        return f"{self.kind}{dose}-{'weighted' if self.weighted else 'unweighted'}"

    def fingerprint(self, of: str) -> str:
        """Of the teacher with the fingerprint `of`, corrupted. 16 hex digits"""
        return hashlib.sha256(f"corruption {VERSION} {self} {of}".encode()).hexdigest()[:16]


class Maps(NamedTuple):
    """A teacher's depth and normals of the frames of a clip; chances are those that the corruption leaves them right."""

    depth: Tensor  # [K, H, W]
    depth_sure: Tensor  # [K, H, W] the teacher's own confidence
    depth_chance: Tensor  # [K, H, W]
    normals: Tensor  # [K, 3, H, W]
    normals_sure: Tensor  # [K, H, W]
    normals_chance: Tensor  # [K, H, W]


def generator(how: Corruption, episode: int) -> np.random.Generator:
    """What a corruption of an episode draws from: the same for all doses of a kind, weighted or not."""
    return np.random.default_rng([how.seed, episode, zlib.crc32(how.kind.encode())])


def corrupt(found: PseudoObservations, clip: Clip, how: Corruption, rng: np.random.Generator) -> PseudoObservations:
    """Make a teacher worse.

    Args:
        found: metric depth of every frame of the clip, in order, and normals of the same, where there are any. What else the
            teacher gives is left out.
        clip: what the teacher was shown.
        how: what is done.
        rng: of `generator`.

    Raises:
        UserError: there is no such depth.
    """
    depth, normals = check_corruptible(found, len(clip.rgb))
    ones, nothing = torch.ones_like(depth.values), torch.zeros_like(depth.values)
    towards = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(len(ones), 3, *ones.shape[1:])
    own = (towards, nothing) if normals is None else (normals.values, normals.confidence)
    worse = KINDS[how.kind](Maps(depth.values, depth.confidence, ones, *own, ones), clip.intrinsics, how.dose, rng)
    sure = [
        own * chance if how.weighted else (own > 0).float()
        for own, chance in ((worse.depth_sure, worse.depth_chance), (worse.normals_sure, worse.normals_chance))
    ]
    return PseudoObservations(
        depth=replace(depth, values=worse.depth, confidence=sure[0]),
        normals=None if normals is None else replace(normals, values=worse.normals, confidence=sure[1]),
    )


def check_corruptible(found: PseudoObservations, frames: int) -> tuple[DepthMaps, NormalMaps | None]:
    """The depth and the normals of a teacher that can be corrupted, for a clip of so many frames.

    Raises:
        UserError: it has no metric depth of every frame, or normals of some frames alone.
    """
    every = torch.arange(frames)
    if found.depth is None or found.depth.convention != "metric" or not torch.equal(found.depth.frames, every):
        raise UserError("only a teacher that gives metric depth of every frame can be corrupted")
    if found.normals is not None and not torch.equal(found.normals.frames, every):
        raise UserError("only a teacher that gives normals of every frame, or of none, can be corrupted")
    return found.depth, found.normals


def strengths(rng: np.random.Generator, frames: int, height: int, width: int) -> Tensor:
    """Smooth random fields, uniform on [0, 2]: of each image exactly, whence their mean is 1. [F, H, W]"""
    nodes = torch.from_numpy(rng.standard_normal((frames, 1, FIELD_NODES, FIELD_NODES)).astype(np.float32))
    smooth = F.interpolate(nodes, (height, width), mode="bicubic", align_corners=True).flatten(1)
    rank = smooth.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (2.0 * (rank + 0.5) / rank.shape[1]).view(frames, height, width)


def chance_within(limit: float, deviation: Tensor) -> Tensor:
    """Probability that a normal variable of this deviation is within +- limit; 1 where the deviation is 0."""
    return torch.erf(limit / (math.sqrt(2.0) * deviation.clamp_min(1e-9)))


def chance_of_angle(deviation: Tensor) -> Tensor:
    """Probability that a direction is near enough whose two tangent components have this deviation: a Rayleigh tangent."""
    limit = math.tan(math.radians(NEAR_ENOUGH_DEG))
    return -torch.expm1(-0.5 * (limit / deviation.clamp_min(1e-9)).square())


def clean(maps: Maps, intrinsics: Tensor, dose: float, rng: np.random.Generator) -> Maps:
    """The teacher as it is."""
    return maps


def noise(maps: Maps, intrinsics: Tensor, dose: float, rng: np.random.Generator) -> Maps:
    """Every log-depth is off by a number of deviation dose s(u), and every normal by such a step along the tangent plane."""
    deviation = dose * strengths(rng, *maps.depth.shape)
    depth = maps.depth * torch.exp(deviation * _normal(rng, *maps.depth.shape))
    step = _normal(rng, *maps.normals.shape)
    step = step - (step * maps.normals).sum(1, keepdim=True) * maps.normals
    normals = F.normalize(maps.normals + deviation.unsqueeze(1) * step, dim=1)
    chances = chance_within(math.log(NEAR_ENOUGH), deviation), chance_of_angle(deviation)
    return maps._replace(depth=depth, depth_chance=chances[0], normals=normals, normals_chance=chances[1])


def outliers(maps: Maps, intrinsics: Tensor, dose: float, rng: np.random.Generator) -> Maps:
    """A block is replaced with probability dose s(u), s drawn towards 1 as far as that would be above 1."""
    frames, height, width = maps.depth.shape
    rows, columns = -(-height // BLOCK_PX), -(-width // BLOCK_PX)
    varied = strengths(rng, frames, rows, columns) - 1.0
    risk = dose * (1.0 + min(1.0, (1.0 - dose) / dose) * varied)
    hit = torch.from_numpy(rng.random((frames, rows, columns)).astype(np.float32)) < risk
    depth, normals = _anything(rng, intrinsics, frames, rows, columns, (height, width))

    def by_pixel(blocks: Tensor) -> Tensor:
        wide = blocks.repeat_interleave(BLOCK_PX, -2).repeat_interleave(BLOCK_PX, -1)
        return wide[..., :height, :width]

    hit, risk = by_pixel(hit), by_pixel(risk)
    return maps._replace(
        depth=torch.where(hit, by_pixel(depth), maps.depth),
        depth_chance=1.0 - risk * (1.0 - BY_CHANCE),
        normals=torch.where(hit.unsqueeze(1), by_pixel(normals), maps.normals),
        normals_chance=1.0 - risk * (1.0 - NORMAL_BY_CHANCE),
    )


def pure_noise(maps: Maps, intrinsics: Tensor, dose: float, rng: np.random.Generator) -> Maps:
    """Nothing of the scene is left."""
    frames, height, width = maps.depth.shape
    depth, normals = _anything(rng, intrinsics, frames, height, width, (height, width))
    ones = torch.ones_like(depth)
    return maps._replace(
        depth=depth, depth_chance=BY_CHANCE * ones, normals=normals, normals_chance=NORMAL_BY_CHANCE * ones
    )  # fmt: skip


KINDS: dict[str, Callable[[Maps, Tensor, float, np.random.Generator], Maps]] = {
    "clean": clean, "noise": noise, "outliers": outliers, "pure_noise": pure_noise
}  # fmt: skip
"""Kind -> the function that does it."""


def _anything(
    rng: np.random.Generator, intrinsics: Tensor, frames: int, rows: int, columns: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Depths [F, r, c] and normals towards the camera [F, 3, r, c] that have nothing to do with the scene."""
    share = torch.from_numpy(rng.random((frames, rows, columns)).astype(np.float32))
    depth = NEAREST_M * torch.exp(share * math.log(FARTHEST_M / NEAREST_M))
    normals = F.normalize(_normal(rng, frames, 3, rows, columns), dim=1)
    rays = F.interpolate(camera_rays(intrinsics[None], *size).movedim(-1, 1), (rows, columns), mode="nearest")
    away = (normals * rays).sum(1, keepdim=True) > 0
    return depth, torch.where(away, -normals, normals)


def _normal(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
