"""What carries the camera. Both obey velocity commands over real contacts: they bump, they do not pass.

An embodiment adds its body and actuators to a model, and turns a command (a body twist) into actuator controls at every
physics step. Commands are scaled from actions in [-1, 1]; one control step lasts `CONTROL_S`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.actions import DRONE_ACTIONS, WHEELS_ACTIONS
from liftwm_envs.build import AGENT_NAME, TIMESTEP_S, add_camera
from liftwm_envs.engine import mujoco
from liftwm_envs.rooms.scene import AGENT_RADIUS_M
from liftwm_envs.rooms.variation import Variation
from liftwm_envs.settings import STEP_M, STEP_RAD

CONTROL_S = 0.25
SUBSTEPS = round(CONTROL_S / TIMESTEP_S)
MAX_SPEED, MAX_YAW_RATE = STEP_M / CONTROL_S, STEP_RAD / CONTROL_S  # m/s, rad/s


class Embodiment(ABC):
    """One way to carry a camera."""

    action_dim: int
    camera_height_m: float
    discrete_actions: NDArray[np.float32]  # [K, action_dim] the continuous action behind each discrete one

    def __init__(self, variation: Variation) -> None:
        self.variation = variation
        if variation.camera_height_m is not None:
            self.camera_height_m = variation.camera_height_m

    @abstractmethod
    def add_to(self, spec: mujoco.MjSpec, start: tuple[float, float, float]) -> None:
        """Add body, camera and actuators at x, y, yaw."""

    @abstractmethod
    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Look up what `control` needs in a compiled model."""

    @abstractmethod
    def control(self, action: NDArray) -> None:
        """Write the actuator controls for an action [action_dim] given the present state; called before each physics step."""


class WheeledBase(Embodiment):
    """A planar base: action = (forward speed, yaw rate); 0.2 m and 0.3 rad a step at most, + yaw turns left."""

    action_dim = 2
    camera_height_m = 0.75
    discrete_actions = WHEELS_ACTIONS

    def add_to(self, spec: mujoco.MjSpec, start: tuple[float, float, float]) -> None:
        """Slide x, slide y and hinge yaw in world axes, each with a velocity servo of limited force."""
        body = spec.worldbody.add_body(name=AGENT_NAME)
        slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
        body.add_joint(name="x", type=slide, axis=[1, 0, 0])
        body.add_joint(name="y", type=slide, axis=[0, 1, 0])
        body.add_joint(name="yaw", type=hinge, axis=[0, 0, 1])
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[AGENT_RADIUS_M, 0.4, 0],
            pos=[0, 0, 0.45],
            mass=2,
            friction=[0.05, 0, 0],
            condim=3,
            priority=1,
            group=4,
        )
        add_camera(body, self.camera_height_m, self.variation)
        for name, gain, limit in (("x", 160.0, 80.0), ("y", 160.0, 80.0), ("yaw", 4.0, 8.0)):
            _add_velocity_servo(spec, name, gain, limit)
        self._start = start

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """The base's three coordinates come first."""
        self._qpos, self._ctrl = data.qpos, data.ctrl
        data.qpos[:3] = self._start

    def control(self, action: NDArray) -> None:
        """Forward speed along the present heading."""
        yaw = self._qpos[2]
        speed = MAX_SPEED * action[0]
        self._ctrl[0] = speed * math.cos(yaw)
        self._ctrl[1] = speed * math.sin(yaw)
        self._ctrl[2] = MAX_YAW_RATE * action[1]


class Drone(Embodiment):
    """A 6-DoF body without gravity, driven by a velocity servo; roll and pitch are pulled back to level.

    Action = body twist (forward, left, up, roll, pitch, yaw rates): at most 0.2 m forward or sideways, 0.1 m up, 0.3 rad of yaw
    and 0.1 rad of roll or pitch a step.
    """

    action_dim = 6
    camera_height_m = 1.0
    limits = np.array([MAX_SPEED, MAX_SPEED, MAX_SPEED / 2, 0.4, 0.4, MAX_YAW_RATE])
    discrete_actions = DRONE_ACTIONS
    _mass_kg, _inertia, _settle_s = 1.0, 0.02, 0.04

    def add_to(self, spec: mujoco.MjSpec, start: tuple[float, float, float]) -> None:
        """A free body; forces are applied to it directly, as its rotors would."""
        body = spec.worldbody.add_body(name=AGENT_NAME, gravcomp=1.0)
        body.pos = [start[0], start[1], self.camera_height_m]
        body.quat = [math.cos(start[2] / 2), 0, 0, math.sin(start[2] / 2)]
        body.mass, body.inertia, body.explicitinertial = self._mass_kg, [self._inertia] * 3, True
        body.ipos, body.iquat = [0, 0, 0], [1, 0, 0, 0]
        body.add_freejoint()
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[AGENT_RADIUS_M, 0, 0], friction=[0.05, 0, 0], condim=3, priority=1, group=4
        )
        add_camera(body, 0.0, self.variation)

    def bind(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """The drone's seven coordinates and six velocities come first."""
        self._qpos, self._qvel, self._force = data.qpos, data.qvel, data.qfrc_applied

    def control(self, action: NDArray) -> None:
        """Forces that close the gap to the commanded twist. MuJoCo's linear velocity is in the world, angular in the body."""
        w, x, y, z = self._qpos[3:7]
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        twist = self.limits * action
        level = np.array([-rotation[2, 1], rotation[2, 0], 0.0])  # axis, in the body, about which its z turns back up
        linear = (rotation @ twist[:3] - self._qvel[:3]) * (self._mass_kg / self._settle_s)
        angular = (twist[3:] + 1.5 * level - self._qvel[3:6]) * (self._inertia / self._settle_s)
        self._force[:3] = np.clip(linear, -8.0, 8.0)
        self._force[3:6] = np.clip(angular, -2.0, 2.0)


def _add_velocity_servo(spec: mujoco.MjSpec, joint: str, gain: float, limit: float) -> None:
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype, actuator.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = gain
    actuator.biasprm[2] = -gain
    actuator.forcelimited, actuator.forcerange = True, [-limit, limit]


EMBODIMENTS: dict[str, type[Embodiment]] = {"wheels": WheeledBase, "drone": Drone}
