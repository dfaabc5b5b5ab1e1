"""What a camera knows of its pixels."""

import torch

from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.se3 import se3_exp
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.layers.blocks import ray_channels


def test_ray_channels_say_where_a_ray_points_and_where_it_meets_the_floor() -> None:
    torch.manual_seed(1)
    intrinsics = torch.tensor([[20.0, 0.0, 9.0], [0.0, 22.0, 7.0], [0.0, 0.0, 1.0]], dtype=torch.float64).repeat(3, 1, 1)
    poses = se3_exp(torch.randn(3, 6, dtype=torch.float64))
    poses[:, 2, 3] = torch.tensor([0.6, 0.4, 1.0])  # above the floor
    at_one = back_project(torch.ones(3, 14, 18, dtype=torch.float64), intrinsics, poses) - poses[:, None, None, :3, 3]
    down = -at_one[..., 2]
    floor = torch.where(down > 1e-3, 1.0 / (1.0 + poses[:, 2, 3, None, None] / down.clamp_min(1e-3)), 0.0)
    for dtype in (torch.float32, torch.float64):  # by a kernel, and in torch
        x, y, up, near = ray_channels(Camera(intrinsics.to(dtype), poses.to(dtype), 14, 18)).double().unbind(1)
        rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ poses[:, None, :3, :3].mT
        torch.testing.assert_close(rays, at_one, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(up, -down, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(near, floor, rtol=1e-3, atol=1e-3)
    assert (near == 0).any() and (near > 0.3).any()
