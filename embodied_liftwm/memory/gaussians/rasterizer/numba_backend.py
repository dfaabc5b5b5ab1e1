"""The CPU painter: compiled kernels as one node of torch's graph, bands of rows and views in parallel.

Each call allocates: its images, one transmittance and one rank a pixel for the backward pass, features padded to a multiple of
`LANES` channels unless they are one, and backward one row of gradients per primitive, view and band, summed at the end. The
kernels add one byte a pixel forward and one float a pixel backward. No buffer outlives its call: calls from several threads
share nothing.

Under `create_graph=True` the backward pass is the torch reference's, many times slower, whose gradients can be differentiated
again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.compiled import arrays
from embodied_liftwm.memory.gaussians.rasterizer.numba_kernels import paint_band, paint_band_backward
from embodied_liftwm.memory.gaussians.rasterizer.projection import (
    ALPHA_MAX,
    ALPHA_MIN,
    TRANSMITTANCE_MIN,
    Projection,
    front_to_back,
)
from embodied_liftwm.memory.gaussians.rasterizer.simd import LANES
from embodied_liftwm.memory.gaussians.rasterizer.torch_backend import paint as paint_reference
from embodied_liftwm.threads import for_each

_TASKS = 8
"""Views are cut into bands until there are this many tasks. Not the number of threads, so that results do not depend on it."""


def paint(
    projection: Projection, opacities: Tensor, features: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite projected primitives front to back; arguments and results as in `torch_backend.paint`."""
    channels = features.shape[-1]
    order, counts = front_to_back(projection.depths, projection.radii)
    padded = F.pad(features, (0, -channels % LANES if channels else LANES))
    means2d, conics, depths, radii = projection
    image, alphas, depths = _Paint.apply(means2d, conics, depths, opacities, padded, radii, order, counts, width, height)
    return image[..., :channels], alphas, depths


class _Paint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d, conics, depths, opacities, features, radii, order, counts, width, height):
        batch, views = depths.shape[:2]
        image = features.new_zeros(batch, views, height, width, features.shape[-1])
        transmittance = features.new_ones(batch, views, height, width, 1)
        out_depth = features.new_zeros(batch, views, height, width, 1)
        last = torch.zeros(batch, views, height, width, dtype=torch.int32)
        inputs = arrays(means2d, conics, depths, radii, opacities, features)
        order_, counts_ = arrays(order, counts)
        outputs = arrays(image, transmittance[..., 0], out_depth[..., 0], last)
        cuts = _cuts(inputs[0].dtype)

        def task(b: int, v: int, band: int, top: int, bottom: int) -> None:
            paint_band(order_[b, v, : counts_[b, v]], *_of_view(inputs, b, v), cuts, top, bottom, *(o[b, v] for o in outputs))

        for_each(task, _tasks(batch, views, height))
        ctx.save_for_backward(means2d, conics, depths, opacities, features, radii, order, counts, transmittance, last)
        return image, 1.0 - transmittance, out_depth

    @staticmethod
    def backward(ctx, grad_image, grad_alphas, grad_depths):
        means2d, conics, depths, opacities, features, radii, order, counts, transmittance, last = ctx.saved_tensors
        batch, views, height = grad_image.shape[:3]
        if torch.is_grad_enabled():
            gradients = (grad_image, grad_alphas, grad_depths)
            projection = Projection(means2d, conics, depths, radii)
            return *_twice_differentiable(projection, opacities, features, gradients, ctx.needs_input_grad), *[None] * 5
        bands = _bands(batch * views, height)
        count = depths.shape[-1]
        geometry = features.new_zeros(batch, views, bands, 7, count)
        grad_features = features.new_zeros(batch, views, bands, count, features.shape[-1])
        inputs = arrays(means2d, conics, depths, radii, opacities, features)
        order_, counts_ = arrays(order, counts)
        images = arrays(transmittance[..., 0].clone(), last, grad_image, grad_alphas[..., 0], grad_depths[..., 0])
        outputs = arrays(geometry, grad_features)
        cuts = _cuts(inputs[0].dtype)

        def task(b: int, v: int, band: int, top: int, bottom: int) -> None:
            paint_band_backward(
                order_[b, v, : counts_[b, v]], *_of_view(inputs, b, v), cuts, top, bottom,
                *(i[b, v] for i in images), *(o[b, v, band] for o in outputs),
            )  # fmt: skip

        for_each(task, _tasks(batch, views, height))
        d_means2d, d_conics, d_depths, d_opacities = geometry.sum(2).split([2, 3, 1, 1], dim=2)
        return (
            d_means2d, d_conics, d_depths[:, :, 0], d_opacities[:, :, 0].sum(1), grad_features.sum((1, 2)),
            None, None, None, None, None,
        )  # fmt: skip


def _twice_differentiable(
    projection: Projection, opacities: Tensor, features: Tensor, gradients: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """What `_Paint.backward` gives to its first five arguments, where `needed`, as a function of them and of `gradients`."""
    # Aliases: conics come from the same means as depths do, and a gradient to depths themselves would take that way too.
    projection = Projection(*(value.view_as(value) for value in projection))
    opacities, features = opacities.view_as(opacities), features.view_as(features)
    height, width = gradients[0].shape[2:4]
    images = paint_reference(projection, opacities, features, width, height)
    inputs = (*projection[:3], opacities, features)
    wanted = [value for value, needs in zip(inputs, needed, strict=False) if needs]
    found = iter(torch.autograd.grad(images, wanted, gradients, create_graph=True, materialize_grads=True))
    return [next(found) if needs else None for needs in needed[: len(inputs)]]


def _cuts(dtype: np.dtype) -> np.ndarray:
    return np.array([ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN], dtype)


def _of_view(inputs: tuple[np.ndarray, ...], b: int, v: int) -> tuple[np.ndarray, ...]:
    """The kernels' view of (means2d, conics, depths, radii, opacities, features)."""
    return (*(array[b, v] for array in inputs[:4]), inputs[4][b], inputs[5][b])


def _bands(images: int, height: int) -> int:
    return max(1, min(-(-_TASKS // max(images, 1)), height // 8))


def _tasks(batch: int, views: int, height: int) -> list[tuple[int, int, int, int, int]]:
    """(scene, view, band, first row, end row)"""
    bands = _bands(batch * views, height)
    edges = [height * k // bands for k in range(bands + 1)]
    return [(b, v, k, edges[k], edges[k + 1]) for b in range(batch) for v in range(views) for k in range(bands)]
