"""What a cell believes of its depth: the log-likelihoods of its witnesses, added over planes, and what they come to."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import exp, loosely_compiled
from embodied_liftwm.threads import bands, for_each

TYPICAL_DEPTH, TYPICAL_SPREAD = 2.2, 0.8
"""What is believed of a depth by whoever has not learned: log-normal around the middle of a room, in units."""
MODE_REACH = 2
"""The depth is the expectation this many planes around the mode: a mean over two surfaces lies on neither."""
LARGEST_LOG_TRUST = 0.7
"""A cell weighs its matches by at most the exponential of this, and by no less than its inverse."""
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Matches(NamedTuple):
    """What usable sources say of each plane, less the mean over planes: 0 where they say nothing."""

    local: Tensor  # [B, P, h, w] matching cost, over a small window
    smooth: Tensor  # [B, P, h, w] the same after semi-global matching


class DepthBelief(NamedTuple):
    """A distribution over planes, and its moments."""

    log_belief: Tensor  # [B, P, h, w] log-probability of each depth plane
    log_depth: Tensor  # [B, h, w] its mean around the mode
    spread: Tensor  # [B, h, w] standard deviation of the log-depth around it


def typical(log_planes: Tensor) -> Tensor:
    """Log-likelihoods, up to a constant, of the depth of anything in a room. [P]"""
    return -0.5 * ((log_planes - math.log(TYPICAL_DEPTH)) / TYPICAL_SPREAD) ** 2


def believe(logits: Tensor, trust: Tensor, matches: Matches | None, log_sharpness: Tensor, log_planes: Tensor) -> DepthBelief:
    """Add what the network says of the planes and what the matches say.

    Args:
        logits: the network's log-likelihoods, up to a constant. [B, P, h, w]
        trust: log of the factor by which each cell weighs its matches, to be bounded. [B, 1, h, w]
        matches: None where there are none.
        log_sharpness: log-weights of the local and the smooth costs. [2]
        log_planes: logarithms of the planes' depths in metres, ascending. [P]
    """
    factor = trust.clamp(-LARGEST_LOG_TRUST, LARGEST_LOG_TRUST).exp()
    if matches is None:
        return belief_of(logits, log_planes)
    if compilable(logits, trust, log_sharpness, *matches):
        return _believe_compiled(logits, factor, matches, log_sharpness.exp(), log_planes)
    local, smooth = log_sharpness.exp()
    return belief_of(logits - factor * (local * matches.local + smooth * matches.smooth), log_planes)


def belief_of(logits: Tensor, log_planes: Tensor) -> DepthBelief:
    """The distribution of unnormalised log-probabilities [B, P, h, w]."""
    log_belief = torch.log_softmax(logits, dim=1)
    belief, planes = log_belief.exp(), log_planes[:, None, None]
    number = torch.arange(len(log_planes), device=logits.device)[:, None, None]
    local = belief * ((number - _mode(belief)).abs() <= MODE_REACH)
    log_depth = (local * planes).sum(1) / local.sum(1)
    return DepthBelief(log_belief, log_depth, (belief * (planes - log_depth.unsqueeze(1)).square()).sum(1).sqrt())


def _mode(belief: Tensor) -> Tensor:
    """The plane around which most probability lies. [B, 1, h, w]"""
    padded = F.pad(belief, (0, 0, 0, 0, 1, 1))
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]).argmax(1, keepdim=True)


def _believe_compiled(logits: Tensor, factor: Tensor, matches: Matches, sharpness: Tensor, log_planes: Tensor) -> DepthBelief:
    """`believe` without gradients, the planes innermost in memory."""
    batch, planes, height, width = logits.shape
    per_plane = (volume.permute(0, 2, 3, 1) for volume in (logits, *matches))
    per_frame = arrays(factor[:, 0], *per_plane)
    shared = arrays(sharpness, log_planes)
    log_belief = np.empty((batch, height, width, planes), np.float32)
    log_depth, spread = (np.empty((batch, height, width), np.float32) for _ in range(2))

    def rows(b: int, top: int, bottom: int) -> None:
        given = *(array[b] for array in per_frame), *shared
        _believe_rows(*given, MODE_REACH, top, bottom, log_belief[b], log_depth[b], spread[b])

    for_each(rows, bands(batch, height, width, 2))
    found = torch.from_numpy(log_belief).permute(0, 3, 1, 2)
    return DepthBelief(found, torch.from_numpy(log_depth), torch.from_numpy(spread))


@loosely_compiled
def _believe_rows(trust, logits, local, smooth, sharpness, log_planes, reach, top, bottom, log_belief, log_depth, spread):
    """Beliefs of rows top..bottom; see `believe` for what they are.

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
