"""Episodes of random content, valid in every respect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info

SIZE = 16


def build(steps: int = 10, seed: int = 0, objects: int = 2, truth: bool = True, size: int = SIZE) -> Episode:
    """An episode of noise; the camera turns about the vertical and moves along x."""
    rng, frames = np.random.default_rng(seed), steps + 1
    yaw = np.cumsum(rng.uniform(-0.3, 0.3, frames))
    pose = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    pose[:, 0, 0] = pose[:, 2, 2] = np.cos(yaw)
    pose[:, 0, 2], pose[:, 2, 0] = np.sin(yaw), -np.sin(yaw)
    pose[:, 0, 3] = np.arange(frames)
    segmentation = rng.integers(0, objects + 1, (frames, size, size)).astype(np.uint16)
    hidden = Truth(
        depth=rng.uniform(0.5, 5, (frames, size, size)).astype(np.float16),
        segmentation=segmentation,
        world_from_camera=pose,
        object_id=np.arange(1, objects + 1, dtype=np.int32),
        object_colour=rng.random((objects, 3), np.float32),
        object_pose=rng.random((frames, objects, 7), np.float32),
        visible_pixels=(segmentation[..., None] == np.arange(1, objects + 1)).sum((1, 2)).astype(np.int32),
        object_shape=("box", "cone", "ball")[:objects],
        scene={"rooms": [[0, 0, 4, 4]], "seed": seed},
    )
    return Episode(
        rgb=rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.random(steps, np.float32),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, bool),
        intrinsics=np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]], np.float32),
        world_from_camera=pose,
        goal=rng.random((frames, 9), np.float32),
        meta={"seed": seed, "success": bool(seed % 2), "return": 0.5, "policy": "walk"},
        truth=hidden if truth else None,
    )


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes episodes of the given lengths into a new dataset folder."""

    def make(*lengths: int, name: str = "data", **options: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_info(folder, {"format": FORMAT, "env": "Toy", "seed": 0, "policy": "walk", "split": "train"})
        for index, steps in enumerate(lengths):
            write_episode(folder, index, build(steps, index, **options))  # type: ignore[arg-type]
        return folder

    return make


@pytest.fixture
def make_episode() -> Callable[..., Episode]:
    """Builds an episode: steps, seed, objects, truth, size."""
    return build


@pytest.fixture
def episode() -> Episode:
    return build()
