"""Episodes: whose seeds make which scenes, the environments, and their collection."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from embodied_liftwm.config.checks import LAST_SEED, MOST_PROCESSES, bounded, check_field, check_fields, shown
from embodied_liftwm.errors import UserError

EVAL_SEED_OFFSET = 2**30
"""Seeds below belong to training scenes, seeds from here on to evaluation: the two never share a room."""
TEACHER_SEED_OFFSET = 2**31
"""Seeds from here on belong to scenes that the embedded teachers learn from: no world model is trained or judged in them."""
REPORT_SEED = 2**20
"""Evaluation seeds below are for development; reported figures use those from here on, and nothing is tuned on them."""

POLICIES = ("explore", "walk", "tour", "loop", "random", "oracle", "wander")
"""Named explorers of `liftwm collect`; all know liftwm environments, the last and random any other."""
METRES = r"\d{1,4}(?:\.\d{1,9})?"
SUPPORT_POLICY = re.compile(rf"support-(?P<radius>{METRES})(?:-leave-(?P<leave>{METRES})-after-(?P<after>[1-9]\d{{0,5}}))?")
"""`support-R` stays within R metres of its start; `support-R-leave-D-after-N` leaves it after N frames, by D metres."""


def split_of(seed: int) -> Literal["train", "eval", "teacher"]:
    """Whose scene a seed makes."""
    return "train" if seed < EVAL_SEED_OFFSET else "eval" if seed < TEACHER_SEED_OFFSET else "teacher"


def size_word(sides: tuple[int, int]) -> int | str:
    """How a size of frames, (height, width), is written: 64 for square ones, else as in "48x64"."""
    return sides[0] if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"


def sides_of(size: object, name: str = "env_options.image_size") -> tuple[int, int]:
    """Height and width of what `size_word` wrote, or of a pair, in Python or as a list is written; `name` is of its key."""
    parts = size if isinstance(size, tuple | list) else re.split("[x,]", str(size).strip("[]"))
    sides = [int(part) if str(part).isdecimal() else 0 for part in parts]
    if len(sides) > 2 or not all(sides):
        raise UserError(f"{name}={shown(size)}: expected pixels, as in 64, or height x width, as in 48x64")
    return sides[0], sides[-1]


RANDOMISED: dict[str, tuple[float, float]] = {
    "fov_deg": (60.0, 110.0), "camera_height_m": (0.5, 1.2), "camera_pitch_deg": (-10.0, 20.0), "light": (0.6, 1.15),
    "light_contrast": (0.3, 2.5), "light_colour": (0.0, 0.25), "saturation": (0.1, 0.5), "texture_scale": (0.5, 2.0),
    "room_scale": (1.0, 1.4),
}  # fmt: skip
"""What `EnvOptions.randomise` draws from: the same as `liftwm_envs.rooms.variation.RANGES`."""


@dataclass(frozen=True)
class EnvOptions:
    """Keyword arguments of our environments; see docs/tasks.md."""

    embodiment: Literal["wheels", "drone"] = "wheels"  # a wheeled base with odometry, or a 6-DoF drone
    action: Literal["continuous", "discrete"] = "continuous"  # what the action space is
    image_size: int | str = bounded(64, 16, 2048)  # pixels a side of square frames, or height x width, as in 48x64
    texture: Literal["rich", "flat", "photographs"] = "rich"  # flat colours leave depth unidentifiable: a stress test;
    # photographs take those that come with MiniWorld, where it is installed
    odometry_noise: float = bounded(0.0, 0, 1)  # standard deviation of the believed motion, as a share of the true motion
    randomise: bool = False  # draw all that follows anew in every episode, from the ranges named here unless others are given;
    # without it only what is given is on, a range as in 60,110 or a single number
    fov_deg: tuple[float, ...] = bounded((), 20, 140)  # vertical field of view; randomise: 60 to 110
    camera_height_m: tuple[float, ...] = bounded((), 0.3, 1.4)  # above the floor; randomise: 0.5 to 1.2
    camera_pitch_deg: tuple[float, ...] = bounded((), -60, 60)  # how far the camera looks down; randomise: -10 to 20
    light: tuple[float, ...] = bounded((), 0.2, 2)  # brightness, as a factor; randomise: 0.6 to 1.15
    light_contrast: tuple[float, ...] = bounded((), 0, 4)  # of what comes from one side, as a factor; randomise: 0.3 to 2.5
    light_colour: tuple[float, ...] = bounded((), 0, 0.8)  # share of one colour that it lacks; randomise: 0 to 0.25
    saturation: tuple[float, ...] = bounded((), 0.03, 1)  # of walls, floors and ceilings at most; randomise: 0.1 to 0.5
    texture_scale: tuple[float, ...] = bounded((), 0.2, 5)  # size of their patterns, as a factor; randomise: 0.5 to 2
    room_scale: tuple[float, ...] = bounded((), 0.9, 1.8)  # length of rooms, as a factor; randomise: 1 to 1.4

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", size_word(sides_of(self.image_size)))
        for side in self.sides:
            check_field(self.__dataclass_fields__["image_size"], "env_options.image_size", side)
        check_fields(self, "env_options.")
        for name, usual in RANDOMISED.items():
            ends = getattr(self, name) or (usual if self.randomise else ())
            object.__setattr__(self, name, tuple(ends))
            if len(ends) > 2 or list(ends) != sorted(ends):
                expected = "a number, or the least and the most of a range, as in 0.5,1.2"
                raise UserError(f"env_options.{name}={shown(ends)}: expected {expected}")

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the environment, as files keep them: ranges are lists, and what is off is left out, as it was
        before there was any."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in found.items() if value is not False and value != []}

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of frames, pixels."""
        return sides_of(self.image_size)


