"""Minari's datasets, read by Minari: SOURCE is a dataset's folder, the one that holds data/.

Observations are a dict with `rgb`, or rgb=KEY; `world_from_camera`, or pose=KEY; `intrinsics`, or intrinsics=fx,fy,cx,cy. A
key inside another dict is written outer/inner, one of infos as infos/KEY. Discrete actions become one-hot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.arrays import build_episode, choose_frames
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError

OURS = "liftwm"
"""Key of what our own exports say beside the format."""


def library() -> Any:
    """Minari.

    Raises:
        UserError: it is not installed.
    """
    try:
        import minari
    except ImportError as error:
        raise UserError(f"Minari is not here ({error}): install the extra `data` of embodied-liftwm") from None
    return minari


def recognises(source: Path) -> bool:
    """Whether a folder is laid out as Minari does."""
    return (source / "data/metadata.json").is_file() or (source / "metadata.json").is_file()


def open_source(source: Path, settings: Settings) -> Source:
    """All episodes of a dataset.

    Raises:
        UserError: Minari is not installed, or cannot read it.
    """
    minari = library()
    try:
        found = minari.MinariDataset(str(source / "data" if (source / "data").is_dir() else source))
        numbers = [int(index) for index in found.episode_indices]
        said = json.loads(found.storage.metadata.get("description", "{}"))[OURS]
    except (KeyError, TypeError, json.JSONDecodeError):
        said = {}
    except Exception as error:  # whatever the library says of a folder that is none of its own
        raise UserError(f"{source}: Minari cannot read it ({(str(error).splitlines() or [type(error).__name__])[0]})") from None
    clips = [(f"episode_{number}", partial(_clip, found, number, source, settings)) for number in numbers]
    return Source({"env": found.id, "source_format": "minari", **said}, clips)


def _clip(dataset: Any, number: int, source: Path, settings: Settings) -> Episode:
    where = f"{source}: episode_{number}"
    try:
        (found,) = dataset.iterate_episodes([number])
    except Exception as error:
        raise UserError(f"{where}: Minari cannot read it ({(str(error).splitlines() or [type(error).__name__])[0]})") from None
    arrays = _flat({"": found.observations} if not isinstance(found.observations, Mapping) else found.observations)
    infos = _flat(found.infos or {})
    arrays |= {f"infos/{name}": array for name, array in infos.items()}
    arrays |= {name: array for name, array in infos.items() if name.startswith("truth/")}
    arrays |= {"reward": found.rewards, "terminated": found.terminations, "truncated": found.truncations}
    arrays["action"] = _action(found.actions, dataset.action_space, where)
    words = json.loads(infos[OURS][0]) if OURS in infos else {"meta": {"episode": number}}
    return build_episode(choose_frames(arrays, settings, where), settings.size, where, **words)


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def _action(actions: Any, space: spaces.Space, where: str) -> np.ndarray:
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[np.asarray(actions, np.int64) - int(space.start)]
    if not isinstance(actions, np.ndarray):
        raise UserError(f"{where}: actions of a {type(space).__name__} space: expected a Box or Discrete one")
    return actions.reshape(len(actions), -1)
