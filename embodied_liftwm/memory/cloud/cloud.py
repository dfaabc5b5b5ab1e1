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

import math
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import compiled
from embodied_liftwm.memory.growing import Growing
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

AXIS_BITS = 21
"""Bits of a voxel's coordinate along each axis; three of them fit into the 63 of a key."""
HALF_RANGE = 1 << (AXIS_BITS - 1)
IMAGINED = 128
"""Bit of the last byte of looks; the rest of it is the size."""
SIZE_STEPS, LEAST_SIZE_M = 8.0, 1e-4
"""A point's size is seven bits: so many steps an octave above so many metres, up to 6 m."""
LARGEST_SIZE = IMAGINED - 1


class _Plan(NamedTuple):
    """Where new points go among old ones."""

    chosen: np.ndarray  # [K] int64 numbers of the new points that are kept, in the order of their keys
    places: np.ndarray  # [K] int64 first old point whose key is not below
    taken: np.ndarray  # [K] bool: that old point lies in the same voxel, and is replaced


_NOTHING = _Plan(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_))


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
            looks[..., 3] |= IMAGINED * imagined.flatten(1).to(torch.uint8)
        merge = self._merged_compiled if compilable(self.points, points) else self._merged_torch
        return merge(points.contiguous(), looks)

    def _merged_compiled(self, points: Tensor, looks: Tensor) -> Self:
        """With new points [B, M, 3] and looks [B, M, 4], on a CPU, a row a task."""
        mine, theirs = arrays(self.points, self.looks), arrays(points, looks)
        counts = [int(kept) for kept in self.count]
        plans: list[_Plan] = [_NOTHING] * len(counts)

        def plan(b: int) -> None:
            plans[b] = _planned(mine[0][b, : counts[b]], theirs[0][b], self.voxel_m)

        for_each(plan, [(b,) for b in range(len(counts))])
        after = [kept + int(np.count_nonzero(~p.taken)) for kept, p in zip(counts, plans, strict=True)]
        merged = replace(self, count=torch.tensor(after)).resized_empty(self.room_for(max(after)))
        out = arrays(merged.points, merged.looks)

        def fill(b: int) -> None:
            for old, new, written in zip(mine, theirs, out, strict=True):
                _merge(old[b, : counts[b]], new[b], *plans[b], written[b])

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
    return looks[..., 3] < IMAGINED


def _looks(depth: Tensor, rgb: Tensor, intrinsics: Tensor) -> Tensor:
    """Colours and sizes of the pixels of a frame as bytes. [B, H * W, 4]"""
    sizes = SIZE_STEPS * torch.log2(depth.float() / intrinsics[:, 0, 0, None, None] / LEAST_SIZE_M)
    looks = torch.cat([rgb.float() * 255.0, sizes.clamp(max=LARGEST_SIZE).unsqueeze(1)], dim=1)
    return looks.round().clamp(0, 255).to(torch.uint8).flatten(2).mT.contiguous()


def keys_of(points: Tensor, voxel_m: float) -> Tensor:
    """Morton codes of the voxels of points [..., 3]: bits of the three coordinates interleaved, x lowest. [...] int64"""
    voxels = (points.double() / voxel_m).floor().long() + HALF_RANGE
    spread = torch.zeros_like(voxels)
    for bit in range(AXIS_BITS):
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
    reach = voxel_m * (HALF_RANGE - 1)
    row = _first_wrong(points.abs() < reach)
    if row is not None:
        far = float(points[row].abs().max())
        raise UserError(f"frame of row {row}: a point lies {far:.3g} m away; voxels of {voxel_m:g} m reach {reach:.3g} m")


def _first_wrong(right: Tensor) -> int | None:
    """First row of [B, ...] in which something is not right."""
    wrong = (~right.flatten(1)).any(1).nonzero()
    return int(wrong[0]) if len(wrong) else None


def _planned(old: np.ndarray, new: np.ndarray, voxel_m: float) -> _Plan:
    """Plan how points `new` [M, 3] are merged into sorted points `old` [N, 3]; of those in one voxel the last is kept."""
    keys = np.empty(len(new), np.int64)
    _keys(new, voxel_m, keys)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.ones(len(keys), np.bool_)
    last[:-1] = keys[1:] != keys[:-1]
    chosen, keys = order[last], keys[last]
    places, taken = np.empty(len(keys), np.int64), np.empty(len(keys), np.bool_)
    _search(old, keys, voxel_m, places, taken)
    return _Plan(chosen, places, taken)


@compiled
def _spread(x):
    """The lower 21 bits of x, two zeros between each."""
    x = x & 0x1FFFFF
    x = (x | x << 32) & 0x1F00000000FFFF
    x = (x | x << 16) & 0x1F0000FF0000FF
    x = (x | x << 8) & 0x100F00F00F00F00F
    x = (x | x << 4) & 0x10C30C30C30C30C3
    return (x | x << 2) & 0x1249249249249249


@compiled
def key_of(point, voxel_m):
    """`keys_of` one point."""
    key = np.int64(0)
    for k in range(3):
        voxel = np.int64(math.floor(np.float64(point[k]) / voxel_m)) + HALF_RANGE
        key |= _spread(voxel) << k
    return key


@compiled
def _keys(points, voxel_m, keys):
    """Keys of points [M, 3] into keys [M]."""
    for m in range(len(points)):
        keys[m] = key_of(points[m], voxel_m)


@compiled
def _search(old, keys, voxel_m, places, taken):
    """`_Plan` of sorted keys [K]. Each search begins where the last one ended, and goes on by doubled steps."""
    at = 0
    for j in range(len(keys)):
        step, high = 1, at
        while high < len(old) and key_of(old[high], voxel_m) < keys[j]:
            at = high + 1
            high = high + step
            step *= 2
        high = min(high, len(old))
        while at < high:
            middle = (at + high) // 2
            if key_of(old[middle], voxel_m) < keys[j]:
                at = middle + 1
            else:
                high = middle
        places[j] = at
        taken[j] = at < len(old) and key_of(old[at], voxel_m) == keys[j]


@compiled
def _merge(old, new, chosen, places, taken, out):
    """Write the old values [N, C] and the chosen of the new [M, C] to out, in the order of their keys."""
    read, written = 0, 0
    for j in range(len(chosen)):
        run = places[j] - read
        if run > 0:
            out[written : written + run] = old[read : places[j]]
            written += run
        read = places[j] + (1 if taken[j] else 0)
        out[written] = new[chosen[j]]
        written += 1
    out[written : written + len(old) - read] = old[read:]
