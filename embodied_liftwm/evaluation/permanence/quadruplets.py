"""Possible and impossible videos of two worlds that differ in one object, matched frame by frame.

A *quadruplet* (Piloto et al. 2018, arXiv:1804.01128: "Physical Concepts") is made of the worlds A and B of `changed_worlds`,
seen from the same poses: A, B, A-then-B and B-then-A. They are spliced at the end of a time in which the two worlds look alike,
bit by bit, with the object in neither's view. The first two videos are possible, the other two are not, and each of their
frames is a frame of a possible one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.permanence.changed_worlds import KINDS, Film, Stage, changes, is_passage, seen_pixels

SHORTEST_GAP = 2
"""Frames of the hidden time, at least."""
WINDOW = 4
"""Frames from the end of the hidden time on over which surprise is summed: entry and the three after it, as in persistence."""
TAIL = 10
"""Frames that a video goes on after the hidden time, at least: how a model takes in a change is followed so long."""


@dataclass(frozen=True)
class Quadruplet:
    """Two worlds, and when to go over from one to the other."""

    kind: str
    seed: int
    object_id: int
    hidden: int  # first frame of the hidden time
    entry: int  # first frame after it: the worlds differ from here on, and videos are spliced here
    path: Episode  # what the agent did and believed; its frames are of world A
    a: Film
    b: Film

    @property
    def gap(self) -> int:
        """Frames of the hidden time."""
        return self.entry - self.hidden

    @property
    def pixels(self) -> int:
        """In how many pixels the two worlds differ in the window, at most."""
        window = slice(self.entry, self.entry + WINDOW)
        return int(differing(self.a.rgb[window], self.b.rgb[window]).max())

    def video(self, first: Film, second: Film) -> Episode:
        """The episode that shows one world up to `entry` and another, or the same, from there on."""
        return replace(self.path, rgb=np.concatenate([first.rgb[: self.entry], second.rgb[self.entry :]]))

    def possible(self) -> list[Episode]:
        """A and B."""
        return [self.video(self.a, self.a), self.video(self.b, self.b)]

    def impossible(self) -> list[Episode]:
        """A then B, and B then A."""
        return [self.video(self.a, self.b), self.video(self.b, self.a)]


def differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels in which frames [F, H, W, 3] differ. [F]"""
    return (first != second).any(-1).sum((1, 2))


def hidden_times(a: Film, b: Film, gone: bool = False) -> list[tuple[int, int]]:
    """All (hidden, entry) at which the videos of two worlds can be spliced.

    From `hidden` up to `entry` the worlds look alike and the object is in neither's view. Before, it was seen in both
    worlds, or in A alone where it is `gone` from B; of the window after, some frame differs in `SEEN_PX` pixels.
    """
    frames, enough = len(a.rgb), seen_pixels(a)
    difference = differing(a.rgb, b.rgb)
    shown = [film.mask.sum((1, 2)) for film in (a, b)]
    alike = np.concatenate([[False], (difference == 0) & (shown[0] == 0) & (shown[1] == 0), [False]])
    starts, ends = (np.flatnonzero(np.diff(alike.astype(int)) == step).tolist() for step in (1, -1))

    def fits(start: int, end: int) -> bool:
        seen = all((pixels[:start] >= enough).any() for pixels in shown[: 1 if gone else 2])
        return seen and end - start >= SHORTEST_GAP and end + TAIL <= frames and difference[end : end + WINDOW].max() >= enough

    return [(start, end) for start, end in zip(starts, ends, strict=True) if start and fits(start, end)]


def quadruplets(stage: Stage, kinds: Sequence[str]) -> Iterator[Quadruplet]:
    """At most one quadruplet of each kind, of objects and hidden times drawn by the scene's seed."""
    films: dict[int, Film] = {}
    for kind in kinds:
        rng = np.random.default_rng([stage.seed, 23, KINDS.index(kind)])
        found = next(_candidates(stage, kind, films, rng), None)
        if found is not None:
            yield found


def _candidates(stage: Stage, kind: str, films: dict[int, Film], rng: np.random.Generator) -> Iterator[Quadruplet]:
    for index in rng.permutation(len(stage.scene.objects)):
        object_id = int(index) + 1
        for change in changes(stage, kind, object_id, rng):
            if object_id not in films:
                films[object_id] = stage.film(object_id)
            a, b = films[object_id], stage.film(object_id, **change)
            times = hidden_times(a, b, kind == "vanish")
            if kind == "tunnel":
                times = [time for time in times if is_passage(stage, change["track"], (a, b), *time)]
            if times:
                hidden, entry = _drawn(times, rng)
                yield Quadruplet(kind, stage.seed, object_id, hidden, entry, replace(stage.path, rgb=a.rgb), a, b)


def _drawn(times: list[tuple[int, int]], rng: np.random.Generator) -> tuple[int, int]:
    """One of the hidden times: first a bin of gaps, then a time in it, so that long ones are not rare."""
    bins: dict[int, list[tuple[int, int]]] = {}
    for hidden, entry in times:
        bins.setdefault(sum(entry - hidden >= low for low, _ in GAP_BINS[1:]), []).append((hidden, entry))
    among = bins[sorted(bins)[int(rng.integers(len(bins)))]]
    return among[int(rng.integers(len(among)))]
