"""How objects of a scene look: each of its own colour, or, with distractors, none told by its colour or its shape alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liftwm_envs.rooms.scene import PALETTE, SHAPES


@dataclass(frozen=True)
class Look:
    """A colour, and a shape unless it is left to be drawn."""

    colour_name: str
    shape: str = ""

    def draw_shape(self, rng: np.random.Generator) -> str:
        """The shape, or any."""
        return self.shape or SHAPES[int(rng.integers(len(SHAPES)))]


def draw_looks(rng: np.random.Generator, count: int, distractors: bool) -> list[Look]:
    """Looks of `count` objects, in random order where there are distractors.

    Without distractors each has a colour of its own. With them, `count` is taken down to an even number of 4 or more, each
    object shares its colour with exactly one other and its shape with at least one other, and no two share both.
    """
    colours = [str(name) for name in rng.permutation(list(PALETTE))]
    if not distractors:
        return [Look(name) for name in colours[:count]]
    half = count // 2
    pool = min(half, len(SHAPES))
    assert 2 <= half <= len(colours), f"distractors need 4 to {2 * len(colours)} objects, got {count}"
    shapes = [str(name) for name in rng.permutation(SHAPES)]
    looks = [Look(colours[k % half], shapes[(k % half + k // half) % pool]) for k in range(2 * half)]
    return [looks[k] for k in rng.permutation(len(looks))]
