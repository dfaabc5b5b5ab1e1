"""Depth of every pixel from depth of cells: at an edge each pixel goes with the side whose colour it has."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.threads import for_each

NEARNESS = 0.06
"""Colour difference, the mean over channels, that a step of one cell away is worth. With 0.02 walls lose what edges gain
(docs/experiments.md, section 13)."""
_THIRD = np.float32(1.0 / 3.0)


def pixel_depth(depth: Tensor, rgb: Tensor) -> Tensor:
    """Give each pixel the depth of that one of the 3 x 3 cells around it whose colour is nearest to its own.

    Nothing is interpolated: a mean of two surfaces lies on neither (after the joint upsampling of Kopf et al. 2007, with the
    best neighbour instead of the mean).

    Args:
        depth: of cells, metres. [B, h, w]
        rgb: the frame, in [0, 1]. [B, 3, H, W], H and W the same multiple of h and w

    Returns:
        [B, H, W]
    """
    return (_compiled if compilable(depth, rgb) else _in_torch)(depth, rgb, rgb.shape[-1] // depth.shape[-1])


def _compiled(depth: Tensor, rgb: Tensor, stride: int) -> Tensor:
    """The same on a CPU, a frame a task."""
    chosen = torch.empty_like(rgb[:, 0], memory_format=torch.contiguous_format)
    cells, pixels, found = arrays(depth, rgb, chosen)
    corners = [pixels[..., y::stride, x::stride] for y in range(stride) for x in range(stride)]
    colours = reduce(np.add, corners) / np.float32(stride**2)

    def task(b: int) -> None:
        _of_like_colour(cells[b], colours[b], pixels[b], stride, np.float32(NEARNESS), found[b])

    for_each(task, [(b,) for b in range(len(depth))])
    return chosen


def _in_torch(depth: Tensor, rgb: Tensor, stride: int) -> Tensor:
    """The same with gradients, and on any device."""
    cells = torch.cat([depth.unsqueeze(1), F.avg_pool2d(rgb, stride)], dim=1)
    around = F.interpolate(F.pad(cells, (1, 1, 1, 1), mode="replicate"), scale_factor=float(stride), mode="nearest")
    height, width = rgb.shape[-2:]
    best, chosen = torch.full_like(rgb[:, 0], torch.inf), torch.zeros_like(rgb[:, 0])
    for down in (1, 0, 2):  # the pixel's own cell first: it wins a tie
        for across in (1, 0, 2):
            candidate = around[..., down * stride : down * stride + height, across * stride : across * stride + width]
            price = (candidate[:, 1:] - rgb).abs().mean(1) + NEARNESS * (abs(down - 1) + abs(across - 1))
            better = price < best
            best, chosen = torch.where(better, price, best), torch.where(better, candidate[:, 0], chosen)
    return chosen


@loosely_compiled
def _of_like_colour(cells, colours, rgb, stride, nearness, chosen):
    """`pixel_depth` of one frame.

    Args:
        cells, colours: [h, w] metres, and their mean colours [3, h, w].
        rgb: [3, H, W]
        stride: pixels a side of a cell.
        nearness: price of a cell that lies one step further.
        chosen: [H, W] metres, written.
    """
    rows, columns = cells.shape
    for y in range(chosen.shape[0]):
        cell_row = y // stride
        for x in range(chosen.shape[1]):
            cell_column = x // stride
            red, green, blue = rgb[0, y, x], rgb[1, y, x], rgb[2, y, x]
            best = np.float32(np.inf)
            for down in (0, -1, 1):  # the pixel's own cell first: it wins a tie
                j = min(max(cell_row + down, 0), rows - 1)
                for across in (0, -1, 1):
                    i = min(max(cell_column + across, 0), columns - 1)
                    away = abs(colours[0, j, i] - red) + abs(colours[1, j, i] - green) + abs(colours[2, j, i] - blue)
                    price = away * _THIRD + nearness * np.float32(abs(down) + abs(across))
                    if price < best:
                        best = price
                        chosen[y, x] = cells[j, i]
