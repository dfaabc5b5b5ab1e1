"""The no-gradient parts of `patch_frame` and `patch_integrate` on a CPU: compiled kernels, shared among threads."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory import fusion, patch_frame, patch_frame_kernels, patch_integrate, patch_write_kernels
from embodied_liftwm.memory.association import Association, Look
from embodied_liftwm.memory.patch_backend import arrays, as_scalars, ranges
from embodied_liftwm.memory.patch_map import Patches, texel_m
from embodied_liftwm.memory.patch_write_kernels import FILLED, GONE, MATCHED, Change, Content, Pixels, Rules, Sights, Texels
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each


@cache
def _rules(dtype: np.dtype) -> Rules:
    rules = Rules(
        settle=patch_integrate.SETTLE,
        smoothing_cells=patch_frame.SMOOTHING_CELLS,
        smoothing_log=patch_frame.SMOOTHING_LOG,
        edge=patch_frame.EDGE,
        near_m=patch_integrate.NEAR_M,
        gate_sigmas=patch_integrate.GATE_SIGMAS,
        gate_low=patch_integrate.GATE_RANGE[0],
        gate_high=patch_integrate.GATE_RANGE[1],
        coarse=patch_integrate.COARSE,
        fill_gate=patch_integrate.FILL_GATE,
        fill_reach=patch_integrate.FILL_REACH,
        facing_cosine=patch_integrate.FACING_COSINE,
        least_evidence=fusion.LEAST_EVIDENCE,
    )
    return as_scalars(rules, dtype)


def surfaces(depth: Tensor, camera: Camera) -> patch_frame.Surfaces:
    """`patch_frame.surfaces`."""
    batch, height, _ = depth.shape
    found = patch_frame.Surfaces(
        points=depth.new_empty(*depth.shape, 3),
        normals=depth.new_empty(*depth.shape, 3),
        nearest=torch.empty_like(depth),
        edge=torch.empty_like(depth, dtype=torch.bool),
    )
    poses = camera.world_from_camera
    turns = poses[:, :3, :3] @ torch.linalg.inv(camera.intrinsics)
    depths, smooth, turn, eye = arrays(depth, torch.empty_like(depth), turns, poses[:, :3, 3])
    points, normals, nearest, edge = arrays(*found)
    rules = _rules(depths.dtype)

    def smoothen(b: int, top: int, bottom: int) -> None:
        patch_frame_kernels.smooth_rows(depths[b], rules, top, bottom, smooth[b], nearest[b], edge[b])

    def lift(b: int, top: int, bottom: int) -> None:
        patch_frame_kernels.surface_rows(depths[b], smooth[b], turn[b], eye[b], top, bottom, points[b], normals[b])

    bands = [(b, top, bottom) for b in range(batch) for top, bottom in ranges(height)]
    for_each(smoothen, bands)
    for_each(lift, bands)
    return found


def associate(old: Patches, batch: Tensor, guess: Tensor, frame: patch_frame.Frame) -> Association:
    """`patch_integrate.associate`."""
    heights, pixel, uv, z, inside, fate = (torch.from_numpy(array) for array in _associate(old, batch, guess, frame))
    look = Look(pixel, uv, z, inside)
    return Association(heights, look, fate == MATCHED, fate == GONE, fate == FILLED)


def blend(
    old: Patches, batch: Tensor, found: Association, update: patch_integrate.Update, frame: patch_frame.Frame
) -> Patches:
    """`patch_integrate.reference_blend`, without gradients."""
    new = old._replace(**{name: getattr(old, name).clone() for name in ("heights", "rgb", "latents")}, evidence=update.evidence)
    look = found.look
    given = Change(*arrays(found.heights, look.pixel, look.uv, look.z, update.share))
    content = Content(*arrays(old.faces, batch, new.heights, new.rgb, new.latents))
    pixels = _pixels(frame)
    rules = _rules(content.heights.dtype)

    def change(first: int, end: int) -> None:
        patch_write_kernels.blend(content, pixels, given, rules, first, end)

    for_each(change, ranges(len(batch)))
    return new


def _associate(old: Patches, batch: Tensor, guess: Tensor, frame: patch_frame.Frame) -> Sights:
    texels, pixels = _texels(old, batch, guess), _pixels(frame)
    shape, dtype = texels.heights.shape, texels.heights.dtype
    sights = Sights(
        heights=np.empty(shape, dtype),
        pixel=np.empty(shape, np.int64),
        uv=np.empty((*shape, 2), dtype),
        z=np.empty(shape, dtype),
        inside=np.empty(shape, np.bool_),
        fate=np.empty(shape, np.uint8),
    )
    rules = _rules(dtype)

    def find(first: int, end: int) -> None:
        patch_write_kernels.associate(texels, pixels, rules, first, end, sights)

    for_each(find, ranges(shape[0]))
    return sights


def _texels(patches: Patches, batch: Tensor, guess: Tensor) -> Texels:
    sizes = texel_m(patches.levels, patches.heights)
    return Texels(*arrays(patches.cells, patches.faces, sizes, batch, guess, patches.heights, patches.evidence))


def _pixels(frame: patch_frame.Frame) -> Pixels:
    camera = frame.camera
    matrices = (camera.intrinsics @ inverse_pose(camera.world_from_camera)[:, :3]).contiguous()
    images = (frame.depth, frame.certainty, frame.rgb, frame.latents, frame.points, frame.normals, frame.nearest, frame.edge)
    given = arrays(matrices, camera.world_from_camera[:, :3, 3], *images, frame.footprint, frame.finest)
    return Pixels._make([*given, camera.height, camera.width, frame.stride])
