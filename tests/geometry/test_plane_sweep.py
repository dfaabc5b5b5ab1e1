"""Plane sweep: the true plane explains best where there is parallax, and no plane where there is none."""

import numpy as np
import torch

from embodied_liftwm.geometry.plane_sweep import mean_cost, plane_sweep
from embodied_liftwm.protocols import Camera
from tests.toy_room import intrinsics, pose, render

SIZE, STRIDE = 64, 2
PLANES = torch.exp(torch.linspace(np.log(0.5), np.log(6.0), 30))


def sweep(source_pose: np.ndarray):
    target = pose(-0.5, 0.0, 0.0)
    rgb, depth = render(target, SIZE, scene=4)
    source, _ = render(source_pose, SIZE, scene=4)

    def image(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).movedim(-1, 0)[None].float() / 255.0

    camera = Camera(torch.from_numpy(intrinsics(SIZE))[None], torch.from_numpy(target)[None], SIZE, SIZE)
    found = plane_sweep(image(rgb), camera, image(source)[:, None], torch.from_numpy(source_pose)[None, None], PLANES, STRIDE)
    return found, torch.from_numpy(depth[::STRIDE, ::STRIDE]).float()


def test_the_cheapest_plane_is_the_true_one():
    found, depth = sweep(pose(-0.5, 0.5, 0.1))
    cost = mean_cost(found, torch.ones(1, 1, dtype=torch.bool))
    best = PLANES[cost[0].argmin(0)]
    assert float(((best - depth).abs() < 0.15 * depth).float().mean()) > 0.6
    torch.testing.assert_close(cost.mean(1), torch.zeros_like(cost[:, 0]), atol=1e-6, rtol=0)


def test_pure_rotation_says_nothing_of_depth():
    found, _ = sweep(pose(-0.5, 0.0, 0.2))
    known = found.known.all(2, keepdim=True).expand_as(found.cost)
    spread = found.cost.amax(2, keepdim=True) - found.cost.amin(2, keepdim=True)
    assert float(spread[known[:, :, :1]].max()) < 1e-4


def test_unusable_sources_are_silent():
    found, _ = sweep(pose(-0.5, 0.5, 0.1))
    assert float(mean_cost(found, torch.zeros(1, 1, dtype=torch.bool)).abs().max()) == 0.0
