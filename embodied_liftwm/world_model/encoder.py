"""Encoder: a frame becomes depth, opacity and latents on a grid of cells of `stride` pixels a side."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.layers import Pyramid, ray_channels

INITIAL_DEPTH_M = 2.5
"""Depth an untrained encoder gives everywhere: the middle of a room."""


class Encoding(NamedTuple):
    """What one frame says by itself."""

    depth: Tensor  # [B, h, w] metres
    opacities: Tensor  # [B, h, w] in (0, 1)
    latents: Tensor  # [B, D, h, w]


class Encoder(nn.Module):
    """Rays and pixels in, cells out; log-depth is bounded by the config's range."""

    def __init__(self, config: ModelConfig, image_size: int) -> None:
        super().__init__()
        self.log_range = (math.log(config.min_depth_m), math.log(config.max_depth_m))
        self.stem = nn.Conv2d(3 + 4, config.width, config.stride, stride=config.stride)
        self.trunk = Pyramid(config.width, levels=max(1, int(math.log2(image_size // config.stride // 4))))
        self.head = nn.Conv2d(config.width, 2 + config.latent_dim, 3, padding=1)
        low, high = self.log_range
        start = (math.log(INITIAL_DEPTH_M) - low) / (high - low)
        nn.init.normal_(self.head.weight, std=1e-2)
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.bias[0] = math.log(start / (1 - start))
            self.head.bias[1] = 3.0

    def forward(self, rgb: Tensor, camera: Camera) -> Encoding:
        """Encode frames [B, 3, H, W] in [0, 1] seen by `camera`."""
        features = self.trunk(self.stem(torch.cat([2.0 * rgb - 1.0, ray_channels(camera)], dim=1)))
        out = self.head(torch.nn.functional.silu(features))
        low, high = self.log_range
        return Encoding(
            depth=torch.exp(low + (high - low) * torch.sigmoid(out[:, 0])),
            opacities=torch.sigmoid(out[:, 1]),
            latents=out[:, 2:],
        )
