"""Optical flow without weights: block matching from coarse to fine, refined to a fraction of a pixel.

On every level of a pyramid each pixel tries a window of whole-pixel offsets around what the coarser level said and takes the
one whose neighbourhood differs least. Then the gradient is followed, with a neighbourhood's equations as Lucas and Kanade have
them and neighbours' flow alike as Horn and Schunck have it (Bruhn et al. 2005, "Lucas/Kanade meets Horn/Schunck"). Brightness
is taken to be constant. Motion must be within the reach of the pyramid; plain surfaces follow what lies around them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.warp import sample_pixels

COARSEST_PX = 16
"""The pyramid ends before a side would be smaller."""
COARSEST_REACH, FINER_REACH = 3, 2
"""Offsets tried along each axis: -3 to 3 pixels on the coarsest level, -2 to 2 on the others."""
WINDOW_REACH = 4
"""Neighbourhoods are 9 x 9 pixels."""
STILL = 1e-4
"""Cost of an offset of a pixel, in squared colour: where nothing tells offsets apart, the smallest wins."""
SMOOTHNESS = 4e-3
"""Weight of neighbours' flow, squared colour a squared pixel: it decides where there is no texture."""
WARPS, SWEEPS = 4, 30
"""How often the second image is fetched anew on a level, and sweeps over the equations in between."""


def dense_flow(first: Tensor, second: Tensor) -> Tensor:
    """Where each pixel of `first` went in `second`.

    Args:
        first: [B, C, H, W] in [0, 1]
        second: alike.

    Returns:
        Offsets (u, v) in pixels: first(x) is alike second(x + flow). [B, 2, H, W]
    """
    pyramid = [(first, second)]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * COARSEST_PX:
        pyramid.append((F.avg_pool2d(pyramid[-1][0], 2), F.avg_pool2d(pyramid[-1][1], 2)))
    flow = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[-2:])
    reach = COARSEST_REACH
    for a, b in reversed(pyramid):
        if flow.shape[-2:] != a.shape[-2:]:
            flow = 2.0 * F.interpolate(flow, a.shape[-2:], mode="bilinear", align_corners=False)
        flow = _refine(a, b, _median(_search(a, b, flow, reach)))
        reach = FINER_REACH
    return flow


def fetch(image: Tensor, flow: Tensor) -> Tensor:
    """`image` at every pixel moved by `flow` [B, 2, H, W]; the border repeats. [B, C, H, W]"""
    height, width = image.shape[-2:]
    places = pixel_centres(height, width, device=image.device, dtype=image.dtype)
    return sample_pixels(image, places + flow.movedim(1, -1))


def lands_inside(flow: Tensor) -> Tensor:
    """Pixels that are still in the picture after they moved. bool [B, H, W]"""
    height, width = flow.shape[-2:]
    places = pixel_centres(height, width, device=flow.device, dtype=flow.dtype) + flow.movedim(1, -1)
    return ((places >= 0) & (places <= places.new_tensor([width, height]))).all(-1)


def round_trip(forward: Tensor, backward: Tensor) -> Tensor:
    """How far a pixel is from where it began after going forward and back: |f(x) + b(x + f(x))|. [B, H, W] pixels"""
    return (forward + fetch(backward, forward)).norm(dim=1)


def texture(image: Tensor) -> Tensor:
    """Smaller eigenvalue of the structure tensor: how well a neighbourhood fixes both axes (Shi and Tomasi 1994). [B, H, W]"""
    uu, uv, vv = _structure(*_gradients(image))
    return 0.5 * (uu + vv - ((uu - vv).square() + 4 * uv.square()).sqrt())


def _search(first: Tensor, second: Tensor, flow: Tensor, reach: int) -> Tensor:
    """The best whole-pixel offset from `flow`."""
    span = torch.arange(-reach, reach + 1, dtype=flow.dtype, device=flow.device)
    offsets = torch.stack(torch.meshgrid(span, span, indexing="xy"), -1).reshape(-1, 2)
    costs = []
    for offset in offsets:
        moved = flow + offset[:, None, None]
        cost = _box((first - fetch(second, moved)).square().mean(1, keepdim=True))[:, 0] + STILL * offset.square().sum()
        costs.append(cost + (~lands_inside(moved)).to(cost) * cost.new_tensor(0.01))
    best = torch.stack(costs, 1).argmin(1)
    return flow + offsets[best].movedim(-1, 1)


def _refine(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Follow the gradient, neighbours' flow being alike: (G + a) step = G's right side + a (mean of neighbours - flow)."""
    du, dv = _gradients(first)
    uu, uv, vv = _structure(du, dv)
    uu, vv = uu + SMOOTHNESS, vv + SMOOTHNESS
    determinant = uu * vv - uv.square()
    for _ in range(WARPS):
        difference, step = first - fetch(second, flow), torch.zeros_like(flow)
        right = torch.cat([_box((d * difference).mean(1, keepdim=True)) for d in (du, dv)], 1)
        for _ in range(SWEEPS):
            u, v = (right + SMOOTHNESS * (_around(flow + step) - flow)).unbind(1)
            step = torch.stack([vv * u - uv * v, uu * v - uv * u], 1) / determinant[:, None]
        flow = flow + step.clamp(-1, 1)
    return flow


def _around(flow: Tensor) -> Tensor:
    """Mean of the four neighbours; the border repeats."""
    padded = F.pad(flow, (1, 1, 1, 1), mode="replicate")
    return 0.25 * (padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] + padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1])


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along u and v. [B, C, H, W] each"""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]), 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])


def _structure(du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    products = (du * du, du * dv, dv * dv)
    uu, uv, vv = (_box(product.mean(1, keepdim=True))[:, 0] for product in products)
    return uu, uv, vv


def _box(values: Tensor) -> Tensor:
    """Mean over the neighbourhood; the border repeats."""
    return F.avg_pool2d(F.pad(values, (WINDOW_REACH,) * 4, mode="replicate"), 2 * WINDOW_REACH + 1, stride=1)


def _median(flow: Tensor) -> Tensor:
    """Median over 3 x 3 pixels of each axis: lone mistakes go."""
    batch, _, height, width = flow.shape
    patches = F.unfold(F.pad(flow, (1, 1, 1, 1), mode="replicate"), 3).view(batch, 2, 9, height, width)
    return patches.median(2).values
