"""The Gymnasium environment: a camera-carrying agent in a procedural world, on a task that tests its memory."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.cameras import size_of
from liftwm_envs.embodiments import EMBODIMENTS
from liftwm_envs.errors import EnvError
from liftwm_envs.odometry import Odometry
from liftwm_envs.rooms import photographs
from liftwm_envs.rooms.floor_plan import EVALUATION_SEEDS
from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.scene import AGENT_RADIUS_M, SHAPES, Scene
from liftwm_envs.rooms.variation import check_ranges, draw_variation
from liftwm_envs.settings import STEP_M, settings_of
from liftwm_envs.simulation import Simulation
from liftwm_envs.tasks.moving import MovingOcclusionTask
from liftwm_envs.tasks.search import SearchTask
from liftwm_envs.tasks.shells import ShellGameTask
from liftwm_envs.tasks.task import OcclusionTask, Task

TASKS: dict[str, type[Task]] = {
    "Revisit": Task,
    "Occlusion": OcclusionTask,
    "MovingOcclusion": MovingOcclusionTask,
    "ShellGame": ShellGameTask,
    "Search": SearchTask,
}
GOAL_DIM = 3 + len(SHAPES)
_MOST = 1.0 + 1e-6  # an action's largest number, rounding allowed for


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EnvError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


class Record(UserDict[str, NDArray]):
    """Arrays by name. Not a `dict`, whose arrays Gymnasium's vector environments would put into one of a single shape.

    They hand records on as they are: `info["truth"][k]` is the record of environment k, or None where it gave none.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """The same names, shapes, dtypes and numbers."""
        if not isinstance(other, Record) or self.keys() != other.keys():
            return False
        return all(mine.dtype == other[name].dtype and np.array_equal(mine, other[name]) for name, mine in self.items())


