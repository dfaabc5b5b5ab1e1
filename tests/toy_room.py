"""A textured box room, ray-traced in numpy: episodes with exact depth in milliseconds, for tests of models and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info

HALF = np.array([2.0, 2.0, 1.25])  # half extents of the room, metres; the floor is at z = 0
FOCAL = 0.6  # of the image size
OPENCV = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # a camera that looks along world x


def intrinsics(size: int) -> np.ndarray:
    return np.array([[FOCAL * size, 0, size / 2], [0, FOCAL * size, size / 2], [0, 0, 1]], np.float32)


def pose(x: float, y: float, yaw: float) -> np.ndarray:
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    out = np.eye(4, dtype=np.float32)
    out[:3, :3], out[:3, 3] = turn @ OPENCV, (x, y, 1.0)
    return out


def render(world_from_camera: np.ndarray, size: int, scene: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame [H, W, 3] uint8 and z-depth [H, W] in metres of one camera."""
    centres = (np.arange(size) + 0.5 - size / 2) / (FOCAL * size)
    rays = np.stack([*np.meshgrid(centres, centres), np.ones((size, size))], -1) @ world_from_camera[:3, :3].T
    origin = world_from_camera[:3, 3] - [0, 0, HALF[2]]
    with np.errstate(divide="ignore"):
        distances = (np.sign(rays) * HALF - origin) / rays
    wall = distances.argmin(-1)
    depth = distances.min(-1)
    points = origin + depth[..., None] * rays
    rng = np.random.default_rng(scene)
    waves, phases = rng.uniform(2.0, 6.0, (3, 3, 3)), rng.uniform(0, 6.28, (3, 3))
    sides = wall * 2 + (np.take_along_axis(rays, wall[..., None], -1)[..., 0] > 0)
    colour = 0.5 + 0.25 * np.sin(points @ waves[0] + phases[0]) * np.sin(points @ waves[1] + phases[1])
    colour += 0.25 * rng.uniform(-1, 1, (6, 3))[sides]
    return (255 * colour.clip(0, 1)).astype(np.uint8), depth


def episode(scene: int, steps: int = 12, size: int = 32, truth: bool = True) -> Episode:
    """Drive and turn about a room; actions are (forward, turn) in units of 0.2 m and 0.3 rad."""
    rng = np.random.default_rng(1000 + scene)
    action = np.stack([rng.uniform(0.2, 1.0, steps), rng.uniform(-1, 1, steps)], -1).astype(np.float32)
    x, y, yaw = rng.uniform(-0.8, 0.8, 2).tolist() + [rng.uniform(0, 6.28)]
    poses = [pose(x, y, yaw)]
    for forward, turn in action:
        yaw += 0.3 * turn
        x = float(np.clip(x + 0.2 * forward * np.cos(yaw), -1.5, 1.5))
        y = float(np.clip(y + 0.2 * forward * np.sin(yaw), -1.5, 1.5))
        poses.append(pose(x, y, yaw))
    world_from_camera = np.stack(poses)
    rgb, depth = map(np.stack, zip(*(render(p, size, scene) for p in poses), strict=True))
    frames, nothing = steps + 1, np.zeros(0)
    hidden = Truth(
        depth=depth.astype(np.float16),
        segmentation=np.zeros((frames, size, size), np.uint16),
        world_from_camera=world_from_camera,
        object_id=nothing.astype(np.int32),
        object_colour=np.zeros((0, 3), np.float32),
        object_pose=np.zeros((frames, 0, 7), np.float32),
        visible_pixels=np.zeros((frames, 0), np.int32),
    )
    return Episode(
        rgb=rgb,
        action=action,
        reward=rng.uniform(0, 0.1, steps).astype(np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        intrinsics=intrinsics(size),
        world_from_camera=world_from_camera,
        goal=np.zeros((frames, 9), np.float32),
        truth=hidden if truth else None,
    )


def write_dataset(folder: Path, episodes: int = 3, steps: int = 12, size: int = 32, truth: bool = True) -> Path:
    """A dataset folder of toy rooms, one scene each."""
    folder.mkdir(parents=True, exist_ok=True)
    write_info(folder, {"format": FORMAT, "env": "toy"})
    for index in range(episodes):
        write_episode(folder, index, episode(index, steps, size, truth))
    return folder
