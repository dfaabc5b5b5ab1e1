"""Tours: a first frame, a camera path from it, and the truth along the path where there is one.

A tour starts at a recorded frame. Its path is the episode's own (`recorded_tour`), with the recorded frames as truth, or a
named one (`drawn_tour`), with truth drawn in the episode's world. The model is told the believed pose of the first frame and
moves from there; the truth moves from the true pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.generation.camera_paths import CameraPath, recorded_path
from embodied_liftwm.evaluation.views.episodes import known_truth, true_poses, truth_of
from embodied_liftwm.evaluation.views.true_views import LARGEST_CHANGE, TrueWorld, is_clear
from embodied_liftwm.protocols import Camera

LATER_STARTS = 4
"""Further frames, evenly spaced, that a path may start from when it would run into something from the first."""


@dataclass(frozen=True)
class TourTruth:
    """What really was to be seen along a path."""

    rgb: np.ndarray  # [T + 1, H, W, 3] uint8
    depth: np.ndarray | None  # [T + 1, H, W] metres, 0 where invalid; None where nobody knows
    world_from_camera: np.ndarray  # [T + 1, 4, 4] exact, where depth is known


@dataclass(frozen=True)
class Tour:
    """What a model is given: one frame, and where the camera goes."""

    episode: int  # position in the dataset; 0 for a picture
    start: int  # frame of the episode
    path: CameraPath  # as the model believes it
    first: np.ndarray  # [H, W, 3] uint8
    intrinsics: np.ndarray  # [3, 3] pixels
    truth: TourTruth | None = None

    def camera(self, step: int, device: str = "cpu") -> Camera:
        """The camera at a step, for one batch row."""
        intrinsics = torch.from_numpy(self.intrinsics.astype(np.float32))[None]
        pose = torch.from_numpy(self.path.poses[step].astype(np.float32))[None]
        height, width = self.first.shape[:2]
        return Camera(intrinsics.to(device), pose.to(device), height, width)


def recorded_tour(episode: Episode, index: int, start: int = 0) -> Tour:
    """The way the episode itself went on, with what it recorded as truth.

    Raises:
        UserError: fewer than two frames from `start` on.
    """
    if len(episode.rgb) - start < 2:
        raise UserError(f"frame={start}: episode {index} has frames 0 to {len(episode.rgb) - 1}, and a path at least one step")
    path = recorded_path("recorded", episode.world_from_camera[start:])
    exact, placed = true_poses(episode), {"depth", "world_from_camera"} <= known_truth([episode])
    depth = truth_of(episode, index).depth[start:].astype(np.float32) if placed else None
    return Tour(
        index, start, path, episode.rgb[start], episode.intrinsics, TourTruth(episode.rgb[start:], depth, exact[start:])
    )


@contextmanager
def true_world(info: dict[str, Any], episode: Episode) -> Iterator[TrueWorld]:
    """The world of an episode, closed at the end."""
    world = TrueWorld(info, episode)
    try:
        yield world
    finally:
        world.close()


def drawn_tour(info: dict[str, Any], episode: Episode, index: int, path: CameraPath, start: int) -> Tour | None:
    """A path from a recorded frame, with truth drawn along it.

    Args:
        info: of the dataset.
        episode: with truth.
        index: its position in the dataset.
        path: from any start.
        start: frame of the episode.

    Returns:
        None where the path would come too near to a wall or an object.

    Raises:
        UserError: the world cannot be built again, or has changed before the frame was recorded.
    """
    if episode.truth is None or not episode.truth.has("world_from_camera"):
        raise UserError(f"episode {index} has no true poses, which say where its camera really was: use path=recorded")
    exact = path.starting_at(episode.truth.world_from_camera[start])
    if not is_clear(exact.poses, episode.truth.scene):
        return None
    with true_world(info, episode) as world:
        rgb, depth = world.draw(exact.poses)
    change = np.abs(rgb[0].astype(np.float32) - episode.rgb[start]).mean()
    if rgb.shape[1:] != episode.rgb.shape[1:] or change > LARGEST_CHANGE:
        raise UserError(
            f"episode {index}: its world, drawn anew at frame {start}, differs from the recording by {change:.1f} of 255: "
            "something moved by then, take frame=0 or path=recorded"
        )
    believed = path.starting_at(episode.world_from_camera[start])
    return Tour(index, start, believed, episode.rgb[start], episode.intrinsics, TourTruth(rgb, depth, exact.poses))


def first_clear_tour(info: dict[str, Any], episode: Episode, index: int, path: CameraPath, start: int = 0) -> Tour | None:
    """The tour from `start`, or from the first of a few later frames from which the path is clear: by truth alone.

    Later frames of a world that has changed by then are no starts; a world that has changed at `start` is an error.
    """
    found = drawn_tour(info, episode, index, path, start)
    for later in np.linspace(start, len(episode.rgb) - 1, LATER_STARTS + 1).round().astype(int)[1:]:
        if found is None:
            with suppress(UserError):
                found = drawn_tour(info, episode, index, path, int(later))
    return found
