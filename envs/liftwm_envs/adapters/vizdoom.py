"""ViZDoom (Farama Foundation, MIT): `vizdoom:my_way_home`, other scenarios that it ships, or the path of a .cfg.

Lengths are metres of 32 map units, as is customary (a marine is 56 units tall). Frames are drawn at 640 x 480 and averaged.
Measured there, against the lines and sectors of a map: horizontal focal length 320 pixels and vertical 384 (pixels are not
square), principal point half a pixel right of and above the centre; the 8-bit depth buffer is z-depth in steps of 7.145 units
(22 cm), 99 % of its pixels are within half a step, and 0 is all below 18 units (56 cm). At other resolutions walls are off.

Labels are of sprites, which in ViZDoom may show through walls: a label counts where the depth buffer has its object's depth.
The renderer pitches by moving the horizon, so buttons that look up or down are left out, as are all deltas.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.adapters import unknown
from liftwm_envs.adapters.common import Way, observation, observation_space
from liftwm_envs.cameras import size_of
from liftwm_envs.errors import EnvError

SCENARIOS = (
    *("basic", "deadly_corridor", "deathmatch", "defend_the_center", "defend_the_line", "freedoom2", "health_gathering"),
    *("health_gathering_supreme", "my_way_home", "predict_position", "rocket_basic", "simpler_basic", "take_cover"),
)
"""Those that ViZDoom ships and one player can start."""
UNITS = 32.0
"""Map units of a metre."""
DEPTH_STEP, DEPTH_START = 7.145, 14.40
"""Map units that a step of the depth buffer is worth, and where step 0 would lie: a least-squares fit."""
_WIDTH, _HEIGHT = 640, 480
_FOCAL_X, _FOCAL_Y, _CENTRE_X, _CENTRE_Y = 320.0, 384.0, 320.5, 239.5
_VARIABLES = ("CAMERA_POSITION_X", "CAMERA_POSITION_Y", "CAMERA_POSITION_Z", "CAMERA_ANGLE", "CAMERA_FOV")
_GOALS = {"my_way_home": ("GreenArmor", (0.19, 0.32, 0.15))}
"""Scenario -> the object that is to be reached, and the mean colour of its green pixels."""
_THICK_STEPS = 2
"""By which a sprite's depth in the buffer may differ from its object's."""
_RADIUS_M, _REACH_M = 16 / UNITS, 36 / UNITS
"""Of the player; between its centre and an item's (20 units) when they touch."""


def make(task: str, **options: Any) -> VizDoom:
    """Build a scenario of those in ViZDoom's folder, or of the path of a .cfg."""
    import vizdoom

    if task in SCENARIOS:
        return VizDoom(Path(vizdoom.scenarios_path) / f"{task}.cfg", **options)
    if task.endswith(".cfg") and Path(task).is_file():
        return VizDoom(Path(task), **options)
    raise unknown("scenario of vizdoom", task, SCENARIOS)


