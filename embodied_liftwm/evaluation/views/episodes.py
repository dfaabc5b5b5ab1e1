"""Held-out episodes as a model meets them: batches of observations and cameras, and the truth to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.gate import TRUTH_ARRAYS
from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import Camera, Observation, View

BATCH_EPISODES = 16
"""Episodes that a model observes side by side."""


class Scorable(Protocol):
    """The part of `WorldModel` that the protocols of this package call; the planner calls the rest."""

    def initial_state(self, batch_size: int) -> Any: ...

    def observe(self, state: Any, observation: Observation) -> Any: ...

    def render(self, state: Any, camera: Camera) -> View: ...


Frame = tuple[int, int]
"""Position of an episode in its batch, and a frame of it."""


@dataclass(frozen=True)
class TrueFrames:
    """What really was there to see."""

    rgb: Tensor  # [P, 3, H, W] float32 in [0, 1]
    depth: Tensor  # [P, H, W] float32 metres, 0 where invalid
    segmentation: Tensor  # [P, H, W] int64 object ids, 0 for structure


class EpisodeBatch:
    """Episodes that a model observes side by side; `indices` are their positions in the dataset."""

    def __init__(self, episodes: Sequence[Episode], indices: Sequence[int], device: str = "cpu") -> None:
        self.episodes = list(episodes)
        self.indices = list(indices)
        self.device = device

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def frames(self) -> list[int]:
        """Frames in each episode."""
        return [len(episode.rgb) for episode in self.episodes]

    def truth(self, position: int) -> Truth:
        """Truth of one episode. Raises UserError where the dataset has none."""
        return truth_of(self.episodes[position], self.indices[position])

    def camera(self, frames: Sequence[Frame]) -> Camera:
        """The cameras the agent believed it had at these frames: poses in the frame the model lives in."""
        episodes = [self.episodes[e] for e, _ in frames]
        height, width = episodes[0].image_size
        return Camera(
            intrinsics=self._stack([e.intrinsics for e in episodes]),
            world_from_camera=self._stack([self.episodes[e].world_from_camera[t] for e, t in frames]),
            height=height,
            width=width,
        )

    def observation(self, frames: Sequence[Frame]) -> Observation:
        """What the agent perceived at these frames."""
        return Observation(
            rgb=self._rgb(frames),
            camera=self.camera(frames),
            action=self._stack([action_before(self.episodes[e], t) for e, t in frames]),
            is_first=torch.tensor([t == 0 for _, t in frames], device=self.device),
            goal=self._stack([self.episodes[e].goal[t] for e, t in frames]),
        )

    def true_depth(self, frames: Sequence[Frame]) -> Tensor:
        """True depth at these frames. [P, H, W] float32 metres, 0 where invalid"""
        return self._stack([self.truth(e).depth[t] for e, t in frames])

    def true(self, frames: Sequence[Frame]) -> TrueFrames:
        """What really was there to see at these frames."""
        return TrueFrames(
            rgb=self._rgb(frames),
            depth=self.true_depth(frames),
            segmentation=self._stack([self.truth(e).segmentation[t].astype(np.int64) for e, t in frames]).long(),
        )

    def _rgb(self, frames: Sequence[Frame]) -> Tensor:
        return self._stack([self.episodes[e].rgb[t] for e, t in frames]).permute(0, 3, 1, 2).contiguous() / 255.0

    def _stack(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(arrays).astype(np.float32)).to(self.device)


def action_before(episode: Episode, frame: int) -> np.ndarray:
    """The action that led to a frame: zeros at the first. [A] float32"""
    return episode.action[frame - 1] if frame > 0 else np.zeros(episode.action.shape[1], np.float32)


def truth_of(episode: Episode, index: int) -> Truth:
    """Truth of an episode. Raises UserError where the dataset has none."""
    if episode.truth is None:
        raise UserError(f"episode {index} has no truth: evaluation needs it; collect with an environment of liftwm_envs")
    return episode.truth


def true_poses(episode: Episode) -> np.ndarray:
    """Exact world_from_camera of an episode where it is known, else what the agent believed. [F, 4, 4]"""
    known = episode.truth is not None and episode.truth.has("world_from_camera")
    return episode.truth.world_from_camera if known and episode.truth else episode.world_from_camera


def known_truth(episodes: Sequence[Episode]) -> frozenset[str]:
    """Arrays of truth that each of these episodes has.

    Depth that is 0 in every pixel is no depth, and a segmentation whose pixels nobody has counted is none that serves.
    """
    known = set(TRUTH_ARRAYS).intersection(*(episode.truth_arrays() for episode in episodes))
    if "depth" in known and not any((truth_of(episode, i).depth > 0).any() for i, episode in enumerate(episodes)):
        known.remove("depth")
    return frozenset(known if "visible_pixels" in known else known - {"segmentation"})


def batches(episodes: Sequence[Episode], device: str = "cpu", size: int = BATCH_EPISODES) -> list[EpisodeBatch]:
    """Split episodes into nearly equal batches, none above `size` (3 or more), and none of one episode where there are two."""
    parts = max(1, -(-len(episodes) // max(size, 3)))
    chunks = np.array_split(np.arange(len(episodes)), parts)
    return [EpisodeBatch([episodes[i] for i in chunk], [int(i) for i in chunk], device) for chunk in chunks]


@torch.no_grad()
def rollout(model: Scorable, batch: EpisodeBatch, frames: int | None = None) -> Iterator[tuple[int, Any]]:
    """Let a model observe a batch of episodes, frame by frame.

    Args:
        model: anything that can observe.
        batch: B episodes; one that is over keeps its last state while the others go on.
        frames: how many frames to observe; all by default.

    Yields:
        (t, the state before frame t is observed), for t = 0 to `frames` inclusive.
    """
    frames = max(batch.frames) if frames is None else frames
    state = model.initial_state(len(batch))
    for t in range(frames):
        yield t, state
        running = torch.tensor([t < length for length in batch.frames], device=batch.device)
        now = batch.observation([(e, min(t, length - 1)) for e, length in enumerate(batch.frames)])
        after = model.observe(state, now)
        state = after if bool(running.all()) else after.where(running, state)
    yield frames, state
