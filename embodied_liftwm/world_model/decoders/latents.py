"""Latent decoder: latents that a camera reads of a memory become an image; holes are filled, and known to be filled.

It never sees a pixel of the past: what it is told are latents on a grid of cells, where they are visible, how far away they
are, and the camera. It works on that grid and goes up to pixels at the end, by one convolution whose channels are the pixels
of a cell (sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158): residual blocks at finer grids cost most of a picture and
made none better (docs/generation.md). Half way it is worth a stop: `complete` fills the holes of the grid in latent space, so
that what was imagined can be written back into a memory without a round trip by pixels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.decoders.cell_codec import CellDecoder
from embodied_liftwm.world_model.decoders.surface import COVERAGE_LOGIT, MIN_SCALE, Decoded
from embodied_liftwm.world_model.layers.blocks import Pyramid, levels_of, ray_channels

KNOWN_FROM = 0.25
"""Visibility from which on a cell's latents are taken as they were read: a point gives as much to the cell it falls into."""
LARGEST_LOG_STEP = 0.3
"""A pixel's depth is its cell's, multiplied or divided by at most the exponential of this."""


class Completed(NamedTuple):
    """A grid of cells without holes."""

    latents: Tensor  # [B, D, h, w] as read where visible, imagined elsewhere
    depth: Tensor  # [B, h, w] metres, the same
    seen: Tensor  # [B, h, w] probability that the cell shows what was observed
    features: Tensor  # [B, C, h, w] what `paint` goes on with


class LatentDecoder(nn.Module):
    """Completes a grid of latents and paints it."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.stride, self.latent_dim = config.stride, config.latent_dim
        self.log_range = (math.log(config.min_depth_m), math.log(config.max_depth_m))
        width = config.width
        self.stem = nn.Conv2d(config.latent_dim + 2 + 4, width, 1)
        self.trunk = Pyramid(width, config.widest, levels=levels_of(image_size, config.stride))
        self.imagined = nn.Conv2d(width, config.latent_dim + 2, 3, padding=1)  # latents, depth, seen
        self.colours = CellDecoder(config.latent_dim, config.stride)
        self.details = nn.Conv2d(config.latent_dim, width, 1)
        pixels = config.stride**2
        self.head = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 6 * pixels, 3, padding=1), nn.PixelShuffle(config.stride))
        for layer in (self.imagined, self.head[1]):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, read: Read, camera: Camera) -> Decoded:
        """Decode: `complete`, then `paint`; see there."""
        return self.paint(self.complete(read, camera))

    def complete(self, read: Read, camera: Camera) -> Completed:
        """Fill the holes of what was read, in latent space.

        Args:
            read: latents [B, D, h, w] of cells.
            camera: the camera that reads, of h * stride by w * stride pixels.
        """
        low, high = self.log_range
        latents, visible = read.features, read.visible.unsqueeze(1)
        once = 1.0 / visible.clamp_min(1e-3)
        log_depth = (read.depth.unsqueeze(1) * once).clamp(math.exp(low), math.exp(high)).log()
        there = (log_depth - low) / (high - low) * (visible > 1e-2)
        told = [latents, visible, there, ray_channels(cells_of_camera(camera, self.stride))]
        features = self.trunk(self.stem(torch.cat(told, dim=1)))
        imagined, far, seen = self.imagined(F.silu(features)).split([self.latent_dim, 1, 1], dim=1)
        known = (visible.detach() / KNOWN_FROM).clamp(0, 1)
        imagined_depth = low + (high - low) * torch.sigmoid(far + 1.0)
        return Completed(
            latents=known * (latents * once) + (1.0 - known) * imagined,
            depth=(known * log_depth + (1.0 - known) * imagined_depth).squeeze(1).exp(),
            seen=_observed(torch.sigmoid(COVERAGE_LOGIT * (known - 0.5) + seen), known, read.observed),
            features=features,
        )

    def paint(self, grid: Completed) -> Decoded:
        """From a grid without holes to pixels."""
        out = self.head(grid.features + self.details(grid.latents))
        log_depth, logit = grid.depth.log(), torch.logit(grid.seen, eps=1e-6)
        log_depth, logit = (_spread(cells, self.stride) for cells in (log_depth, logit))
        return Decoded(
            rgb=self.colours(grid.latents) + out[:, :3],
            depth=(log_depth + LARGEST_LOG_STEP * torch.tanh(out[:, 3])).exp(),
            scale=MIN_SCALE + F.softplus(out[:, 4] - 2.0),
            seen=torch.sigmoid(logit + out[:, 5]),
        )


def _observed(seen: Tensor, known: Tensor, observed: Tensor | None) -> Tensor:
    """The probability that a cell shows what was observed, if it shows memory's content with probability `seen`. [B, h, w]"""
    return seen.squeeze(1) if observed is None else (seen * (1.0 - known * (1.0 - observed.unsqueeze(1)))).squeeze(1)


def cells_of_camera(camera: Camera, stride: int) -> Camera:
    """The same camera with a pixel a cell."""
    intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / stride)
    return Camera(intrinsics, camera.world_from_camera, camera.height // stride, camera.width // stride)


def _spread(cells: Tensor, stride: int) -> Tensor:
    """Each pixel as its cell. [B, h, w] -> [B, H, W]"""
    return F.interpolate(cells.unsqueeze(1), scale_factor=float(stride), mode="nearest").squeeze(1)