def present_words(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings that were written down, in today's words: the body `wheels` was called `base`."""
    words = {name: present_words(value) if isinstance(value, dict) else value for name, value in stored.items()}
    return words | {"embodiment": "wheels"} if words.get("embodiment") == "base" else words


@dataclass(frozen=True)
class CollectConfig:
    """`liftwm collect`: episodes from an environment into a dataset folder."""

    env: str = "Revisit-S"  # Task-size, a gymnasium id, miniworld:FourRooms and the like, or my_package:make_env
    env_options: EnvOptions = field(default_factory=EnvOptions)
    out: str = "data/revisit-s"  # dataset folder; an interrupted one is continued
    episodes: int = bounded(100, 1, 1_000_000)  # how many
    steps: int = bounded(96, 1, 100_000)  # actions per episode at most; the environment may end it earlier
    policy: str = "explore"  # explore mixes walk, tour and loop; random; oracle; wander holds actions, and is what explore is
    # in environments that are not ours; support-METRES stays within so far of its start; or my_policy:make_policy
    split: Literal["train", "eval", "teacher"] = "train"  # whose seeds: training, evaluation and the embedded teachers
    # never share a scene
    seed: int = bounded(0, 0, LAST_SEED)  # episode i uses seed + i within its split
    workers: int = bounded(2, 1, MOST_PROCESSES)  # processes, one shard each at a time
    engine: Literal["local", "ray"] = "local"  # what runs them: processes of this machine, or Ray (docs/scaling.md)
    ray_address: str = ""  # ray: a cluster to join, or auto; empty starts Ray on this machine
    episodes_per_shard: int = bounded(16, 1, 10_000)  # episodes packed into one file
    renderer: Literal["auto", "egl", "osmesa"] = "auto"  # which GL; auto takes EGL, else OSMesa

    def __post_init__(self) -> None:
        check_fields(self)
        if self.policy not in POLICIES and ":" not in self.policy and not SUPPORT_POLICY.fullmatch(self.policy):
            known = f"{' | '.join(POLICIES)} | support-METRES, such as support-0.3"
            raise UserError(f"policy={shown(self.policy)}: expected {known} | my_policy:make_policy")
        if self.seed + self.episodes > EVAL_SEED_OFFSET:
            raise UserError(
                f"seed={self.seed} episodes={self.episodes}: every seed from seed to seed + episodes - 1 must be in "
                f"[0, {EVAL_SEED_OFFSET}); split= chooses whose seeds they are"
            )

    @property
    def first_seed(self) -> int:
        """Environment seed of episode 0."""
        return self.seed + {"train": 0, "eval": EVAL_SEED_OFFSET, "teacher": TEACHER_SEED_OFFSET}[self.split]


def training_scenes(collect: CollectConfig) -> None:
    """Raises UserError where the training episodes of a larger command shall be of another split."""
    if collect.split != "train":
        raise UserError(f"collect.split={collect.split}: models are trained with split=train alone; held-out scenes are apart")
