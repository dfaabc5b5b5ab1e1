"""The teachers of a training: caches of priors beside the dataset, held against the terms, and read for windows.

Nothing of a prior runs here: its answers were computed by `liftwm priors run`. What is read of an episode is kept on cells,
as much as fits into a fixed amount of memory, so that a step waits for no decoding.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.sampling import Batch
from embodied_liftwm.errors import UserError
from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS
from embodied_liftwm.priors.cache import complete_cache
from embodied_liftwm.priors.contract import Kind, PseudoObservations
from embodied_liftwm.training.objective import Conventions
from embodied_liftwm.training.teacher_windows import PICK, Arrays, Observed, Window, on_cells

KEPT_BYTES = 512 * 2**20
"""Memory for what was read, of all teachers and datasets together; who has not been asked for the longest time goes first."""


class Cache(Protocol):
    """What is needed of `priors.cache.PriorCache`."""

    def read(self, episode: int) -> PseudoObservations:
        """What the prior says of an episode."""
        ...


class Teachers:
    """Caches of priors, read for the windows of a step.

    Attributes:
        conventions: term -> prior -> the convention that it states; "" for kinds that have none.
    """

    def __init__(self, caches: Mapping[str, Cache], terms: tuple[str, ...], stride: int, kept_bytes: int = KEPT_BYTES) -> None:
        """Hold priors against terms.

        Args:
            caches: by name of the prior.
            terms: of the objective, those of teachers among them.
            stride: pixels a side of a cell.
            kept_bytes: see `KEPT_BYTES`.

        Raises:
            UserError: a term that no prior gives anything for, or a prior that no term takes from.
        """
        self._caches, self._stride, self._kept_bytes = dict(caches), stride, kept_bytes
        self._kept: OrderedDict[tuple[str, int], dict[Kind, Arrays]] = OrderedDict()
        first = {name: cache.read(0).given() for name, cache in caches.items()}
        taking = {term: TEACHER_TERMS[term].kind for term in terms if term in TEACHER_TERMS}
        _check(taking, {name: tuple(given) for name, given in first.items()})
        self.conventions: Conventions = {
            term: {name: getattr(given[kind], "convention", "") for name, given in first.items() if kind in given}
            for term, kind in taking.items()
        }
        self._kinds = {name: [g for g in taking.values() if g in given] for name, given in first.items()}

    def read(self, reader: TrainingReader, batch: Batch[np.ndarray]) -> Observed:
        """What all teachers observed in a batch's windows; every tensor has a leading axis of windows."""
        windows = [
            Window(frames, reader.read(int(e), "world_from_camera")) for e, frames in zip(batch.episode, batch.context_index)
        ]
        found: Observed = {}
        for name, kinds in self._kinds.items():
            for kind in kinds:
                rows = [
                    PICK[kind](self._episode(name, int(episode))[kind], window, _generator(seed, name, kind))
                    for episode, window, seed in zip(batch.episode, windows, batch.noise_seed, strict=True)
                ]
                found.setdefault(kind, {})[name] = type(rows[0])(*map(torch.stack, zip(*rows, strict=True)))
        return found

    def _episode(self, name: str, episode: int) -> dict[Kind, Arrays]:
        """What a prior says of an episode, on cells; from memory where it is kept."""
        if (name, episode) not in self._kept:
            self._kept[name, episode] = self._decode(name, episode)
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._kept_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end((name, episode))
        return self._kept[name, episode]

    def _decode(self, name: str, episode: int) -> dict[Kind, Arrays]:
        observed, found = self._caches[name].read(episode), {}
        for kind in self._kinds[name]:
            arrays = on_cells(observed, kind, self._stride)
            if arrays is None:
                raise UserError(f"prior {name} gives {kind} of episode 0, but not of episode {episode}: run it again")
            expected = next(of[name] for term, of in self.conventions.items() if TEACHER_TERMS[term].kind == kind)
            stated = getattr(getattr(observed, kind), "convention", "")
            if stated != expected:
                raise UserError(f"prior {name}: {kind} of episode {episode} is {stated}, that of episode 0 is {expected}")
            found[kind] = arrays
        return found


def open_teachers(config: TrainConfig) -> tuple[Teachers | None, ...]:
    """The teachers of a training, for each of its datasets; None where it has none.

    Raises:
        UserError: a prior has not observed all of a dataset yet, states another convention in one than in another, or priors
            and terms do not go together.
    """
    if len(set(config.priors)) < len(config.priors):
        raise UserError(f"priors={list(config.priors)}: expected distinct names")
    taking = [name for name in config.terms if name in TEACHER_TERMS]
    if not config.priors and not taking:
        return (None,) * len(config.data)
    found, kept = [], KEPT_BYTES // len(config.data)
    for data in config.data:
        caches = {name: complete_cache(Path(data), name) for name in config.priors}
        found.append(Teachers(caches, config.terms, config.model.stride, kept))
    for data, teachers in zip(config.data, found, strict=True):
        if teachers.conventions != found[0].conventions:
            raise UserError(f"priors={list(config.priors)}: state other conventions for {data} than for {config.data[0]}")
    return tuple(found)


def _generator(seed: int, name: str, kind: str) -> np.random.Generator:
    """What a window's share of one kind of one prior is drawn with."""
    return np.random.default_rng([int(seed), zlib.crc32(f"{name}/{kind}".encode())])


def _check(taking: Mapping[str, Kind], giving: Mapping[str, tuple[str, ...]]) -> None:
    for term, kind in taking.items():
        if not any(kind in kinds for kinds in giving.values()):
            there = "; ".join(f"{name} gives {', '.join(kinds)}" for name, kinds in giving.items()) or "there is none"
            raise UserError(f"terms: {term} needs a prior that gives {kind}, and of priors={list(giving)} {there}")
    for name, kinds in giving.items():
        if not set(kinds) & set(taking.values()):
            could = ", ".join(term for term, cls in TEACHER_TERMS.items() if cls.kind in kinds) or "none"
            raise UserError(f"priors: no term takes what {name} gives ({', '.join(kinds)}); add one to terms: {could}")


def _size(kept: dict[Kind, Arrays]) -> int:
    return sum(array.nbytes for arrays in kept.values() for array in arrays.values())
