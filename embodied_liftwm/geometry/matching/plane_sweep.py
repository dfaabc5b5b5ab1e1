"""Plane sweep: how badly each depth hypothesis explains a frame from other frames with known cameras.

For every cell and every plane a source is sampled where the cell would fall if its surface lay on that plane (Collins 1996,
"A space-sweep approach to true multi-image matching"). A colour difference counts in units of what the texture around
excuses: at a strong edge a fraction of a pixel makes a large one (after the sampling-insensitive measure of Birchfield and
Tomasi 1998), while on an even wall one grey level tells. No parameter is learned and no gradient is kept: images and poses
are data. Under pure rotation all planes explain equally well, and the cost says so. Its numbers were chosen by how many cells
matching alone gets right on development rooms (docs/experiments.md, section 13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import inverse_intrinsics, inverse_intrinsics_array, pixel_centres
from embodied_liftwm.geometry.compiled import arrays, as_scalars, compilable
from embodied_liftwm.geometry.matching import sweep_kernels
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.geometry.warp import sample_pixels
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import bands, for_each

NOISE = 0.0005
"""Colour difference that is noise even where nothing has texture."""
TEXTURE_EXCUSES = 0.1
"""Share of the range of grey within 3 x 3 pixels, in the frame and in the source, that counts as noise:
0.686 -> 0.713 of cells right."""
LARGEST = 1.5
"""Costs count up to this one: what is hidden in a source is no worse than what merely differs."""
UNKNOWN = 1.05
"""What counts where a plane leaves the images of all sources: neither a match nor a mismatch."""
WINDOW_CELLS = 3
"""Side of the window, in cells, over which costs are averaged: one cell alone looks like too many others (0.547 -> 0.620)."""
_BANDS = 4
"""Into so many bands of rows a large frame is cut."""


class Sweep(NamedTuple):
    """Matching costs of every plane, of groups of sources."""

    cost: Tensor  # [B, G, P, h, w] mean over the group's sources that know, and over a window; UNKNOWN where none does
    known: Tensor  # [B, G, P, h, w] bool: under this plane the cell falls onto the image of some source of the group


class Hypotheses(NamedTuple):
    """Where cells would be found: the image of u in source s is turns[s] u + shifts[s, p] nearness[u] under hypothesis p."""

    nearness: Tensor  # [B, h, w]
    turns: Tensor  # [B, S, 3, 3]
    shifts: Tensor  # [B, S, P, 3]


class _Inputs(NamedTuple):
    target: Tensor  # [B, 3, h, w] colours of the cells
    tolerance: Tensor  # [B, h, w] difference that the frame excuses
    sources: Tensor  # [B, S, 4, H, W] colours, and the difference that the source excuses
    nearness: Tensor  # of `Hypotheses`, as the next two
    turns: Tensor
    shifts: Tensor
    groups: Tensor  # [B, G, S] bool


@torch.no_grad()
def plane_sweep(
    rgb: Tensor, camera: Camera, source_rgb: Tensor, source_poses: Tensor, groups: Tensor, planes: Tensor, stride: int
) -> Sweep:
    """Match frames against their sources under fronto-parallel planes, cell by cell.

    A cell's colour is its mean, which is what bilinear sampling returns at the centre of 2 x 2 pixels: sources are sampled at
    full resolution, so that a fraction of a pixel of disparity counts.

    Args:
        rgb: the frames to explain, in [0, 1]. [B, 3, H, W]
        camera: their cameras; the sources share the intrinsics.
        source_rgb: other frames. [B, S, 3, H, W]
        source_poses: their world_from_camera. [B, S, 4, 4]
        groups: which sources count, group by group. [B, G, S] bool
        planes: z-depths to try, metres. [P]
        stride: pixels a side of a cell.
    """
    turns, shifts = relative_views(camera, source_poses)
    everywhere = rgb.new_ones(len(rgb), rgb.shape[-2] // stride, rgb.shape[-1] // stride)
    hypotheses = Hypotheses(everywhere, turns, shifts.unsqueeze(2) * (1.0 / planes)[:, None])
    return match(rgb, source_rgb, groups, hypotheses, stride)


@torch.no_grad()
def match(rgb: Tensor, source_rgb: Tensor, groups: Tensor, hypotheses: Hypotheses, stride: int) -> Sweep:
    """Match frames against their sources under any hypotheses of where their cells are; shapes as for `plane_sweep`."""
    if compilable(rgb, source_rgb):
        return _match_compiled(rgb, source_rgb, groups, hypotheses, stride)
    excuse = TEXTURE_EXCUSES * grey_range(rgb).unsqueeze(1)
    theirs = TEXTURE_EXCUSES * grey_range(source_rgb.flatten(0, 1)).unflatten(0, source_rgb.shape[:2])
    inputs = _Inputs(
        F.avg_pool2d(rgb, stride), NOISE + F.avg_pool2d(excuse, stride).squeeze(1),
        torch.cat([source_rgb, theirs.unsqueeze(2)], dim=2), *hypotheses, groups,
    )  # fmt: skip
    total, count = _sums(inputs, stride)
    known = count > 0
    mean = torch.where(known, total / count.clamp_min(1.0), UNKNOWN)
    cost = F.avg_pool2d(mean.flatten(0, 1), WINDOW_CELLS, stride=1, padding=WINDOW_CELLS // 2, count_include_pad=False)
    return Sweep(cost.unflatten(0, groups.shape[:2]), known)


def grey_range(rgb: Tensor) -> Tensor:
    """Largest less smallest grey within 3 x 3 pixels. [B, 3, H, W] -> [B, H, W]"""
    grey = F.pad((rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 3.0, (1, 1, 1, 1), mode="replicate")
    return _of_three(_of_three(grey, torch.maximum, 1), torch.maximum, 2) - _of_three(
        _of_three(grey, torch.minimum, 1), torch.minimum, 2
    )


def _of_three(x: Tensor, choose: Callable[[Tensor, Tensor], Tensor], dim: int) -> Tensor:
    """Of every three neighbours along an axis, the one chosen: `max_pool2d`, which is slow where channels are few."""
    before, here, after = (x.narrow(dim, k, x.shape[dim] - 2) for k in range(3))
    return choose(choose(before, here), after)


def relative_views(camera: Camera, source_poses: Tensor) -> tuple[Tensor, Tensor]:
    """K R K^-1 [B, S, 3, 3] and K t [B, S, 3] of the sources.

    With x = K (R K^-1 u z + t), dividing by z: the image of u is K R K^-1 u + K t / z, up to scale.
    """
    if compilable(camera, source_poses):
        return _relative_views_compiled(camera, source_poses)
    source_from_target = inverse_pose(source_poses) @ camera.world_from_camera.unsqueeze(1)
    intrinsics = camera.intrinsics.unsqueeze(1)
    turns = intrinsics @ source_from_target[..., :3, :3] @ inverse_intrinsics(intrinsics)
    return turns, (intrinsics @ source_from_target[..., :3, 3:]).squeeze(-1)


def _relative_views_compiled(camera: Camera, source_poses: Tensor) -> tuple[Tensor, Tensor]:
    """`relative_views` in numpy, which takes a tenth of the time for a single camera."""
    intrinsics, poses, others = arrays(camera.intrinsics.unsqueeze(1), camera.world_from_camera.unsqueeze(1), source_poses)
    back = others[..., :3, :3].swapaxes(-1, -2)
    turns = intrinsics @ (back @ poses[..., :3, :3]) @ inverse_intrinsics_array(intrinsics)
    shifts = intrinsics @ (back @ (poses[..., :3, 3:] - others[..., :3, 3:]))
    return torch.from_numpy(turns), torch.from_numpy(shifts[..., 0])


def _match_compiled(rgb: Tensor, source_rgb: Tensor, groups: Tensor, hypotheses: Hypotheses, stride: int) -> Sweep:
    """`match`, the planes innermost in memory."""
    (batch, number, _, rows, columns), parts = source_rgb.shape, groups.shape[1]
    height, width, planes = rows // stride, columns // stride, hypotheses.shifts.shape[2]
    turns, shifts = hypotheses.turns, hypotheses.shifts.transpose(2, 3)
    frames, others, *where = arrays(rgb, source_rgb, hypotheses.nearness, turns, shifts, groups)
    rules = as_scalars(sweep_kernels.SweepRules(stride, NOISE, TEXTURE_EXCUSES, LARGEST, UNKNOWN), frames.dtype)
    target, sources = np.empty((batch, height, width, 4), np.float32), np.empty((batch, number, rows, columns, 4), np.float32)
    sums, cost = (np.empty((batch, parts, height, width, planes), np.float32) for _ in range(2))
    known = np.empty(sums.shape, np.bool_)

    def prepare(b: int) -> None:
        grey, image = np.empty((rows, columns), np.float32), np.empty((rows, columns, 4), np.float32)
        for s in range(number):
            sweep_kernels.with_excuse(others[b, s], rules, grey, sources[b, s])
        sweep_kernels.with_excuse(frames[b], rules, grey, image)
        sweep_kernels.mean_cells(image, rules, target[b])

    def sweep(b: int, top: int, bottom: int) -> None:
        given = sweep_kernels.SweepInputs(target[b], sources[b], *(array[b] for array in where))
        sweep_kernels.sweep_band(given, rules, top, bottom, sums[b], known[b])

    def window(b: int, top: int, bottom: int) -> None:
        for k in range(parts):
            sweep_kernels.window_band(sums[b, k], WINDOW_CELLS // 2, top, bottom, cost[b, k])

    tasks = bands(batch, height, width, _BANDS)
    for_each(prepare, [(b,) for b in range(batch)])
    for_each(sweep, tasks)
    for_each(window, tasks)
    return Sweep(torch.from_numpy(cost).permute(0, 1, 4, 2, 3), torch.from_numpy(known).permute(0, 1, 4, 2, 3))


def _sums(inputs: _Inputs, stride: int) -> tuple[Tensor, Tensor]:
    """Sums of costs and numbers of sources that know, [B, G, P, h, w] twice, on any device, source by source."""
    target, tolerance, sources, nearness, turns, shifts, groups = inputs
    height, width = target.shape[-2:]
    total = target.new_zeros(len(target), groups.shape[1], shifts.shape[2], height, width)
    count = torch.zeros_like(total)
    centres = stride * pixel_centres(height, width).to(target)
    homogeneous = torch.cat([centres, torch.ones_like(centres[..., :1])], dim=-1)
    extent = target.new_tensor([sources.shape[-1], sources.shape[-2]])
    for s in range(sources.shape[1]):
        rotated = torch.einsum("bij,hwj->bhwi", turns[:, s], homogeneous)
        image = rotated[:, None] + shifts[:, s, :, None, None] * nearness[:, None, ..., None]
        pixels = image[..., :2] / image[..., 2:].clamp_min(1e-3)
        known = ((pixels >= 0) & (pixels <= extent)).all(-1) & (image[..., 2] > 1e-2)
        sampled = sample_pixels(sources[:, s], pixels.flatten(1, 2)).unflatten(2, (shifts.shape[2], height))
        difference = (sampled[:, :3] - target.unsqueeze(2)).abs().mean(1)
        cost = (difference / (tolerance.unsqueeze(1) + sampled[:, 3])).clamp_max(LARGEST)
        counts = (groups[:, :, s, None, None, None] & known.unsqueeze(1)).to(cost)
        total += counts * cost.unsqueeze(1)
        count += counts
    return total, count
