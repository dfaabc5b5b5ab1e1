"""Which of many cameras best triangulate what one camera sees: together, not each for itself.

The best single partner has a baseline that is wide beside the depth and still sees the same. But a camera that drives and turns
leaves each partner a part of its view; so partners are chosen one after the other, each for what the former ones see little
of (greedy maximum coverage). Only poses are read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import inverse_intrinsics, project
from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.protocols import Camera
from embodied_liftwm.threads import for_each

KEPT_VIEWS = 32
"""Views that a camera keeps to be matched with: enough, when it turns about, to meet those of its last turn. 48
gain a point, more sources than six none (docs/experiments.md, section 13, of the next two as well)."""
BASELINE_M = (0.08, 1.5)
"""Between these distances two cameras see a room with parallax, and still see the same of it."""
BEST_BASELINE_M, BASELINE_OCTAVES = 0.4, 0.8
"""The best distance, and the standard deviation of the logarithm around it."""
CROWDING = 4.0
"""How much less a point is worth for each good view that it already has."""
GRID, DEPTHS_M = 4, (0.4, 1.0, 2.0, 4.0)
"""What a camera sees is judged by GRID x GRID rays at these depths."""
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


class _Preference(NamedTuple):
    """The constants above, float32 but for the first."""

    grid: int
    depths: np.ndarray  # metres
    nearest: np.float32
    farthest: np.float32
    best: np.float32
    octaves: np.float32
    crowding: np.float32


def relation(pose: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance in metres, and cosine between the optical axes, of `pose` [B, 4, 4] and `others` [B, M, 4, 4]. [B, M] twice"""
    baseline = (others[:, :, :3, 3] - pose[:, None, :3, 3]).norm(dim=-1)
    return baseline, (others[:, :, :3, 2] * pose[:, None, :3, 2]).sum(-1)


def has_parallax(pose: Tensor, others: Tensor) -> Tensor:
    """Whether each of `others` [B, M, 4, 4] may see what `pose` [B, 4, 4] sees, from far enough aside. [B, M] bool"""
    baseline, cosine = relation(pose, others)
    return (baseline > BASELINE_M[0]) & (baseline < BASELINE_M[1]) & (cosine > 0.0)


