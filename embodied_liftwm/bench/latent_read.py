"""The latent read by size of the memory: part of `liftwm bench state`.

Milliseconds a read of one camera of 64 x 64 pixels on a grid of 32 x 32 cells, and nanoseconds a point: where these no longer
fall, the cost is O(N). Two scenes: points on the walls of a room all around the camera, of which it sees a part and none hides
another, as in a memory of a tour; and points that all are in view, most of them behind others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.bench.table import Row, by_name, typical
from embodied_liftwm.geometry import look_at
from embodied_liftwm.memory.latents.read import read_latents
from embodied_liftwm.protocols import Camera

IMAGE_SIZE, STRIDE, CHANNELS = 64, 2, 16
COUNTS = (4096, 16384, 65536, 262144)
SECONDS_A_REPEAT = 0.2


def rows(repeats: int, device: str) -> list[Row]:
    """A row for each scene and number of points."""
    found = []
    for scene, place in {"room": _on_walls, "all in view": _in_view}.items():
        for count in COUNTS:
            case: dict[str, object] = {"scene": scene, "grid": IMAGE_SIZE // STRIDE, "channels": CHANNELS, "points": count}
            found.append(Row(case, _measure(place(count), repeats, device)))
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


def _measure(points: Tensor, repeats: int, device: str) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, len(points), CHANNELS, generator=generator)
    weights = torch.rand(1, len(points), generator=generator)
    half = IMAGE_SIZE / 2
    intrinsics = torch.tensor([[[half, 0.0, half], [0.0, half, half], [0.0, 0.0, 1.0]]])
    pose = look_at(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]))
    places, latents, weights = (tensor.to(device) for tensor in (points[None], latents, weights))
    camera = Camera(intrinsics, pose, IMAGE_SIZE, IMAGE_SIZE).to(device)

    def once() -> dict[str, float]:
        spent = typical(lambda: read_latents(places, latents, weights, camera, STRIDE), SECONDS_A_REPEAT, device)
        return {"ms": 1e3 * spent, "ns a point": 1e9 * spent / len(points)}

    return by_name([once() for _ in range(repeats)])
