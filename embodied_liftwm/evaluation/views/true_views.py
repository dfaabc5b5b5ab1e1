"""The truth at cameras that no episode visited: the episode's own world, built again from its seed and drawn from there."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import task_id

CLEARANCE_M = 0.2
"""A camera that comes nearer to a wall or an object than this is not where an agent could be."""
LARGEST_CHANGE = 2.0
"""Mean absolute difference, of 255, from which a drawn frame is not the recorded one."""


class TrueWorld:
    """Draws the world of a recorded episode.

    Args:
        info: of the dataset: the environment and its options.
        episode: recorded in it, with its seed.

    Raises:
        UserError: the environment is not one of ours, so that nobody knows how to build its worlds again.
    """

    def __init__(self, info: dict[str, Any], episode: Episode) -> None:
        if not can_draw(info, episode):
            raise UserError(
                f"env={info.get('env')}: only worlds of liftwm_envs can be drawn from any camera; use path=recorded"
            )
        self.env = gymnasium.make(task_id(str(info["env"])), disable_env_checker=True, **info.get("env_options", {}))
        self.env.reset(seed=int(episode.meta["seed"]))
        unwrapped: Any = self.env.unwrapped
        self.sim = unwrapped.sim

    def draw(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What cameras see. The world stands as it did at the episode's first frame.

        Args:
            poses: true world_from_camera. [T, 4, 4]

        Returns:
            rgb [T, H, W, 3] uint8 and z-depth [T, H, W] float32 in metres.
        """
        from liftwm_envs.build import CAMERA_NAME

        camera, data = self.sim.model.camera(CAMERA_NAME).id, self.sim.data
        frames = []
        for pose in np.asarray(poses, np.float64):
            data.cam_xpos[camera] = pose[:3, 3]
            data.cam_xmat[camera] = (pose[:3, :3] * [1.0, -1.0, -1.0]).ravel()  # OpenCV's y and z axes point the other way
            rgb, depth = self.sim.render_rgb_depth()
            frames.append((rgb.copy(), depth.copy()))
        return np.stack([rgb for rgb, _ in frames]), np.stack([depth for _, depth in frames])

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()


def can_draw(info: dict[str, Any], episode: Episode) -> bool:
    """Whether the world of an episode can be built again."""
    try:
        task_id(str(info.get("env", "")))
    except UserError:
        return False
    return "seed" in episode.meta


def is_clear(poses: np.ndarray, scene: dict[str, Any], clearance_m: float = CLEARANCE_M) -> bool:
    """Whether cameras keep their distance from walls, screens and objects, seen from above.

    Args:
        poses: true world_from_camera, in steps shorter than the clearance. [T, 4, 4]
        scene: `Truth.scene` of our environments.
        clearance_m: least distance from a wall's centre line, and from an object's rim.
    """
    places = np.asarray(poses)[:, :2, 3].astype(np.float64)
    walls = np.array([*scene.get("walls", []), *_edges(scene)], np.float64).reshape(-1, 4)
    away = _segment_distance(places, walls[:, :2], walls[:, 2:]).min(initial=np.inf) >= clearance_m
    for item in scene.get("objects", []):
        away &= np.linalg.norm(places - item["position"], axis=1).min() >= item["radius"] + clearance_m
    return bool(away)


def _edges(scene: dict[str, Any]) -> list[list[float]]:
    """The sides of all screens."""
    sides = []
    for screen in scene.get("screens", []):
        x0, y0, x1, y1 = screen["rectangle"]
        sides += [[x0, y0, x1, y0], [x1, y0, x1, y1], [x1, y1, x0, y1], [x0, y1, x0, y0]]
    return sides


def _segment_distance(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Distance of points [P, 2] from segments [S, 2] to [S, 2]. [P, S]"""
    along = ends - starts
    offset = points[:, None] - starts
    share = np.clip((offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12), 0, 1)
    return np.linalg.norm(offset - share[..., None] * along, axis=-1)
