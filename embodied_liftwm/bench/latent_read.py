"""The latent read by size of the memory, forward alone and with gradients: part of `liftwm bench state`.

Milliseconds a read of one camera of 64 x 64 pixels, and nanoseconds a point: where these no longer fall, the cost is O(N).
Gradients go to points, latents, weights and the pose. Two scenes: points on the walls of a room all around the camera, of which
it sees a part and none hides another, as in a memory of a tour; and points that all are in view, most of them behind others.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from embodied_liftwm.bench.table import Row, seconds
from embodied_liftwm.geometry import look_at
from embodied_liftwm.memory.latents.read import read_latents
from embodied_liftwm.protocols import Camera

IMAGE_SIZE, CHANNELS = 64, 16
STRIDES = (4, 2)
COUNTS = (4096, 16384, 65536, 262144)
SECONDS_A_REPEAT = 0.2
"""A repeat is the median of as many reads as fit into this, at least one."""


def rows(repeats: int, device: str) -> list[Row]:
    """A row for each scene, grid and number of points."""
    found = []
    for scene, place in {"room": _on_walls, "all in view": _in_view}.items():
        for stride in STRIDES:
            for count in COUNTS:
                side = IMAGE_SIZE // stride
                case: dict[str, object] = {"scene": scene, "grid": f"{side} x {side}", "channels": CHANNELS, "points": count}
                found.append(Row(case, _measure(place(count), stride, repeats, device)))
    return found


def _on_walls(count: int) -> Tensor:
    """Points on the walls of a room of 6 x 6 x 2.5 m around the origin. [N, 3]"""
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return directions / (directions / torch.tensor([3.0, 3.0, 1.25])).abs().amax(-1, keepdim=True)


def _in_view(count: int) -> Tensor:
    """Points in a field of view of 90 degrees along x, 0.5 to 5 m deep. [N, 3]"""
    generator = torch.Generator().manual_seed(0)
    depth = 0.5 + 4.5 * torch.rand(count, 1, generator=generator)
    return depth * torch.cat([torch.ones(count, 1), 1.96 * torch.rand(count, 2, generator=generator) - 0.98], dim=-1)


def _measure(points: Tensor, stride: int, repeats: int, device: str) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, len(points), CHANNELS, generator=generator)
    weights = torch.rand(1, len(points), generator=generator)
    half = IMAGE_SIZE / 2
    intrinsics = torch.tensor([[[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]]).to(device)
    pose = look_at(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    inputs = [tensor.to(device) for tensor in (points[None], latents, weights, pose)]
    needing = [tensor.clone().requires_grad_() for tensor in inputs]

    def read(points: Tensor, latents: Tensor, weights: Tensor, pose: Tensor) -> Tensor:
        found = read_latents(points, latents, weights, Camera(intrinsics, pose, IMAGE_SIZE, IMAGE_SIZE), stride)
        return found.latents.sum() + found.depths.sum() + found.visible.sum()

    def differentiate() -> None:
        with torch.enable_grad():
            torch.autograd.grad(read(*needing), needing)

    forward = [_repeat(lambda: read(*inputs), device) for _ in range(repeats)]
    both = [_repeat(differentiate, device) for _ in range(repeats)]
    return {
        "ms": [1e3 * value for value in forward],
        "ns a point": [1e9 * value / len(points) for value in forward],
        "ms with gradients": [1e3 * value for value in both],
        "ns a point with gradients": [1e9 * value / len(points) for value in both],
    }


def _repeat(work: Callable[[], object], device: str) -> float:
    """Seconds of a call: the median of as many as fit into `SECONDS_A_REPEAT`."""
    first = seconds(work, 1, device)
    more = int(SECONDS_A_REPEAT / first[0])
    return median(first + (seconds(work, more, device) if more else []))
