"""A cell's pixels as a few numbers, linearly, and back: where latents and images begin to learn from.

A latent that is written, warped and read must carry colour by itself: nothing else of a frame is kept. What a network puts
into latents takes long to be learned; a truncated cosine transform of the cell's pixels (Ahmed et al. 1974), brightness before
hue and coarse before fine as in JPEG, is there from the start. Both directions are ordinary weights and go on learning.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BRIGHTNESS, HUES = (1 / 3, 1 / 3, 1 / 3), ((0.5, 0.0, -0.5), (-0.25, 0.5, -0.25))
"""Opponent colours by the weights of red, green and blue."""
HUE_ORDER = 2.0
"""A hue comes after all waves of brightness that are up to so many times as fine."""
FIRST_GAIN, GAIN = 4.0, 8.0
"""What mean brightness and all else are multiplied by, so that latents are about as large as their prior expects."""


class CellEncoder(nn.Conv2d):
    """Frames in [0, 1] to what the network's latents are added to. [B, 3, H, W] -> [B, D, h, w]"""

    def __init__(self, latent_dim: int, stride: int) -> None:
        super().__init__(3, latent_dim, stride, stride=stride)
        weight, bias = cosine_transform(latent_dim, stride)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)


class CellDecoder(nn.ConvTranspose2d):
    """The pseudo-inverse of `CellEncoder`. [B, D, h, w] -> [B, 3, H, W], grey for the mean colour's latents of 0"""

    def __init__(self, latent_dim: int, stride: int) -> None:
        super().__init__(latent_dim, 3, stride, stride=stride)
        weight, bias = cosine_transform(latent_dim, stride)
        back = torch.linalg.pinv(weight.flatten(1).double()).float()  # [3 * stride * stride, D]
        self.weight = nn.Parameter(back.T.unflatten(1, (3, stride, stride)).contiguous())
        # One number a colour serves all pixels of a cell, since only the first wave has an offset, and it is flat.
        self.bias = nn.Parameter(-(back @ bias).unflatten(0, (3, -1)).mean(1))

    def colours(self, latents: Tensor) -> Tensor:
        """Mean colour of the cells of latents [..., D]. [..., 3]"""
        assert self.bias is not None
        return latents @ self.weight.mean((2, 3)) + self.bias


def cosine_transform(channels: int, stride: int) -> tuple[Tensor, Tensor]:
    """Weights [channels, 3, stride, stride] and offsets [channels] of the coarsest waves, zeros past the last one."""
    waves = [(across, down) for down in range(stride) for across in range(stride)]
    opponents = [(1.0, BRIGHTNESS), *((HUE_ORDER, hue) for hue in HUES)]
    ranked = sorted(
        (order * (across + down), across + down, k, across, down)
        for k, (order, _) in enumerate(opponents)
        for across, down in waves
    )
    weight, bias = torch.zeros(channels, 3, stride, stride), torch.zeros(channels)
    for channel, (_, _, k, across, down) in zip(range(channels), ranked, strict=False):
        gain = FIRST_GAIN if k == across == down == 0 else GAIN
        wave = _wave(down, stride)[:, None] * _wave(across, stride)
        weight[channel] = gain / stride**2 * torch.tensor(opponents[k][1])[:, None, None] * wave
    bias[0] = -0.5 * FIRST_GAIN
    return weight, bias


def _wave(frequency: int, size: int) -> Tensor:
    return torch.cos(math.pi * frequency * (torch.arange(size) + 0.5) / size)
