"""Multi-view stereo of the agent's own video with its own poses: a teacher without weights.

Unlike the sweep inside a world model it is offline: each frame is matched with frames before and after it, at full resolution.
Two passes. The first sweeps planes (`plane_sweep`) and smooths (`semi_global`). In the second the depths that the first gave to
other frames vote on the planes of each frame, as far as they see that far (after the visibility-based fusion of Merrell et al.
2007, ICCV). Last, depths that survive reprojection there and back are averaged (as in MVSNet, Yao et al. 2018,
arXiv:1804.02505), and moved onto the planes of their windows. Confidence is how alone the minimum is, the share of the frames
that should see the surface and do, and whether colours match there. Only what stands still is triangulated; what moves finds no
votes, and its confidence says so.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.matching.plane_sweep import LARGEST, plane_sweep, relative_views
from embodied_liftwm.geometry.matching.semi_global import semi_global
from embodied_liftwm.geometry.view_selection import choose_views
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.priors.contract import Clip, DepthMaps, NormalMaps, PriorCard, PseudoObservations
from embodied_liftwm.priors.geometric.plane_fit import fit_planes
from embodied_liftwm.protocols import Camera

VERSION = 1
"""Of the method: another one makes other pseudo-observations of the same settings."""
SURE_PER_COST, EVEN_MARGIN = 1.6, 0.3
"""Log-odds of a depth's being right grow by the first with each unit of cost by which others cost more, from even odds at the
second: fitted to three development scenes, and right on five others (`liftwm reproduce teachers`)."""
UNLIKE = 1.0
"""Matching cost from which on colours speak against a depth."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_BEHIND = np.float32(1e-2)


class Voters(NamedTuple):
    """S frames whose depths are known, and how they lie to one more frame.

    A pixel u of that frame at depth z is seen by voter s at the pixel turns[s] u z + shifts[s], up to scale, and the third of
    these numbers is its depth there; `turns_back` and `shifts_back` lead from the voter's pixels to the frame's.
    """

    depth: np.ndarray  # [S, h, w] metres
    confidence: np.ndarray  # [S, h, w] in [0, 1]
    turns: np.ndarray  # [S, 3, 3]
    shifts: np.ndarray  # [S, 3]
    turns_back: np.ndarray  # [S, 3, 3]
    shifts_back: np.ndarray  # [S, 3]


class Agreement(NamedTuple):
    """Of every pixel's depth, what the voters say. Each [h, w], written."""

    agree: np.ndarray  # voters that see a surface there
    conflict: np.ndarray  # voters that see through it
    depth: np.ndarray  # sum over the agreeing of where their surface lies, metres


@dataclass(frozen=True)
class StereoSettings:
    """How frames are matched. Chosen on development scenes."""

    sources: int = 10  # frames that a frame is matched with
    voters: int = 24  # frames whose depths it is compared with
    planes: int = 64  # depth hypotheses, uniform in log-depth
    nearest_m: float = 0.12
    farthest_m: float = 10.0
    votes: float = 1.5  # weight of unanimous votes, in units of the matching cost
    vote_reach: float = 0.15  # relative difference of depth up to which a vote counts
    agree_px: float = 1.0  # a depth agrees with another frame's if it comes back so near
    agree_depth: float = 0.1  # and its depth differs relatively by no more than this


@dataclass(frozen=True)
class _Found:
    """Depths of all frames, and what speaks for them."""

    depth: Tensor  # [F, H, W] metres
    cost: Tensor  # [F, H, W] of matching colours at that depth
    margin: Tensor  # [F, H, W] by how much any other depth costs more, smoothed


