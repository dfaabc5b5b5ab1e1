"""Layers shared by encoders and decoders."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.compiled import arrays, compilable
from embodied_liftwm.kernels import loosely_compiled
from embodied_liftwm.protocols import Camera

_ZERO, _HALF, _ONE, _LEAST_SLOPE = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(1e-3)


def levels_of(image_size: tuple[int, int], cell: int) -> int:
    """How often a picture's grid of cells of `cell` pixels is halved: until its shorter side has about four, if it can be so
    often, but once at least."""
    height, width = (side // cell for side in image_size)
    enough, even = round(math.log2(min(height, width) / 4)), math.gcd(height, width)
    return max(1, min(enough, (even & -even).bit_length() - 1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a normalisation, added to the input. [B, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class Pyramid(nn.Module):
    """A small U-Net: `levels` halvings and back, with skips. [B, C, H, W] -> [B, C, H, W], H and W divisible by 2**levels.

    Each halving doubles the channels, up to `widest` times `width`.
    """

    def __init__(self, width: int, widest: int, levels: int) -> None:
        super().__init__()
        widths = [width * min(2**i, widest) for i in range(levels + 1)]
        self.blocks_down = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.blocks_up = nn.ModuleList(ResidualBlock(w) for w in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block, down in zip(self.blocks_down, self.down, strict=False):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.blocks_down[-1](x)
        for skip, up, block in reversed(list(zip(skips, self.up, self.blocks_up, strict=True))):
            x = block(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        return x


def ray_channels(camera: Camera) -> Tensor:
    """What the camera knows of each pixel before it opens its eyes. [B, 4, H, W]

    The channels are the ray's x and y at unit depth, its slope against gravity (world z is up), and the depth at which it
    would meet the floor plane z = 0, as 1 / (1 + depth), 0 for rays that never do: embodiment is a prior.
    """
    if compilable(camera):
        intrinsics, poses = arrays(camera.intrinsics, camera.world_from_camera)
        found = np.empty((len(poses), 4, camera.height, camera.width), np.float32)
        for each in zip(intrinsics, poses, found, strict=True):
            _ray_channels(*each)
        return torch.from_numpy(found)
    u = torch.arange(camera.width, device=camera.intrinsics.device) + 0.5
    v = torch.arange(camera.height, device=camera.intrinsics.device) + 0.5
    (focal_x, _, centre_x), (_, focal_y, centre_y), _ = (row.unbind(1) for row in camera.intrinsics.unbind(1))
    (turn_x, turn_y, turn_z, height) = camera.world_from_camera[:, 2, :, None, None].unbind(1)
    x = ((u - centre_x[:, None]) / focal_x[:, None])[:, None].expand(-1, camera.height, -1)
    y = ((v - centre_y[:, None]) / focal_y[:, None])[:, :, None].expand(-1, -1, camera.width)
    up = x * turn_x + y * turn_y + turn_z
    floor = height / (-up).clamp_min(1e-3)
    near = torch.where(up < -1e-3, 1.0 / (1.0 + floor), 0.0)
    return torch.stack([x, y, up, near], dim=1)


@loosely_compiled
def _ray_channels(intrinsics, pose, out):
    """`ray_channels` of a camera: intrinsics [3, 3] and pose [4, 4] -> out [4, H, W]."""
    for v in range(out.shape[1]):
        y = (np.float32(v) + _HALF - intrinsics[1, 2]) / intrinsics[1, 1]
        for u in range(out.shape[2]):
            x = (np.float32(u) + _HALF - intrinsics[0, 2]) / intrinsics[0, 0]
            up = x * pose[2, 0] + y * pose[2, 1] + pose[2, 2]
            floor = pose[2, 3] / max(-up, _LEAST_SLOPE)
            out[0, v, u], out[1, v, u], out[2, v, u] = x, y, up
            out[3, v, u] = _ONE / (_ONE + floor) if up < -_LEAST_SLOPE else _ZERO
