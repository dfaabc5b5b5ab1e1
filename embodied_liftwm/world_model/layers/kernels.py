"""Compiled kernels of what surrounds the networks, for one frame each; rules as in `embodied_liftwm.kernels`."""

from __future__ import annotations

import numpy as np

from embodied_liftwm.kernels import loosely_compiled

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_LEAST_SLOPE = np.float32(1e-3)


@loosely_compiled
def ray_channels(intrinsics, pose, out):
    """`layers.ray_channels` of a camera: intrinsics [3, 3] and pose [4, 4] -> out [4, H, W]."""
    for v in range(out.shape[1]):
        y = (np.float32(v) + _HALF - intrinsics[1, 2]) / intrinsics[1, 1]
        for u in range(out.shape[2]):
            x = (np.float32(u) + _HALF - intrinsics[0, 2]) / intrinsics[0, 0]
            up = x * pose[2, 0] + y * pose[2, 1] + pose[2, 2]
            floor = pose[2, 3] / max(-up, _LEAST_SLOPE)
            out[0, v, u], out[1, v, u], out[2, v, u] = x, y, up
            out[3, v, u] = _ONE / (_ONE + floor) if up < -_LEAST_SLOPE else _ZERO


@loosely_compiled
def median_of_lines(image, reach, out):
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
