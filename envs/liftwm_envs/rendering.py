"""Off-screen rendering: one GL context per process, colour and depth in one pass, segmentation in one more.

All renderers of a process share one GL context: re-creating environments never frees another's objects, which is how black
frames come about. A forked child makes a context of its own.
"""

from __future__ import annotations

import atexit
import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.backend import GL_HELP
from liftwm_envs.engine import mujoco
from liftwm_envs.errors import EnvError

_shared: dict[str, Any] = {"pid": None, "context": None}


def _context_class() -> type:
    """The GL context class of MUJOCO_GL, also where mujoco was imported before MUJOCO_GL was chosen."""
    name = os.environ.get("MUJOCO_GL", "").lower()
    return importlib.import_module(f"mujoco.{name}").GLContext if name in ("egl", "osmesa") else mujoco.GLContext


def _make_current() -> None:
    """Make the process's GL context current on this thread, creating it on first use."""
    if _shared["pid"] != os.getpid():
        try:
            context = _context_class()(64, 64)
            context.make_current()
        except Exception as error:
            name = os.environ.get("MUJOCO_GL", "")
            raise EnvError(f"no off-screen OpenGL (MUJOCO_GL={name!r}): {error}; {GL_HELP}") from error
        _shared.update(pid=os.getpid(), context=context)
        atexit.register(_free_shared)  # after mujoco registered its own clean-up, so that ours runs first
        return
    _shared["context"].make_current()


def _free_shared() -> None:
    """Free the context while the GL library is still loaded."""
    if _shared["context"] is not None and _shared["pid"] == os.getpid():
        _shared["context"].free()
    _shared.update(pid=None, context=None)


def describe_renderer() -> str:
    """What renders here, e.g. "egl, llvmpipe (LLVM 15.0.6, 256 bits)".

    Raises:
        EnvError: there is no off-screen GL.
    """
    _make_current()
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER)
    return f"{os.environ.get('MUJOCO_GL', 'default')}, {name.decode() if name else 'unknown'}"


class Renderer:
    """Frames of one camera of one model. Call `rgb_depth` first, then, if wanted, `segmentation` of the same instant."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, height: int, width: int, camera: int) -> None:
        _make_current()
        self._model, self._data = model, data
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 8)
        self._context: mujoco.MjrContext | None = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self._pid = os.getpid()
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._rgb = np.zeros((height, width, 3), np.uint8)
        self._ids = np.zeros((height, width, 3), np.uint8)
        self._depth = np.zeros((height, width), np.float32)
        near, far = (float(v) * model.stat.extent for v in (model.vis.map.znear, model.vis.map.zfar))
        self._depth_scale, self._depth_shift = near * far / (far - near), near / (far - near)
        self._far = 0.99 * far
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG", "ADDITIVE", "SEGMENT", "IDCOLOR"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._lookup: NDArray[np.uint16] | None = None

    def rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colour [H, W, 3] and z-depth in metres [H, W] (0: nothing hit), of one render pass. Fresh arrays."""
        self._bind()
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)
        metres = self._depth_scale / (self._depth[::-1] + self._depth_shift)  # inverts the reversed-z projection
        metres[metres > self._far] = 0.0
        return self._rgb[::-1].copy(), metres

    def segmentation(self) -> NDArray[np.uint16]:
        """Object ids of the last `rgb_depth` [H, W]: 0 structure, objects from 1."""
        self._bind()
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        mujoco.mjr_readPixels(self._ids, None, self._viewport, self._context)
        if self._lookup is None:
            self._lookup = self._object_of_segment()
        ids = self._ids[::-1]
        return self._lookup[ids[..., 0].astype(np.intp) + 256 * ids[..., 1].astype(np.intp)]

    def close(self) -> None:
        """Free this renderer's GL objects; harmless twice."""
        if self._context is not None and self._pid == os.getpid() == _shared["pid"]:
            _make_current()
            self._context.free()
        self._context = None

    def _bind(self) -> None:
        if self._context is None:
            raise EnvError("the environment is closed: make a new one, or call reset() before step()")
        _make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def _object_of_segment(self) -> NDArray[np.uint16]:
        """Table from a rendered id (scene geom's `segid` + 1; 0 is background) to the object id of that geom's body."""
        of_body = [self._model.body(b).name for b in range(self._model.nbody)]
        table = np.zeros(2**16, np.uint16)
        for k in range(self._scene.ngeom):
            geom = self._scene.geoms[k]
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                name = of_body[self._model.geom_bodyid[geom.objid]]
                if name.startswith("object"):
                    table[geom.segid + 1] = int(name.removeprefix("object"))
        return table
