"""What teachers of our own are trained on: frames of their own scenes, with their true depth.

This is the one reader of training code that opens `truth/`, and `house_pairs` makes pairs of what it read. It may, because no
world model is trained or judged in these scenes: their seeds are a range of their own (`liftwm collect split=teacher`), and any
other dataset is refused. A world model's training has no way to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.data.splits import check_split
from embodied_liftwm.errors import UserError

GAIN, GAMMA, CONTRAST, NOISE = 0.2, 0.2, 0.2, 0.02
"""Of the colour jitter: standard deviations of logarithms, and the most noise, in units of full brightness."""
GREY_SHARE, SWAP_SHARE, FLIP_SHARE = 0.2, 0.4, 0.5
"""Of frames that lose some of their colour, have their channels swapped, are mirrored."""


class Frames(NamedTuple):
    """A batch to learn from."""

    rgb: Tensor  # [B, 3, H, W] float32 in [0, 1]
    depth: Tensor  # [B, H, W] float32 true z-depth, metres, 0 where invalid
    intrinsics: Tensor  # [B, 3, 3] pixels


class TeacherReader:
    """Single frames, with truth, of datasets collected with `split=teacher`.

    Everything is decoded into memory: of 64 x 64 frames 20 KB each.
    """

    def __init__(self, paths: str) -> None:
        """Open a dataset folder, or several, separated by commas.

        Raises:
            UserError: no dataset there, no episode in it, scenes that are not the teachers', no truth, or frames of several
                sizes.
        """
        episodes = [episode for path in paths.split(",") if path.strip() for episode in _episodes(Path(path.strip()))]
        if not episodes:
            raise UserError(f"data={paths}: names no dataset")
        sizes = {episode.image_size for episode in episodes}
        if len(sizes) > 1:
            raise UserError(f"{paths}: frames of several sizes, {sorted(sizes)}: collect them at one image_size")
        self.episodes = len(episodes)
        self.image_size = episodes[0].image_size
        self._rgb = np.concatenate([episode.rgb for episode in episodes])
        self._depth = np.concatenate([_true_depth(episode) for episode in episodes])
        self._intrinsics = np.concatenate([np.repeat(e.intrinsics[None], len(e.rgb), axis=0) for e in episodes])
        self._poses = [_true_poses(episode) for episode in episodes]

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._rgb)

    def batch(self, seed: int, step: int, size: int) -> Frames:
        """The frames of a training step, changed at random; a pure function of its arguments."""
        rng = np.random.default_rng([seed, step])
        chosen = rng.integers(len(self), size=size)
        rgb = torch.from_numpy(self._rgb[chosen]).movedim(-1, 1).float() / 255.0
        depth = torch.from_numpy(self._depth[chosen]).float()
        frames = Frames(rgb, depth, torch.from_numpy(self._intrinsics[chosen]))
        return jittered(mirrored(frames, torch.from_numpy(rng.random(size) < FLIP_SHARE)), rng)


def mirrored(frames: Frames, which: Tensor) -> Frames:
    """Some frames as a mirror beside the camera shows them, with the camera that would see them so.

    Args:
        frames: to be mirrored left to right; their pixels are not skewed.
        which: frames it happens to. [B] bool
    """
    width = frames.rgb.shape[-1]
    intrinsics = frames.intrinsics.clone()
    intrinsics[:, 0, 2] = width - intrinsics[:, 0, 2]
    return Frames(*(torch.where(which.view(-1, *[1] * (old.dim() - 1)), new, old) for old, new in (
        (frames.rgb, frames.rgb.flip(-1)), (frames.depth, frames.depth.flip(-1)), (frames.intrinsics, intrinsics)
    )))  # fmt: skip


def jittered(frames: Frames, rng: np.random.Generator) -> Frames:
    """Other light and palettes, and noise; geometry stays."""
    return frames._replace(rgb=noisy(relit(frames.rgb, rng), rng))


def relit(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [B, 3, H, W] under other gain, gamma and contrast, some with channels swapped or blended to grey; not clamped."""
    size = len(rgb)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).view(size, -1, 1, 1)

    def uniform(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape).astype(np.float32)).view(size, -1, 1, 1)

    orders = np.where(rng.random((size, 1)) < SWAP_SHARE, rng.permuted(np.tile(np.arange(3), (size, 1)), axis=1), np.arange(3))
    rgb = rgb[torch.arange(size)[:, None], torch.from_numpy(orders)]
    grey = torch.where(uniform(size) < GREY_SHARE, uniform(size), 0.0)
    rgb = torch.lerp(rgb, rgb.mean(1, keepdim=True), grey)
    rgb = rgb.clamp_min(1e-3) ** torch.exp(GAMMA * normal(size))
    mean = rgb.mean((1, 2, 3), keepdim=True)
    rgb = mean + (rgb - mean) * torch.exp(CONTRAST * normal(size))
    return rgb * torch.exp(GAIN * (normal(size) + 0.5 * normal(size, 3)))


def noisy(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """Images [B, 3, H, W] with noise, some with more than others, in [0, 1]."""
    noise = torch.from_numpy(rng.standard_normal(tuple(rgb.shape), dtype=np.float32))
    strength = torch.from_numpy(rng.random(len(rgb)).astype(np.float32)).view(-1, 1, 1, 1)
    return (rgb + NOISE * strength * noise).clamp(0.0, 1.0)


def _episodes(path: Path) -> list[Episode]:
    """Every episode of a dataset, each from a scene of the teachers."""
    reader = EvaluationReader(path, "teacher")
    check_split(reader.info, reader.seeds, "teacher", f"data={path}")
    return list(reader)


def _true_depth(episode: Episode) -> np.ndarray:
    if episode.truth is None or not episode.truth.has("depth", "world_from_camera"):
        raise UserError(
            "an episode of the teachers' scenes lacks true depth or poses: collect with `liftwm collect split=teacher`"
        )
    return episode.truth.depth


def _true_poses(episode: Episode) -> np.ndarray:
    assert episode.truth is not None
    return episode.truth.world_from_camera