class VizDoom(gymnasium.Env[dict[str, NDArray], Any]):
    """A scenario of ViZDoom. Discrete actions: nothing, or one of the scenario's buttons.

    In my_way_home the goal is the colour [3] of the green armour, and success is to touch
    it; other scenarios have neither. The last observation of an episode that ends by itself is the one before it, again:
    ViZDoom shows nothing then.

    Args:
        scenario: path of a .cfg.
        image_size: of frames, as in our own environments. Of frames that are not 3:4, the middle of the screen is seen.
        truth: give depth in metres [H, W], sprites' ids [H, W], their places and the pose in info["truth"].
        frame_skip: tics a step, of 1/35 s.

    Raises:
        EnvError: the size is out of bounds, or ViZDoom cannot start the scenario.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 9}
    goal_kind = "attributes"
    body = {"radius_m": _RADIUS_M}

    def __init__(
        self,
        scenario: Path,
        *,
        image_size: int | tuple[int, int] | str = (48, 64),
        truth: bool = False,
        frame_skip: int = 4,
    ) -> None:
        self.render_mode = "rgb_array"
        self.image_size, self._truth, self._skip = size_of(image_size), truth, frame_skip
        self._goal_name, goal = _GOALS.get(scenario.stem, ("", ()))
        self._goal = np.array(goal, np.float32)
        height, width = self.image_size
        factor = self._factor = min(_HEIGHT // height, _WIDTH // width)
        if not factor:
            raise EnvError(
                f"image_size {height}x{width}: ViZDoom draws {_HEIGHT}x{_WIDTH}, larger frames cannot be cut from it"
            )
        self._top, self._left = (_HEIGHT - factor * height) // 2, (_WIDTH - factor * width) // 2
        first = [_FOCAL_X, 0, _CENTRE_X - self._left]
        second = [0, _FOCAL_Y, _CENTRE_Y - self._top]
        self.intrinsics = np.array([np.divide(first, factor), np.divide(second, factor), [0, 0, 1]], np.float32)
        """Of frames. [3, 3]"""
        self.game = self._start(scenario)
        """ViZDoom's own game."""
        buttons = self.game.get_available_buttons_size()
        self.action_space = spaces.Discrete(buttons + 1)
        self.observation_space = observation_space(self.image_size, len(self._goal))  # type: ignore[assignment]

    def _start(self, scenario: Path) -> Any:
        """The game, running."""
        import vizdoom

        game = vizdoom.DoomGame()
        there = Path("_vizdoom").exists()
        try:
            game.load_config(str(scenario))
            game.set_doom_config_path(os.devnull)  # else it leaves a file in the working folder
            game.set_available_buttons([b for b in game.get_available_buttons() if not b.name.endswith("_DELTA")])
            game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in _VARIABLES])
            game.set_screen_resolution(vizdoom.ScreenResolution.RES_640X480)
            game.set_screen_format(vizdoom.ScreenFormat.RGB24)
            game.set_mode(vizdoom.Mode.PLAYER)
            for shown in ("hud", "weapon", "crosshair", "messages", "screen_flashes", "corpses", "decals"):
                getattr(game, f"set_render_{shown}")(False)
            game.set_window_visible(False)
            game.set_depth_buffer_enabled(self._truth)
            game.set_labels_buffer_enabled(self._truth)
            game.set_objects_info_enabled(True)
            game.set_sectors_info_enabled(bool(self._goal_name))
            game.init()
        except Exception as error:  # ViZDoom's own kinds: a game file that is not there, a version that does not fit
            raise EnvError(f"vizdoom:{scenario.stem} cannot start: {' '.join(str(error).split())}") from error
        if not there:  # an empty folder that every start leaves where one is
            with contextlib.suppress(OSError):
                os.rmdir("_vizdoom")
        return game

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """A new episode."""
        super().reset(seed=seed)
        if self.game is None:
            raise EnvError("the environment is closed: make a new one")
        self.game.set_seed(int(self.np_random.integers(2**31)))
        self.game.new_episode()
        state = self.game.get_state()
        self._objects = {o.id: o for o in state.objects if o.name != "DoomPlayer"}
        self._way = self._find_way(state)
        self._seen, info = self._observe(state)
        if self._goal_name:
            info["success"] = False
        if self._way is not None:
            info["shortest_path_m"] = info["distance_to_goal"]
        self._info = info
        return self._seen, dict(info)

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        """Some tics, one button pressed."""
        pressed = np.arange(1, self.action_space.n) == action  # type: ignore[attr-defined]
        reward = float(self.game.make_action(pressed.astype(float).tolist(), self._skip))
        state = self.game.get_state()
        if state is not None:
            self._seen, self._info = self._observe(state)
        info = dict(self._info)
        if self._goal_name:
            info["success"] = self.game.get_total_reward() > 0.5  # my_way_home gives 1 for the armour, a step before it ends
            if info["success"]:
                info["distance_to_goal"] = 0.0
        late = bool(self.game.is_episode_timeout_reached())
        return self._seen, reward, bool(self.game.is_episode_finished()) and not late, late, info

    def render(self) -> NDArray[np.uint8]:
        """The last frame. [H, W, 3]"""
        return self._seen["rgb"]

    def close(self) -> None:
        """End the game; harmless twice."""
        if self.game is not None:
            self.game.close()
            self.game = None

    def _observe(self, state: Any) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """What ViZDoom shows, and what is known of it."""
        x, y, z, degrees, _ = state.game_variables.tolist()
        yaw = math.radians(degrees)
        pose = np.eye(4)
        pose[:3] = [
            [math.sin(yaw), 0, math.cos(yaw), x / UNITS],
            [-math.cos(yaw), 0, math.sin(yaw), y / UNITS],
            [0, -1, 0, z / UNITS],
        ]
        rows = self._blocks(state.screen_buffer).sum(1, dtype=np.uint32)  # rows first: ten times as fast
        rgb = (rows.sum(2) / self._factor**2).round().astype(np.uint8)
        info: dict[str, Any] = {"position": pose[:2, 3].copy()}
        if self._way is not None:
            info["distance_to_goal"] = self._way.length_from(info["position"])
        if self._truth:
            info["truth"] = self._truth_of(state, pose)
        return observation(rgb, self.intrinsics, pose, self._goal), info

    def _blocks(self, screen: NDArray) -> NDArray:
        """The pixels of a screen [h, w, ...] that make each pixel of a frame. [H, f, W, f, ...]"""
        (height, width), factor, top, left = self.image_size, self._factor, self._top, self._left
        seen = screen[top : top + factor * height, left : left + factor * width]
        return seen.reshape(height, factor, width, factor, *screen.shape[2:])

    def _truth_of(self, state: Any, pose: NDArray) -> dict[str, Any]:
        """Depth: the median of a pixel's. Ids: of the sprite, from 1, that has most of a pixel, at its own depth."""
        pixels = np.moveaxis(self._blocks(state.depth_buffer), 1, 2).reshape(*self.image_size, -1)
        depth = np.median(pixels, -1) * DEPTH_STEP + DEPTH_START
        ids = np.zeros(self.image_size, np.uint16)
        for label in state.labels:
            if label.object_id in self._objects:
                place = np.array([label.object_position_x, label.object_position_y]) - pose[:2, 3] * UNITS
                step = (place @ pose[:2, 2] - DEPTH_START) / DEPTH_STEP
                its = (state.labels_buffer == label.value) & (np.abs(state.depth_buffer - step) < _THICK_STEPS)
                ids[self._blocks(its).mean((1, 3)) > 0.5] = label.object_id + 1
        self._objects |= {o.id: o for o in state.objects if o.id in self._objects}
        objects = [
            {"id": o.id + 1, "position": [c / UNITS for c in (o.position_x, o.position_y, o.position_z)], "shape": o.name}
            for o in self._objects.values()
        ]
        return {
            "depth": (depth / UNITS).astype(np.float32),
            "segmentation": ids,
            "world_from_camera": pose.astype(np.float32),
            "objects": objects,
        }

    def _find_way(self, state: Any) -> Way | None:
        """The shortest way to the object that is to be reached, between the map's lines that block."""
        goal = next((o for o in state.objects if o.name == self._goal_name), None)
        if goal is None:
            return None
        lines = [line for sector in state.sectors for line in sector.lines if line.is_blocking]
        walls = np.array([[[line.x1, line.y1], [line.x2, line.y2]] for line in lines]) / UNITS
        start = np.array(state.game_variables[:2]) / UNITS
        place = np.array([goal.position_x, goal.position_y]) / UNITS
        return Way(walls, np.zeros((0, 3)), _RADIUS_M, start, place, _REACH_M)
