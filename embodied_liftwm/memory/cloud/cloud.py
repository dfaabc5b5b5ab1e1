"""An explicit RGB point cloud: the memory of published pipelines, and the baseline of latent memories.

Every pixel of a frame is back-projected by its depth and kept as a point of 16 bytes: where it is, its colour, and how large
the pixel was there, without which a surface seen from nearer than before would fall apart into dots; and in a spare bit,
whether it was observed or imagined. Of all points in a voxel the newest is kept. Nothing is forgotten otherwise: the cloud
grows without bound, a block at a time.

Points are sorted along a space-filling curve (the Morton order of their voxels). So a frame is merged into the cloud by binary
searches and copies; and neighbours in memory are neighbours in space, so that `render` leaves out whole runs of
points that a camera cannot see. No index is kept for either, and no byte beyond the points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.memory.cloud import kernels
from embodied_liftwm.memory.growing import Growing
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

SIZE_STEPS, LEAST_SIZE_M = 8.0, 1e-4
"""A point's size is seven bits: so many steps an octave above so many metres, up to 6 m."""
LARGEST_SIZE = kernels.IMAGINED - 1


@dataclass(frozen=True)
class RgbCloud(Growing):
    """Up to N points a row, sorted by the keys of their voxels, all of which differ."""

    BLOCK: ClassVar[int] = 4096
    points: Tensor  # [B, N, 3] float32 metres, world frame
    looks: Tensor  # [B, N, 4] uint8: red, green, blue, and the size of the pixel that was seen (`sizes_of`)
    voxel_m: float  # edge of a voxel

    @classmethod
    def empty(cls, batch_size: int, voxel_m: float, device: torch.device | str = "cpu") -> Self:
        """No points yet."""
        points = torch.zeros(batch_size, 0, 3, device=device)
        looks = torch.zeros(batch_size, 0, 4, dtype=torch.uint8, device=device)
        return cls(torch.zeros(batch_size, dtype=torch.int64, device=device), points, looks, voxel_m)

    @property
    def rgb(self) -> Tensor:
        """Colours in [0, 1]. [B, N, 3]"""
        return self.looks[..., :3].to(self.points) / 255.0

    @property
    def sizes(self) -> Tensor:
        """Edges of the squares that points stand for, metres. [B, N]"""
        return sizes_of(self.looks)

    @torch.no_grad()
    def add(self, depth: Tensor, rgb: Tensor, camera: Camera, imagined: Tensor | None = None) -> Self:
        """The cloud with one more frame in every row; this one stays as it is.

        Args:
            depth: z-depth of every pixel in metres. [B, H, W]
            rgb: colours in [0, 1]. [B, 3, H, W]
            camera: B cameras.
            imagined: pixels that show nothing that was observed; none if None. [B, H, W] bool

        Raises:
            UserError: a depth is not above 0 or not finite, or a point lies where no key can number its voxel.
        """
        _validate(depth, rgb, camera)
        points = back_project(depth.float(), camera.intrinsics, camera.world_from_camera).flatten(1, 2)
        _validate_extent(points, self.voxel_m)
        looks = _looks(depth, rgb, camera.intrinsics)
        if imagined is not None:
            looks[..., 3] |= kernels.IMAGINED * imagined.flatten(1).to(torch.uint8)
        merge = self._merged_compiled if compilable(self.points, points) else self._merged_torch
        return merge(points.contiguous(), looks)

    def _merged_compiled(self, points: Tensor, looks: Tensor) -> Self:
        """With new points [B, M, 3] and looks [B, M, 4], on a CPU, a row a task."""
        mine, theirs = arrays(self.points, self.looks), arrays(points, looks)
        counts = [int(kept) for kept in self.count]
        plans: list[kernels.Plan] = [kernels.NOTHING] * len(counts)

        def plan(b: int) -> None:
            plans[b] = kernels.plan(mine[0][b, : counts[b]], theirs[0][b], self.voxel_m)

        for_each(plan, [(b,) for b in range(len(counts))])
        after = [kept + int(np.count_nonzero(~p.taken)) for kept, p in zip(counts, plans, strict=True)]
        merged = replace(self, count=torch.tensor(after)).resized_empty(self.room_for(max(after)))
        out = arrays(merged.points, merged.looks)

        def fill(b: int) -> None:
            for old, new, written in zip(mine, theirs, out, strict=True):
                kernels.merge(old[b, : counts[b]], new[b], *plans[b], written[b])

        for_each(fill, [(b,) for b in range(len(counts))])
        return merged

    def _merged_torch(self, points: Tensor, looks: Tensor) -> Self:
        """The same on any device: the reference."""
        rows = []
        for b, kept in enumerate(self.count.tolist()):
            both = torch.cat([self.points[b, :kept], points[b]]), torch.cat([self.looks[b, :kept], looks[b]])
            keys, order = keys_of(both[0], self.voxel_m).sort(stable=True)
            last = torch.ones_like(keys, dtype=torch.bool)
            last[:-1] = keys[1:] != keys[:-1]
            rows.append([values[order[last]] for values in both])
        after = [len(row[0]) for row in rows]
        merged = replace(self, count=self.count.new_tensor(after)).resized_empty(self.room_for(max(after)))
        for b, row in enumerate(rows):
            merged.points[b, : after[b]], merged.looks[b, : after[b]] = row
        return merged

    def resized_empty(self, slots: int) -> Self:
        """With so many slots in new memory, all of them zeros."""
        batch = len(self.count)
        return replace(self, points=self.points.new_zeros(batch, slots, 3), looks=self.looks.new_zeros(batch, slots, 4))


