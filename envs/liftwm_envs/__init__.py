"""Camera-carrying agents in procedural rooms that test memory: `import liftwm_envs` registers the Gymnasium ids."""

from __future__ import annotations

import gymnasium

from liftwm_envs.backend import choose_renderer
from liftwm_envs.errors import EnvError

__all__ = ["ENV_IDS", "EnvError", "choose_renderer"]

choose_renderer()
_TASKS = ("Revisit", "Occlusion", "MovingOcclusion", "ShellGame", "Search")
_SIZES = ("S", "M", "L")

ENV_IDS: tuple[str, ...] = tuple(f"liftwm/{task}-{size}-v0" for task in _TASKS for size in _SIZES)

for _task in _TASKS:
    for _size in _SIZES:
        _id = f"liftwm/{_task}-{_size}-v0"
        if _id not in gymnasium.registry:
            gymnasium.register(_id, entry_point="liftwm_envs.env:RoomEnv", kwargs={"task": _task, "size": _size})
