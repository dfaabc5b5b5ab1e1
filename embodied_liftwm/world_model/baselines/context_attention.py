"""Attention from the rays of a camera to frames of the past, along their epipolar lines.

A ray has no picture to compare with, but its points have: where it meets a surface, the frames that see the point agree on
what they see there, and each for itself finds that depth likely. So every cell of the queried camera attends to points along
its ray, one a depth plane, by features sampled in all frames where the point falls into them (their epipolar lines), by how
much these differ, and by the frames' own belief in the depth. That what frames show of a point must look alike is known before
anything is learned, as it is to the plane sweep of models that lift. In a toy room with parallax that tells depth untrained;
in 40 steps on windows of three near frames the error of depth stayed as large as without it. It reads the latents of colours
there, so that an image teaches attention whatever depth it begins with; and at the depth that it attends to most, features of
all kinds. (Sampling and variance as in plane-sweep stereo, Yao et al. 2018, arXiv:1804.02505; attention along a ray and across
views as in Suhail et al. 2022, arXiv:2112.09687.) A ray may also attend to nothing, which leaves its cell for the decoder to
complete.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.se3 import relative_pose
from embodied_liftwm.memory.latents.read import NEAR_M, LatentRead
from embodied_liftwm.protocols import Camera

MATCHED = 8
"""Channels that frames are compared by."""
PEAK = 2
"""Planes on either side of the best one that its depth is the mean over."""
ASIDE = 30.0
"""Initial log-weight that a frame loses for looking at a point at a right angle to the camera, by the cosine."""
SHARPNESS = 12.0
"""Initial weight of how much colours differ between frames, against log-beliefs."""
UNMATCHED = 0.3
"""Initial difference that is assumed where fewer than two frames see a point; colours differ by about 1 at random."""
LEAST_BELIEF = -6.0
"""Log-belief against a uniform one below which a depth is no less likely."""


class FrameFeatures(NamedTuple):
    """What K frames show, for each of B cameras."""

    matched: Tensor  # [B, K, MATCHED, h, w] what they are compared by
    carried: Tensor  # [B, K, C, h, w] what is read of them; the first D are latents of a decoder
    log_belief: Tensor  # [B, K, P, h, w] log-probability of each depth plane


class Points(NamedTuple):
    """Points of B cameras' rays, N planes by Q rays, as each of K frames sees them."""

    grid: Tensor  # [B, K, N, Q, 2] where, from -1 to 1
    log_depth: Tensor  # [B, K, N, Q] z-depth there, log metres
    inside: Tensor  # [B, K, N, Q] bool: it falls on the frame, before its camera
    cosine: Tensor  # [B, K, N, Q] between the camera's and the frame's line of sight


