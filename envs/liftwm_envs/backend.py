"""Which OpenGL renders: EGL, else OSMesa. Knows nothing of mujoco, which reads MUJOCO_GL when it is first imported."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys

from liftwm_envs.errors import EnvError

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


def choose_renderer(name: str = "auto") -> str:
    """Set MUJOCO_GL to `name`, or for `auto` keep it if set, else take EGL, else OSMesa. Call before mujoco is imported.

    Returns:
        What MUJOCO_GL is now: "egl", "osmesa", "glfw" or whatever the user set; "" where no off-screen GL was found.

    Raises:
        EnvError: an explicit `name` that is unknown, comes too late, or does not work on this machine.
    """
    if name not in ("auto", "egl", "osmesa"):
        raise EnvError(f"renderer={name}: must be auto, egl or osmesa")
    present = os.environ.get("MUJOCO_GL", "")
    # llvmpipe's threads cost more than they give on small frames with a process per core; read when EGL starts.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if name == "auto":
        if not present:
            found = "egl" if _egl_works() else "osmesa" if ctypes.util.find_library("OSMesa") else ""
            if found:
                os.environ["MUJOCO_GL"] = found
        return os.environ.get("MUJOCO_GL", "")
    if "mujoco" in sys.modules and present != name:
        raise EnvError(
            f"renderer={name}: mujoco is already loaded with MUJOCO_GL={present!r}; set MUJOCO_GL={name} before starting Python"
        )
    if not (_egl_works() if name == "egl" else ctypes.util.find_library("OSMesa")):
        raise EnvError(f"renderer={name}: does not work on this machine; {GL_HELP}")
    os.environ["MUJOCO_GL"] = name
    return name
