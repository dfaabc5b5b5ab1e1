"""What an agent can find out by looking around inside a world model's state.

Cameras are placed at believed positions, the model renders them, and the depth it believes in becomes coloured points in
the world frame: `WorldModel.render` and `ego_camera` are all that this takes, so it works on any memory. What a model keeps as
primitives is read as it is. World z is up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from embodied_liftwm.geometry import back_project
from embodied_liftwm.protocols import Camera, WorldModel
from embodied_liftwm.tensor_tree import TensorTree

Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""World positions [P, 3] in metres, colours [P, 3] and how much each was observed [P], both in [0, 1]."""


@dataclass(frozen=True)
class Panorama:
    """Level pictures of the state around one or more positions, as points in the world."""

    xyz: np.ndarray  # [V, H, W, 3] float32 world, metres
    rgb: np.ndarray  # [V, H, W, 3] float32 in [0, 1]
    seen: np.ndarray  # [V, H, W] float32 in [0, 1]; 0 where the model has no depth
    origin: np.ndarray  # [V, 3] float32 camera centres, metres

    def of(self, views: np.ndarray) -> Panorama:
        """Some of the pictures. [V] bool"""
        return Panorama(self.xyz[views], self.rgb[views], self.seen[views], self.origin[views])

    def points(self) -> Points:
        """All points with any evidence."""
        keep = self.seen > 0.05
        return self.xyz[keep], self.rgb[keep], self.seen[keep]


def heading_of(world_from_camera: np.ndarray) -> np.ndarray:
    """Yaw of the optical axis in the world's ground plane, radians. [...]"""
    return np.arctan2(world_from_camera[..., 1, 2], world_from_camera[..., 0, 2])


def level_cameras(
    positions: np.ndarray, headings: np.ndarray, height: int, width: int, views: int, focal_px: float = math.inf
) -> Camera:
    """`views` level cameras at each position, a full turn in equal yaw steps from each heading.

    Args:
        positions: camera centres in the world, metres. [P, 3]
        headings: yaw of the first view, radians. [P]
        height: image height, pixels.
        width: image width, pixels.
        views: cameras a position.
        focal_px: of the pictures; less where so few views would leave gaps.

    Returns:
        Camera of batch P * views, positions outermost.
    """
    yaw = (headings[:, None] + np.arange(views) * 2 * np.pi / views).reshape(-1)
    forward = np.stack([np.cos(yaw), np.sin(yaw), np.zeros_like(yaw)], axis=-1)
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.broadcast_to([0.0, 0.0, -1.0], forward.shape)
    pose = np.tile(np.eye(4, dtype=np.float32), (len(yaw), 1, 1))
    pose[:, :3, :3] = np.stack([right, down, forward], axis=-1)
    pose[:, :3, 3] = np.repeat(positions, views, axis=0)
    closed = min(2 * math.pi / views * 1.05, math.radians(150.0))
    focal = min(focal_px, 0.5 * width / math.tan(0.5 * closed))
    Ks = np.array([[focal, 0, 0.5 * width], [0, focal, 0.5 * height], [0, 0, 1]], dtype=np.float32)
    return Camera(torch.from_numpy(np.tile(Ks, (len(yaw), 1, 1))), torch.from_numpy(pose), height, width)


@torch.no_grad()
def panorama(model: WorldModel, state: TensorTree, views: int, positions: np.ndarray | None, stride: int) -> Panorama:
    """Look around inside the state.

    Args:
        model: any world model.
        state: its state, batch of one.
        views: cameras of a full turn.
        positions: camera centres in the world, metres; None for the believed ego camera alone. [P, 3]
        stride: keep every stride-th pixel of the rendered points.

    Returns:
        `Panorama` of V = P * views pictures.
    """
    ego = model.ego_camera(state)
    pose = ego.world_from_camera[0].cpu().numpy()
    centres = pose[None, :3, 3] if positions is None else np.asarray(positions, dtype=np.float32)
    focal = float(ego.intrinsics[0, 0, 0])  # models render best what looks like their data
    cameras = level_cameras(centres, np.full(len(centres), heading_of(pose)), ego.height, ego.width, views, focal)
    pictures = []
    for start in range(0, len(centres) * views, views):
        camera = cameras.index(slice(start, start + views)).to(ego.world_from_camera.device)
        pictures.append(_points_of_view(model, state.expand(views), camera, stride))
    xyz, rgb, seen = (np.concatenate(parts) for parts in zip(*pictures, strict=True))
    return Panorama(xyz, rgb, seen, cameras.world_from_camera[:, :3, 3].numpy())


def _points_of_view(model: WorldModel, state: TensorTree, camera: Camera, stride: int) -> tuple[np.ndarray, ...]:
    """Render and back-project: xyz [V, h, w, 3], rgb [V, h, w, 3], seen [V, h, w] at every stride-th pixel."""
    view = model.render(state, camera)
    pixels = (slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    xyz = back_project(view.depth, camera.intrinsics, camera.world_from_camera)[pixels]
    rgb = view.rgb.permute(0, 2, 3, 1)[pixels].clamp(0, 1)
    seen = torch.where(view.depth > 0, view.seen, torch.zeros_like(view.seen))[pixels]
    return xyz.cpu().numpy(), rgb.cpu().numpy(), seen.cpu().numpy()


@torch.no_grad()
def held_points(model: WorldModel, state: TensorTree) -> Points | None:
    """The primitives of a state, batch of one, where its model has any (`protocols.ExplicitModel`); None for others."""
    primitives = getattr(model, "primitives", None)
    if not callable(primitives):
        return None
    xyz, rgb, opacity = (tensor.float().cpu().numpy() for tensor in primitives(state))
    return xyz, rgb.clip(0, 1), opacity.clip(0, 1)
