"""The teachers of a training: caches of priors beside the dataset, held against the terms, and read for windows.

Nothing of a prior runs here: its answers were computed by `liftwm priors run`. What is read of an episode is kept on cells,
as much as fits into a fixed amount of memory, so that a step waits for no decoding.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.data.sampling import Batch
from embodied_liftwm.errors import UserError
from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS
from embodied_liftwm.priors.cache import complete_cache
from embodied_liftwm.priors.contract import Gift, PseudoObservations
from embodied_liftwm.training.objective import Conventions
from embodied_liftwm.training.teacher_windows import PICK, Arrays, Window, key, on_cells

KEPT_BYTES = 512 * 2**20
"""Memory for what was read, of all teachers together; who has not been asked for the longest time goes first."""


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
        self._kept: OrderedDict[tuple[str, int], dict[Gift, Arrays]] = OrderedDict()
        first = {name: cache.read(0).given() for name, cache in caches.items()}
        taking = {term: cast(Gift, TEACHER_TERMS[term].gift) for term in terms if term in TEACHER_TERMS}
        _check(taking, {name: tuple(given) for name, given in first.items()})
        self.conventions: Conventions = {
            term: {name: getattr(given[gift], "convention", "") for name, given in first.items() if gift in given}
            for term, gift in taking.items()
        }
        self._gifts = {name: [g for g in taking.values() if g in given] for name, given in first.items()}

    def read(self, reader: TrainingReader, batch: Batch) -> dict[str, Tensor]:
        """What all teachers say of a batch's windows, as tensors with a leading axis of windows (`teacher_windows.key`)."""
        rows: list[dict[str, np.ndarray]] = []
        for episode, context, seed in zip(batch.episode, batch.context_index, batch.noise_seed, strict=True):
            window = Window(context, reader.read(int(episode), "world_from_camera"))
            row: dict[str, np.ndarray] = {}
            for name, gifts in self._gifts.items():
                kept = self._episode(name, int(episode))
                for gift in gifts:
                    rng = np.random.default_rng([int(seed), zlib.crc32(f"{name}/{gift}".encode())])
                    found = PICK[gift](kept[gift], window, rng)
                    row |= {key(gift, name, field): array for field, array in found.items()}
            rows.append(row)
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def _episode(self, name: str, episode: int) -> dict[Gift, Arrays]:
        """What a prior says of an episode, on cells; from memory where it is kept."""
        if (name, episode) not in self._kept:
            self._kept[name, episode] = self._decode(name, episode)
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > self._kept_bytes:
                self._kept.popitem(last=False)
        self._kept.move_to_end((name, episode))
        return self._kept[name, episode]

    def _decode(self, name: str, episode: int) -> dict[Gift, Arrays]:
        said, found = self._caches[name].read(episode), {}
        for gift in self._gifts[name]:
            arrays = on_cells(said, gift, self._stride)
            if arrays is None:
                raise UserError(f"prior {name} gives {gift} of episode 0, but not of episode {episode}: run it again")
            expected = next(of[name] for term, of in self.conventions.items() if TEACHER_TERMS[term].gift == gift)
            stated = getattr(getattr(said, gift), "convention", "")
            if stated != expected:
                raise UserError(f"prior {name}: {gift} of episode {episode} is {stated}, that of episode 0 is {expected}")
            found[gift] = arrays
        return found


def open_teachers(config: TrainConfig) -> Teachers | None:
    """The teachers of a training; None where it has none.

    Raises:
        UserError: a prior has not observed all of the dataset yet, or priors and terms do not go together.
    """
    if len(set(config.priors)) < len(config.priors):
        raise UserError(f"priors={list(config.priors)}: expected distinct names")
    taking = [name for name in config.terms if name in TEACHER_TERMS]
    if not config.priors and not taking:
        return None
    caches = {name: complete_cache(Path(config.data), name) for name in config.priors}
    return Teachers(caches, config.terms, config.model.stride)


def _check(taking: Mapping[str, Gift], giving: Mapping[str, tuple[str, ...]]) -> None:
    for term, gift in taking.items():
        if not any(gift in gifts for gifts in giving.values()):
            there = "; ".join(f"{name} gives {', '.join(gifts)}" for name, gifts in giving.items()) or "there is none"
            raise UserError(f"terms: {term} needs a prior that gives {gift}, and of priors={list(giving)} {there}")
    for name, gifts in giving.items():
        if not set(gifts) & set(taking.values()):
            could = ", ".join(term for term, cls in TEACHER_TERMS.items() if cls.gift in gifts) or "none"
            raise UserError(f"priors: no term takes what {name} gives ({', '.join(gifts)}); add one to terms: {could}")


def _size(kept: dict[Gift, Arrays]) -> int:
    return sum(array.nbytes for arrays in kept.values() for array in arrays.values())
