"""The datasets of a training: one, or several of several cameras, frame sizes and bodies. Every step learns from one of them.

Which one is a pure function of (seed, step), as the windows are: a training that goes on after a kill draws the same ones, and
so does every process of several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.splits import check_split

_STREAM = 20  # apart from that of the windows


class Dataset(NamedTuple):
    """One of them. Its last episodes are held out, for validation."""

    name: str  # as the user wrote it
    reader: TrainingReader
    learned: range  # positions of episodes
    held_out: range
    first: bool  # of the training: the model is built for its frames, body and goals

    @property
    def frames(self) -> int:
        """That are learned from."""
        return int((self.reader.episode_lengths[: len(self.learned)] + 1).sum())


@dataclass(frozen=True)
class Mixture:
    """Datasets, and how often each is drawn."""

    datasets: tuple[Dataset, ...]
    shares: np.ndarray  # they sum to 1. [D]
    seed: int

    @classmethod
    def open(cls, config: TrainConfig) -> Mixture:
        """Open the datasets of a training.

        Args:
            config: data, weights, validation and seed are read. Without weights a frame is as likely in one as in another.

        Raises:
            UserError: no dataset in a folder, no episode in it, or scenes that no training may see.
        """
        shares = zip(config.data, config.held_out, strict=True)
        datasets = tuple(_open(name, share, number == 0) for number, (name, share) in enumerate(shares))
        weights = np.array(config.weights or [dataset.frames for dataset in datasets], np.float64)
        return cls(datasets, weights / weights.sum(), config.seed)

    def of_step(self, step: int) -> int:
        """The number of the dataset that a step learns from."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, step, _STREAM))))
        return int(rng.choice(len(self.shares), p=self.shares))


def _open(name: str, validation: float, first: bool) -> Dataset:
    reader = TrainingReader(name)
    check_split(reader.info, reader.seeds.tolist(), "train", f"data={name}")
    kept = len(reader) - int(validation * len(reader))
    return Dataset(name, reader, range(kept), range(kept, len(reader)), first)