def choose_views(camera: Camera, others: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose views for each of B cameras.

    Args:
        camera: the cameras. They share their intrinsics and image size with the others.
        others: world_from_camera of the candidates. [B, M, 4, 4]
        allowed: weight of the candidates, 0 for those not to be chosen; only those with parallax ever are. [B, M]
        count: how many to choose.

    Returns:
        Candidates' numbers, best first [B, count], and whether each is worth anything. [B, count] bool
    """
    chooser = _choose_compiled if compilable(camera, others) else _choose_torch
    return chooser(camera, others, allowed.to(others), count)


def _choose_compiled(camera: Camera, others: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same on a CPU, a camera a task."""
    pose = camera.world_from_camera
    turns = pose[:, :3, :3] @ inverse_intrinsics(camera.intrinsics)
    inputs = arrays(turns, camera.intrinsics, pose, others, allowed)
    chosen = torch.empty(len(others), count, dtype=torch.int64)
    good = torch.empty(len(others), count, dtype=torch.bool)
    chosen_array, good_array = chosen.numpy(), good.numpy()
    size = np.array([camera.width, camera.height], np.float32)

    def task(b: int) -> None:
        _choose(*(array[b] for array in inputs), size, _preference(), chosen_array[b], good_array[b])

    for_each(task, [(b,) for b in range(len(others))])
    return chosen, good


def _preference() -> _Preference:
    scalars = (np.float32(x) for x in (*BASELINE_M, BEST_BASELINE_M, BASELINE_OCTAVES, CROWDING))
    return _Preference(GRID, np.array(DEPTHS_M, np.float32), *scalars)


def _choose_torch(camera: Camera, others: Tensor, allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same on any device."""
    worth = allowed * has_parallax(camera.world_from_camera, others) * _quality(camera.world_from_camera, others)
    worth = worth.unsqueeze(-1) * sees(camera, others)
    covered = torch.zeros_like(worth[:, 0])
    rows = torch.arange(len(others), device=others.device)
    chosen, good = [], []
    for _ in range(count):
        gain = (worth / (1.0 + CROWDING * covered).unsqueeze(1)).sum(-1)
        best, number = gain.max(1)
        covered = covered + worth[rows, number]
        worth[rows, number] = 0.0
        chosen.append(number)
        good.append(best > 0)
    return torch.stack(chosen, dim=1), torch.stack(good, dim=1)


def _quality(pose: Tensor, others: Tensor) -> Tensor:
    """How well a view triangulates, whatever it sees. [B, M] in (0, 1]"""
    baseline, cosine = relation(pose, others)
    octaves = (baseline / BEST_BASELINE_M).clamp_min(1e-6).log() / BASELINE_OCTAVES
    return torch.exp(-0.5 * octaves.square()) * (0.2 + 0.8 * cosine.clamp_min(0.0))


def sees(camera: Camera, others: Tensor) -> Tensor:
    """Which points of a grid of the cameras' views fall on the others' images. [B, M, points] 0 or 1"""
    batch, views = others.shape[:2]
    at = (torch.arange(GRID, device=others.device, dtype=others.dtype) + 0.5) / GRID
    u, v = torch.meshgrid(at * camera.width, at * camera.height, indexing="xy")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)
    rays = pixels.reshape(-1, 3) @ inverse_intrinsics(camera.intrinsics).mT @ camera.world_from_camera[:, :3, :3].mT
    depths = others.new_tensor(DEPTHS_M)[:, None, None]
    points = (rays[:, None] * depths).flatten(1, 2) + camera.world_from_camera[:, None, :3, 3]
    repeated = points.repeat_interleave(views, dim=0)
    uv, depth = project(repeated, camera.intrinsics.repeat_interleave(views, dim=0), inverse_pose(others.flatten(0, 1)))
    inside = (uv >= 0).all(-1) & (uv[..., 0] <= camera.width) & (uv[..., 1] <= camera.height) & (depth > 0.05)
    return inside.unflatten(0, (batch, views)).to(others)


@loosely_compiled
def _choose(turn, intrinsics, pose, others, allowed, size, rules, chosen, good):
    """`choose_views` of one camera.

    Args:
        turn: from pixels (u, v, 1) to world directions of z-depth 1. [3, 3]
        intrinsics, pose: [3, 3], [4, 4] world_from_camera.
        others, allowed: [M, 4, 4], [M] float32.
        size: width and height of the images, float32.
        chosen, good: [count] int64 and bool, written.
    """
    points = _grid(turn, pose, size, rules)
    worth = np.zeros((len(others), len(points)), np.float32)
    for m in range(len(others)):
        value = allowed[m] * _triangulates(pose, others[m], rules)
        if value > _ZERO:
            for p in range(len(points)):
                if _falls_on(points[p], intrinsics, others[m], size):
                    worth[m, p] = value
    covered = np.zeros(len(points), np.float32)
    for k in range(len(chosen)):
        best, number = _ZERO, 0
        for m in range(len(others)):
            gain = _ZERO
            for p in range(len(points)):
                gain += worth[m, p] / (_ONE + rules.crowding * covered[p])
            if gain > best:
                best, number = gain, m
        chosen[k], good[k] = number, best > _ZERO
        covered += worth[number]
        worth[number] = _ZERO


@loosely_compiled
def _grid(turn, pose, size, rules):
    """World points by which it is judged what the camera sees. [points, 3]"""
    points = np.empty((len(rules.depths) * rules.grid * rules.grid, 3), np.float32)
    p = 0
    for depth in rules.depths:
        for j in range(rules.grid):
            v = (np.float32(j) + _HALF) / np.float32(rules.grid) * size[1]
            for i in range(rules.grid):
                u = (np.float32(i) + _HALF) / np.float32(rules.grid) * size[0]
                for k in range(3):
                    points[p, k] = (turn[k, 0] * u + turn[k, 1] * v + turn[k, 2]) * depth + pose[k, 3]
                p += 1
    return points


@loosely_compiled
def _triangulates(pose, other, rules):
    """How well a view triangulates, whatever it sees; 0 without parallax."""
    squared, cosine = _ZERO, _ZERO
    for k in range(3):
        step = other[k, 3] - pose[k, 3]
        squared += step * step
        cosine += other[k, 2] * pose[k, 2]
    baseline = np.float32(math.sqrt(squared))
    if not (rules.nearest < baseline < rules.farthest and cosine > _ZERO):
        return _ZERO
    octaves = np.float32(math.log(baseline / rules.best)) / rules.octaves
    return np.float32(math.exp(-_HALF * octaves * octaves)) * (np.float32(0.2) + np.float32(0.8) * cosine)


@loosely_compiled
def _falls_on(point, intrinsics, other, size):
    """Whether a world point falls on the image of the camera at `other`."""
    a, b, c = point[0] - other[0, 3], point[1] - other[1, 3], point[2] - other[2, 3]
    x = other[0, 0] * a + other[1, 0] * b + other[2, 0] * c
    y = other[0, 1] * a + other[1, 1] * b + other[2, 1] * c
    z = other[0, 2] * a + other[1, 2] * b + other[2, 2] * c
    if not z > np.float32(0.05):
        return False
    u = (intrinsics[0, 0] * x + intrinsics[0, 1] * y + intrinsics[0, 2] * z) / z
    v = (intrinsics[1, 0] * x + intrinsics[1, 1] * y + intrinsics[1, 2] * z) / z
    return u >= _ZERO and v >= _ZERO and u <= size[0] and v <= size[1]