class MultiViewStereo:
    """Metric depth and normals of every frame."""

    def __init__(self, settings: StereoSettings | None = None) -> None:
        self.settings = settings or StereoSettings()
        s = self.settings
        self.log_planes = torch.linspace(math.log(s.nearest_m), math.log(s.farthest_m), s.planes)

    def fingerprint(self) -> str:
        """Of the method and its settings. 16 hex digits"""
        return hashlib.sha256(f"mvs {VERSION} {self.settings}".encode()).hexdigest()[:16]

    @torch.no_grad()
    def observe(self, clip: Clip) -> PseudoObservations:
        """Triangulate every frame of a clip; confidence is 0 where no other frame sees the same from aside."""
        clip = Clip(*(x.detach().float().cpu() for x in clip))
        partners = [self._partners(clip, frame) for frame in range(len(clip.rgb))]
        first = self._pass(clip, partners, None)
        weights = _trust(*self._compare(clip, partners, first.depth, torch.ones_like(first.depth))[:2])
        second = self._pass(clip, partners, (first.depth, weights))
        agree, conflict, depth = self._compare(clip, partners, second.depth, torch.ones_like(second.depth))
        confidence = _confidence(agree, conflict, second)
        frames = torch.arange(len(depth))
        planes = fit_planes(depth, confidence, clip.intrinsics.expand(len(depth), 3, 3))
        return PseudoObservations(
            depth=DepthMaps(planes.depth, confidence, frames, "metric"),
            normals=NormalMaps(planes.normals, planes.confidence, frames),
        )

    def _partners(self, clip: Clip, frame: int) -> Tensor:
        """Frames with parallax that together see what this one sees, best first. [at most voters] int64"""
        allowed = torch.ones(1, len(clip.rgb))
        allowed[0, frame] = 0.0
        chosen, good = choose_views(_camera(clip, frame), clip.world_from_camera[None], allowed, self.settings.voters)
        return chosen[0][good[0]]

    def _pass(self, clip: Clip, partners: list[Tensor], votes: tuple[Tensor, Tensor] | None) -> _Found:
        """Match all frames, with the votes of depths and their weights [F, H, W] where there are any."""
        found = []
        for frame, others in enumerate(partners):
            cost = self._match(clip, frame, others[: self.settings.sources])
            smooth = cost
            if votes is not None:
                share = np.empty((*cost.shape[-2:], self.settings.planes), np.float32)
                voters = _voters(clip, frame, others, *votes)
                vote(voters, self.log_planes.exp().numpy(), np.float32(self.settings.vote_reach), share)
                smooth = cost + self.settings.votes * (1.0 - torch.from_numpy(share).permute(2, 0, 1)[None])
            found.append(self._cheapest(cost, semi_global(smooth, clip.rgb[frame : frame + 1])))
        return _Found(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _match(self, clip: Clip, frame: int, others: Tensor) -> Tensor:
        """Matching costs of the planes of one frame. [1, P, H, W]"""
        groups = torch.ones(1, 1, len(others), dtype=torch.bool)
        rgb, poses = clip.rgb[others][None], clip.world_from_camera[others][None]
        camera = _camera(clip, frame)
        return plane_sweep(clip.rgb[frame : frame + 1], camera, rgb, poses, groups, self.log_planes.exp(), stride=1).cost[:, 0]

    def _cheapest(self, cost: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Depth between planes, by a parabola through the smoothed costs around the least; then as in `_Found`."""
        last = self.settings.planes - 1
        least = smooth.argmin(1, keepdim=True)
        middle = least.clamp(1, last - 1)
        before, here, after = (smooth.gather(1, middle + step) for step in (-1, 0, 1))
        bend = before - 2.0 * here + after
        offset = torch.where(bend > 1e-6, 0.5 * (before - after) / bend.clamp_min(1e-6), 0.0).clamp(-1.0, 1.0)
        place = torch.where(least == middle, least + offset, least.to(cost)).squeeze(1)
        step = self.log_planes[1] - self.log_planes[0]
        elsewhere = (torch.arange(last + 1)[:, None, None] - least).abs() > 2
        margin = torch.where(elsewhere, smooth, torch.inf).amin(1) - smooth.gather(1, least).squeeze(1)
        return (self.log_planes[0] + step * place).exp(), cost.gather(1, least).squeeze(1), margin

    def _compare(self, clip: Clip, partners: list[Tensor], depth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Voters that agree and that see through, and the mean of a depth and of those that agree with it. [F, H, W] each"""
        found = Agreement(*(np.zeros(depth.shape, np.float32) for _ in range(3)))
        for frame, others in enumerate(partners):
            voters = _voters(clip, frame, others, depth, weights)
            here = Agreement(*(part[frame] for part in found))
            pixels, tolerance = np.float32(self.settings.agree_px), np.float32(self.settings.agree_depth)
            compare(depth[frame].numpy(), voters, pixels, tolerance, here)
        agree, conflict, total = (torch.from_numpy(part) for part in found)
        return agree, conflict, (depth + total) / (1.0 + agree)


def _camera(clip: Clip, frame: int) -> Camera:
    return Camera(clip.intrinsics[None], clip.world_from_camera[frame : frame + 1], *clip.rgb.shape[-2:])


def _voters(clip: Clip, frame: int, others: Tensor, depth: Tensor, weights: Tensor) -> Voters:
    """Other frames with their depths, and the ways there and back."""
    turns, shifts = relative_views(_camera(clip, frame), clip.world_from_camera[others][None])
    theirs = Camera(clip.intrinsics.expand(len(others), 3, 3), clip.world_from_camera[others], *clip.rgb.shape[-2:])
    back, shifts_back = relative_views(theirs, clip.world_from_camera[frame].expand(len(others), 1, 4, 4))
    ways = (turns[0], shifts[0], back[:, 0], shifts_back[:, 0])
    return Voters(*(x.contiguous().numpy() for x in (depth[others], weights[others], *ways)))


def _trust(agree: Tensor, conflict: Tensor) -> Tensor:
    """Weight of a depth's vote: the share that agrees, one more voter against it."""
    return agree / (agree + conflict + 2.0)


def _confidence(agree: Tensor, conflict: Tensor, found: _Found) -> Tensor:
    """Probability that a depth is right within a tenth: how alone the minimum is, unless frames see through it, or none agrees.

    A depth whose colours differ everywhere by what they may at most is not believed either, however alone it is.
    """
    alone = torch.sigmoid(SURE_PER_COST * (found.margin - EVEN_MARGIN))
    alike = ((LARGEST - found.cost) / (LARGEST - UNLIKE)).clamp(0.0, 1.0)
    return alone * alike * agree / (agree + conflict).clamp_min(1.0)


CARD = PriorCard(
    name="mvs",
    gives=("depth", "normals"),
    about="multi-view stereo on the agent's own video and poses: plane sweep, semi-global matching, votes of other frames",
    licence="Apache-2.0",
    non_commercial=False,
    missing=lambda options: "",
    open=lambda options: MultiViewStereo(),
)


@loosely_compiled
def vote(voters, planes, tolerance, share):
    """Of the voters that would see a surface on a plane, the share that does see one there, each by its confidence.

    One whose surface lies nearer does not see that far and has no vote; one whose surface lies farther votes against. One vote
    more is against every plane, so that few voters count for little.

    Args:
        voters: see `Voters`.
        planes: z-depths in metres. [P]
        tolerance: relative difference of depth at which a vote has no weight left.
        share: [h, w, P] in [0, 1), written.
    """
    number, rows, columns = voters.depth.shape
    width, height = np.float32(columns), np.float32(rows)
    last = planes.shape[0]
    away, column, row = np.empty(last, np.float32), np.empty(last, np.float32), np.empty(last, np.float32)
    total = np.empty(last, np.float32)
    for y in range(rows):
        v = np.float32(y) + _HALF
        for x in range(columns):
            u = np.float32(x) + _HALF
            share[y, x] = _ZERO
            total[:] = _ONE
            for s in range(number):
                turn, shift = voters.turns[s], voters.shifts[s]
                a = turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]
                b = turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]
                c = turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]
                for p in range(last):
                    away[p] = c * planes[p] + shift[2]
                for p in range(last):
                    column[p] = (a * planes[p] + shift[0]) / max(away[p], _BEHIND)
                for p in range(last):
                    row[p] = (b * planes[p] + shift[1]) / max(away[p], _BEHIND)
                for p in range(last):
                    if away[p] > _BEHIND and column[p] >= _ZERO and row[p] >= _ZERO and column[p] < width and row[p] < height:
                        i, j = int(row[p]), int(column[p])
                        farther = (away[p] - voters.depth[s, i, j]) / voters.depth[s, i, j]
                        if farther < tolerance:
                            weight = voters.confidence[s, i, j]
                            total[p] += weight
                            share[y, x, p] += weight * max(_ZERO, _ONE - abs(farther) / tolerance)
            for p in range(last):
                share[y, x, p] /= total[p]


