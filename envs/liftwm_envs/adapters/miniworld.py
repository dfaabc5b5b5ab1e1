"""MiniWorld (Farama Foundation, Apache-2.0): rooms and mazes with textures; `miniworld:FourRooms` is MiniWorld-FourRooms-v0.

Needs no display: pyglet is told to draw headless, over EGL. It loads libGLU and libfontconfig, which wheels do not bring.

MiniWorld's y axis points up; here z does: (x, y, z) of MiniWorld is (x, -z, y) here. Depth is read from a buffer of 16 bits
whose near plane lies at 0.04 m: it is exact to 0.02 % of a metre times the square of the distance (4 mm at 5 m).
"""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from liftwm_envs.adapters import unknown
from liftwm_envs.adapters.common import Way, observation, observation_space
from liftwm_envs.cameras import intrinsics_from_fovy, size_of
from liftwm_envs.errors import EnvError

_NEEDS = "it needs OpenGL, libGLU and libfontconfig (Debian: apt install libegl1 libgl1 libglu1-mesa libfontconfig1)"
_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
"""Turns MiniWorld's axes into ours."""
_NEAR_M, _FAR_M = 0.04, 100.0
"""Of the planes between which MiniWorld draws (`MiniWorldEnv.render_obs`)."""
_ENDLESS = ("CollectHealth", "RoomObjects")
"""Tasks that are never done."""
_NEAR_STEPS = 1.1
"""MiniWorld counts what is nearer than the two radii and so many steps as reached (`MiniWorldEnv.near`)."""
_drawn_last: list[weakref.ref[MiniWorld]] = []
"""Whose scenery is in the one OpenGL list that all MiniWorlds of a process compile into."""


def make(task: str, **options: Any) -> MiniWorld:
    """Build one of MiniWorld's tasks, by its id between `MiniWorld-` and `-v0`."""
    try:
        import pyglet

        pyglet.options["headless"] = True
        import miniworld.envs
    except Exception as error:  # pyglet has many, for a library or a display that is not there
        raise EnvError(f"miniworld cannot start: {error}; {_NEEDS}") from error
    if task not in miniworld.envs.__all__:
        raise unknown("task of miniworld", task, miniworld.envs.__all__)
    return MiniWorld(task, **options)


