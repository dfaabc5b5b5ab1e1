"""The mujoco module, imported with its OpenGL chosen; every module here takes it from this one."""

from __future__ import annotations

import os

from liftwm_envs.backend import GL_HELP, choose_renderer
from liftwm_envs.errors import EnvError

choose_renderer()

try:
    import mujoco
except Exception as error:  # mujoco lets through whatever its GL loader raises
    name = os.environ.get("MUJOCO_GL", "")
    remedy = "unset MUJOCO_GL and it is chosen here, or " if name else ""
    raise EnvError(f"mujoco cannot start with MUJOCO_GL={name!r}: {error}; {remedy}{GL_HELP}") from error

__all__ = ["mujoco"]
