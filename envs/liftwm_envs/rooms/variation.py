"""How worlds may differ beside their plan: camera, light, colours, patterns and size, drawn from ranges by an episode's seed.

Every range is off unless it is given or `randomise` turns all of them on; then the world is the usual one, to the bit.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from liftwm_envs.cameras import FOVY_DEG
from liftwm_envs.errors import EnvError
from liftwm_envs.rooms.textures import MAX_STRUCTURE_SATURATION


@dataclass(frozen=True)
class Variation:
    """What was drawn for one episode; the defaults are the usual world."""

    fov_deg: float = FOVY_DEG  # vertical field of view
    camera_height_m: float | None = None  # None: the body's own
    camera_pitch_deg: float = 0.0  # downwards
    light: float = 1.0  # brightness of all light together, as a factor
    light_contrast: float = 1.0  # of what comes from one side, as a factor; the rest, from everywhere, makes up for it
    light_colour: float = 0.0  # share of the complement of its hue that the light lacks
    saturation: float = MAX_STRUCTURE_SATURATION  # of drawn patterns on walls, floors and ceilings at most
    texture_scale: float = 1.0  # size of patterns, as a factor
    room_scale: float = 1.0  # length of rooms, as a factor
    light_hue: float = 0.0  # in [0, 1)

    @property
    def light_rgb(self) -> np.ndarray:
        """What the light is multiplied with; its strongest channel by `light`. [3]"""
        hue = np.array(colorsys.hsv_to_rgb(self.light_hue, 1.0, 1.0))
        return self.light * (1.0 - self.light_colour * (1.0 - hue))


USUAL = Variation()


class Range(NamedTuple):
    """A range that is drawn from."""

    randomise: tuple[float, float]  # what `randomise` makes of it
    allowed: tuple[float, float]


RANGES: dict[str, Range] = {
    "fov_deg": Range((60.0, 110.0), (20.0, 140.0)),
    "camera_height_m": Range((0.5, 1.2), (0.3, 1.4)),  # below the screens' tops
    "camera_pitch_deg": Range((-10.0, 20.0), (-60.0, 60.0)),
    "light": Range((0.6, 1.15), (0.2, 2.0)),
    "light_contrast": Range((0.3, 2.5), (0.0, 4.0)),
    "light_colour": Range((0.0, 0.25), (0.0, 0.8)),
    "saturation": Range((0.1, 0.5), (0.03, 1.0)),
    "texture_scale": Range((0.5, 2.0), (0.2, 5.0)),
    "room_scale": Range((1.0, 1.4), (0.9, 1.8)),  # in smaller rooms objects leave no room for ways between them
}


def check_ranges(randomise: bool, given: Mapping[str, float | Sequence[float]]) -> dict[str, tuple[float, float]]:
    """The ranges that are on: those given, one number for a fixed value, and with `randomise` all others.

    Raises:
        EnvError: an option that does not exist, or no range within what is allowed.
    """
    found = {name: known.randomise for name, known in RANGES.items()} if randomise else {}
    for name, numbers in given.items():
        if name not in RANGES:
            raise EnvError(f"{name}=: no such option; ranges are {', '.join(RANGES)}")
        least, most = RANGES[name].allowed
        ends = np.atleast_1d(np.asarray(numbers, float)).tolist()
        if ends and not (len(ends) <= 2 and least <= ends[0] <= ends[-1] <= most):
            raise EnvError(f"{name}={numbers}: expected a number or a range, (least, most), in [{least:g}, {most:g}]")
        found |= {name: (ends[0], ends[-1])} if ends else {}
    return found


def draw_variation(seed: int, ranges: Mapping[str, tuple[float, float]]) -> Variation:
    """What one episode's seed draws; each value is the same whichever other ranges are on."""
    names = [field.name for field in fields(Variation)]
    shares = dict(zip(names, np.random.default_rng([seed, 17]).random(len(names)).tolist(), strict=True))
    drawn = {name: low + shares[name] * (high - low) for name, (low, high) in ranges.items()}
    return Variation(**drawn, **({"light_hue": shares["light_hue"]} if "light_colour" in drawn else {}))
