"""What `inhouse_views` is trained on: frames of the teachers' own scenes, each with others of its episode that look its way.

Which of them may be chosen is a matter of the path alone: a camera that drives and turns gives pairs on which the way between
is along an axis of sight, aside of it where it has turned, or none.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.training.inhouse.frames import FLIP_SHARE, Frames, TeacherReader, mirrored, noisy, relit

LARGEST_STEP_M, LARGEST_TURN_DEG = 0.9, 40.0
"""Between a frame and a view; the adapter asks for less of both."""
LEAST_STEP_M = 0.1
"""Below it a pair is a turn on the spot, which needs no depth."""
ON_THE_SPOT = 0.15
"""Share of the views that are drawn from those."""


class Pairs(NamedTuple):
    """A batch to learn from: frames, and V views of each."""

    rgb: Tensor  # [B, 3, H, W] float32 in [0, 1]
    depth: Tensor  # [B, H, W] float32 true z-depth, metres, 0 where invalid
    intrinsics: Tensor  # [B, 3, 3] pixels, of frames and views
    views: Tensor  # [B, V, 3, H, W] what was seen there
    frame_from_view: Tensor  # [B, V, 4, 4] true poses of the views in their frame's camera, metres


class PairReader(TeacherReader):
    """Pairs of frames, with truth, of datasets collected with `split=teacher`."""

    def __init__(self, paths: str) -> None:
        """Open datasets as `TeacherReader` does, and find every frame's partners.

        Raises:
            UserError: as there, or no two frames anywhere look the same way from two places.
        """
        super().__init__(paths)
        found = [partners(poses) for poses in self._poses]
        first = np.cumsum([0, *(len(poses) for poses in self._poses)])
        self._world_from_camera = np.concatenate(self._poses).astype(np.float64)
        self._apart, self._turned = (
            [options + start for start, lists in zip(first, found) for options in lists[kind]] for kind in (0, 1)
        )
        self._usable = np.flatnonzero([len(options) > 0 for options in self._apart])
        if not len(self._usable):
            raise UserError(
                f"{paths}: no two frames are {LEAST_STEP_M} to {LARGEST_STEP_M} m apart and look the same way: collect longer "
                "episodes"
            )

    def pairs(self, seed: int, step: int, size: int, views: int) -> Pairs:
        """The frames and views of a training step, changed at random; a pure function of its arguments."""
        rng = np.random.default_rng([seed, step])
        chosen = rng.choice(self._usable, size=size)
        beside = np.array([[self._partner(frame, rng) for _ in range(views)] for frame in chosen])
        rgb = torch.from_numpy(self._rgb[np.concatenate([chosen[:, None], beside], axis=1)]).movedim(-1, 2).float() / 255.0
        poses = np.linalg.inv(self._world_from_camera[chosen])[:, None] @ self._world_from_camera[beside]
        found = Pairs(
            rgb=rgb[:, 0],
            depth=torch.from_numpy(self._depth[chosen]).float(),
            intrinsics=torch.from_numpy(self._intrinsics[chosen]),
            views=rgb[:, 1:],
            frame_from_view=torch.from_numpy(poses.astype(np.float32)),
        )
        return jittered_pairs(mirrored_pairs(found, torch.from_numpy(rng.random(size) < FLIP_SHARE)), rng)

    def _partner(self, frame: int, rng: np.random.Generator) -> int:
        options = self._apart[frame]
        if rng.random() < ON_THE_SPOT and len(self._turned[frame]):
            options = self._turned[frame]
        return int(options[rng.integers(len(options))])


def partners(world_from_camera: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each frame of an episode [F, 4, 4] the frames that look its way from another place, and from its own, by number."""
    poses = world_from_camera.astype(np.float64)
    apart = np.linalg.norm(poses[:, None, :3, 3] - poses[None, :, :3, 3], axis=-1)
    cosine = poses[:, :3, 2] @ poses[:, :3, 2].T
    near = (apart <= LARGEST_STEP_M) & (cosine >= np.cos(np.radians(LARGEST_TURN_DEG))) & ~np.eye(len(poses), dtype=bool)

    def numbers(where: np.ndarray) -> list[np.ndarray]:
        return [np.flatnonzero(row) for row in near & where]

    return numbers(apart >= LEAST_STEP_M), numbers(apart < LEAST_STEP_M)


def mirrored_pairs(pairs: Pairs, which: Tensor) -> Pairs:
    """Some of the pairs as a mirror beside the frame's camera shows them, with the cameras that would see them so.

    Args:
        pairs: to be mirrored left to right.
        which: frames it happens to, with their views. [B] bool
    """
    rgb, depth, intrinsics = mirrored(Frames(pairs.rgb, pairs.depth, pairs.intrinsics), which)
    views = torch.where(which.view(-1, 1, 1, 1, 1), pairs.views.flip(-1), pairs.views)
    sign = pairs.frame_from_view.new_tensor([-1.0, 1.0, 1.0, 1.0])
    reflected = sign[:, None] * pairs.frame_from_view * sign
    poses = torch.where(which.view(-1, 1, 1, 1), reflected, pairs.frame_from_view)
    return Pairs(rgb, depth, intrinsics, views, poses)


def jittered_pairs(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """Other light and palettes, the same for a frame and its views; noise on the frame alone: views are what is to be said."""
    width = pairs.rgb.shape[-1]
    strip = torch.cat([pairs.rgb, *pairs.views.unbind(1)], dim=-1)
    first, *views = relit(strip, rng).split(width, dim=-1)
    return pairs._replace(rgb=noisy(first, rng), views=torch.stack(views, dim=1).clamp(0.0, 1.0))
