"""Memory Maze (Pasukonis et al. 2023, arXiv:2210.13383, MIT): mazes in which a target is called by its colour, again and again.

`memory_maze:9x9`, `11x11`, `13x13`, `15x15`. It needs dm_control, which does not import beside mujoco 4: where mujoco 4 is
installed, put a folder with mujoco 3 and Memory Maze first on PYTHONPATH (docs/worlds.md).

Its standard picture has a border of two pixels in the colour of the target. Here the goal says that colour, and the picture is
drawn without a border, by our own renderer: the same pixels elsewhere as Memory Maze's, at any size. Cells are 2 m wide, walls
1.5 m high; the camera sees 80 degrees from 0.90 m above the floor, pitched 5.7 degrees down.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.adapters import unknown
from liftwm_envs.adapters.common import Way, observation, observation_space
from liftwm_envs.adapters.drawing import ModelRenderer
from liftwm_envs.cameras import size_of, world_from_opencv
from liftwm_envs.errors import EnvError

SIZES = ("9x9", "11x11", "13x13", "15x15")
_RADIUS_M, _REACH_M = 0.2, 0.775
"""Of the rolling ball that carries the camera; between its centre and a target's in the plan when they touch (measured)."""


def make(task: str, **options: Any) -> MemoryMaze:
    """Build a maze of one of the four sizes."""
    if task not in SIZES:
        raise unknown("size of memory_maze", task, SIZES)
    return MemoryMaze(task, **options)


