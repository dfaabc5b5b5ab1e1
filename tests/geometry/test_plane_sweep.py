"""Plane sweep: the true plane explains best where there is parallax, and no plane where there is none."""

import numpy as np
import torch

from embodied_liftwm.geometry.matching.plane_sweep import UNKNOWN, Sweep, grey_range, plane_sweep, relative_views
from embodied_liftwm.geometry.se3 import se3_exp
from embodied_liftwm.protocols import Camera
from tests.toy_room import intrinsics, pose, render

SIZE, STRIDE = 64, 2
PLANES = torch.exp(torch.linspace(np.log(0.5), np.log(6.0), 30))


def sweep(
    *source_poses: np.ndarray, groups: list[list[bool]], dtype: torch.dtype = torch.float32
) -> tuple[Sweep, torch.Tensor]:
    target = pose(-0.5, 0.0, 0.0)
    rgb, depth = render(target, SIZE, scene=4)

    def image(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).movedim(-1, 0)[None].to(dtype) / 255.0

    camera = Camera(torch.from_numpy(intrinsics(SIZE))[None].to(dtype), torch.from_numpy(target)[None].to(dtype), SIZE, SIZE)
    sources = torch.stack([image(render(p, SIZE, scene=4)[0]) for p in source_poses], dim=1)
    poses = torch.from_numpy(np.stack(source_poses))[None].to(dtype)
    found = plane_sweep(image(rgb), camera, sources, poses, torch.tensor(groups)[None], PLANES.to(dtype), STRIDE)
    return found, torch.from_numpy(depth[::STRIDE, ::STRIDE]).float()


ASIDE, BACK, TURNED = pose(-0.5, 0.5, 0.1), pose(-1.0, -0.3, -0.2), pose(-0.5, 0.0, 0.2)


def test_the_cheapest_plane_is_the_true_one():
    found, depth = sweep(ASIDE, BACK, groups=[[True, True]])
    best = PLANES[found.cost[0, 0].argmin(0)]
    assert float(((best - depth).abs() < 0.15 * depth).float().mean()) > 0.8


def test_pure_rotation_says_nothing_of_depth():
    found, _ = sweep(TURNED, groups=[[True]])
    everywhere = found.known[0, 0].all(0)
    inside = -torch.nn.functional.max_pool2d(-everywhere[None].float(), 3, 1, 1)[0] > 0  # windows reach a cell further
    spread = found.cost[0, 0].amax(0) - found.cost[0, 0].amin(0)
    assert inside.any() and float(spread[inside].max()) < 1e-3


def test_a_group_without_sources_is_silent():
    found, _ = sweep(ASIDE, BACK, groups=[[False, False], [True, False]])
    assert not found.known[0, 0].any()
    torch.testing.assert_close(found.cost[0, 0], torch.full_like(found.cost[0, 0], UNKNOWN))
    assert found.known[0, 1].any()


def test_groups_are_what_their_sources_say_alone():
    both, _ = sweep(ASIDE, BACK, groups=[[True, True], [False, True]])
    alone, _ = sweep(BACK, groups=[[True]])
    torch.testing.assert_close(both.cost[:, 1], alone.cost[:, 0])
    first, _ = sweep(ASIDE, groups=[[True]])
    agree = both.known[:, 0] & (first.known == alone.known)[:, 0]
    where = -torch.nn.functional.max_pool2d(-agree.float(), 3, 1, 1) > 0
    where &= -torch.nn.functional.max_pool2d(-first.known[:, 0].float(), 3, 1, 1) > 0
    expected = 0.5 * (first.cost + alone.cost)[:, 0]
    torch.testing.assert_close(both.cost[:, 0][where], expected[where], atol=1e-5, rtol=1e-5)


def test_the_kernel_and_torch_agree():
    fast, _ = sweep(ASIDE, BACK, TURNED, groups=[[True, True, False], [True, True, True]])
    slow, _ = sweep(ASIDE, BACK, TURNED, groups=[[True, True, False], [True, True, True]], dtype=torch.float64)
    assert float((fast.known == slow.known).float().mean()) > 0.9999  # rounding decides on an image's very border
    difference = (fast.cost.double() - slow.cost).abs()
    assert float(difference.quantile(0.999)) < 1e-3 and float(difference.mean()) < 1e-4


def test_the_range_of_grey_is_that_of_the_neighbourhood():
    rgb = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    grey = rgb.mean(1).numpy()
    for y, x in ((0, 0), (2, 3), (5, 4)):
        window = grey[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(2, -1)
        np.testing.assert_allclose(grey_range(rgb)[:, y, x].numpy(), np.ptp(window, axis=1), atol=1e-6)


def test_relative_views_bring_a_point_to_its_pixel_in_numpy_and_in_torch() -> None:
    torch.manual_seed(0)
    own, others = (
        se3_exp(0.3 * torch.randn(2, 6, dtype=torch.float64)),
        se3_exp(0.3 * torch.randn(2, 5, 6, dtype=torch.float64)),
    )
    skewed = torch.tensor([[60.0, 0.3, 31.0], [0.0, 58.0, 33.0], [0.0, 0.0, 1.0]], dtype=torch.float64).repeat(2, 1, 1)
    pixel, depth = torch.tensor([20.0, 40.0, 1.0], dtype=torch.float64), 2.5
    points = own[:, :3, :3] @ (depth * torch.linalg.inv(skewed) @ pixel).unsqueeze(-1) + own[:, :3, 3:]
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    expected = (skewed[:, None] @ (torch.linalg.inv(others) @ homogeneous[:, None])[..., :3, :]).squeeze(-1) / depth
    for dtype in (torch.float32, torch.float64):
        turns, shifts = relative_views(Camera(skewed.to(dtype), own.to(dtype), 64, 64), others.to(dtype))
        assert turns.dtype == dtype
        torch.testing.assert_close((turns @ pixel.to(dtype) + shifts / depth).double(), expected, rtol=1e-4, atol=1e-4)
