"""Compiled kernels that paint one band of rows of one view, forward and backward.

They release the GIL and never touch another band's memory, so that `numba_backend` can run them from several threads. Both
compute alpha with the same instructions, so that they agree on which pixels a primitive touches. Three things keep them fast:
constants are float32, because numba promotes float32 arithmetic with Python's floats to float64 (the cut-offs come as an array
of the kernel's dtype); indices are unsigned, because numba checks signed ones for being negative; channels go through `simd`.
"""

from __future__ import annotations

import math

import numpy as np

from embodied_liftwm.kernels import compiled
from embodied_liftwm.memory.gaussians.rasterizer.simd import add_scaled, dot

_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_SLACK_PX2 = np.float32(1e-3)
"""Added to the squared half-width of a row span against rounding; the test on alpha decides."""
_index = np.uint64
_X, _Y = _index(0), _index(1)
_XX, _XY, _YY = _index(0), _index(1), _index(2)


@compiled
def _span(centre, reach, low, high):
    """First pixel of [low, high), and one past the last, whose centre lies within reach."""
    return max(low, int(math.ceil(centre - reach - _HALF))), min(high, int(math.floor(centre + reach - _HALF)) + 1)


@compiled
def _row_span(mean_x, xx, xy, level, dy, reach_y, width):
    """The pixels of one row inside of the ellipse `power = level / 2`; `reach_y` is that ellipse's half height."""
    relative = dy / reach_y
    half = math.sqrt(max(_ZERO, level / xx * (_ONE - relative * relative)) + _SLACK_PX2)
    return _span(mean_x - xy / xx * dy, half, 0, width)


@compiled
def paint_band(
    order, means2d, conics, depths, radii, opacities, features, cuts, top, bottom, out, transmittance, out_depth, last
):
    """Composite the primitives `order` [M], front to back, into rows top..bottom of one view.

    Args:
        means2d, conics, depths, radii: [..., N] of this view, as in `Projection`.
        opacities: [N]. features: [N, C], C a multiple of LANES.
        cuts: (ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN).
        out: zeros [H, W, C], written. transmittance: ones [H, W], written. out_depth: zeros [H, W], written.
        last: zeros [H, W] int32, written: one more than the rank of the last primitive painted.
    """
    alpha_min, alpha_max, transmittance_min = cuts[0], cuts[1], cuts[2]
    width = out.shape[1]
    unfinished = (bottom - top) * width
    finished = np.zeros((bottom - top, width), np.bool_)
    for rank in range(order.shape[0]):
        if unfinished == 0:
            break
        i = _index(order[rank])
        mean_x, mean_y, opacity, depth = means2d[_X, i], means2d[_Y, i], opacities[i], depths[i]
        xx, xy, yy = conics[_XX, i], conics[_XY, i], conics[_YY, i]
        level = _TWO * math.log(opacity / alpha_min)
        feature = features[i]
        first_row, end_row = _span(mean_y, radii[_Y, i], top, bottom)
        for v in range(first_row, end_row):
            dy = np.float32(v) + _HALF - mean_y
            first, end = _row_span(mean_x, xx, xy, level, dy, radii[_Y, i], width)
            row = _index(v)
            finished_row, transmittance_row = finished[_index(v - top)], transmittance[row]
            out_row, depth_row, last_row = out[row], out_depth[row], last[row]
            for u in range(first, end):
                column = _index(u)
                if finished_row[column]:
                    continue
                dx = np.float32(u) + _HALF - mean_x
                power = _HALF * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                alpha = min(alpha_max, opacity * math.exp(-power))
                if power < _ZERO or alpha < alpha_min:
                    continue
                before = transmittance_row[column]
                after = before * (_ONE - alpha)
                if after <= transmittance_min:
                    finished_row[column] = True
                    unfinished -= 1
                    continue
                weight = alpha * before
                add_scaled(out_row[column], weight, feature)
                depth_row[column] += weight * depth
                transmittance_row[column] = after
                last_row[column] = rank + 1


@compiled
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
        out_geometry: zeros [7, N], written: d mean (2), d conic (3), d depth, d opacity.
        out_features: zeros [N, C], written.
    """
    alpha_min, alpha_max = cuts[0], cuts[1]
    width = grad_out.shape[1]
    behind = -grad_alpha[top:bottom] * transmittance[top:bottom]
    for rank in range(last[top:bottom].max() - 1, -1, -1):
        i = _index(order[rank])
        mean_x, mean_y, opacity, depth = means2d[_X, i], means2d[_Y, i], opacities[i], depths[i]
        xx, xy, yy = conics[_XX, i], conics[_XY, i], conics[_YY, i]
        level = _TWO * math.log(opacity / alpha_min)
        feature, out_feature = features[i], out_features[i]
        d_x = d_y = d_xx = d_xy = d_yy = d_depth = d_opacity = alpha_min - alpha_min  # zero, of the kernel's dtype
        first_row, end_row = _span(mean_y, radii[_Y, i], top, bottom)
        for v in range(first_row, end_row):
            dy = np.float32(v) + _HALF - mean_y
            first, end = _row_span(mean_x, xx, xy, level, dy, radii[_Y, i], width)
            row = _index(v)
            last_row, transmittance_row, behind_row = last[row], transmittance[row], behind[_index(v - top)]
            grad_row, grad_depth_row = grad_out[row], grad_depth[row]
            for u in range(first, end):
                column = _index(u)
                if rank >= last_row[column]:
                    continue
                dx = np.float32(u) + _HALF - mean_x
                power = _HALF * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
                density = math.exp(-power)
                alpha = min(alpha_max, opacity * density)
                if power < _ZERO or alpha < alpha_min:
                    continue
                inverse = _ONE / (_ONE - alpha)
                before = transmittance_row[column] * inverse
                transmittance_row[column] = before
                weight = alpha * before
                add_scaled(out_feature, weight, grad_row[column])
                d_depth += weight * grad_depth_row[column]
                pull = dot(grad_row[column], feature) + grad_depth_row[column] * depth
                grad = before * pull - behind_row[column] * inverse
                behind_row[column] += weight * pull
                if opacity * density > alpha_max:
                    continue
                d_opacity += density * grad
                d_power = -alpha * grad
                d_x -= d_power * (xx * dx + xy * dy)
                d_y -= d_power * (xy * dx + yy * dy)
                d_xx += d_power * _HALF * dx * dx
                d_xy += d_power * dx * dy
                d_yy += d_power * _HALF * dy * dy
        for k, value in enumerate((d_x, d_y, d_xx, d_xy, d_yy, d_depth, d_opacity)):
            out_geometry[_index(k), i] = value
