"""A scene of 3D Gaussians before and beside its fit: what it shows, and where its first Gaussians come from."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.geometry.cameras import back_project, resize_intrinsics
from embodied_liftwm.geometry.matching.plane_sweep import plane_sweep
from embodied_liftwm.geometry.matching.semi_global import semi_global
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.geometry.view_selection import choose_views
from embodied_liftwm.memory.gaussians.ply import PlyGaussians
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import rasterize
from embodied_liftwm.priors.contract import Clip
from embodied_liftwm.protocols import Camera

DEPTHS_M, PLANES = (0.2, 10.0), 96
"""Depths that the first Gaussians may have, and how many are tried, evenly in the logarithm."""
SOURCES = 8
"""Frames that a frame is matched with."""
CELL_PX = 2
"""Pixels a side of what becomes one Gaussian."""
CELL_SIGMA = 0.6
"""Standard deviation of a first Gaussian, in cells."""
FIRST_OPACITY = 0.9
"""Surfaces are opaque; below 1, so that the fit can still lower it."""
NEW_ALPHA, NEW_DEPTH = 0.5, 0.8
"""A cell is new where the Gaussians so far cover it less than this, or where its depth is below this share of theirs."""
SETTINGS = (DEPTHS_M, PLANES, SOURCES, CELL_PX, CELL_SIGMA, FIRST_OPACITY, NEW_ALPHA, NEW_DEPTH)
"""All that decides on the first Gaussians."""
_LEAST_ALPHA = 1e-3  # below it depth, which is divided by it, is rounding
_BATCH = 8  # frames that are swept at once, for memory


class SceneViews(NamedTuple):
    """What cameras see of a scene."""

    rgb: Tensor  # [V, 3, H, W] over black
    alpha: Tensor  # [V, H, W] in [0, 1)
    depth: Tensor  # [V, H, W] metres: expected z-depth of what covers the pixel, 0 where nothing does


def show(scene: PlyGaussians, intrinsics: Tensor, world_from_camera: Tensor, height: int, width: int) -> SceneViews:
    """Render a scene.

    Args:
        scene: Gaussians in metres; quaternions unit.
        intrinsics: of all cameras, pixels. [3, 3]
        world_from_camera: [V, 4, 4]
        height, width: pixels.
    """
    means, quats, scales, opacities, rgb = (tensor.unsqueeze(0) for tensor in scene)
    viewmats, Ks = inverse_pose(world_from_camera).unsqueeze(0), intrinsics.expand(1, len(world_from_camera), 3, 3)
    image = rasterize(means, quats, scales, opacities, rgb, viewmats, Ks, width, height, validate=False)
    alpha = image.alphas[0, ..., 0]
    covered = alpha > _LEAST_ALPHA
    depth = torch.where(covered, image.depths[0, ..., 0] / alpha.clamp_min(_LEAST_ALPHA), 0.0)
    return SceneViews(image.features[0].movedim(-1, 1), alpha, depth)


@torch.no_grad()
def first_scene(clip: Clip, every: int, most: int, generator: torch.Generator) -> PlyGaussians:
    """Gaussians where a plane sweep finds surfaces: a cell of a frame becomes one where those so far do not show it.

    First come the surer half of the cells of all frames, also in front of what is there; the others only fill what is left,
    since a doubtful depth is often far too near.

    Args:
        clip: the frames.
        every: each so many-th frame gives cells.
        most: Gaussians; of more, as many are drawn, and widened to cover the same.
        generator: on the CPU.
    """
    keys = torch.arange(0, len(clip.rgb), every)
    depth, sureness = (torch.cat(parts) for parts in zip(*(sweep_depth(clip, some) for some in keys.split(_BATCH))))
    colour = F.avg_pool2d(clip.rgb[keys], CELL_PX)
    intrinsics = resize_intrinsics(clip.intrinsics, 1.0 / CELL_PX)
    points = back_project(depth, intrinsics.expand(len(keys), 3, 3), clip.world_from_camera[keys])
    sure = sureness >= sureness.median()
    scene = _cells(points[0], depth[0], colour[0], intrinsics, sure[0])
    for k, fill in [(k, False) for k in range(1, len(keys))] + [(k, True) for k in range(len(keys))]:
        shown = show(scene, intrinsics, clip.world_from_camera[keys[k : k + 1]], *_size(depth))
        bare, before = shown.alpha[0] < NEW_ALPHA, depth[k] < NEW_DEPTH * shown.depth[0]
        added = _cells(points[k], depth[k], colour[k], intrinsics, bare if fill else sure[k] & (bare | before))
        scene = PlyGaussians(*(torch.cat(both) for both in zip(scene, added)))
    return _at_most(scene, most, generator)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def sweep_depth(clip: Clip, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Depth of the cells of some frames from the other frames and the poses: the best plane after semi-global matching.

    Args:
        clip: on any device.
        frames: [B] int64

    Returns:
        Metres, and by how much that plane's cost is below the mean of all, both [B, H / CELL_PX, W / CELL_PX].
    """
    rgb = clip.rgb[frames]
    cost = semi_global(_costs(rgb, clip.world_from_camera[frames], clip), F.avg_pool2d(rgb, CELL_PX))
    least, plane = cost.min(1)
    return _log_planes(rgb).exp()[plane], cost.mean(1) - least


