"""Any MuJoCo model with a camera: `mujoco_camera:scene.xml`, an MJCF (or URDF, or .mjb) of yours.

Actions are the model's controls, scaled to [-1, 1]; frames, true depth and segmentation come from our own renderer, as MuJoCo
itself would draw them. There is no task: no goal, no reward, no end but `max_steps`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.adapters import unknown
from liftwm_envs.adapters.common import observation, observation_space
from liftwm_envs.adapters.drawing import ModelRenderer
from liftwm_envs.cameras import size_of, world_from_opencv
from liftwm_envs.engine import mujoco
from liftwm_envs.errors import EnvError

_UNLIMITED = 1.0
"""What -1 and 1 mean for a control without a range, in its own unit."""


def make(task: str, **options: Any) -> MujocoCamera:
    """Build the environment of a model's file."""
    return MujocoCamera(task, **options)


class MujocoCamera(gymnasium.Env[dict[str, NDArray], Any]):
    """A model that is driven by its actuators and seen by one of its cameras.

    A reset puts the model into its first keyframe, where it has one, and moves every hinge and slide that has a range at random
    by a share of it. info["truth"] has depth in metres [H, W], the numbers of bodies that can move [H, W] (0 for the world and
    what is welded to it), the pose, and where these bodies are.

    Args:
        path: of the model's file.
        camera: name of the camera; by default the first on a body that moves, else the first.
        image_size: of frames, as in our own environments.
        truth: give info["truth"].
        control_s: seconds between actions.
        spread: of the joints at the start, as a share of their ranges.
        max_steps: after which an episode is truncated.

    Raises:
        EnvError: the file is none that MuJoCo loads, or has no such camera or no actuator, or an option is out of bounds.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        path: str,
        *,
        camera: str = "",
        image_size: int | tuple[int, int] | str = 64,
        truth: bool = False,
        control_s: float = 0.05,
        spread: float = 0.1,
        max_steps: int | None = None,
    ) -> None:
        self.render_mode = "rgb_array"
        self.image_size, self._truth, self._spread, self._max_steps = size_of(image_size), truth, spread, max_steps
        self.model = _load(path)
        self.data = mujoco.MjData(self.model)
        self.camera = _camera_of(self.model, camera, path)
        self._substeps = round(control_s / self.model.opt.timestep)
        if self._substeps < 1 or not 0 <= spread <= 1:
            least = f"control_s at least the model's timestep of {self.model.opt.timestep:g} s, and spread in [0, 1]"
            raise EnvError(f"mujoco_camera: control_s={control_s:g}, spread={spread:g}: expected {least}")
        limited = self.model.actuator_ctrllimited.astype(bool)[:, None]
        low, high = np.where(limited, self.model.actuator_ctrlrange, [-_UNLIMITED, _UNLIMITED]).T
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self._bodies = [b for b in range(1, self.model.nbody) if self.model.body_weldid[b] != 0]
        ids = np.zeros(self.model.nbody, np.uint16)
        ids[self._bodies] = self._bodies
        self._renderer = ModelRenderer(self.model, self.data, *self.image_size, self.camera, ids[self.model.geom_bodyid])
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self.observation_space = observation_space(self.image_size)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Back to the start, with joints moved a little."""
        super().reset(seed=seed)
        if self.model.nkey:
            mujoco.mj_resetDataKeyframe(self.model, self.data, 0)
        else:
            mujoco.mj_resetData(self.model, self.data)
        self._steps = 0
        for joint in np.flatnonzero(self.model.jnt_limited.astype(bool) & (self.model.jnt_type >= _SLIDE)):
            low, high = self.model.jnt_range[joint]
            at = self.model.jnt_qposadr[joint]
            moved = self.data.qpos[at] + self._spread * (high - low) * self.np_random.uniform(-0.5, 0.5)
            self.data.qpos[at] = np.clip(moved, low, high)
        mujoco.mj_forward(self.model, self.data)
        return self._observe()

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """Hold the controls for `control_s`."""
        wanted = np.asarray(action, np.float64)
        if wanted.shape != self.action_space.shape or not np.isfinite(wanted).all():
            raise EnvError(f"action of shape {list(wanted.shape)}: must be {self.model.nu} numbers in [-1, 1]")
        self.data.ctrl[:] = self._middle + self._half * np.clip(wanted, -1, 1)
        mujoco.mj_step(self.model, self.data, self._substeps)
        mujoco.mj_kinematics(self.model, self.data)  # else bodies and cameras are where they were a time step ago
        mujoco.mj_camlight(self.model, self.data)
        self._steps += 1
        observation, info = self._observe()
        return observation, 0.0, False, self._max_steps is not None and self._steps >= self._max_steps, info

    def render(self) -> NDArray[np.uint8]:
        """The last frame. [H, W, 3]"""
        return self._rgb

    def close(self) -> None:
        """Free the renderer; harmless twice."""
        self._renderer.close()

    def _observe(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Draw, and tell what is known."""
        pose = world_from_opencv(self.data.cam_xpos[self.camera], self.data.cam_xmat[self.camera])
        info: dict[str, Any] = {}
        if self._truth:
            self._rgb, depth, ids = self._renderer.frame()
            objects = [
                {"id": body, "pose": [*self.data.xpos[body], *self.data.xquat[body]], "shape": self.model.body(body).name}
                for body in self._bodies
            ]
            pose32 = pose.astype(np.float32)
            info["truth"] = {"depth": depth, "segmentation": ids, "world_from_camera": pose32, "objects": objects}
        else:
            self._rgb, _ = self._renderer.rgb_depth()
        return observation(self._rgb, self._renderer.intrinsics, pose), info


_SLIDE = int(mujoco.mjtJoint.mjJNT_SLIDE)  # hinges come after it, free and ball joints before


def _load(path: str) -> mujoco.MjModel:
    """The compiled model of a file."""
    if not Path(path).is_file():
        raise EnvError(f"mujoco_camera: there is no file {path!r}: expected the path of an MJCF, mujoco_camera:scene.xml")
    try:
        load = mujoco.MjModel.from_binary_path if path.endswith(".mjb") else mujoco.MjModel.from_xml_path
        model = load(path)
    except ValueError as error:
        raise EnvError(f"mujoco_camera: MuJoCo cannot load {path}: {' '.join(str(error).split())}") from error
    if not model.nu:
        raise EnvError(f"mujoco_camera: {path} has no actuator: actions are a model's controls")
    return model


def _camera_of(model: mujoco.MjModel, name: str, path: str) -> int:
    """The number of a camera: of the first that moves where no name is given."""
    names = [model.cam(k).name for k in range(model.ncam)]
    if not names:
        raise EnvError(f"mujoco_camera: {path} has no camera: add <camera name=...> to a body")
    if name and name not in names:
        raise unknown("camera of mujoco_camera", name, names)
    moves = model.body_weldid[model.cam_bodyid] != 0
    return names.index(name) if name else int(moves.argmax())