class ContextAttention(nn.Module):
    """Latents, depth and visibility on the queried camera's grid of cells."""

    def __init__(self, config: ModelConfig, carried: int, log_planes: Tensor) -> None:
        """`carried`: channels C that are read of a frame."""
        super().__init__()
        self.latent_dim = config.latent_dim
        self.log_planes: Tensor
        self.register_buffer("log_planes", log_planes, persistent=False)
        self.judge = nn.Sequential(nn.Conv2d(2 * MATCHED + 4, 32, 1), nn.SiLU(), nn.Conv2d(32, 1, 1))
        self.trust = nn.Parameter(torch.ones(()))  # in the frames' own beliefs
        self.log_sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        self.unmatched = nn.Parameter(torch.tensor(UNMATCHED))
        self.nothing = nn.Parameter(torch.zeros(()))  # log-weight of attending to none of the points
        self.aside = nn.Parameter(torch.tensor(ASIDE))
        self.favour = nn.Sequential(nn.Conv2d(2 * carried + 3, 32, 1), nn.SiLU(), nn.Conv2d(32, 1, 1))
        self.out = nn.Conv2d(carried + MATCHED + config.latent_dim, config.latent_dim, 1)
        for layer in (self.judge[-1], self.favour[-1], self.out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, seen: FrameFeatures, frames: Camera, usable: Tensor, camera: Camera) -> LatentRead:
        """Attend.

        Args:
            seen: of K frames for each of B cameras.
            frames: the B * K cameras of the frames, a pixel a cell, those of one camera after another.
            usable: frames to attend to. [B, K] bool
            camera: B cameras, a pixel a cell.

        Returns:
            Latents and depths, whether visible or not, and how much of each cell's attention found something.
        """
        rays = camera_rays(camera.intrinsics, camera.height, camera.width).flatten(1, 2)
        planes = self.log_planes[:, None].expand(len(self.log_planes), rays.shape[1])
        weight, along = self._along_rays(seen, place(rays, planes.expand(len(rays), -1, -1), frames, usable, camera))
        log_depth = _peak(weight, self.log_planes)
        points = place(rays, log_depth.unsqueeze(1), frames, usable, camera)
        read = torch.cat([self._across_frames(seen, points), along], dim=1)
        latents = along[:, MATCHED:] + self.out(read.unsqueeze(2)).squeeze(2)
        shape = (camera.height, camera.width)
        visible = weight.sum(1) * points.inside.any(1).squeeze(1)
        return LatentRead(latents.unflatten(2, shape), log_depth.exp().unflatten(1, shape), visible.unflatten(1, shape))

    def _along_rays(self, seen: FrameFeatures, points: Points) -> tuple[Tensor, Tensor]:
        """Attention to planes, which sums to at most 1 [B, P, Q], and what it read, as a mean. [B, MATCHED + D, Q]"""
        weight = points.inside * (0.1 + points.cosine.clamp_min(0.0))
        share = (weight / weight.sum(1, keepdim=True).clamp_min(1e-6)).unsqueeze(2)
        sampled = sample(torch.cat([seen.matched, seen.carried[:, :, : self.latent_dim]], dim=2), points.grid)
        features, latents = sampled[:, :, :MATCHED], sampled[:, :, MATCHED:]
        mean = (share * features).sum(1)
        variance = (share * (features - mean.unsqueeze(1)).square()).sum(1)
        belief = self._belief(seen, points)
        agreed = (share.squeeze(2) * belief).sum(1)
        best = torch.where(points.inside, belief, LEAST_BELIEF).amax(1)
        number = points.inside.to(mean).mean(1)
        depth = torch.linspace(-1, 1, mean.shape[2]).to(mean)[:, None].expand_as(number)
        told = torch.cat([mean, variance, torch.stack([agreed, best, number, depth], dim=1)], dim=1)
        logits = self.judge(told).squeeze(1) + self.trust * agreed
        logits = logits - self.log_sharpness.exp() * self._difference(latents.detach(), share, points.inside)
        logits = logits.masked_fill(~points.inside.any(1), -torch.inf)
        nothing = self.nothing.expand(len(logits), 1, logits.shape[2])
        attention = torch.cat([logits, nothing], dim=1).softmax(1)[:, :-1]
        favoured = self._favoured(points, belief).unsqueeze(2)
        read = torch.cat([mean, (favoured * latents).sum(1)], dim=1)
        total = attention.sum(1).clamp_min(1e-6)
        return attention, (attention.unsqueeze(1) * read).sum(2) / total.unsqueeze(1)

    def _difference(self, colours: Tensor, share: Tensor, inside: Tensor) -> Tensor:
        """Deviation of the colours that frames show at points. [B, N, Q]

        Args:
            colours: latents of what each frame shows. [B, K, D, N, Q]
            share: of each frame, 0 where it does not see the point. [B, K, 1, N, Q]
            inside: whether it does. [B, K, N, Q] bool
        """
        count = inside.sum(1).to(colours)
        mean = (share * colours).sum(1, keepdim=True)
        variance = (share * (colours - mean).square()).sum(1).mean(1) * count / (count - 1.0).clamp_min(1.0)
        return torch.where(count > 1, (variance + 1e-6).sqrt(), self.unmatched)

    def _favoured(self, points: Points, logits: Tensor) -> Tensor:
        """Shares of the frames in what is read of points, those first that look from where the camera does. [B, K, N, Q]"""
        logits = logits + self.aside * (points.cosine - 1.0)
        return logits.masked_fill(~points.inside, -1e9).softmax(1)

    def _across_frames(self, seen: FrameFeatures, points: Points) -> Tensor:
        """What frames carry of the one point that each ray attends to most. [B, C, Q]"""
        carried = sample(seen.carried, points.grid)  # [B, K, C, 1, Q]
        inside = points.inside.to(carried)
        mean = (inside.unsqueeze(2) * carried).sum(1, keepdim=True) / inside.sum(1, keepdim=True).clamp_min(1.0).unsqueeze(2)
        belief = self._belief(seen, points)
        about = torch.stack([points.cosine, belief, inside], dim=2)
        told = torch.cat([carried, mean.expand_as(carried), about], dim=2)
        logits = self.favour(told.flatten(0, 1)).squeeze(1).unflatten(0, inside.shape[:2])
        share = self._favoured(points, belief + logits).unsqueeze(2)
        return (share * carried).sum(1).squeeze(2)

    def _belief(self, seen: FrameFeatures, points: Points) -> Tensor:
        """Each frame's log-belief in the depths of points, against a uniform one. [B, K, N, Q]"""
        planes, log_planes = seen.log_belief.shape[2], self.log_planes
        step = (log_planes[-1] - log_planes[0]) / (planes - 1)
        number = (points.log_depth - log_planes[0]) / step
        along = (2.0 * number + 1.0) / planes - 1.0
        grid = torch.cat([points.grid, along.unsqueeze(-1)], dim=-1).flatten(0, 1).unsqueeze(3)
        volume = (seen.log_belief.flatten(0, 1) + math.log(planes)).clamp_min(LEAST_BELIEF)
        found = F.grid_sample(volume.unsqueeze(1), grid, padding_mode="border", align_corners=False)
        return found[:, 0, ..., 0].unflatten(0, points.inside.shape[:2])


