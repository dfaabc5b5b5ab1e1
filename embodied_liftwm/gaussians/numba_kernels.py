"""Compiled kernels that paint one band of rows of one view, forward and backward.

They release the GIL and never touch another band's memory, so that `numba_backend` can run them from several threads. Both
compute alpha with the same instructions, so that they agree on which pixels a primitive touches. Constants are float32 because
numba would promote float32 arithmetic with Python's floats to float64; the cut-offs come as an array of the kernel's dtype.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LANES = 8
"""Channels are padded to a multiple of this, so that inner loops have a fixed length and compile to SIMD."""

_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


def _compile(**options):
    """`njit` with an on-disk cache where the disk allows one."""

    def decorate(function):
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # no writable place for the cache: compile once a process instead
            return njit(nogil=True, **options)(function)

    return decorate


@_compile()
def _row_span(mean_x, reach_x, width):
    """First column, and one past the last, whose pixel centre lies within reach."""
    first = max(0, int(math.floor(mean_x - reach_x - _HALF)))
    return first, min(width, int(math.ceil(mean_x + reach_x - _HALF)) + 1)


@_compile()
def _column_span(mean_y, reach_y, top, bottom):
    """First row of a band, and one past the last, whose pixel centre lies within reach."""
    first = max(top, int(math.floor(mean_y - reach_y - _HALF)))
    return first, min(bottom, int(math.ceil(mean_y + reach_y - _HALF)) + 1)


@_compile()
def paint_band(
    order, means2d, conics, depths, radii, opacities, features, cuts, top, bottom, out, transmittance, out_depth, last
):
    """Composite the primitives `order` [M], front to back, into rows top..bottom of one view.

    Args:
        means2d, conics, depths, radii, opacities, features: [N, ...] of this view; features [N, C], C a multiple of LANES.
        cuts: (ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN).
        out: zeros [H, W, C], written. transmittance: ones [H, W], written. out_depth: zeros [H, W], written.
        last: [H, W] int32, written: one more than the rank of the last primitive painted.
    """
    alpha_min, alpha_max, transmittance_min = cuts[0], cuts[1], cuts[2]
    width, channels = out.shape[1], out.shape[2]
    unfinished = (bottom - top) * width
    finished = np.zeros((bottom - top, width), np.bool_)
    for rank in range(order.shape[0]):
        if unfinished == 0:
            break
        i = order[rank]
        mean_x, mean_y, opacity, depth = means2d[i, 0], means2d[i, 1], opacities[i], depths[i]
        xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
        first_row, end_row = _column_span(mean_y, radii[i, 1], top, bottom)
        first, end = _row_span(mean_x, radii[i, 0], width)
        for v in range(first_row, end_row):
            dy = np.float32(v) + _HALF - mean_y
            for u in range(first, end):
                if finished[v - top, u]:
                    continue
                dx = np.float32(u) + _HALF - mean_x
                power = _HALF * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                alpha = min(alpha_max, opacity * math.exp(-power))
                if power < _ZERO or alpha < alpha_min:
                    continue
                before = transmittance[v, u]
                after = before * (_ONE - alpha)
                if after <= transmittance_min:
                    finished[v - top, u] = True
                    unfinished -= 1
                    continue
                weight = alpha * before
                for block in range(0, channels, LANES):
                    for c in range(LANES):
                        out[v, u, block + c] += weight * features[i, block + c]
                out_depth[v, u] += weight * depth
                transmittance[v, u] = after
                last[v, u] = rank + 1


@_compile(fastmath={"reassoc", "contract", "nsz"})
def _dot(left, v, u, right, i, channels):
    total = left[v, u, 0] * right[i, 0]
    total -= total
    for block in range(0, channels, LANES):
        for c in range(LANES):
            total += left[v, u, block + c] * right[i, block + c]
    return total


@_compile()
def paint_band_backward(
    order, means2d, conics, depths, radii, opacities, features, cuts, top, bottom, transmittance, last,
    grad_out, grad_alpha, grad_depth, out_geometry, out_features,
):  # fmt: skip
    """Gradients of `paint_band`, walking its primitives back to front.

    With q_i = <dL/dout, payload_i> and S the sum of w_j q_j over what lies behind,
    dL/dalpha_i = T_i q_i - (S - dL/dalphas T_end) / (1 - alpha_i).

    Args:
        transmittance, last: as left by `paint_band`; transmittance is overwritten.
        grad_out: [H, W, C]. grad_alpha, grad_depth: [H, W].
        out_geometry: zeros [N, 7], written: d mean (2), d conic (3), d depth, d opacity.
        out_features: zeros [N, C], written.
    """
    alpha_min, alpha_max = cuts[0], cuts[1]
    width, channels = grad_out.shape[1], grad_out.shape[2]
    behind = -grad_alpha[top:bottom] * transmittance[top:bottom]
    deepest = 0
    for v in range(top, bottom):
        for u in range(width):
            deepest = max(deepest, last[v, u])
    for rank in range(deepest - 1, -1, -1):
        i = order[rank]
        mean_x, mean_y, opacity, depth = means2d[i, 0], means2d[i, 1], opacities[i], depths[i]
        xx, xy, yy = conics[i, 0], conics[i, 1], conics[i, 2]
        first_row, end_row = _column_span(mean_y, radii[i, 1], top, bottom)
        first, end = _row_span(mean_x, radii[i, 0], width)
        for v in range(first_row, end_row):
            dy = np.float32(v) + _HALF - mean_y
            for u in range(first, end):
                if rank >= last[v, u]:
                    continue
                dx = np.float32(u) + _HALF - mean_x
                power = _HALF * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                density = math.exp(-power)
                alpha = min(alpha_max, opacity * density)
                if power < _ZERO or alpha < alpha_min:
                    continue
                before = transmittance[v, u] / (_ONE - alpha)
                transmittance[v, u] = before
                weight = alpha * before
                for block in range(0, channels, LANES):
                    for c in range(LANES):
                        out_features[i, block + c] += weight * grad_out[v, u, block + c]
                pull = _dot(grad_out, v, u, features, i, channels) + grad_depth[v, u] * depth
                out_geometry[i, 5] += weight * grad_depth[v, u]
                grad = before * pull - behind[v - top, u] / (_ONE - alpha)
                behind[v - top, u] += weight * pull
                if opacity * density > alpha_max:
                    continue
                out_geometry[i, 6] += density * grad
                grad_power = -alpha * grad
                out_geometry[i, 0] -= grad_power * (xx * dx + xy * dy)
                out_geometry[i, 1] -= grad_power * (xy * dx + yy * dy)
                out_geometry[i, 2] += grad_power * _HALF * dx * dx
                out_geometry[i, 3] += grad_power * dx * dy
                out_geometry[i, 4] += grad_power * _HALF * dy * dy
