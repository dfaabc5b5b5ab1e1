"""Off-screen rendering: one GL context per process, colour and depth in one pass, objects' ids in a smaller one.

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
from liftwm_envs.build import OBJECT_GROUP
from liftwm_envs.engine import mujoco
from liftwm_envs.errors import EnvError

_shared: dict[str, Any] = {"pid": None, "context": None, "spare": []}
_MAX_SPARE = 8  # as many kinds of scene as follow each other in a collection: they differ in the number of meshes
_SEGMENT, _IDCOLOR = int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)


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
        # What a parent process left is kept, never used: its destructor would delete this process's GL objects.
        _shared.update(pid=os.getpid(), context=context, spare=[], inherited=_shared["spare"])
        atexit.register(_free_shared)  # after mujoco registered its own clean-up, so that ours runs first
        return
    _shared["context"].make_current()


def _free_shared() -> None:
    """Free the context while the GL library is still loaded."""
    if _shared["context"] is not None and _shared["pid"] == os.getpid():
        _shared["context"].make_current()
        for target in _shared["spare"]:
            target.context.free()
        _shared["context"].free()
    _shared.update(pid=None, context=None, spare=[])


def describe_renderer() -> str:
    """What renders here, e.g. "egl, llvmpipe (LLVM 15.0.6, 256 bits)".

    Raises:
        EnvError: there is no off-screen GL.
    """
    _make_current()
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER)
    return f"{os.environ.get('MUJOCO_GL', 'default')}, {name.decode() if name else 'unknown'}"


class _Target:
    """GL objects of one model and image size, kept for the next model that needs the same number and sizes of them.

    Making them anew costs as much as ten frames. What differs between the models, images and meshes, is uploaded again.
    """

    def __init__(self, model: mujoco.MjModel, key: tuple) -> None:
        self.key = key
        self.scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 32)
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG", "ADDITIVE", "SEGMENT", "IDCOLOR"):
            self.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._images = _images(model)

    def upload(self, model: mujoco.MjModel) -> None:
        """Take over the images and meshes of another model of the same key."""
        for number, image in enumerate(_images(model)):
            if image != self._images[number]:
                mujoco.mjr_uploadTexture(model, self.context, number)
                self._images[number] = image
        for number in range(model.nmesh):
            mujoco.mjr_uploadMesh(model, self.context, number)


def _images(model: mujoco.MjModel) -> list[bytes]:
    """The content of every texture."""
    ends = [*model.tex_adr[1:].tolist(), len(model.tex_data)]
    return [model.tex_data[begin:end].tobytes() for begin, end in zip(model.tex_adr.tolist(), ends, strict=True)]


def _take_target(model: mujoco.MjModel) -> _Target:
    """A spare target that suits the model, or a new one. The context must be current."""
    textures = (model.tex_type, model.tex_height, model.tex_width, model.tex_nchannel)
    materials = (model.mat_texid, model.mat_texuniform, model.mat_texrepeat)
    structure = tuple(part.tobytes() for part in (*textures, *materials))
    key = (structure, model.nmesh, model.vis.global_.offwidth, model.vis.global_.offheight)
    spare: list[_Target] = _shared["spare"]
    found = next((target for target in spare if target.key == key and target.scene.maxgeom >= model.ngeom + 8), None)
    if found is None:
        return _Target(model, key)
    spare.remove(found)
    found.upload(model)
    return found


class Renderer:
    """Frames of one camera of one model."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, height: int, width: int, camera: int) -> None:
        _make_current()
        self._model, self._data = model, data
        self._target: _Target | None = _take_target(model)
        self._scene, self._context = self._target.scene, self._target.context
        self._pid = os.getpid()
        self._option, self._objects_only = mujoco.MjvOption(), mujoco.MjvOption()
        self._objects_only.geomgroup[:] = 0
        self._objects_only.geomgroup[OBJECT_GROUP] = 1
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._rgb = np.zeros((height, width, 3), np.uint8)
        self._ids = np.zeros((height, width, 3), np.uint8)
        self._depth, self._ids_depth = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        near, far = (float(v) * model.stat.extent for v in (model.vis.map.znear, model.vis.map.zfar))
        self._depth_scale, self._depth_shift = np.float32(near * far / (far - near)), np.float32(near / (far - near))
        self._far = 0.99 * far
        self._lookup: NDArray[np.uint16] | None = None

    def rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colour [H, W, 3] and z-depth in metres [H, W] (0: nothing hit), of one render pass. Fresh arrays."""
        self._bind()
        self.draw()
        return self.last_rgb_depth()

    def last_rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """What `rgb_depth` gave last, in fresh arrays, without drawing."""
        return self._rgb[::-1].copy(), self._metres()

    def segmentation(self) -> NDArray[np.uint16]:
        """Object ids of the last `rgb_depth` [H, W]: 0 structure, objects from 1. A fresh array."""
        self._bind()
        self.draw_ids()
        return self._object_ids()

    def frame(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint16]]:
        """`rgb_depth` and `segmentation` of one instant."""
        rgb, depth = self.rgb_depth()
        self.draw_ids()
        return rgb, depth, self._object_ids()

    def draw(self) -> None:
        """The colour-and-depth pass alone, into this renderer's buffers. The context must be bound, as any frame leaves it."""
        self._update(self._option)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)

    def draw_ids(self) -> None:
        """The segmentation pass alone, of what `draw` drew: objects, without the structure that may stand before them.

        `_object_ids` tells by depth what is hidden. Where pixels are drawn in software, that takes half the time of a pass
        with everything in it.
        """
        self._update(self._objects_only)
        self._render_ids()
        mujoco.mjr_readPixels(self._ids, self._ids_depth, self._viewport, self._context)

    def draw_all_ids(self) -> None:
        """A segmentation pass with everything in it, as a simulator's user would write it: what benchmarks compare with."""
        self._render_ids()
        mujoco.mjr_readPixels(self._ids, None, self._viewport, self._context)

    def _update(self, option: mujoco.MjvOption) -> None:
        every = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, option, None, self._camera, every, self._scene)

    def _render_ids(self) -> None:
        flags = self._scene.flags
        flags[_SEGMENT] = flags[_IDCOLOR] = 1
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        flags[_SEGMENT] = flags[_IDCOLOR] = 0

    def close(self) -> None:
        """Hand this renderer's GL objects on, or free them; harmless twice."""
        target, self._target = self._target, None
        if target is not None and self._pid == os.getpid() == _shared["pid"]:
            spare: list[_Target] = _shared["spare"]
            spare.append(target)
            if len(spare) > _MAX_SPARE:
                _make_current()
                spare.pop(0).context.free()

    def _bind(self) -> None:
        if self._target is None:
            raise EnvError("the environment is closed: make a new one, or call reset() before step()")
        _make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def _metres(self) -> NDArray[np.float32]:
        """What `draw` left of depth, upright: inverts the reversed-z projection. [H, W]"""
        metres = self._depth[::-1] + self._depth_shift
        np.divide(self._depth_scale, metres, out=metres)
        if metres.max() > self._far:
            metres[metres > self._far] = 0.0
        return metres

    def _object_ids(self) -> NDArray[np.uint16]:
        """What `draw_ids` left, upright. [H, W]"""
        if self._lookup is None:
            self._lookup = self._object_of_segment()
        index = self._ids[::-1, :, 0].astype(np.intp)
        if self._scene.ngeom > 254:
            index += 256 * self._ids[::-1, :, 1].astype(np.intp)
        ids = self._lookup.take(index)
        ids *= self._ids_depth[::-1] == self._depth[::-1]  # else something stands before it; GL repeats depths exactly
        return ids

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