class RoomEnv(gymnasium.Env[dict[str, NDArray], Any]):
    """See docs/tasks.md. One integer seed fixes the scene and everything else.

    Args:
        task, size: set by the Gymnasium id, e.g. `liftwm/Revisit-S-v0`.
        embodiment: wheels, a base that rolls on the floor, or a 6-DoF drone.
        action: continuous in [-1, 1], or discrete.
        image_size: of frames, pixels: one number for square ones, (height, width), or the same as text, "48x64".
        texture: "flat" leaves surfaces without texture, a stress test; "photographs" takes those that come with MiniWorld.
        odometry_noise: standard deviation of the believed motion as a share of the true motion.
        truth: put the hidden state into info["truth"]; for evaluation alone.
        distractors: whether each object shares its colour with another, and its shape with one; by default in size L.
        reward: "sparse" is 1 for each called object that is reached; "progress" adds the metres by which the way shortened.
        max_steps: truncate an episode after so many steps in all; by default only the task's own limit holds.
        render_mode: None or "rgb_array".
        randomise: draw camera, light, colours, patterns and size of the rooms anew in every episode.
        ranges: those of `rooms.variation.RANGES` from which is drawn, or single numbers; with `randomise`, instead of its own.

    Raises:
        EnvError: an option that does not exist, or no GL on this machine.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    body = {"radius_m": AGENT_RADIUS_M, "step_m": STEP_M}  # what planners may know of it, as of anyone's (docs/agents.md)

    def __init__(
        self,
        task: str = "Revisit",
        size: str = "S",
        *,
        embodiment: Literal["wheels", "drone"] = "wheels",
        action: Literal["continuous", "discrete"] = "continuous",
        image_size: int | tuple[int, int] | str = 64,
        texture: Literal["rich", "flat", "photographs"] = "rich",
        odometry_noise: float = 0.0,
        truth: bool = False,
        distractors: bool | None = None,
        reward: Literal["sparse", "progress"] = "sparse",
        max_steps: int | None = None,
        render_mode: str | None = None,
        randomise: bool = False,
        **ranges: float | Sequence[float],
    ) -> None:
        _choice("embodiment", embodiment, tuple(EMBODIMENTS))
        _choice("action", action, ("continuous", "discrete"))
        _choice("texture", texture, ("rich", "flat", "photographs"))
        if texture == "photographs":
            photographs.folder()
        self._ranges = check_ranges(randomise, ranges)
        _choice("reward", reward, ("sparse", "progress"))
        if distractors not in (None, True, False):
            raise EnvError(f"distractors={distractors!r}: must be True, False or None")
        if not 0 <= odometry_noise < math.inf:
            raise EnvError(f"odometry_noise={odometry_noise}: must be at least 0")
        if max_steps is not None and max_steps < 1:
            raise EnvError(f"max_steps={max_steps}: must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise EnvError(f"render_mode={render_mode!r}: must be None or 'rgb_array'")
        self.settings, self.distractors = settings_of(task, size), distractors
        self.task_name, self.size, self.embodiment_name, self.action_kind = task, size, embodiment, action
        self.image_size = size_of(image_size)
        """Height and width of frames, pixels."""
        self.texture, self.truth, self.reward_kind = texture, truth, reward
        self.max_steps, self.render_mode = max_steps, render_mode
        self._odometry_noise = odometry_noise
        self._discrete = EMBODIMENTS[embodiment].discrete_actions if action == "discrete" else None
        self._action_dim = EMBODIMENTS[embodiment].action_dim
        self.action_space = (
            spaces.Discrete(len(self._discrete))
            if self._discrete is not None
            else spaces.Box(-1.0, 1.0, (self._action_dim,), np.float32)
        )
        self.observation_space: spaces.Dict = spaces.Dict(  # type: ignore[assignment]
            {
                "rgb": spaces.Box(0, 255, (*self.image_size, 3), np.uint8),
                "intrinsics": spaces.Box(0.0, 1e5, (9,), np.float32),
                "world_from_camera": spaces.Box(-1e3, 1e3, (16,), np.float32),
                "goal": spaces.Box(0.0, 1.0, (GOAL_DIM,), np.float32),
            }
        )
        self._sim: Simulation | None = None
        self._last_seed = 0
        self._goal = np.zeros(GOAL_DIM, np.float32)

    # -- what policies with privileges, tests and tools read -------------------------------------------------------------
    @property
    def sim(self) -> Simulation:
        """The running simulation.

        Raises:
            EnvError: before the first reset, or after close.
        """
        if self._sim is None:
            raise EnvError("the environment is not running: call reset() first")
        return self._sim

    @property
    def scene(self) -> Scene:
        """The present world."""
        return self.sim.scene

    @property
    def variation(self) -> dict[str, float]:
        """What was drawn for it, by the names of the ranges that are on."""
        return {name: getattr(self.scene.variation, name) for name in self._ranges}

    # -- Gymnasium -------------------------------------------------------------------------------------------------------
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """A new world: that of `seed`, else one drawn from the last seed's half of the seeds (training or evaluation)."""
        super().reset(seed=seed)
        if seed is None:
            split = EVALUATION_SEEDS.start  # scenes of seeds below are for training
            seed = int(self.np_random.integers(split)) + (split if self._last_seed >= split else 0)
        self._last_seed = seed
        self.close()
        rng = np.random.default_rng([seed, 11])
        varied = draw_variation(seed, self._ranges)
        scene = make_scene(seed, self.settings.scene_of(self.texture, self.distractors, varied))
        self._sim = Simulation(scene, self.embodiment_name, self.image_size)
        pace = 1.6 if self.embodiment_name == "drone" and self.action_kind == "discrete" else 1.0
        self.task: Task = TASKS[self.task_name](self.settings, scene, rng, self.image_size, pace)
        self._odometry = Odometry(self._sim.camera_pose(), self._odometry_noise, np.random.default_rng([seed, 13]))
        self._intrinsics = self._sim.intrinsics.ravel()
        self._goal = np.zeros(GOAL_DIM, np.float32)
        self._steps, self._distance, self._reached = 0, math.inf, 0
        return self._observe()

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """One control step (0.25 s).

        Raises:
            EnvError: an action of the wrong shape, out of range or not a number; a step before reset.
        """
        sim = self.sim
        sim.action[:] = self._continuous(action)
        sim.step()
        self._steps += 1
        before, reached = self._distance, self._reached
        observation, info = self._observe()
        success, task = info["success"], self.task
        reward = float(self._reached - reached)
        if self.reward_kind == "progress" and math.isfinite(before):
            reward += before - self._distance
        late = task.goal is not None and self._steps - task.called_at >= task.limit_steps
        terminated = success or task.failed
        truncated = not terminated and (late or (self.max_steps is not None and self._steps >= self.max_steps))
        return observation, reward, terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """The last frame, in render mode "rgb_array". [H, W, 3] uint8"""
        return self._rgb.copy() if self.render_mode == "rgb_array" and self._sim is not None else None

    def close(self) -> None:
        """Free the renderer; harmless twice."""
        if self._sim is not None:
            self._sim.close()
            self._sim = None

    def save(self) -> Callable[[], None]:
        """Remember an episode in its call phase; what it returns goes back there, as often as it is called before a reset."""
        sim, state = self.sim, self.sim.state()
        kept = {"_goal": self._goal, "_steps": self._steps, "_distance": self._distance, "_reached": self._reached}
        task, odometry = copy(self.task), deepcopy(self._odometry)

        def restore() -> None:
            sim.set_state(state)
            sim.render_rgb_depth()
            self.__dict__.update(kept, task=copy(task), _odometry=deepcopy(odometry))

        return restore

    # -- inner -----------------------------------------------------------------------------------------------------------
    def _continuous(self, action: Any) -> NDArray:
        if self._discrete is not None:
            if not self.action_space.contains(action) and not (
                isinstance(action, int | np.integer) and 0 <= action < len(self._discrete)
            ):
                raise EnvError(f"action {action!r}: must be an integer in [0, {len(self._discrete) - 1}]")
            return self._discrete[int(action)]
        try:
            values = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            raise EnvError(f"action {action!r:.60}: must be {self._action_dim} numbers") from None
        if values.shape != (self._action_dim,):
            raise EnvError(f"action of shape {list(values.shape)}: must be [{self._action_dim}]")
        if not all(-_MOST <= value <= _MOST for value in values.tolist()):  # also false for NaN
            raise EnvError(f"action {values.tolist()}: every number must be in [-1, 1]")
        return values

    def _observe(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Render, let the task look, and put observation and info together."""
        sim, task = self.sim, self.task
        visible = np.zeros(len(sim.scene.objects), np.int64)
        if self.truth or (task.goal is None and task.looks(self._steps)):
            rgb, depth, segmentation = sim.render()
            visible = np.bincount(segmentation.ravel(), minlength=len(visible) + 1)[1:]
        else:
            rgb, depth = sim.render_rgb_depth()
        self._rgb = rgb
        pose = sim.camera_pose()
        position = pose[:2, 3].copy()
        if task.goal is None:
            task.update(sim, self._steps, visible)
        else:
            task.visit(sim, self._steps)
        if task.goal is not None:
            self._goal = np.concatenate([task.goal.colour, task.goal.one_hot_shape()])
        success = task.is_success(position, self._steps)
        self._reached = task.targets_reached(success)
        self._distance = 0.0 if success else task.distance_to_goal(position)
        observation: dict[str, NDArray] = {
            "rgb": rgb,
            "intrinsics": self._intrinsics.copy(),
            "world_from_camera": self._odometry.update(pose).astype(np.float32).ravel(),
            "goal": self._goal.copy(),
        }
        info: dict[str, Any] = {
            "phase": task.phase,
            "success": success,
            "position": position,
            "distance_to_goal": self._distance,
            "shortest_path_m": task.shortest_path_m,
            "solvable_by_memory": task.solvable_by_memory,
            "goal_object": 0 if task.goal is None else task.goal.id,
            "targets_reached": self._reached,
            "gap_steps": task.gap,
            "bump": sim.bumped,
        }
        if self.truth:
            info["truth"] = Record(
                depth=depth.astype(np.float16),
                segmentation=segmentation,
                world_from_camera=pose.astype(np.float32),
                object_pose=sim.object_poses(),
                visible_pixels=visible.astype(np.int32),
            )
        return observation, info
