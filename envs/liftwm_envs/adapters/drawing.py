"""Frames of MuJoCo models that are not ours, by our own renderer: colour as MuJoCo draws it, depth, ids, intrinsics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.engine import mujoco
from liftwm_envs.rendering import Renderer, drawing

_SKY_SHARE = 0.6
"""MuJoCo draws the sky between 0.69 and 1 times the far plane's distance away (measured); there is nothing else so far."""


class ModelRenderer(Renderer):
    """Frames of one camera of any model, with shadows, reflections, sky and fog as the model has them."""

    _plain = False

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, height: int, width: int, camera: int, ids: NDArray[np.uint16]
    ) -> None:
        """
        Args:
            model: its buffer for frames is made large enough.
            height, width: of frames, pixels.
            camera: its number in the model.
            ids: object id of every geom, 0 for what is none. [ngeom]
        """
        buffer = model.vis.global_
        buffer.offheight, buffer.offwidth = max(height, buffer.offheight), max(width, buffer.offwidth)
        self._ids_by_geom = ids
        super().__init__(model, data, height, width, camera)
        self._objects_only = self._option
        with drawing():
            self._update(self._option)
        self.intrinsics = self._intrinsics(height, width)
        """Of the frames, pixels. [3, 3]"""
        (fx, _, cx), (_, fy, cy), _ = self.intrinsics
        v, u = np.mgrid[0:height, 0:width] + 0.5
        away = np.sqrt(((u - cx) / fx) ** 2 + ((v - cy) / fy) ** 2 + 1)
        self._sky = (_SKY_SHARE * model.vis.map.zfar * model.stat.extent / away).astype(np.float32)

    def _intrinsics(self, height: int, width: int) -> NDArray[np.float32]:
        """Those of the frustum that MuJoCo drew last, which it may have from a field of view or from a sensor's size."""
        eye = self._scene.camera[0]
        half = eye.frustum_width or 0.5 * (eye.frustum_top - eye.frustum_bottom) * width / height
        fx = 0.5 * width * eye.frustum_near / half
        fy = height * eye.frustum_near / (eye.frustum_top - eye.frustum_bottom)
        cx = 0.5 * width * (1 - eye.frustum_center / half)
        cy = height * eye.frustum_top / (eye.frustum_top - eye.frustum_bottom)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)

    def _metres(self) -> NDArray[np.float32]:
        metres = super()._metres()
        metres[metres > self._sky] = 0.0
        return metres

    def _object_ids(self) -> NDArray[np.uint16]:
        self._lookup = None  # what is transparent now leaves the scene, and renumbers what follows
        return super()._object_ids()

    def _ids_of_geoms(self) -> NDArray[np.uint16]:
        return self._ids_by_geom
