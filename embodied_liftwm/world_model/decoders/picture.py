"""What a memory shows as a picture, encoded again: holes get colours from around, cells the depth of what is seen in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.memory.contract import Read
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.encoder import Encoder

FILLED_PX = (3, 9)
"""Sides of the boxes whose mean colour holes are given before a picture is encoded, the least that reaches something first."""
GREY = 0.5
"""Colour of holes with nothing about."""


def encoded_again(picture: Read, cameras: Camera, encoder: Encoder) -> Read:
    """Latents of the cells of a picture [B, 3, H, W] that `cameras` read."""
    visible, depth = cells_of(picture, encoder.stride)
    latents = encoder(filled(picture), cameras, None).latents * visible.unsqueeze(1)
    observed = None if picture.observed is None else observed_cells(picture, encoder.stride)
    return Read(latents, visible, depth * visible, observed=observed)


def filled(picture: Read) -> Tensor:
    """The picture with colours from around in its holes, so that cells at their borders are encoded as what they show.

    Returns:
        [B, 3, H, W] in [0, 1]
    """
    visible = picture.visible.unsqueeze(1)
    found, known = picture.features / visible.clamp_min(1e-3), visible
    for box in FILLED_PX:
        sums = [F.avg_pool2d(x, box, stride=1, padding=box // 2) for x in (picture.features, visible)]
        mean = sums[0] / sums[1].clamp_min(1e-6)
        reached = (sums[1] > 0).to(known)
        found = torch.where(known > 0, found, mean * reached)
        known = torch.maximum(known, reached)
    return torch.where(known > 0, found, GREY)


def observed_cells(picture: Read, stride: int) -> Tensor:
    """Of what is visible of each cell, how much was observed. [B, h, w] in [0, 1], 0 where nothing is visible"""
    assert picture.observed is not None
    both = picture.visible, picture.visible * picture.observed
    there, known = (F.avg_pool2d(x.unsqueeze(1), stride).squeeze(1) for x in both)
    return known / there.clamp_min(1e-6)


def cells_of(picture: Read, stride: int) -> tuple[Tensor, Tensor]:
    """How much of each cell is visible, and the median depth of that, the nearer of two: a mean may lie on no surface.

    Returns:
        Visible in [0, 1], and metres, 0 where nothing is visible. [B, h, w] twice
    """
    visible = F.avg_pool2d(picture.visible.unsqueeze(1), stride).squeeze(1)
    depth = torch.where(picture.visible > 0, picture.depth / picture.visible.clamp_min(1e-3), torch.inf)
    pixels = depth.unfold(1, stride, stride).unfold(2, stride, stride).flatten(3).sort(-1).values
    count = F.avg_pool2d((picture.visible > 0).to(visible).unsqueeze(1), stride).squeeze(1) * stride**2
    middle = (count.round().long() - 1).clamp_min(0) // 2
    chosen = pixels.gather(3, middle.unsqueeze(-1)).squeeze(-1)
    return visible, torch.where(visible > 0, chosen, 0.0)
