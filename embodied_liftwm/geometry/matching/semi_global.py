"""Semi-global matching: the costs of planes, smoothed along paths through the image.

After H. Hirschmueller, "Stereo Processing by Semiglobal Matching and Mutual Information", PAMI 2008. A cell's cost of a plane
becomes the cost of the best path that ends there: steps to the next plane have a small price, jumps a large one, which is lower
across an edge of the image. Averaged over the four directions this approximates the min-marginals of the image as a whole.
The prices come from a random search on development rooms (docs/experiments.md, section 13).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.threads import bands, for_each

STEP_PENALTY = 0.5
"""Price of a step between neighbouring planes, in units of the cost."""
JUMP_PENALTY = 16.0
"""Price of a jump where the image is even."""
EDGE_SHARPNESS = 10.0
"""The price of a jump falls towards that of a step as exp(-this * colour difference), summed over the channels."""
_GUARD = 1e6  # larger than any cost
_ZERO = np.float32(0.0)


@torch.no_grad()
def semi_global(cost: Tensor, guide: Tensor) -> Tensor:
    """Mean over four directions of the costs of the best paths to each cell and plane.

    Args:
        cost: float32, at least 0. [B, P, h, w]
        guide: the frames that say where edges are, in [0, 1], a pixel a cell. [B, C, h, w]

    Returns:
        [B, P, h, w], laid out with the planes innermost. A cost that is the same everywhere comes back as it is.
    """
    across, down = (_jump_penalty(guide.diff(dim=d)) for d in (3, 2))
    if not compilable(cost, guide):
        return _semi_global_torch(cost, across, down)
    volume = cost.permute(0, 2, 3, 1).contiguous()
    total = torch.zeros_like(volume)
    arrays = [t.contiguous().numpy() for t in (volume, across, down, total)]
    step, guard = arrays[0].dtype.type(STEP_PENALTY), arrays[0].dtype.type(_GUARD)

    def rows(b: int, top: int, bottom: int) -> None:
        _along_rows(arrays[0][b], arrays[1][b], step, guard, top, bottom, arrays[3][b])

    def columns(b: int, first: int, end: int) -> None:
        _along_columns(arrays[0][b], arrays[2][b], step, guard, first, end, arrays[3][b])

    (batch, height, width), halves = volume.shape[:3], 2
    for_each(rows, bands(batch, height, width, halves))
    for_each(columns, bands(batch, width, height, halves))
    return (total / 4.0).permute(0, 3, 1, 2)


def _jump_penalty(difference: Tensor) -> Tensor:
    """[B, C, ...] between neighbouring cells -> [B, ...]"""
    return STEP_PENALTY + (JUMP_PENALTY - STEP_PENALTY) * torch.exp(-EDGE_SHARPNESS * difference.abs().sum(1))


def _semi_global_torch(cost: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """The same on any device, a row or a column at a time."""
    rows = cost.unbind(2), list(down.unbind(1))
    columns = cost.unbind(3), list(across.unbind(2))
    total = torch.zeros_like(cost)
    for dim, (slices, jumps) in ((2, rows), (3, columns)):
        total += torch.stack(_paths(slices, jumps), dim)
        total += torch.stack(_paths(slices[::-1], jumps[::-1])[::-1], dim)
    return total / 4.0


def _paths(costs: tuple[Tensor, ...], jumps: list[Tensor]) -> list[Tensor]:
    """Costs of the best paths along one direction: `costs` [B, P, n] and the prices of jumps between them [B, n], in order."""
    found = [costs[0]]
    for cost, jump in zip(costs[1:], jumps, strict=True):
        path = found[-1]
        least = path.amin(1, keepdim=True)
        guard = torch.full_like(least, _GUARD)
        beside = torch.minimum(torch.cat([guard, path[:, :-1]], 1), torch.cat([path[:, 1:], guard], 1)) + STEP_PENALTY
        found.append(cost + torch.minimum(torch.minimum(path, beside), least + jump.unsqueeze(1)) - least)
    return found


@loosely_compiled
def _advance(cost, step_penalty, jump_penalty, path, total):
    """One step along a path (Hirschmueller 2008, eq. 13): `path` [P + 2] becomes that of the cell, and `total` [P] gains it.

    The first and the last of `path` are guards, larger than any cost.
    """
    planes = cost.shape[0]
    least = path[1]
    for p in range(2, planes + 1):
        least = min(least, path[p])
    before, here = path[0], path[1]
    for p in range(planes):
        after = path[p + 2]
        best = min(min(here, least + jump_penalty), min(before, after) + step_penalty)
        path[p + 1] = cost[p] + best - least
        total[p] += path[p + 1]
        before, here = here, after


@loosely_compiled
def _along_rows(cost, across, step_penalty, guard, top, bottom, total):
    """Sum, in rows top..bottom, the costs of the best paths to every cell from the left and from the right.

    Args:
        cost: [h, w, P].
        across: price of a jump between a cell and its right neighbour. [h, w - 1]
        step_penalty: price of a step to the next plane.
        guard: a number larger than any cost.
        total: zeros [h, w, P], written.
    """
    width, planes = cost.shape[1:]
    path = np.empty(planes + 2, np.float32)
    path[0] = path[planes + 1] = guard
    for y in range(top, bottom):
        path[1:-1] = _ZERO
        for x in range(width):
            _advance(cost[y, x], step_penalty, across[y, x - 1] if x else _ZERO, path, total[y, x])
        path[1:-1] = _ZERO
        for x in range(width - 1, -1, -1):
            _advance(cost[y, x], step_penalty, across[y, x] if x < width - 1 else _ZERO, path, total[y, x])


@loosely_compiled
def _along_columns(cost, down, step_penalty, guard, first, end, total):
    """Add, in columns first..end, the costs of the best paths from above and from below; see `_along_rows`.

    Args:
        down: price of a jump between a cell and the one below. [h - 1, w]
    """
    height, _, planes = cost.shape
    paths = np.empty((end - first, planes + 2), np.float32)
    paths[:, 0] = paths[:, -1] = guard
    paths[:, 1:-1] = _ZERO
    for y in range(height):
        for x in range(first, end):
            _advance(cost[y, x], step_penalty, down[y - 1, x] if y else _ZERO, paths[x - first], total[y, x])
    paths[:, 1:-1] = _ZERO
    for y in range(height - 1, -1, -1):
        for x in range(first, end):
            _advance(cost[y, x], step_penalty, down[y, x] if y < height - 1 else _ZERO, paths[x - first], total[y, x])
