"""A world that is ray-cast exactly, episodes in it, and three small real models whose scores can be foreseen.

The room is a box with painted walls and coloured balls. A camera stands inside and turns; everything is analytic, so colour,
depth and object ids are exact up to 8-bit colour and half-precision depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.geometry.cameras import back_project, camera_rays, project
from embodied_liftwm.protocols import View
from embodied_liftwm.tensor_tree import TensorTree

SIZE = 32
HALF = np.array([2.5, 2.5, 1.25])  # the room's half extents, metres; its centre is at z = 1.25
INTRINSICS = np.array([[SIZE / 2, 0, SIZE / 2], [0, SIZE / 2, SIZE / 2], [0, 0, 1]], np.float32)  # 90 degrees


@dataclass(frozen=True)
class World:
    """Balls in a painted room."""

    balls: np.ndarray  # [O, 3] centres
    colours: np.ndarray  # [O, 3]
    radius: float = 0.45
    tint: float = 0.0

    def cast(self, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour [H, W, 3] float in [0, 1], z-depth [H, W] and ids [H, W] seen from a pose [4, 4]."""
        rays = camera_rays(torch.from_numpy(INTRINSICS)[None], SIZE, SIZE)[0].numpy().astype(np.float64)
        directions, origin = rays @ pose[:3, :3].T.astype(np.float64), pose[:3, 3].astype(np.float64)
        low, high = np.array([-HALF[0], -HALF[1], 0.0]), np.array([HALF[0], HALF[1], 2 * HALF[2]])
        with np.errstate(divide="ignore"):
            exits = np.where(directions > 0, (high - origin) / directions, (low - origin) / directions)
        depth, ids = exits.min(-1), np.zeros((SIZE, SIZE), np.int64)
        colour = 0.5 + 0.2 * np.sin(2.0 * (origin + depth[..., None] * directions) + self.tint)
        for index, (centre, paint) in enumerate(zip(self.balls, self.colours, strict=True)):
            a, b = (directions**2).sum(-1), (directions * (origin - centre)).sum(-1)
            inside = b**2 - a * (((origin - centre) ** 2).sum() - self.radius**2)
            hit = (-b - np.sqrt(np.maximum(inside, 0))) / a
            nearer = (inside > 0) & (hit > 0) & (hit < depth)
            depth, ids = np.where(nearer, hit, depth), np.where(nearer, index + 1, ids)
            colour = np.where(nearer[..., None], paint, colour)
        return colour, depth, ids


def pose_at(yaw: float, xy: tuple[float, float] = (0.0, 0.0), height: float = 1.0) -> np.ndarray:
    """OpenCV pose of a level camera facing `yaw`. [4, 4] float32"""
    forward, right = np.array([np.cos(yaw), np.sin(yaw), 0]), np.array([np.sin(yaw), -np.cos(yaw), 0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, [0, 0, -1], forward], axis=1)
    pose[:3, 3] = [*xy, height]
    return pose.astype(np.float32)


def make_episode(world: World, poses: list[np.ndarray]) -> Episode:
    """What a camera at these poses sees of a world, with truth."""
    colour, depth, ids = (np.stack(parts) for parts in zip(*(world.cast(pose) for pose in poses), strict=True))
    frames, objects = len(poses), len(world.balls)
    ball_pose = np.concatenate([world.balls, np.tile([1.0, 0, 0, 0], (objects, 1))], axis=1).astype(np.float32)
    truth = Truth(
        depth=depth.astype(np.float16),
        segmentation=ids.astype(np.uint16),
        world_from_camera=np.stack(poses),
        object_id=np.arange(1, objects + 1, dtype=np.int32),
        object_colour=world.colours.astype(np.float32),
        object_pose=np.tile(ball_pose, (frames, 1, 1)),
        visible_pixels=np.stack([(ids == k + 1).sum((1, 2)) for k in range(objects)], axis=1).astype(np.int32),
        object_shape=("ball",) * objects,
        scene=scene_of(world),
    )
    zeros = np.zeros(frames - 1)
    return Episode(
        rgb=np.round(colour * 255).astype(np.uint8),
        action=np.zeros((frames - 1, 2), np.float32),
        reward=zeros.astype(np.float32),
        terminated=zeros.astype(bool),
        truncated=zeros.astype(bool),
        intrinsics=INTRINSICS,
        world_from_camera=np.stack(poses),
        goal=np.zeros((frames, 9), np.float32),
        meta={"seed": 2**30},
        truth=truth,
    ).validate()


def scene_of(world: World) -> dict:
    """The same dictionary that environments give."""
    x, y = float(HALF[0]), float(HALF[1])
    objects = [
        {"id": i + 1, "shape": "ball", "colour": c.tolist(), "radius": world.radius, "position": b[:2].tolist()}
        for i, (b, c) in enumerate(zip(world.balls, world.colours, strict=True))
    ]
    walls = [[-x, -y, x, -y], [x, -y, x, y], [x, y, -x, y], [-x, y, -x, -y]]
    return {"bounds": [-x, -y, x, y], "walls": walls, "rooms": [], "screens": [], "objects": objects}


WORLDS = (
    World(np.array([[1.6, 0.3, 1.0], [-1.5, 0.9, 0.8]]), np.array([[0.95, 0.1, 0.1], [0.1, 0.9, 0.2]])),
    World(np.array([[1.2, -1.4, 0.9], [-0.4, 1.7, 1.1]]), np.array([[0.1, 0.2, 0.95], [0.95, 0.9, 0.1]]), tint=2.0),
)
"""Two rooms with nothing alike."""