@loosely_compiled
def compare(depth, voters, pixels, tolerance, found):
    """Reproject every pixel into the voters and their surfaces back, and count who agrees (Schoenberger et al. 2016, ECCV).

    A voter agrees if its surface, seen where the pixel's point falls, comes back within `pixels` of the pixel and within
    `tolerance` of its depth. Of the four pixels around that place the one nearest in depth speaks: a mean of two surfaces
    lies on neither.

    Args:
        depth: of the frame, metres. [h, w]
        voters: see `Voters`.
        pixels: largest distance after the way there and back.
        tolerance: largest relative difference of depth.
        found: see `Agreement`; zeros, written.
    """
    number, rows, columns = voters.depth.shape
    width, height = np.float32(columns), np.float32(rows)
    for y in range(rows):
        v = np.float32(y) + _HALF
        for x in range(columns):
            u, z = np.float32(x) + _HALF, depth[y, x]
            for s in range(number):
                column, row, away = _carry(voters.turns[s], voters.shifts[s], u, v, z)
                if not (away > _BEHIND and column >= _ZERO and row >= _ZERO and column < width and row < height):
                    continue
                i, j = _nearest_in_depth(voters.depth[s], column, row, away)
                theirs, weight = voters.depth[s, i, j], voters.confidence[s, i, j]
                back_u, back_v, back_z = _carry(voters.turns_back[s], voters.shifts_back[s], column, row, theirs)
                beside = (back_u - u) * (back_u - u) + (back_v - v) * (back_v - v)
                if beside < pixels * pixels and abs(back_z - z) < tolerance * z:
                    found.agree[y, x] += weight
                    found.depth[y, x] += weight * back_z
                elif theirs > away:
                    found.conflict[y, x] += weight


@loosely_compiled
def _carry(turn, shift, u, v, z):
    """Pixel (u, v) and depth at which another camera sees what one sees at (u, v) and depth z."""
    away = (turn[2, 0] * u + turn[2, 1] * v + turn[2, 2]) * z + shift[2]
    scale = _ONE / max(away, _BEHIND)
    column = ((turn[0, 0] * u + turn[0, 1] * v + turn[0, 2]) * z + shift[0]) * scale
    row = ((turn[1, 0] * u + turn[1, 1] * v + turn[1, 2]) * z + shift[1]) * scale
    return column, row, away


@loosely_compiled
def _nearest_in_depth(depth, column, row, away):
    """Row and column of that one of the four pixels around a place whose depth is nearest to `away`."""
    upper = min(max(int(np.floor(row - _HALF)), 0), depth.shape[0] - 2)
    left = min(max(int(np.floor(column - _HALF)), 0), depth.shape[1] - 2)
    best, i, j = np.float32(np.inf), upper, left
    for y in range(upper, upper + 2):
        for x in range(left, left + 2):
            error = abs(depth[y, x] - away)
            if error < best:
                best, i, j = error, y, x
    return i, j
