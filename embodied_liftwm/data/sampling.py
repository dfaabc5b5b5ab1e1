"""Training batches as a pure function of (seed, step), so that training resumed after a kill sees the very same ones.

A window is a span of one episode. Its *context* frames are observed in order; its *targets* are rendered from what was
observed: most lie among the context, some after it, a few before it. *Transitions* are steps of the span with the motion
before and after them, for the dynamics, reward and continuation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.sources import choose_sources

Array = TypeVar("Array")
"""Numpy's as windows are read, torch's as models take them."""
Other = TypeVar("Other")

TARGET_SHARES = (0.15, 0.5, 0.35)
"""Share of targets before the first, among, and after the last context frame, where there are such frames."""
RECENT = (-2, -4, -6)
"""Frames, counted from one, that a model has at hand to find what moves in it."""
RECENT_JUDGES = (-3, 2, 4, 6)
"""Frames that the motion so found must explain in training."""


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """Windows of a step of training. B windows, K context frames, V targets, P transitions (P = 2 K).

    A transition is the step `t -> t + 1`; `pose_prev` is the pose at `t - 1`, or at `t` where t = 0.
    """

    rgb: Array  # [B, K, H, W, 3] uint8 context frames in order of time
    intrinsics: Array  # [B, 3, 3] float32 pixels
    world_from_camera: Array  # [B, K, 4, 4] float32 believed poses of the context
    goal: Array  # [B, K, G] float32
    context_index: Array  # [B, K] int64 frame number in the episode
    context_action: Array  # [B, K, A] float32 the action that led to the frame; zeros at frame 0
    context_reward: Array  # [B, K] float32 the reward of the step that led to the frame; 0 at frame 0
    context_terminated: Array  # [B, K] bool whether that step ended the task
    target_rgb: Array  # [B, V, H, W, 3] uint8
    target_world_from_camera: Array  # [B, V, 4, 4] float32
    target_index: Array  # [B, V] int64 frame number in the episode
    source_rgb: Array  # [B, K + V, S, H, W, 3] uint8 frames that can explain each: `data.sources`
    source_world_from_camera: Array  # [B, K + V, S, 4, 4] float32
    recent_rgb: Array  # [B, K + V, R, H, W, 3] uint8 frames at RECENT and at RECENT_JUDGES; R = 0 unless things may move
    recent_world_from_camera: Array  # [B, K + V, R, 4, 4] float32
    recent_steps: Array  # [B, K + V, R] float32 steps from each to them, 0 for frames outside the episode: not to be used
    step_index: Array  # [B, P] int64 the transition's t
    action: Array  # [B, P, A] float32 the action of the transition
    pose_prev: Array  # [B, P, 4, 4] float32 at t - 1
    pose_before: Array  # [B, P, 4, 4] float32 at t
    pose_after: Array  # [B, P, 4, 4] float32 at t + 1
    episode: Array  # [B] int64 position of the episode in the dataset
    noise_seed: Array  # [B] int64 of what is sampled while the window is learned from

    def map(self, change: Callable[[Array], Other]) -> Batch[Other]:
        """The same windows with every array changed: into a tensor, say, or a part of itself."""
        return Batch(*(change(getattr(self, field.name)) for field in fields(self)))


def sample_windows(
    reader: TrainingReader, config: TrainConfig, step: int, rows: range | None = None, episodes: range | None = None
) -> Batch[np.ndarray]:
    """Draw the batch of one training step.

    Args:
        reader: the dataset.
        config: `seed`, `batch_size`, `context`, `targets` and `span` are used, and of `model` what it matches frames with.
        step: number of the step, from 0.
        rows: which of the `batch_size` windows to read, in order and one at least; all of them if None.
        episodes: positions of those to draw from; all of the dataset's if None.

    Returns:
        The same arrays for the same dataset, config and step, in any process.
    """
    rows = range(config.batch_size) if rows is None else rows
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((config.seed, step))))
    starts = np.maximum(1, reader.episode_lengths - config.span + 1)  # windows an episode has, each equally likely
    episodes = range(len(reader)) if episodes is None else episodes
    likely = starts[episodes.start : episodes.stop]
    chosen = rng.choice(episodes, size=config.batch_size, p=likely / likely.sum())[: rows[-1] + 1]
    drawn = [_draw_window(reader, config, int(episode), int(rng.integers(starts[episode])), rng) for episode in chosen]
    moving = config.model.movers > 0
    windows = [_read_window(reader, drawn[row], RECENT + RECENT_JUDGES if moving else ()) for row in rows]
    return Batch(**{name: np.stack([window[name] for window in windows]) for name in windows[0]})


class _Drawn(NamedTuple):
    """Which frames and steps of an episode make a window."""

    episode: int
    context: np.ndarray  # [K]
    targets: np.ndarray  # [V]
    steps: np.ndarray  # [P]
    sources: np.ndarray  # [K + V, S]
    noise_seed: int


def _draw_window(reader: TrainingReader, config: TrainConfig, episode: int, start: int, rng: np.random.Generator) -> _Drawn:
    stop = min(start + config.span, int(reader.episode_lengths[episode]))  # last frame of the span
    context = choose_context(rng, start, stop, config.context)
    targets = choose_targets(rng, context, max(0, start - config.span // 4), stop, config.targets)
    steps = np.sort(_draw(rng, np.arange(start, stop), 2 * config.context))
    poses, intrinsics = reader.read(episode, "world_from_camera"), reader.read(episode, "intrinsics")
    size, remembered = reader.image_size, config.model.stereo_sources
    frames = np.concatenate([context, targets])
    sources = choose_sources(rng, poses, intrinsics, size, frames, remembered, config.sources)
    return _Drawn(episode, context, targets, steps, sources, int(rng.integers(2**62)))


def _read_window(reader: TrainingReader, drawn: _Drawn, recent: tuple[int, ...]) -> dict[str, np.ndarray]:
    episode = drawn.episode
    found = _context(reader, episode, drawn.context) | _targets(reader, episode, drawn.targets)
    found |= _transitions(reader, episode, drawn.steps)
    found |= {name: np.asarray(getattr(drawn, name), np.int64) for name in ("episode", "noise_seed")}
    rgb, poses = reader.read(episode, "rgb"), reader.read(episode, "world_from_camera")
    found |= {"source_rgb": rgb[drawn.sources], "source_world_from_camera": poses[drawn.sources]}
    frames, steps = choose_recent(np.concatenate([drawn.context, drawn.targets]), len(rgb), recent)
    return found | {"recent_rgb": rgb[frames], "recent_world_from_camera": poses[frames], "recent_steps": steps}


def _context(reader: TrainingReader, episode: int, frames: np.ndarray) -> dict[str, np.ndarray]:
    led, first = np.maximum(frames - 1, 0), frames == 0
    return {
        "rgb": reader.read(episode, "rgb")[frames],
        "intrinsics": np.array(reader.read(episode, "intrinsics")),
        "world_from_camera": reader.read(episode, "world_from_camera")[frames],
        "goal": reader.read(episode, "goal")[frames],
        "context_index": frames,
        "context_action": np.where(first[:, None], np.float32(0), reader.read(episode, "action")[led]),
        "context_reward": np.where(first, np.float32(0), reader.read(episode, "reward")[led]),
        "context_terminated": ~first & reader.read(episode, "terminated")[led],
    }


def _targets(reader: TrainingReader, episode: int, frames: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "target_rgb": reader.read(episode, "rgb")[frames],
        "target_world_from_camera": reader.read(episode, "world_from_camera")[frames],
        "target_index": frames,
    }


def _transitions(reader: TrainingReader, episode: int, steps: np.ndarray) -> dict[str, np.ndarray]:
    poses, actions = reader.read(episode, "world_from_camera"), reader.read(episode, "action")
    earlier = np.maximum(steps - 1, 0)
    return {
        "step_index": steps,
        "action": actions[steps],
        "pose_prev": poses[earlier],
        "pose_before": poses[steps],
        "pose_after": poses[steps + 1],
    }


def choose_context(rng: np.random.Generator, start: int, stop: int, count: int) -> np.ndarray:
    """Frames to observe: the start, then strided with jitter, a quarter of them right after another.

    The context reaches over a random 60 to 100 % of the span, so that frames after it remain to be foreseen.

    Returns:
        Frame numbers in [start, stop], ascending; repeated only where the span has fewer than `count`. [count] int64
    """
    if stop - start + 1 <= count:
        return np.round(np.linspace(start, stop, count)).astype(np.int64)
    reach = max(count - 1, round((stop - start) * rng.uniform(0.6, 1.0)))
    followers = max(1, count // 4) if count >= 3 else 0
    edges = np.linspace(start + 1, start + reach + 1, count - followers)  # count - followers - 1 strata after the start
    strata = pairwise(edges)
    picked = {start} | {int(rng.integers(int(low), max(int(low) + 1, int(high)))) for low, high in strata}
    after = [frame + 1 for frame in sorted(picked) if frame + 1 <= start + reach and frame + 1 not in picked]
    picked |= set(_draw(rng, np.array(after), min(followers, len(after))).tolist()) if after else set()
    free = np.setdiff1d(np.arange(start, start + reach + 1), list(picked))
    picked |= set(_draw(rng, free, count - len(picked)).tolist()) if count > len(picked) else set()
    return np.array(sorted(picked), np.int64)


def choose_targets(rng: np.random.Generator, context: np.ndarray, first: int, last: int, count: int) -> np.ndarray:
    """Frames to render, none of them observed: before, among and after the context in `TARGET_SHARES`.

    Returns:
        Frame numbers in [first, last], ascending; where fewer than `count` are unobserved, observed ones too. [count] int64
    """
    free = np.setdiff1d(np.arange(first, last + 1), context)
    if len(free) < count:
        return np.sort(_draw(rng, np.arange(first, last + 1), count))
    zone = (free >= context[0]).astype(int) + (free > context[-1])
    weight = np.array(TARGET_SHARES)[zone] / np.bincount(zone, minlength=3)[zone]
    return np.sort(rng.choice(free, size=count, replace=False, p=weight / weight.sum()))


def choose_recent(frames: np.ndarray, length: int, offsets: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Frames at fixed distances in time from others, in an episode of `length` frames.

    Returns:
        Frame numbers [N, R] int64 and steps to them [N, R] float32; the frame itself and 0 where the episode has no such frame.
    """
    steps = np.broadcast_to(np.array(offsets, np.int64), (len(frames), len(offsets)))
    there = frames[:, None] + steps
    steps = np.where((there >= 0) & (there < length), steps, 0)
    return frames[:, None] + steps, steps.astype(np.float32)


def _draw(rng: np.random.Generator, options: np.ndarray, count: int) -> np.ndarray:
    """Draw without replacement, or with it where there are too few."""
    return rng.choice(options, size=count, replace=len(options) < count)
