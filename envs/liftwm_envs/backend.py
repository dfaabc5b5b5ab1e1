"""Which OpenGL renders: EGL, else OSMesa. Knows nothing of mujoco, which reads MUJOCO_GL when it is first imported."""

from __future__ import annotations

import ctypes
import ctypes.util
import os

GL_HELP = "install libegl1 and libgl1-mesa-dri (EGL, Debian: apt install libegl1 libgl1-mesa-dri) or libosmesa6 (OSMesa)"
_EGL_PLATFORM_DEVICE = 0x313F


def _egl_works() -> bool:
    """Whether some EGL device initialises, asked as MuJoCo asks."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        address = egl.eglGetProcAddress
        address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        query, display_of = address(b"eglQueryDevicesEXT"), address(b"eglGetPlatformDisplayEXT")
        if not query or not display_of:
            return False
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        query_devices = ctypes.CFUNCTYPE(integer, integer, pointer, pointer)(query)
        get_display = ctypes.CFUNCTYPE(pointer, integer, pointer, pointer)(display_of)
        devices, count = (pointer * 16)(), integer()
        if not query_devices(16, devices, ctypes.byref(count)):
            return False
        egl.eglInitialize.argtypes = [pointer, pointer, pointer]
        displays = (get_display(_EGL_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
        return any(display and egl.eglInitialize(display, None, None) for display in displays)
    except (OSError, AttributeError):
        return False


def choose_renderer() -> None:
    """Leave MUJOCO_GL as it is if set, else set it to EGL, else to OSMesa, where they are. Call before mujoco is imported."""
    # llvmpipe's threads cost more than they give on small frames with a process per core; read when EGL starts.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if not os.environ.get("MUJOCO_GL"):
        found = "egl" if _egl_works() else "osmesa" if ctypes.util.find_library("OSMesa") else ""
        if found:
            os.environ["MUJOCO_GL"] = found
