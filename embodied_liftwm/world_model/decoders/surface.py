"""Decoder: splatted features become an image with depth and a noise scale; holes are filled, and known to be filled."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.layers.blocks import Pyramid, levels_of, ray_channels

MIN_SCALE = 0.01
"""Smallest noise scale of a pixel: below it 8-bit frames carry no information."""

COVERAGE_LOGIT = 6.0
"""Log-odds by which a covered pixel is more probably seen than an empty one, before anything is learned."""
MEDIAN_PX = 7
"""Side of the windows over which the median depth is shown: texels of a surface that was found at several depths alternate."""


BOXES_PX = (1, 2, 4, 8)
"""Sides of the boxes over which splatted colours are averaged: where a surface is not known to the pixel, the expected colour
of a pixel is a mean of those around."""
BOX_LOGITS = (0.0, 1.0, 0.0, -1.0)
"""Log-weights of the boxes before anything is learned."""
GREY, GREY_WEIGHT = 0.5, 0.05
"""What is expected where nothing was splatted, and what it counts against alpha."""


class Decoded(NamedTuple):
    """A frame as the model expects it."""

    rgb: Tensor  # [B, 3, H, W], not clamped to [0, 1]: a clamp would cut gradients
    depth: Tensor  # [B, H, W] metres
    scale: Tensor  # [B, H, W] standard deviation of the colour of each pixel, its own uncertainty
    seen: Tensor | None = None  # [B, H, W] probability that this was observed, where the decoder can tell


class SplatDecoder(nn.Module):
    """Refines a splatted image and completes it where nothing was splatted, on pixels folded 2 x 2."""

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.log_range = (math.log(config.min_depth_m), math.log(config.max_depth_m))
        self.is_told_doubt = config.learned_fusion
        inputs = 3 + config.latent_dim + 2 + 4 + self.is_told_doubt
        self.stem = nn.Conv2d(4 * inputs, config.width, 1)
        self.trunk = Pyramid(config.width, config.widest, levels=levels_of(image_size, 2))
        self.head = nn.Conv2d(config.width, 4 * (6 + len(BOXES_PX)), 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, read: Read, camera: Camera) -> Decoded:
        """Decode.

        Args:
            read: colours and latents [B, 3 + D, H, W] of pixels, and the doubt of where they are, where fusion is learned.
            camera: the camera to render.
        """
        low, high = self.log_range
        features, alpha = read.features, read.visible.unsqueeze(1)
        mean_depth = read.depth.unsqueeze(1) / alpha.clamp_min(1e-3)
        log_depth = mean_depth.clamp(math.exp(low), math.exp(high)).log()
        known = (log_depth - low) / (high - low) * (alpha > 1e-2)
        told = [features, alpha, known, ray_channels(camera)]
        if self.is_told_doubt:
            told.append(torch.zeros_like(alpha) if read.doubt is None else read.doubt)
        x = self.trunk(self.stem(F.pixel_unshuffle(torch.cat(told, dim=1), 2)))
        out = F.pixel_shuffle(self.head(F.silu(x)), 2)
        imagined_depth = torch.exp(low + (high - low) * torch.sigmoid(out[:, 3:4] + 1.0))
        trust = alpha.detach().clamp(0, 1)
        mixed = trust * log_depth + (1 - trust) * imagined_depth.log()
        return Decoded(
            rgb=blended_colours(features[:, :3], alpha, out[:, 6:]) + out[:, :3],
            depth=median_of_lines(mixed.squeeze(1)).exp(),
            scale=MIN_SCALE + F.softplus(out[:, 4] - 2.0),
            seen=torch.sigmoid(COVERAGE_LOGIT * (trust.squeeze(1) - 0.5) + out[:, 5]),
        )


def blended_colours(colours: Tensor, alpha: Tensor, logits: Tensor) -> Tensor:
    """Averages of colours over boxes, by normalised convolution (Knutsson and Westin 1993), weighed at every pixel.

    Args:
        colours: alpha-premultiplied. [B, 3, H, W]
        alpha: how much was splatted. [B, 1, H, W]
        logits: log-weights of `BOXES_PX`, up to those they have untrained. [B, len(BOXES_PX), H, W]

    Returns:
        [B, 3, H, W], grey where nothing lies about.
    """
    weights = (logits + logits.new_tensor(BOX_LOGITS)[:, None, None]).softmax(1)
    splatted = torch.cat([colours + GREY_WEIGHT * GREY, alpha + GREY_WEIGHT], dim=1)
    total = torch.zeros_like(colours)
    for k, box in enumerate(BOXES_PX):
        mean = splatted
        if box > 1:
            mean = F.interpolate(F.avg_pool2d(splatted, box), colours.shape[-2:], mode="bilinear")
        total = total + weights[:, k : k + 1] * mean[:, :3] / mean[:, 3:]
    return total


def median_of_lines(image: Tensor) -> Tensor:
    """Medians over `MEDIAN_PX` pixels along rows, and of these along columns, the border repeated. [B, H, W] -> the same"""
    reach = MEDIAN_PX // 2
    if compilable(image):
        (images,) = arrays(image)
        medians = np.empty_like(images)
        for given, out in zip(images, medians, strict=True):
            _median_of_lines(given, reach, out)
        return torch.from_numpy(medians)
    for dim in (2, 1):
        border = (reach, reach, 0, 0) if dim == 2 else (0, 0, reach, reach)
        padded = F.pad(image.unsqueeze(1), border, mode="replicate").squeeze(1)
        image = padded.unfold(dim, MEDIAN_PX, 1).median(-1).values
    return image


@loosely_compiled
def _median_of_lines(image, reach, out):
    """Medians of an image [H, W] over `reach` pixels to either side along rows, and of these along columns: out [H, W]."""
    height, width = image.shape
    size = 2 * reach + 1
    values = np.empty((size, width), np.float32)
    along = np.empty_like(out)
    for y in range(height):
        for k in range(size):
            for x in range(width):
                values[k, x] = image[y, min(max(x + k - reach, 0), width - 1)]
        _middle(values, reach, along[y])
    for y in range(height):
        for k in range(size):
            values[k] = along[min(max(y + k - reach, 0), height - 1)]
        _middle(values, reach, out[y])


@loosely_compiled
def _middle(values, reach, out):
    """The middle of the sorted columns of values [2 * reach + 1, W], which lose their order: out [W].

    Passes of a bubble sort until the middle is in place, all columns at once.
    """
    last = values.shape[0] - 1
    for done in range(reach + 1):
        for k in range(last - done):
            for x in range(values.shape[1]):
                a, b = values[k, x], values[k + 1, x]
                values[k, x], values[k + 1, x] = min(a, b), max(a, b)
    out[:] = values[reach]


class PoseDecoder(nn.Module):
    """The baseline's read-out: a code and a camera's rays become an image. No primitive in between."""

    def __init__(self, config: ModelConfig, code_dim: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.log_range = (math.log(config.min_depth_m), math.log(config.max_depth_m))
        stages = levels_of(image_size, 1)
        self.coarsest = image_size[0] >> stages, image_size[1] >> stages
        width = 4 * config.width
        self.stem = nn.Linear(code_dim, width * math.prod(self.coarsest))
        widths = [max(config.width // 2, width // 2**i) for i in range(stages + 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(math.gcd(8, a), a), nn.SiLU(), nn.Conv2d(a, 4 * b, 3, padding=1), nn.PixelShuffle(2))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 5, 3, padding=1)
        nn.init.normal_(self.head.weight, std=1e-2)
        self.head.bias = nn.Parameter(torch.zeros(5))

    def forward(self, code: Tensor) -> Decoded:
        """Decode codes [B, F] that know the state and the queried pose."""
        x = self.stem(code).unflatten(1, (-1, *self.coarsest))
        for stage in self.stages:
            x = stage(x)
        out = self.head(F.silu(x))
        low, high = self.log_range
        return Decoded(
            rgb=torch.sigmoid(out[:, :3]),
            depth=torch.exp(low + (high - low) * torch.sigmoid(out[:, 3] + 1.0)),
            scale=MIN_SCALE + F.softplus(out[:, 4] - 2.0),
        )
