"""Which other frames of an episode can explain a frame: the sources of the multi-view term, chosen by believed poses alone."""

from __future__ import annotations

import numpy as np

LEAST_LUCK = 0.6
"""The worth of every frame is multiplied by a number between this and 1, so that the same frame meets various sources."""


def choose_sources(
    rng: np.random.Generator,
    poses: np.ndarray,
    intrinsics: np.ndarray,
    size: tuple[int, int],
    frames: np.ndarray,
    remembered: int,
    count: int,
) -> np.ndarray:
    """Pick source frames for some frames of an episode.

    The first of them are such as a model would remember when it sees the frame: earlier ones, not long ago. The others may be
    any, past or to come, so that what a model is asked to explain is more than what it could match with.

    Args:
        rng: lends variety.
        poses: believed world_from_camera of the whole episode. [F, 4, 4]
        intrinsics: pixels. [3, 3]
        size: height and width of a frame, pixels.
        frames: the frames to explain. [N]
        remembered: how many of the sources are to be remembered ones, at most `count`.
        count: how many sources.

    Returns:
        Frame numbers; where there is no good source, the frame itself, which has no parallax. [N, count] int64
    """
    import torch  # late, with what needs it: who only reads episodes does without

    from embodied_liftwm.geometry.view_selection import KEPT_VIEWS, choose_views
    from embodied_liftwm.protocols import Camera

    all_poses, number = torch.from_numpy(np.array(poses, np.float32)), len(frames)
    camera = Camera(torch.from_numpy(np.array(intrinsics, np.float32)).expand(number, 3, 3), all_poses[frames], *size)
    age = frames[:, None] - np.arange(len(poses))
    remembered = min(remembered, count)
    chosen = np.zeros((number, 0), np.int64)
    for allowed, wanted in (((age > 0) & (age <= KEPT_VIEWS), remembered), (age != 0, count - remembered)):
        if not wanted:
            continue
        weight = rng.uniform(LEAST_LUCK, 1.0, age.shape) * allowed
        np.put_along_axis(weight, chosen, 0.0, axis=1)
        found, good = choose_views(camera, all_poses.expand(number, -1, -1, -1), torch.from_numpy(weight), wanted)
        chosen = np.concatenate([chosen, np.where(good.numpy(), found.numpy(), frames[:, None])], axis=1)
    return chosen
