"""Compiled kernel of `depth_belief`, for the cells of one frame; rules as in `embodied_liftwm.kernels`."""

from __future__ import annotations

import math

import numpy as np

from embodied_liftwm.kernels import exp, loosely_compiled

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@loosely_compiled
def believe(trust, logits, local, smooth, sharpness, log_planes, reach, top, bottom, log_belief, log_depth, spread):
    """Beliefs of rows top..bottom; see `depth_belief.believe` for what they are.

    Args:
        trust: bounded, as a factor. [h, w]
        logits, local, smooth: of the network, and matching costs, less their means. [h, w, P]
        sharpness: of the two. [2]
        reach: planes on either side of the mode over which the depth is the mean.
        log_belief: [h, w, P], written, as are log_depth and spread [h, w].
    """
    planes = logits.shape[2]
    weight = np.empty(planes, np.float32)
    for y in range(top, bottom):
        for x in range(logits.shape[1]):
            factor = trust[y, x]
            mine = log_belief[y, x]
            for p in range(planes):
                mine[p] = logits[y, x, p] - factor * (sharpness[0] * local[y, x, p] + sharpness[1] * smooth[y, x, p])
            largest = mine[0]
            for p in range(1, planes):
                largest = max(largest, mine[p])
            for p in range(planes):
                weight[p] = exp(mine[p] - largest)
            total = _ZERO
            for p in range(planes):
                total += weight[p]
            shift, share = largest + math.log(total), _ONE / total
            for p in range(planes):
                mine[p] -= shift
            for p in range(planes):
                weight[p] *= share
            mean = _around_mode(weight, log_planes, reach)
            variance = _ZERO
            for p in range(planes):
                variance += weight[p] * (log_planes[p] - mean) * (log_planes[p] - mean)
            log_depth[y, x], spread[y, x] = mean, math.sqrt(variance)


@loosely_compiled
def _around_mode(weight, log_planes, reach):
    """Mean log-depth around the plane around which most of `weight` [P] lies."""
    planes = weight.shape[0]
    mode, most = 0, -_ONE
    for p in range(planes):
        here = weight[p - 1] if p else _ZERO
        here += weight[p]
        here += weight[p + 1] if p < planes - 1 else _ZERO
        if here > most:
            mode, most = p, here
    total = mean = _ZERO
    for p in range(max(mode - reach, 0), min(mode + reach + 1, planes)):
        total += weight[p]
        mean += weight[p] * log_planes[p]
    return mean / total
