"""Scripts for what moves: watch an object, follow it with the eye into its tunnel and out again, meet it; watch cups swap.

Like all scripts of `liftwm_envs.tasks.policies` they read the hidden state, and yield one action a step.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.rooms.motion import Track
from liftwm_envs.rooms.navigation import bounded_angle
from liftwm_envs.rooms.shells import Show
from liftwm_envs.settings import STEP_RAD
from liftwm_envs.tasks.driver import Driver
from liftwm_envs.tasks.moving import MovingOcclusionTask

WATCH_SHARE = 0.7  # of what a tour does after its first round, where things move: the rest are drives and looks elsewhere
_ASIDE_RAD = 0.4  # how far beside the object the agent heads while it watches: the object stays in view, and gets parallax
_MIDDLE_M = 0.8  # from the middle of a room all of it is in view
_SWAY_STEPS, _SWAY_SPEED = 6, 0.5
_SHOW_M = 2.35  # from a row of cups: all of it in view, and room for swaps
_SHOW_SWAY_SPEED, _SHOW_WAIT_STEPS = 0.25, 30


def watch_room(driver: Driver, rng: np.random.Generator) -> Generator[Any, None, None]:
    """Watch one after another each object that moves in the open in this room go in; if none does, nothing."""
    for track in tracks_of_room(driver):
        if track.is_out(driver.env.sim.steps):
            yield from watch_into_tunnel(driver, track, _steps_after(rng))


def watch_something(driver: Driver, rng: np.random.Generator) -> Generator[Any, None, None]:
    """From the middle of a room in which something moves, here if it does: watch it go in, come out, or for a while."""
    scene = driver.env.scene
    rooms = sorted({scene.objects[track.object_id - 1].room for track in scene.tracks})
    here = scene.room_at(driver.position())
    room = scene.rooms[here if here in rooms and rng.random() < 0.7 else int(rng.choice(rooms))]
    if math.dist(room.centre, driver.position()) > _MIDDLE_M:
        yield from driver.go_to(room.centre)
    tracks = tracks_of_room(driver)
    out = [track for track in tracks if track.is_out(driver.env.sim.steps)]
    if out and rng.random() < 0.7:
        first = min(out, key=lambda track: track.next_exit(driver.env.sim.steps))
        yield from watch_into_tunnel(driver, first, _steps_after(rng))
    elif tracks:
        yield from islice(watch(driver, tracks[int(rng.integers(len(tracks)))]), int(rng.integers(15, 45)))


def _steps_after(rng: np.random.Generator) -> int:
    """How long to go on looking at a tunnel: mostly shortly, else until after the object has come out."""
    return int(rng.integers(4, 10) if rng.random() < 0.65 else rng.integers(40, 60))


def watch_show(driver: Driver, room: int) -> Generator[Any, None, None]:
    """Where this room has a row of cups that has not begun or is not over: watch it from before it, to the end."""
    sim, shows = driver.env.sim, driver.env.scene.shows
    for number, show in enumerate(shows):
        if show.room != room or sim.elapsed(number) >= show.duration_steps:
            continue
        inward = np.array([math.cos(show.yaw), math.sin(show.yaw)])
        for action in driver.go_to(show.centre + _SHOW_M * inward):
            if sim.elapsed(number) >= 0:
                break
            yield action
        yield from driver.face(show.yaw + math.pi)
        for turn in range(_SHOW_WAIT_STEPS + show.duration_steps):
            if sim.elapsed(number) >= show.duration_steps or (turn > _SHOW_WAIT_STEPS and sim.elapsed(number) < 0):
                return
            yield _sway_before(driver, show, turn)


def _sway_before(driver: Driver, show: Show, turn: int) -> Any:
    """Face the row and roll forth and back a little: for parallax, with all of it in view."""
    forward = 1 - 2 * (turn // _SWAY_STEPS % 2)
    error = bounded_angle(math.atan2(*(show.centre - driver.position())[::-1]) - driver.yaw())
    return driver.action(forward * _SHOW_SWAY_SPEED, float(np.clip(error / STEP_RAD, -1, 1)))


def tracks_of_room(driver: Driver) -> list[Track]:
    """The tracks of the room that the agent is in."""
    scene = driver.env.scene
    room = scene.room_at(driver.position())
    return [track for track in scene.tracks if scene.objects[track.object_id - 1].room == room]


def watch_into_tunnel(driver: Driver, track: Track, after: int) -> Generator[Any, None, None]:
    """Watch until the tunnel has taken the object in, and for some steps `after` that; many, and it comes out again."""
    end = track.last_entry(track.next_exit(driver.env.sim.steps)) + after
    for action in watch(driver, track):
        if driver.env.sim.steps > end:
            return
        yield action


def watch(driver: Driver, track: Track) -> Generator[Any, None, None]:
    """Keep the object, or the place behind the screen where it is, in view while swaying forth and back; without end."""
    turn = 0
    while True:
        side, forward = math.copysign(_ASIDE_RAD, 1 - 2 * (turn // (2 * _SWAY_STEPS) % 2)), 1 - 2 * (turn // _SWAY_STEPS % 2)
        here, there = driver.position(), track.place(driver.env.sim.steps)
        error = bounded_angle(math.atan2(there[1] - here[1], there[0] - here[0]) + side - driver.yaw())
        speed = forward * _SWAY_SPEED if abs(error) < 0.5 and _is_clear(driver, here, forward) else 0.0
        yield driver.action(speed, float(np.clip(error / STEP_RAD, -1, 1)))
        turn += 1


def _is_clear(driver: Driver, here: NDArray, forward: int) -> bool:
    heading = np.array([math.cos(driver.yaw()), math.sin(driver.yaw())])
    return driver.env.scene.grid.is_clear(here, here + 0.3 * forward * heading)


def meet(driver: Driver) -> Generator[Any, None, None]:
    """Drive to where the called object comes out, wait there, and go after it if need be."""
    task = driver.env.task
    assert isinstance(task, MovingOcclusionTask) and task.field is not None and task.track is not None
    yield from driver.descend(task.field)
    while driver.env.sim.steps < task.out_at - 1:
        yield driver.wait_facing(task.track.place(task.out_at))
    yield from follow(driver, task.track)


def follow(driver: Driver, track: Track) -> Generator[Any, None, None]:
    """Drive to the object, wherever it is by now; without end."""
    while True:
        yield driver.step_towards(track.place(driver.env.sim.steps))
