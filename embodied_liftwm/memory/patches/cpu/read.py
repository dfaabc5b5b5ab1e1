"""`patch_read` on a CPU without gradients: calls of the compiled kernels, shared among threads."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from torch import Tensor

from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.latents import read as latent_read
from embodied_liftwm.memory.latents.read import LatentRead
from embodied_liftwm.memory.patches import read as patch_read
from embodied_liftwm.memory.patches.backend import arrays, as_scalars, ranges
from embodied_liftwm.memory.patches.cpu.read_kernels import Canvas, Points, ReadRules, Relief, View, paint_rows, place_points
from embodied_liftwm.memory.patches.map import PatchMap, texel_m
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each


@cache
def _rules(dtype: np.dtype) -> ReadRules:
    rules = ReadRules(
        most_points=patch_read.MOST_POINTS,
        point_px=patch_read.POINT_PX,
        steepest=patch_read.STEEPEST,
        near_m=patch_read.NEAR_M,
        unsure=patch_read.UNSURE,
        unsure_weight=patch_read.UNSURE_WEIGHT,
        placed_near_m=latent_read.NEAR_M,
        covers=latent_read.COVERS,
        touches=latent_read.TOUCHES,
        precedence=latent_read.PRECEDENCE,
        log_tolerance=math.log1p(patch_read.DEPTH_TOLERANCE),
        temperature=patch_read.TEMPERATURE,
    )
    return as_scalars(rules, dtype)


def read_patches(world: PatchMap, values: Tensor, cameras: Camera) -> LatentRead:
    """`patch_read.read_patches`, without gradients."""
    views, channels = len(cameras.intrinsics), values.shape[-1]
    matrices = cameras.intrinsics @ inverse_pose(cameras.world_from_camera)[:, :3]
    shape = (views, cameras.height, cameras.width)
    seen = LatentRead(values.new_zeros(*shape, channels), values.new_zeros(shape), values.new_zeros(shape))
    fields = (world.cells, world.faces, texel_m(world.levels, world.heights), world.heights, world.evidence)
    maps, images = arrays(*fields), arrays(*seen)
    (texels,) = arrays(values.flatten(1, 2))
    matrix, focal = arrays(matrices, cameras.intrinsics[:, 0, 0])
    for v in range(views):
        row = v // (views // len(world.faces))
        view = View(matrix[v], focal[v], cameras.height, cameras.width)
        _read(Relief(*(array[row] for array in maps)), texels[row], view, Canvas(*(image[v] for image in images)))
    return seen._replace(latents=seen.latents.movedim(-1, 1))


def _read(relief: Relief, texels: np.ndarray, view: View, canvas: Canvas) -> None:
    """What one camera sees of one row of the map."""
    rules = _rules(texels.dtype)
    found: dict[int, tuple[np.ndarray, ...]] = {}

    def place(first: int, end: int) -> None:
        found[first] = place_points(relief, view, rules, first, end)

    parts = ranges(len(relief.faces))
    for_each(place, parts)
    points = Points(*(np.concatenate(arrays) for arrays in zip(*(found[first] for first, _ in parts), strict=True)))

    def paint(top: int, bottom: int) -> None:
        paint_rows(points, texels, rules, top, bottom, canvas)

    for_each(paint, ranges(view.height))
