"""Two readers of one dataset: one for training, which cannot reach truth, and one for evaluation, which can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from embodied_liftwm.data.cache import DecodedCache
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.gate import ARRAYS
from embodied_liftwm.data.splits import seed_of
from embodied_liftwm.data.storage import how_to_collect, read_episode, read_info, read_outline, scan
from embodied_liftwm.errors import TruthAccessError, UserError

Read = TypeVar("Read")

_PER_FRAME = tuple(name for name, (shape, _) in ARRAYS.items() if shape.startswith("F"))


class TrainingReader:
    """Random access to what the agent saw, believed and did.

    The first reader of a dataset decodes it once into `<dataset>/.cache`; after that reading costs a memory copy. Truth is not
    in that cache, so nothing here can return it.

    Example:
        >>> reader = TrainingReader("data/revisit-s")                  # doctest: +SKIP
        >>> reader.window(0, np.arange(8))["rgb"].shape                # doctest: +SKIP
        (8, 64, 64, 3)
    """

    def __init__(self, path: str | Path) -> None:
        """Open the dataset folder `path`.

        Raises:
            UserError: no dataset there, no episode in it, or a truncated or foreign file, named.
        """
        self.path = Path(path)
        self.info: dict[str, Any] = read_info(self.path)
        self._cache = DecodedCache(self.path)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._cache.lengths)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Actions per episode; an episode has one frame more. [E] int64"""
        return self._cache.lengths

    @property
    def indices(self) -> np.ndarray:
        """Dataset index per episode: what stays when the dataset grows, as positions may not. [E] int64"""
        return self._cache.indices

    @property
    def seeds(self) -> np.ndarray:
        """Seed of each episode's scene, -1 where its meta tells none. [E] int64"""
        return self._cache.seeds

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every frame, pixels."""
        _, height, width, _ = self._cache.arrays["rgb"].shape
        return height, width

    @property
    def action_dim(self) -> int:
        """Numbers per action; of a discrete action, its number of choices."""
        return self._cache.arrays["action"].shape[-1]

    @property
    def goal_dim(self) -> int:
        """Numbers per goal; 0 where the task has no instruction."""
        return self._cache.arrays["goal"].shape[-1]

    def read(self, episode: int, name: str) -> np.ndarray:
        """One array of one whole episode, as a read-only view: rows are frames or steps, `intrinsics` is [3, 3].

        Raises:
            TruthAccessError: `name` is of truth.
            UserError: no such array or episode.
        """
        if name.split("/")[0] == "truth":
            raise TruthAccessError(f"training asked for {name}: truth is for evaluation alone, use EvaluationReader")
        if name not in ARRAYS:
            raise UserError(f"no array {name!r} in an episode: there are {', '.join(ARRAYS)}")
        if not 0 <= episode < len(self):
            raise UserError(f"no episode {episode} in {self.path}: it holds {len(self)}, counted from 0")
        return self._cache.rows(name, episode)

    def window(self, episode: int, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Copy chosen frames, and all steps, of an episode.

        Args:
            episode: position in the dataset, from 0.
            frames: indices in [0, T]. [n] int

        Returns:
            rgb [n, H, W, 3] uint8, world_from_camera [n, 4, 4], goal [n, G], intrinsics [3, 3];
            action [T, A], reward [T], terminated [T], truncated [T] of the whole episode.
        """
        frames = np.asarray(frames, np.int64)
        found = {name: self.read(episode, name) for name in ARRAYS}
        last = len(found["rgb"]) - 1
        if len(frames) and (frames.min() < 0 or frames.max() > last):
            raise UserError(f"episode {episode} has frames 0 to {last}, asked for {frames.min()} to {frames.max()}")
        return {name: rows[frames] if name in _PER_FRAME else np.array(rows) for name, rows in found.items()}


class EvaluationReader:
    """Whole episodes, truth included. Never give one to training."""

    def __init__(self, path: str | Path, split: str = "") -> None:
        """Open the dataset folder `path`.

        Args:
            path: of the dataset.
            split: that it should be collected with, for what is said where there is none.

        Raises:
            UserError: no dataset there, no episode in it, or a truncated or foreign file, named.
        """
        self.path = Path(path)
        self.info: dict[str, Any] = read_info(self.path, split)
        self._files = scan(self.path)
        if not self._files:
            raise UserError(f"the dataset at {path} holds no episode yet: run {how_to_collect(path, split)}")
        self.indices = list(self._files)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.indices)

    @cached_property
    def seeds(self) -> list[int]:
        """Seed of each episode's scene, -1 where its meta tells none."""
        return [seed_of(self._read(read_outline, index).meta) for index in self.indices]

    def __getitem__(self, position: int) -> Episode:
        """The episode at a position in the dataset, from 0. Raises IndexError past the end, UserError for a damaged file."""
        return self._read(read_episode, self.indices[position])

    def _read(self, what: Callable[[Path, int], Read], index: int) -> Read:
        try:
            return what(self._files[index], index)
        except FileNotFoundError:  # packed since we looked
            self._files = scan(self.path)
            return what(self._files[index], index)

    def __iter__(self) -> Iterator[Episode]:
        """All episodes in order."""
        return (self[position] for position in range(len(self)))
