"""Off-screen rendering: one GL context per process, colour and depth in one pass, objects' ids in a smaller one.

All renderers of a process share one GL context: re-creating environments never frees another's objects, which is how black
frames come about. A context is current on one thread at most, so every drawing takes it, and gives it back when it is done
(a few us): environments may be made, drawn and closed in any threads, one of which draws at a time. A forked child makes a
context of its own, and its renderers make their GL objects anew.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.backend import GL_HELP
from liftwm_envs.build import OBJECT_GROUP
from liftwm_envs.engine import mujoco
from liftwm_envs.errors import EnvError

_MAX_SPARE = 8  # as many kinds of scene as follow each other in a collection: they differ in the number of meshes
_SEGMENT, _IDCOLOR = int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)
_EGL_OPENGL_API = 0x30A2
_EXIT_WAIT_S = 5.0

_lock = threading.RLock()
_thread = threading.local()
_shared: dict[str, Any] = {"context": None, "switches": None, "depth": 0, "spare": [], "inherited": []}
_shared |= {"ending": False, "ended": False}
_busy: set[int] = set()  # threads `at_work`
_targets: weakref.WeakSet[_Target] = weakref.WeakSet()  # every one of this process
_returned: deque[_Target] = deque()  # by renderers that ended, in whatever thread; spare from the next drawing on


@contextmanager
def drawing() -> Iterator[None]:
    """Have the process's GL context on this thread alone; nested, it costs nothing.

    Raises:
        EnvError: there is no off-screen GL, or the process is ending.
    """
    with _lock:
        if not _shared["depth"]:
            _make_current()
        _shared["depth"] += 1
        try:
            yield
        finally:
            _shared["depth"] -= 1
            if not _shared["depth"]:
                _shared["switches"][1]()


def _make_current() -> None:
    """Make the context current, creating it on first use."""
    if _shared["ended"]:
        raise EnvError("the process is ending: nothing is drawn any more")
    try:
        if _shared["context"] is None:
            context = _context_class()(64, 64)
            _shared.update(context=context, switches=_switches_of(context))
            atexit.register(_free_shared)  # after mujoco registered its own clean-up, so that ours runs first
        _shared["switches"][0]()
    except Exception as error:
        name = os.environ.get("MUJOCO_GL", "")
        raise EnvError(f"no off-screen OpenGL (MUJOCO_GL={name!r}): {error}; {GL_HELP}") from error
    while _returned:
        _shared["spare"].append(_returned.popleft())
    while len(_shared["spare"]) > _MAX_SPARE:
        _shared["spare"].pop(0).context.free()


def _context_class() -> type:
    """The GL context class of MUJOCO_GL, also where mujoco was imported before MUJOCO_GL was chosen."""
    name = os.environ.get("MUJOCO_GL", "").lower()
    return importlib.import_module(f"mujoco.{name}").GLContext if name in ("egl", "osmesa") else mujoco.GLContext


def _switches_of(context: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """What makes a context current on this thread, and what takes it off again."""
    module: Any = sys.modules[type(context).__module__]
    if module.__name__ == "mujoco.egl":
        return _egl_switches(module.EGL_DISPLAY, context._context)
    if module.__name__ == "mujoco.osmesa":
        return context.make_current, lambda: module.osmesa.OSMesaMakeCurrent(None, None, module.GL.GL_FLOAT, 0, 0)
    if module.__name__ == "mujoco.glfw":
        return context.make_current, lambda: module.glfw.make_context_current(None)
    return context.make_current, lambda: None  # CGL lets a context be current on several threads


def _egl_switches(*handles: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """By the library itself, in 2 us: through PyOpenGL it takes 11."""
    library = ctypes.CDLL("libEGL.so.1")
    library.eglMakeCurrent.argtypes = [ctypes.c_void_p] * 4
    display, context = (ctypes.cast(handle, ctypes.c_void_p) for handle in handles)

    def switch(to: ctypes.c_void_p | None) -> None:
        if not hasattr(_thread, "has_api"):  # each begins with OpenGL ES, and would give back nothing else
            library.eglBindAPI(_EGL_OPENGL_API)
            _thread.has_api = True
        if not library.eglMakeCurrent(display, None, None, to):
            raise EnvError(f"EGL cannot switch its context (error {library.eglGetError():#x})")

    return partial(switch, context), partial(switch, None)


@contextmanager
def at_work() -> Iterator[None]:
    """A block that the end of the process waits for: Python stops daemon threads in the midst of MuJoCo, which crashes it."""
    me = threading.get_ident()
    _busy.add(me)
    try:
        if _shared["ending"] and threading.current_thread() is not threading.main_thread():
            _busy.discard(me)
            threading.Event().wait()  # for the end
        yield
    finally:
        _busy.discard(me)


def _free_shared() -> None:
    """Free everything while the GL library is still loaded. The lock is kept: daemon threads wait there for the end."""
    _shared["ending"], give_up = True, time.monotonic() + _EXIT_WAIT_S
    while _busy - {threading.get_ident()} and time.monotonic() < give_up:
        time.sleep(0.001)
    if not _lock.acquire(timeout=_EXIT_WAIT_S):
        return
    _shared["ended"] = True
    if _shared["context"] is not None:
        _shared["switches"][0]()
        for target in [*_targets]:
            target.context.free()
        _shared["context"].free()


def _start_over() -> None:
    """In a forked child: what the parent had is kept, never used: its destructors would delete this process's GL objects.

    Nor does MuJoCo end the display with the child: that waits for threads of the parent's driver, for ever.
    """
    global _lock, _thread
    atexit.unregister(_free_shared)
    if (end_display := getattr(sys.modules.get("mujoco.egl"), "_terminate_display", None)) is not None:
        atexit.unregister(end_display)
    _lock, _thread = threading.RLock(), threading.local()
    inherited = [*_shared["inherited"], _shared["context"], *_targets]
    _shared.update(context=None, switches=None, depth=0, spare=[], inherited=inherited)
    _targets.clear()
    _returned.clear()
    _busy.clear()


# No thread draws while the process is copied: the child would find GL half-way through a frame.
os.register_at_fork(before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_start_over)


def describe_renderer() -> str:
    """What renders here, e.g. "egl, llvmpipe (LLVM 15.0.6, 256 bits)".

    Raises:
        EnvError: there is no off-screen GL.
    """
    with drawing():
        from OpenGL import GL

        name = GL.glGetString(GL.GL_RENDERER)
    return f"{os.environ.get('MUJOCO_GL', 'default')}, {name.decode() if name else 'unknown'}"


class _Target:
    """GL objects of one model and image size, kept for the next model that needs the same number and sizes of them.

    Making them anew costs as much as ten frames. What differs between the models, images and meshes, is uploaded again.
    """

    def __init__(self, model: mujoco.MjModel, key: tuple, plain: bool) -> None:
        self.key = key
        self.scene = mujoco.MjvScene(model, maxgeom=2 * model.ngeom + 32)
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG", "ADDITIVE") if plain else ():
            self.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._images = _images(model)
        _targets.add(self)

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


def _take_target(model: mujoco.MjModel, plain: bool) -> _Target:
    """A spare target that suits the model, or a new one. The context must be current."""
    textures = (model.tex_type, model.tex_height, model.tex_width, model.tex_nchannel)
    materials = (model.mat_texid, model.mat_texuniform, model.mat_texrepeat)
    structure = tuple(part.tobytes() for part in (*textures, *materials))
    key = (plain, structure, model.nmesh, model.vis.global_.offwidth, model.vis.global_.offheight)
    spare: list[_Target] = _shared["spare"]
    found = next((target for target in spare if target.key == key and target.scene.maxgeom >= model.ngeom + 8), None)
    if found is None:
        return _Target(model, key, plain)
    spare.remove(found)
    found.upload(model)
    return found


class Renderer:
    """Frames of one camera of one model. Used by one thread at a time, of which there may be several in turn."""

    _target: _Target | None = None
    _plain = True  # without shadows, reflections, sky and fog

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, height: int, width: int, camera: int) -> None:
        self._model, self._data = model, data
        with drawing():
            self._take_target()
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

    def _take_target(self) -> None:
        self._target, self._pid = _take_target(self._model, self._plain), os.getpid()
        self._scene, self._context = self._target.scene, self._target.context

    def rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colour [H, W, 3] and z-depth in metres [H, W] (0: nothing hit), of one render pass. Fresh arrays."""
        self.draw()
        return self.last_rgb_depth()

    def last_rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """What `rgb_depth` gave last, in fresh arrays, without drawing."""
        return self._rgb[::-1].copy(), self._metres()

    def segmentation(self) -> NDArray[np.uint16]:
        """Object ids of the last `rgb_depth` [H, W]: 0 structure, objects from 1. A fresh array."""
        self.draw_ids()
        return self._object_ids()

    def frame(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint16]]:
        """`rgb_depth` and `segmentation` of one instant."""
        with drawing():
            self.draw()
            self.draw_ids()
        return *self.last_rgb_depth(), self._object_ids()

    def draw(self) -> None:
        """The colour-and-depth pass alone, into this renderer's buffers."""
        with self._bound():
            self._update(self._option)
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)

    def draw_ids(self) -> None:
        """The segmentation pass alone, of what `draw` drew: objects, without the structure that may stand before them.

        `_object_ids` tells by depth what is hidden. Where pixels are drawn in software, that takes half the time of a pass
        with everything in it.
        """
        with self._bound():
            self._update(self._objects_only)
            self._render_ids()
            mujoco.mjr_readPixels(self._ids, self._ids_depth, self._viewport, self._context)

    def draw_all_ids(self) -> None:
        """A segmentation pass with everything in it, as a simulator's user would write it: what benchmarks compare with."""
        with self._bound():
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
        """Hand this renderer's GL objects on; harmless twice, and in any thread."""
        self._hand_on()
        if len(_returned) > _MAX_SPARE:
            with drawing():
                pass  # frees what is too much

    def __del__(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        target, self._target = self._target, None
        if target is not None and self._pid == os.getpid():
            _returned.append(target)  # and nothing else: this may run in the midst of a drawing

    @contextmanager
    def _bound(self) -> Iterator[None]:
        """`drawing` into this renderer's own GL objects."""
        if self._target is None:
            raise EnvError("the environment is closed: make a new one, or call reset() before step()")
        with drawing():
            if self._pid != os.getpid():
                self._take_target()
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
            yield

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
        if self._plain:
            ids *= self._ids_depth[::-1] == self._depth[::-1]  # else something stands before it; GL repeats depths exactly
        return ids

    def _object_of_segment(self) -> NDArray[np.uint16]:
        """Table from a rendered id (scene geom's `segid` + 1; 0 is background) to the object id of that geom's body."""
        ids, table = self._ids_of_geoms(), np.zeros(2**16, np.uint16)
        for k in range(self._scene.ngeom):
            geom = self._scene.geoms[k]
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = ids[geom.objid]
        return table

    def _ids_of_geoms(self) -> NDArray[np.uint16]:
        """Object id of every geom, which the name of its body says; 0 structure. [ngeom]"""
        names = [self._model.body(body).name for body in self._model.geom_bodyid]
        return np.array([int(name[6:]) if name.startswith("object") else 0 for name in names], np.uint16)
