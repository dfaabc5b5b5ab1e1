"""Other people's worlds, in the form that all of the project understands: `make("miniworld:FourRooms")`.

Each is a `gymnasium.Env` whose observation is a dict of `rgb` [H, W, 3] uint8, `intrinsics` [9] and `world_from_camera` [16]
float32 (OpenCV, world z up, metres), and `goal`, a vector of attributes, where the task has one. `info` has `position`,
`success` and distances where the world can tell them, and `truth` where it was asked for. docs/worlds.md has a section a world.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from typing import Any

import gymnasium

from liftwm_envs.errors import EnvError

__all__ = ["WORLDS", "is_name", "make"]

WORLDS: dict[str, tuple[str, str]] = {
    "miniworld": ("miniworld", "miniworld"),
    "memory_maze": ("memory_maze", "memory_maze"),
    "vizdoom": ("vizdoom", "vizdoom"),
    "mujoco_camera": ("mujoco", ""),
}
"""What stands before the colon, and is the module here -> the package that is needed, and the extra that brings it."""


def is_name(name: str) -> bool:
    """Whether `name` is of a world of this folder, as `miniworld:FourRooms` is; that there is such a one is not checked."""
    return name.partition(":")[0] in WORLDS and ":" in name


def unknown(what: str, given: str, there: Iterable[str]) -> EnvError:
    """An error that names what is like `given` among what there is."""
    near = difflib.get_close_matches(given, there := sorted(there), 1, 0.5)
    return EnvError(f"unknown {what} '{given}': " + (f"did you mean '{near[0]}'?" if near else f"there are {', '.join(there)}"))


def make(name: str, **options: Any) -> gymnasium.Env:
    """Build a world by name.

    Args:
        name: `world:task`, for example `miniworld:FourRooms`; of `mujoco_camera` the task is the path of a model.
        options: `image_size`, `truth`, and what the world itself takes; its module says which.

    Raises:
        EnvError: there is no such world or task, its package is missing, or it takes no such option.
    """
    world, _, task = name.partition(":")
    if world not in WORLDS:
        raise unknown("world", world, WORLDS)
    package, extra = WORLDS[world]
    if importlib.util.find_spec(package) is None:
        raise EnvError(f"{name} needs the package {package}: pip install 'embodied-liftwm[{extra}]'")
    module = importlib.import_module(f"liftwm_envs.adapters.{world}")
    try:
        return module.make(task, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise EnvError(f"{name}: {error}") from error