def sizes_of(looks: Tensor) -> Tensor:
    """Edges in metres that the last byte of looks [..., 4] stands for."""
    return LEAST_SIZE_M * torch.exp2((looks[..., 3] & LARGEST_SIZE).float() / SIZE_STEPS)


def observed_of(looks: Tensor) -> Tensor:
    """Whether points of looks [..., 4] uint8 were observed, not imagined. [...] bool"""
    return looks[..., 3] < kernels.IMAGINED


def _looks(depth: Tensor, rgb: Tensor, intrinsics: Tensor) -> Tensor:
    """Colours and sizes of the pixels of a frame as bytes. [B, H * W, 4]"""
    sizes = SIZE_STEPS * torch.log2(depth.float() / intrinsics[:, 0, 0, None, None] / LEAST_SIZE_M)
    looks = torch.cat([rgb.float() * 255.0, sizes.clamp(max=LARGEST_SIZE).unsqueeze(1)], dim=1)
    return looks.round().clamp(0, 255).to(torch.uint8).flatten(2).mT.contiguous()


def keys_of(points: Tensor, voxel_m: float) -> Tensor:
    """Morton codes of the voxels of points [..., 3]: bits of the three coordinates interleaved, x lowest. [...] int64"""
    voxels = (points.double() / voxel_m).floor().long() + kernels.HALF_RANGE
    spread = torch.zeros_like(voxels)
    for bit in range(kernels.AXIS_BITS):
        spread |= ((voxels >> bit) & 1) << (3 * bit)
    return spread[..., 0] | spread[..., 1] << 1 | spread[..., 2] << 2


def _validate(depth: Tensor, rgb: Tensor, camera: Camera) -> None:
    shapes = [list(depth.shape), list(rgb.shape)]
    batch, height, width = len(camera.intrinsics), camera.height, camera.width
    if shapes != [[batch, height, width], [batch, 3, height, width]]:
        expected = f"depth [{batch}, {height}, {width}] and rgb [{batch}, 3, {height}, {width}]"
        raise UserError(f"expected {expected}, got {' and '.join(map(str, shapes))}")
    row = _first_wrong((depth > 0) & depth.isfinite())
    if row is not None:
        wrong = depth[row][~((depth[row] > 0) & depth[row].isfinite())][0]
        raise UserError(f"frame of row {row}: expected depths above 0 m, got {float(wrong):g}; nothing was written")


def _validate_extent(points: Tensor, voxel_m: float) -> None:
    reach = voxel_m * (kernels.HALF_RANGE - 1)
    row = _first_wrong(points.abs() < reach)
    if row is not None:
        far = float(points[row].abs().max())
        raise UserError(f"frame of row {row}: a point lies {far:.3g} m away; voxels of {voxel_m:g} m reach {reach:.3g} m")


def _first_wrong(right: Tensor) -> int | None:
    """First row of [B, ...] in which something is not right."""
    wrong = (~right.flatten(1)).any(1).nonzero()
    return int(wrong[0]) if len(wrong) else None