def turn_away(frames: int = 30) -> list[np.ndarray]:
    """Turns left on the spot, one and a quarter times round: everything is seen, leaves the view and comes back."""
    return [pose_at(yaw) for yaw in np.linspace(0.0, 2.5 * np.pi, frames)]


@dataclass(frozen=True)
class CloudState(TensorTree):
    """Points of all frames observed."""

    points: Tensor  # [B, M, 3]
    colours: Tensor  # [B, M, 3]
    used: Tensor  # [B, M] bool


class CloudModel:
    """Keeps every pixel it has seen as a coloured point at its true depth, which it is told; draws points one pixel large.

    Args:
        episodes: where the true depth of a frame is looked up, by the frame's own pixels.
        keep_last: forget all but the last frame.
    """

    image_size = SIZE

    def __init__(self, episodes: list[Episode], keep_last: bool = False) -> None:
        self.depths = {
            frame.tobytes(): depth.astype(np.float32)
            for e in episodes
            for frame, depth in zip(e.rgb, e.truth.depth, strict=True)
        }
        self.keep_last = keep_last

    def initial_state(self, batch_size: int) -> CloudState:
        empty = torch.zeros(batch_size, 0, 3)
        return CloudState(empty, empty, torch.zeros(batch_size, 0, dtype=torch.bool))

    def observe(self, state: CloudState, observation) -> CloudState:
        frames = (observation.rgb * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        depth = torch.from_numpy(np.stack([self.depths[frame.tobytes()] for frame in frames]))
        camera = observation.camera
        points = back_project(depth, camera.intrinsics, camera.world_from_camera).flatten(1, 2)
        colours = observation.rgb.flatten(2).transpose(1, 2)
        used = (depth > 0).flatten(1)
        if self.keep_last:
            return CloudState(points, colours, used)
        old = state.used & ~observation.is_first[:, None]
        return CloudState(
            torch.cat([state.points, points], 1), torch.cat([state.colours, colours], 1), torch.cat([old, used], 1)
        )

    def render(self, state: CloudState, camera) -> View:
        batch, height, width = len(camera.intrinsics), camera.height, camera.width
        rgb, depth = torch.full((batch, 3, height * width), 0.5), torch.zeros(batch, height * width)
        for b in range(batch):
            viewmat = torch.linalg.inv(camera.world_from_camera[b : b + 1])
            uv, z = project(state.points[b : b + 1], camera.intrinsics[b : b + 1], viewmat)
            column, row, z = uv[0, :, 0].floor().long(), uv[0, :, 1].floor().long(), z[0]
            kept = state.used[b] & (z > 0.01) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            far_first = torch.argsort(z[kept], descending=True, stable=True).numpy()
            cell = (row[kept] * width + column[kept]).numpy()[far_first]
            rgb[b].numpy()[:, cell] = state.colours[b][kept].numpy()[far_first].T  # numpy keeps the last of equal indices
            depth[b].numpy()[cell] = z[kept].numpy()[far_first]
        depth = depth.view(batch, height, width)
        return View(rgb.view(batch, 3, height, width), depth, (depth > 0).float())


@dataclass(frozen=True)
class WorldState(TensorTree):
    """Which world this is."""

    world: Tensor  # [B] int64, -1 before anything was seen


class ClairvoyantModel:
    """Recognises the world from the first frame and ray-casts it from any camera: nothing can score higher."""

    def __init__(self, episodes: list[Episode], worlds: tuple[World, ...]) -> None:
        self.worlds = worlds
        self.known = {frame.tobytes(): i for i, episode in enumerate(episodes) for frame in episode.rgb}

    def initial_state(self, batch_size: int) -> WorldState:
        return WorldState(torch.full((batch_size,), -1))

    def observe(self, state: WorldState, observation) -> WorldState:
        frames = (observation.rgb * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return WorldState(torch.tensor([self.known[frame.tobytes()] for frame in frames]))

    def render(self, state: WorldState, camera) -> View:
        casts = [self.worlds[w].cast(p) for w, p in zip(state.world.tolist(), camera.world_from_camera.numpy(), strict=True)]
        rgb = torch.from_numpy(np.stack([c for c, _, _ in casts])).float().permute(0, 3, 1, 2)
        depth = torch.from_numpy(np.stack([d for _, d, _ in casts])).float()
        return View(rgb, depth, torch.ones_like(depth))


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    """One turn on the spot in each world."""
    return [make_episode(world, turn_away()) for world in WORLDS]


@pytest.fixture(scope="session")
def clairvoyant(episodes) -> ClairvoyantModel:
    return ClairvoyantModel(episodes, WORLDS)


@pytest.fixture(scope="session")
def cloud(episodes) -> CloudModel:
    return CloudModel(episodes)


@pytest.fixture(scope="session")
def last_frame(episodes) -> CloudModel:
    return CloudModel(episodes, keep_last=True)


@pytest.fixture(scope="session")
def tools():
    """Makers of worlds and episodes, for tests that need their own."""

    class Tools:
        World, WORLDS, SIZE, HALF = World, WORLDS, SIZE, HALF
        pose_at, make_episode, turn_away = staticmethod(pose_at), staticmethod(make_episode), staticmethod(turn_away)

    return Tools