def _tasks() -> Any:
    """Memory Maze's module of tasks; what its packages say when they are imported is kept from the terminal."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import absl.logging
            from memory_maze import tasks
    except Exception as error:  # dm_control beside mujoco 4: attributes that are no longer there
        import mujoco

        needs = f"it needs dm_control, which needs mujoco below 4, and found {mujoco.__version__}: docs/worlds.md says how"
        raise EnvError(f"memory_maze cannot start: {error}; {needs}") from error
    absl.logging.set_verbosity(absl.logging.ERROR)  # else every reset warns that the walker cannot be given a velocity
    return tasks


class MemoryMaze(gymnasium.Env[dict[str, NDArray], Any]):
    """A maze with targets of different colours. Six discrete actions, at 4 Hz: nothing, forward, left, right, and both.

    The goal is the colour [3] of the target that is called. Touching it gives a reward of 1, and another is called. Success is
    to have touched `targets` of them, which ends the episode; with None it lasts its time, and the first is success.

    Args:
        task: for example "9x9".
        image_size: of frames, as in our own environments; Memory Maze's own is 64.
        truth: give depth in metres [H, W], the targets' ids [H, W], their places and the pose in info["truth"].
        targets: how many targets make an episode.
        options: of Memory Maze itself, for example `good_visibility=True`.

    Raises:
        EnvError: the size is out of bounds, there is no such option, or dm_control cannot be imported.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    goal_kind = "attributes"

    def __init__(
        self,
        task: str,
        *,
        image_size: int | tuple[int, int] | str = 64,
        truth: bool = False,
        targets: int | None = None,
        **options: Any,
    ) -> None:
        self.render_mode = "rgb_array"
        self.image_size, self._truth, self._targets = size_of(image_size), truth, targets
        env: Any = getattr(_tasks(), f"memory_maze_{task}")(**options)
        self._actions = env.action_set
        self.world: Any = env.env.env.env
        """The environment of dm_control within Memory Maze's wrappers."""
        self.task: Any = self.world.task
        for observable in self.task.observables.values():
            observable.enabled = False  # what is needed is read from the simulation
        self.action_space = spaces.Discrete(len(self._actions))
        self.observation_space = observation_space(self.image_size, 3)  # type: ignore[assignment]
        self._renderer: ModelRenderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """A new maze."""
        super().reset(seed=seed)
        self._seed_maze(int(self.np_random.integers(1, 2**31 - 1)))
        self.close()
        self.world.reset()
        self._model, self._data = self.world.physics.model.ptr, self.world.physics.data.ptr
        self._camera, self._body = self._model.camera("walker/egocentric").id, self._model.body("walker/").id
        self._geoms = [self._model.geom(target.geom.full_identifier).id for target in self.task._targets]
        ids = np.zeros(self._model.ngeom, np.uint16)
        ids[self._geoms] = 1 + np.arange(len(self._geoms))
        self._renderer = ModelRenderer(self._model, self._data, *self.image_size, self._camera, ids)
        self._walls = self._find_walls()
        self._obtained, self._called = 0, -1
        observation, info = self._observe()
        return observation, info | {"shortest_path_m": info["distance_to_goal"]}

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """A quarter of a second."""
        if self._renderer is None:
            raise EnvError("the environment is not running: call reset() first")
        stepped = self.world.step(self._actions[int(action)])
        self._obtained += int(stepped.reward > 0)
        observation, info = self._observe()
        done = self._targets is not None and self._obtained >= self._targets
        if done:
            info["distance_to_goal"] = 0.0
        return observation, float(stepped.reward), done, not done and bool(stepped.last()), info

    def render(self) -> NDArray[np.uint8]:
        """The last frame. [H, W, 3]"""
        return self._rgb

    def close(self) -> None:
        """Free the renderer; harmless twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _seed_maze(self, seed: int) -> None:
        """Let a seed decide all that follows: Memory Maze itself takes one only when it is built."""
        from memory_maze import maze

        random, arena = self.world.random_state, self.task._maze_arena
        random.seed(seed)
        self.task._target_colors = list(maze.TARGET_COLORS)
        old = arena.maze
        names = ("height", "width", "max_rooms", "room_min_size", "room_max_size", "max_variations", "spawns_per_room")
        arena._maze = maze.TextMazeVaryingWalls(
            **{name: getattr(old, name) for name in names},
            objects_per_room=old.objects_per_room,
            simplify=True,
            random_seed=int(random.randint(1, 2**31 - 1)),
        )

    def _find_walls(self) -> NDArray[np.float64]:
        """Segments between cells that are free and cells that are not, in the plan. [S, 2, 2]"""
        arena = self.task._maze_arena
        free = np.isin(arena.maze.entity_layer, [" ", "P", "G"])
        size = arena.xy_scale
        walls = []
        for i, j in zip(*np.nonzero(free), strict=True):
            x, y = (j - arena._x_offset) * size, -(i - arena._y_offset) * size
            for di, dj in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if not free[i + di, j + dj]:
                    middle, along = np.array([x + dj * size / 2, y - di * size / 2]), np.array([di, dj]) * size / 2
                    walls.append([middle - along, middle + along])
        return np.array(walls, float)

    def _observe(self) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Draw, and tell what is known."""
        assert self._renderer is not None
        if self._truth:
            self._rgb, depth, segmentation = self._renderer.frame()
        else:
            self._rgb, _ = self._renderer.rgb_depth()
        pose = world_from_opencv(self._data.cam_xpos[self._camera], self._data.cam_xmat[self._camera])
        called, position = self.task._current_target_ix, self._data.xpos[self._body, :2].copy()
        if called != self._called:
            goal = self._data.geom_xpos[self._geoms[called], :2]
            self._way = Way(self._walls, np.zeros((0, 3)), _RADIUS_M, position, goal, _REACH_M)
            self._called = called
        info: dict[str, Any] = {
            "position": position,
            "success": self._obtained >= (self._targets or 1),
            "distance_to_goal": self._way.length_from(position),
            "targets_reached": self._obtained,
        }
        if self._truth:
            places, colours = self._data.geom_xpos[self._geoms], self.task._target_colors
            objects = [
                {"id": k + 1, "position": place.tolist(), "colour": colour.tolist(), "shape": "sphere"}
                for k, (place, colour) in enumerate(zip(places, colours, strict=False))
            ]
            truth = {"depth": depth, "segmentation": segmentation, "world_from_camera": pose.astype(np.float32)}
            info["truth"] = truth | {"objects": objects}
        return observation(self._rgb, self._renderer.intrinsics, pose, self.task._target_colors[called]), info
