"""The frames as they were, each with the depth that was believed of it, warped into whatever view is asked for.

Nothing is merged and nothing is learned: it is what memories have to beat (the row `frame_warp`, `evaluation/views/bounds.py`).
It grows with every frame, by 5 bytes a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.warp import backward_warp
from embodied_liftwm.memory.contract import Bytes, Lifted, Memory, MemoryModule, Points, Read
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.memory.latents.read import read_latents
from embodied_liftwm.protocols import Camera

WARPED = 16
"""Frames of which a view is made. On 6 rooms of development 8, 16 and 32 gave 19.6, 19.5 and 19.5 dB on seen pixels, and 0.40,
0.49 and 0.47 of persistence."""
TOLERANCE = 0.1
"""Relative difference of depths up to which a frame sees the surface of a pixel, as of patches (`patches.rules`)."""


@dataclass(frozen=True)
class DeepFrames(ContextFrames):
    """M frames a row, oldest first, with their depth."""

    depth: Tensor  # [B, M, H, W] float16 metres
    intrinsics: Tensor  # [B, M, 3, 3]

    @classmethod
    def empty(cls, batch_size: int, image_size: tuple[int, int], like: Tensor, room: int = 0) -> Self:
        frames = ContextFrames.empty(batch_size, image_size, like, room)
        depth = like.new_zeros(batch_size, room, *image_size, dtype=torch.float16)
        return cls(frames.count, frames.rgb, frames.poses, frames.used, depth, like.new_zeros(batch_size, room, 3, 3))

    def add_deep(self, rgb: Tensor, depth: Tensor, camera: Camera) -> Self:
        """With a frame more in every row, and its depth [B, H, W]; this one holds what it held."""
        grown, rows = self.add(rgb, camera.world_from_camera), torch.arange(len(rgb), device=rgb.device)
        grown.depth[rows, self.count] = depth.to(grown.depth)
        grown.intrinsics[rows, self.count] = camera.intrinsics.to(grown.intrinsics)
        return grown

    @property
    def places(self) -> Tensor:
        """Where each pixel of each frame is. [B, M, H, W, 3] metres, world frame"""
        depth, intrinsics, poses = (t.flatten(0, 1) for t in (self.depth.to(self.poses), self.intrinsics, self.poses))
        blank = intrinsics[:, 2:, 2:] == 0  # of free slots, whose pixels are anywhere
        intrinsics = torch.where(blank, torch.eye(3).to(intrinsics), intrinsics)
        return back_project(depth, intrinsics, poses).unflatten(0, self.depth.shape[:2])


class FrameMemory(MemoryModule, Memory[DeepFrames]):
    """Depth from the nearest frames, z-buffered; colours from the nearest frame that sees the surface."""

    takes_pixel_depth = True

    def __init__(self, config: ModelConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_size, self.latent_dim = image_size, config.latent_dim

    def empty(self, batch_size: int) -> DeepFrames:
        return DeepFrames.empty(batch_size, self.image_size, self.like)

    @torch.no_grad()
    def write(self, world: DeepFrames, lifted: Lifted, camera: Camera) -> DeepFrames:
        assert lifted.pixel_depth is not None
        return world.add_deep(lifted.rgb, lifted.pixel_depth, camera)

    @torch.no_grad()
    def read(self, world: DeepFrames, cameras: Camera) -> Read:
        chosen, shows = world.choose(cameras, WARPED)
        world = world if world.slots else world.resized(1)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None] // (len(chosen) // len(world.count))
        near = world.map(lambda t: t[rows, chosen] if t.dim() > 1 else t)  # [B * V, WARPED, ...]
        depth = _depth(near, shows, cameras)
        colours, visible = _colours(near, shows, cameras, depth)
        latents = colours.new_zeros(len(colours), self.latent_dim, *depth.shape[1:])
        return Read(torch.cat([colours, latents], dim=1), visible, depth * visible)

    def points(self, world: DeepFrames) -> Points:
        places, rgb = world.places.flatten(2, 3), world.rgb.flatten(3).mT.to(world.poses) / 255.0
        there = world.occupied[..., None].expand(places.shape[:-1]).to(places)
        return Points(places, there, there, rgb[..., :0], rgb)

    def nbytes(self, world: DeepFrames) -> Bytes:
        return Bytes.of(world, world.occupied, grows=True)


def _depth(frames: DeepFrames, shows: Tensor, cameras: Camera) -> Tensor:
    """Forward: the pixels of frames that show anything, by z-buffer; holes from ever coarser grids. [B * V, H, W] metres"""
    there = shows[..., None, None].expand(frames.depth.shape).flatten(1).to(frames.poses)
    points = frames.places.flatten(1, 3)
    depth, stride = points.new_zeros(len(points), cameras.height, cameras.width), 1
    while cameras.height % stride == 0 and cameras.width % stride == 0 and not bool((depth > 0).all()):
        found = read_latents(points, points[..., :0], there, cameras, stride).depths
        depth = torch.where(depth > 0, depth, F.interpolate(found.unsqueeze(1), scale_factor=float(stride)).squeeze(1))
        stride *= 2
    return depth


def _colours(frames: DeepFrames, shows: Tensor, cameras: Camera, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Backward, of the first frame that sees the surface: rgb [B * V, 3, H, W], and whether any does, 0 or 1. [B * V, H, W]"""
    count = shows.shape[1]
    asked, height, width = cameras.map(lambda t: t.repeat_interleave(count, dim=0)), *frames.depth.shape[2:]
    seers = Camera(frames.intrinsics.flatten(0, 1), frames.poses.flatten(0, 1), height, width)
    pictures = torch.cat([frames.rgb / 255.0, frames.depth.unsqueeze(2)], dim=2).to(depth).flatten(0, 1)
    warp = backward_warp(pictures, depth.repeat_interleave(count, dim=0), asked, seers)
    apart = (warp.image[:, 3] / warp.source_depth.clamp_min(1e-3) - 1.0).abs()
    fits = (warp.valid & (apart < TOLERANCE)).unflatten(0, shows.shape) & shows[..., None, None]
    first = fits.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, 3, -1, -1)
    visible = fits.any(1).to(depth)
    return warp.image[:, :3].unflatten(0, shows.shape).gather(1, first).squeeze(1) * visible.unsqueeze(1), visible