class MiniWorld(gymnasium.Env[dict[str, NDArray], Any]):
    """A task of MiniWorld. Discrete actions: turn left, turn right (15 degrees), forward (0.15 m); some tasks have more.

    The goal is the colour [3] of the box that is to be reached; of Sign box or key, as one of two [2]; of PutNext the colours
    of the two boxes [6]; other tasks have none.

    Args:
        task: for example "FourRooms".
        image_size: of frames, as in our own environments.
        truth: give depth in metres [H, W] and the pose in info["truth"].
        options: of the task itself, for example `domain_rand=True`.

    Raises:
        EnvError: the size is out of bounds, or the task takes no such option.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}
    goal_kind = "attributes"

    def __init__(self, task: str, *, image_size: int | tuple[int, int] | str = 64, truth: bool = False, **options: Any) -> None:
        self.render_mode = "rgb_array"
        self.image_size, self._truth = size_of(image_size), truth
        height, width = self.image_size
        sizes = dict(obs_height=height, obs_width=width, window_height=16, window_width=16)  # no window is looked at
        with contextlib.redirect_stdout(io.StringIO()):  # tells of fewer samples a pixel than it asked for
            env = gymnasium.make(f"MiniWorld-{task}-v0", disable_env_checker=True, **sizes, **options)
        self.world: Any = env.unwrapped
        """MiniWorld's own environment."""
        self._env: gymnasium.Env | None = env
        self._task, self.action_space = task, env.action_space
        self._way: Way | None = None
        self.observation_space = observation_space(self.image_size, len(self._goal()))  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """A new world."""
        super().reset(seed=seed)
        with self._drawing() as env:
            seen, _ = env.reset(seed=seed, options=options)
            _drawn_last[:] = [weakref.ref(self)]
            self._way = self._find_way()
            observation, info = self._observe(seen)
        if self._way is not None:
            info["shortest_path_m"] = info["distance_to_goal"]
        return observation, info | self._success(False)

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """One of MiniWorld's actions."""
        before = self.world.agent.pos
        with self._drawing() as env:
            if _drawn_last[0]() is not self:
                self.world._render_static()
                _drawn_last[:] = [weakref.ref(self)]
            seen, reward, terminated, truncated, _ = env.step(int(action))
            observation, info = self._observe(seen)
        moves = action in (self.world.actions.move_forward, self.world.actions.move_back)
        info |= {"bump": bool(moves and np.array_equal(before, self.world.agent.pos))}
        info |= self._success(bool(terminated) and float(reward) > 0)
        if self._way is not None and info["success"]:
            info["distance_to_goal"] = 0.0
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> NDArray[np.uint8]:
        """The last frame. [H, W, 3]"""
        return self._rgb

    def close(self) -> None:
        """Free the OpenGL context; harmless twice."""
        if self._env is not None:
            self._env.close()
            self.world.shadow_window.close()
            self._env = None

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[gymnasium.Env]:
        """Have this world's OpenGL context on this thread, and leave none behind: another thread, or MuJoCo, may be next."""
        if self._env is None:
            raise EnvError("the environment is closed: make a new one")
        from pyglet.libs.egl import egl

        self.world.shadow_window.switch_to()
        try:
            yield self._env
        finally:
            egl.eglMakeCurrent(self.world.shadow_window.context.display_connection, None, None, None)

    def _observe(self, seen: Any) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """What MiniWorld drew, and what is known of it."""
        self._rgb = seen["obs"] if isinstance(seen, dict) else seen  # Sign puts its goal beside
        pose, agent = self._pose(), self.world.agent
        intrinsics = intrinsics_from_fovy(*self.image_size, agent.cam_fov_y)
        info: dict[str, Any] = {"position": (_UP @ agent.pos)[:2]}
        if self._way is not None:
            info["distance_to_goal"] = self._way.length_from(info["position"])
        if self._truth:
            depth = self.world.obs_fb.get_depth_map(_NEAR_M, _FAR_M)[..., 0]
            depth[depth > 0.99 * _FAR_M] = 0.0
            info["truth"] = {"depth": depth, "world_from_camera": pose.astype(np.float32)}
        return observation(self._rgb, intrinsics, pose, self._goal()), info

    def _pose(self) -> NDArray[np.float64]:
        """OpenCV world_from_camera, of the two vectors that MiniWorld gives to gluLookAt. [4, 4]"""
        agent, pose = self.world.agent, np.eye(4)
        forward = _UP @ agent.cam_dir
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        pose[:3] = np.column_stack([right, np.cross(forward, right), forward, _UP @ agent.cam_pos])
        return pose

    def _box(self) -> Any:
        """The box that is to be reached, where it is the only goal."""
        box = getattr(self.world, "box", None)
        return box if hasattr(box, "color_vec") else None

    def _goal(self) -> NDArray:
        """Attributes of the goal; see the class."""
        world, box = self.world, self._box()
        if box is not None:
            return box.color_vec
        if hasattr(world, "red_box"):  # PutNext
            return np.concatenate([world.red_box.color_vec, world.yellow_box.color_vec])
        return np.eye(2)[world._goal] if hasattr(world, "_goal") else np.zeros(0)  # Sign

    def _success(self, rewarded: bool) -> dict[str, bool]:
        """Whether the task is done; of a box, that it is near. Nothing where a task has no end that counts as one."""
        if self._box() is not None:
            return {"success": bool(self.world.near(self._box()))}
        return {} if self._task in _ENDLESS else {"success": rewarded}

    def _find_way(self) -> Way | None:
        """The shortest way to the box."""
        world, box = self.world, self._box()
        if box is None:
            return None
        things = [e for e in world.entities if e is not world.agent and e is not box]
        discs = np.array([[*(_UP @ e.pos)[:2], e.radius] for e in things]).reshape(-1, 3)
        reach = box.radius + world.agent.radius + _NEAR_STEPS * world.max_forward_step
        walls = np.asarray(world.wall_segs)[:, :, [0, 2]] * [1, -1]
        return Way(walls, discs, world.agent.radius, (_UP @ world.agent.pos)[:2], (_UP @ box.pos)[:2], reach)