def place(rays: Tensor, log_depth: Tensor, frames: Camera, usable: Tensor, camera: Camera) -> Points:
    """Project points of rays into frames.

    Args:
        rays: (x / z, y / z, 1) in the camera's frame. [B, Q, 3]
        log_depth: of the points, log metres. [B, N, Q]
        frames: B * K cameras.
        usable: [B, K] bool
        camera: the B cameras of the rays.
    """
    count = usable.shape[1]
    poses = frames.world_from_camera.unflatten(0, (-1, count))
    motion = relative_pose(poses, camera.world_from_camera.unsqueeze(1))
    turned = rays.unsqueeze(1) @ motion[..., :3, :3].mT  # [B, K, Q, 3]
    at = log_depth.exp()[:, None, ..., None] * turned.unsqueeze(2) + motion[:, :, None, None, :3, 3]
    depth = at[..., 2]
    projected = at @ frames.intrinsics.unflatten(0, (-1, count)).unsqueeze(2).mT
    pixels = projected[..., :2] / depth.clamp_min(NEAR_M).unsqueeze(-1)
    extent = pixels.new_tensor([frames.width, frames.height])
    inside = (depth > NEAR_M) & ((pixels >= 0) & (pixels <= extent)).all(-1) & usable[:, :, None, None]
    grid = (2.0 * pixels / extent - 1.0).clamp(-2.0, 2.0)
    cosine = F.cosine_similarity(at, turned.unsqueeze(2), dim=-1)
    return Points(grid, depth.clamp_min(NEAR_M).log(), inside, cosine)


def sample(features: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of [B, K, C, h, w] at [B, K, N, Q, 2], the border repeated. [B, K, C, N, Q]"""
    found = F.grid_sample(features.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False)
    return found.unflatten(0, grid.shape[:2])


def _peak(weight: Tensor, log_planes: Tensor) -> Tensor:
    """Mean log-depth [B, Q] about the plane that most of the attention [B, P, Q] lies on: a mean of two lies on neither.

    Its gradient is also that of the mean over all planes, or a wrong one would never be left for one further away.
    """
    best = weight.detach().argmax(1, keepdim=True)
    near = (torch.arange(weight.shape[1], device=weight.device)[:, None] - best).abs() <= PEAK
    kept = torch.where(near, weight, 0.0) + 1e-6 * near
    means = [(w * log_planes[:, None]).sum(1) / w.sum(1) for w in (kept, weight + 1e-6)]
    return means[0] + (means[1] - means[1].detach())