@torch.no_grad()
def support(clip: Clip, frames: Tensor, depth: Tensor) -> Tensor:
    """How much the other frames of a clip speak for this depth of some: its matching cost below the mean over all depths.

    Without it a fit looks as sure of an even wall, whose colour fits at any depth, as of what it has triangulated.

    Args:
        clip: on any device.
        frames: [B] int64
        depth: metres. [B, H, W]

    Returns:
        In [0, 1], 0 where nothing speaks for it, as without parallax. [B, H, W]
    """
    cost, log_planes = _costs(clip.rgb[frames], clip.world_from_camera[frames], clip), _log_planes(clip.rgb)
    log_depth = F.avg_pool2d(depth.unsqueeze(1), CELL_PX).clamp_min(DEPTHS_M[0]).log()
    plane = ((log_depth - log_planes[0]) / (log_planes[1] - log_planes[0])).round().long()
    near = torch.stack([cost.gather(1, (plane + step).clamp(0, PLANES - 1)) for step in (-1, 0, 1)]).amin(0)
    return F.interpolate((cost.mean(1, keepdim=True) - near).clamp(0, 1), _size(depth)).squeeze(1)


def _costs(rgb: Tensor, poses: Tensor, clip: Clip) -> Tensor:
    """Matching costs of images [B, 3, H, W] against the frames of a clip under every plane. [B, PLANES, h, w]"""
    camera = Camera(clip.intrinsics.expand(len(rgb), 3, 3), poses, *_size(rgb))
    others = clip.world_from_camera.expand(len(rgb), -1, -1, -1).contiguous()
    chosen, good = choose_views(camera, others, others.new_ones(others.shape[:2]), SOURCES)
    inputs = camera, clip.rgb[chosen], clip.world_from_camera[chosen], good.unsqueeze(1)
    return plane_sweep(rgb, *inputs, _log_planes(rgb).exp(), CELL_PX).cost[:, 0]


def _log_planes(like: Tensor) -> Tensor:
    return torch.linspace(math.log(DEPTHS_M[0]), math.log(DEPTHS_M[1]), PLANES).to(like)


def _cells(points: Tensor, depth: Tensor, colour: Tensor, intrinsics: Tensor, wanted: Tensor) -> PlyGaussians:
    """Round Gaussians of the wanted cells of one frame: points [h, w, 3], depth [h, w], colour [3, h, w], wanted [h, w]."""
    sigma = CELL_SIGMA * depth[wanted] / intrinsics[0, 0]
    count = len(sigma)
    return PlyGaussians(
        means=points[wanted],
        quats=points.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        scales=sigma.unsqueeze(1).expand(count, 3),
        opacities=points.new_full((count,), FIRST_OPACITY),
        rgb=colour.movedim(0, -1)[wanted],
    )


def _at_most(scene: PlyGaussians, most: int, generator: torch.Generator) -> PlyGaussians:
    count = len(scene.means)
    if count <= most:
        return scene
    kept = torch.randperm(count, generator=generator)[:most].to(scene.means.device)
    fewer = PlyGaussians(*(tensor[kept] for tensor in scene))
    return fewer._replace(scales=fewer.scales * math.sqrt(count / most))
