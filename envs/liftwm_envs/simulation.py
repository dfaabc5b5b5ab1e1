"""A scene with an agent in it, running: physics, camera, screens, cups, and objects carried along their tracks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from liftwm_envs.build import AGENT_NAME, CAMERA_NAME, SCREEN_SUNK_M, cup_body, new_spec, object_body, screen_body
from liftwm_envs.cameras import intrinsics_from_fovy, world_from_opencv
from liftwm_envs.embodiments import EMBODIMENTS, SUBSTEPS
from liftwm_envs.engine import mujoco
from liftwm_envs.rendering import Renderer, at_work
from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.scene import Scene
from liftwm_envs.rooms.shells import Show

_RISE_STEPS = 4
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class Simulation:
    """Physics and camera of one scene. `step`, `render_rgb_depth` and `render_segmentation` are what one control step costs."""

    @at_work()
    def __init__(self, scene: Scene, embodiment: str, image_size: tuple[int, int]) -> None:
        self.scene = scene
        self.embodiment = EMBODIMENTS[embodiment](scene.variation)
        spec = new_spec(scene, image_size)
        self.embodiment.add_to(spec, scene.start)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.embodiment.bind(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        self._camera = self.model.camera(CAMERA_NAME).id
        self._agent = self.model.body(AGENT_NAME).id
        objects = np.array([self.model.body(object_body(o.id)).id for o in scene.objects])
        poses = np.concatenate([self.data.xpos[objects], self.data.xquat[objects]], 1)
        self._object_poses = poses.astype(np.float32)  # kept up to date for those that move
        self._movers = [(t, int(self.model.body_mocapid[objects[t.object_id - 1]])) for t in scene.tracks]
        self._cups = [self._mocaps_of(show) for show in scene.shows]
        self._show_began: list[int | None] = [None] * len(scene.shows)
        self.steps = 0
        self.depth: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._pose: NDArray[np.float64] | None = None
        self._mocap = {s.id: int(self.model.body_mocapid[self.model.body(screen_body(s.id)).id]) for s in scene.screens}
        self._renderer = Renderer(self.model, self.data, *image_size, self._camera)
        self.intrinsics = intrinsics_from_fovy(*image_size, scene.variation.fov_deg)
        self.draws = True  # False: frames stay as they are, for agents that look at none
        self.action = np.zeros(self.embodiment.action_dim)
        self.bumped = False

    def _mocaps_of(self, show: Show) -> list[tuple[int, int]]:
        """Numbers of the mocap bodies of each cup of a show and of the object under it."""
        ids = [show.first_id + k for k in range(len(show.slots))]
        names = [(cup_body(number), object_body(number)) for number in ids]
        return [tuple(int(self.model.body_mocapid[self.model.body(name).id]) for name in pair) for pair in names]  # type: ignore[misc]

    @at_work()
    def step(self) -> None:
        """One control step under `self.action`: `SUBSTEPS` steps of physics, each with its velocity command."""
        model, data, control, action = self.model, self.data, self.embodiment.control, self.action
        carry = self._carry if self._movers else None
        if carry is not None:
            self._plan_ways()
        shown = [number for number, show in enumerate(self.scene.shows) if 0 <= self.elapsed(number) < show.duration_steps]
        bumped = False
        for substep in range(SUBSTEPS):
            control(action)
            if carry is not None:
                carry(substep)
            for number in shown:
                self._perform(number, (substep + 1) / SUBSTEPS)
            mujoco.mj_step(model, data)
            bumped = bumped or data.ncon > 0
        self.steps += 1
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        self.bumped = bumped
        self._pose = None

    def _plan_ways(self) -> None:
        """Where the moving objects will be at every physics step of this control step."""
        times = self.steps + np.arange(1, SUBSTEPS + 1) / SUBSTEPS
        self._ways = [(mocap, track.place(times)) for track, mocap in self._movers]
        for (_, way), (track, _) in zip(self._ways, self._movers, strict=True):
            self._object_poses[track.object_id - 1, :2] = way[-1]

    def _carry(self, substep: int) -> None:
        """Move them there: a small push each time for an agent in the way."""
        for mocap, way in self._ways:
            self.data.mocap_pos[mocap, :2] = way[substep]

    def elapsed(self, show: int) -> int:
        """Steps since a show began, -1 before."""
        began = self._show_began[show]
        return -1 if began is None else self.steps - began

    def start_show(self, show: int) -> None:
        """Begin a show with the next step."""
        self._show_began[show] = self.steps

    def _perform(self, number: int, share: float) -> None:
        """Put cups, and what is under them, where they are at a share of this control step."""
        show, elapsed = self.scene.shows[number], self.elapsed(number) + share
        places, height = show.places(elapsed), show.height(elapsed)
        for (cup, item), place in zip(self._cups[number], places, strict=True):
            self.data.mocap_pos[cup] = (*place, height)
            self.data.mocap_pos[item, :2] = place
        self._object_poses[show.first_id - 1 : show.first_id - 1 + len(places), :2] = places

    def render(self) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint16]]:
        """`render_rgb_depth` and `render_segmentation` at once; keeps the depth."""
        rgb, self.depth, segmentation = self._renderer.frame()
        return rgb, self.depth, segmentation

    def render_rgb_depth(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colour [H, W, 3] and z-depth in metres [H, W], of one pass."""
        return self._renderer.rgb_depth() if self.draws else self._renderer.last_rgb_depth()

    def render_segmentation(self) -> NDArray[np.uint16]:
        """Object ids [H, W] of the frame that `render_rgb_depth` drew last."""
        return self._renderer.segmentation()

    def passes(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Two passes of everything, pixels read but not converted, as a bare loop has them; colour and depth come first."""
        self.render()
        return self._renderer.draw, self._renderer.draw_all_ids

    def camera_pose(self) -> NDArray[np.float64]:
        """True `world_from_camera` (OpenCV); not to be written to. [4, 4]"""
        if self._pose is None:
            self._pose = world_from_opencv(self.data.cam_xpos[self._camera], self.data.cam_xmat[self._camera])
            self._pose.flags.writeable = False
        return self._pose

    def position(self) -> NDArray[np.float64]:
        """Camera position in the plan. [2]"""
        return self.camera_pose()[:2, 3].copy()

    def object_poses(self) -> NDArray[np.float32]:
        """xyz and quaternion wxyz of every object, world frame. [O, 7]"""
        return self._object_poses.copy()

    def screen_is_up(self, screen_id: int) -> bool:
        """Whether a screen has risen all the way."""
        return bool(self.data.mocap_pos[self._mocap[screen_id], 2] >= 0.0)

    def lift_screen(self, screen_id: int) -> None:
        """Raise a screen by a quarter of its way; takes effect with the next physics step."""
        at = self.data.mocap_pos[self._mocap[screen_id]]
        at[2] = min(0.0, at[2] - SCREEN_SUNK_M / _RISE_STEPS) if at[2] - SCREEN_SUNK_M / _RISE_STEPS < -1e-6 else 0.0

    def film(self, poses: NDArray) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint16]]]:
        """What cameras at `poses` [T + 1, 4, 4] saw at steps 0 to T, as `render` gives it: tracks run, physics does not."""
        for step, pose in enumerate(poses):
            for track, mocap in self._movers:
                self.data.mocap_pos[mocap, :2] = track.place(step)
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_camlight(self.model, self.data)
            self.data.cam_xpos[self._camera] = pose[:3, 3]
            self.data.cam_xmat[self._camera] = (pose[:3, :3] * [1.0, -1.0, -1.0]).ravel()  # OpenCV's y and z axes are turned
            yield self.render()

    @contextmanager
    def changed(
        self, object_id: int, place: ArrayLike | None = None, colour: ArrayLike | None = None, track: Track | None = None
    ) -> Iterator[None]:
        """Film another world: one object is at `place` [3], or has another `colour` [3] or `track`. The scene stays as told.

        An object is taken away by a place far below the floor: what is not drawn at all would renumber the others' ids.
        """
        model, movers, body = self.model, self._movers, self.model.body(object_body(object_id)).id
        geoms = model.geom_bodyid == body
        before = model.body_pos[body].copy(), model.geom_rgba[geoms].copy()
        try:
            if place is not None:
                model.body_pos[body] = place
            if colour is not None:
                model.geom_rgba[geoms, :3] = colour
            if track is not None:
                self._movers = [(track if old.object_id == object_id else old, mocap) for old, mocap in movers]
            yield
        finally:
            model.body_pos[body], model.geom_rgba[geoms], self._movers = *before, movers

    def state(self) -> tuple[Any, ...]:
        """All that changes from step to step, for `set_state`."""
        values = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, values, _STATE)
        return values, self.steps, self.bumped, self._object_poses.copy(), [*self._show_began]

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Go back to a `state` of this simulation: what follows is the same, to the bit."""
        values, self.steps, self.bumped, poses, began = state
        self._object_poses, self._show_began, self._pose = poses.copy(), [*began], None
        mujoco.mj_setState(self.model, self.data, values, _STATE)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def close(self) -> None:
        """Free what the renderer holds."""
        self._renderer.close()
