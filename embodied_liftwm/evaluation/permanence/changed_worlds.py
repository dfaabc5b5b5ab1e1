"""A task's world, toured once, and what the camera would have seen on the same way had one object been otherwise.

The agent tours world A, as the task has it; its poses and actions are recorded, and every world is drawn from these poses, so
that the way does not depend on the change. In world B an object is

    vanish      not there at all
    teleport    elsewhere in its room, 1 m away or more
    recolour    of another colour
    wall        at the mirror place on the other side of a wall of its room, if it would stand free there
    tunnel      (MovingOcclusion) on its track the other way round: both worlds' objects go into the tunnel at the same step, by
                opposite ends, and come out at the same step, by opposite ends

Objects of Revisit do not move, and those of MovingOcclusion turn round in the open alone: no object can go from one of the two
worlds to the other. That from one side of a wall to the other would have to pass through it; that in the tunnel, to turn back.
Light casts no shadows here, so that nothing but the object's own pixels differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from embodied_liftwm.config import EnvOptions
from embodied_liftwm.data.recorder import Recorder
from embodied_liftwm.errors import UserError
from liftwm_envs.actions import ActionCodec
from liftwm_envs.settings import SEEN_PX

KINDS = ("vanish", "teleport", "recolour", "wall", "tunnel")
STEPS = {"S": 140, "M": 360, "L": 1200}
"""Actions of the tour, by size of the task."""
FARTHER_M = 1.0
"""How far another place in the same room is away, at least."""
OTHER_COLOUR = 0.3
"""Least distance between an object's colour and its new one: root mean square over channels."""
TRIES = 6
"""Places tried for an object before the next object is."""
WATCHED_FRAMES = 3
"""Frames in which an object that moves was seen since it last turned round: enough to tell where to and how fast."""
_BELOW = -100.0

Change = dict[str, Any]
"""Keyword arguments of `Simulation.changed`."""


@dataclass(frozen=True)
class Film:
    """One world along the path."""

    rgb: np.ndarray  # [F, H, W, 3] uint8
    depth: np.ndarray  # [F, H, W] float32 metres, 0 where invalid
    mask: np.ndarray  # [F, H, W] bool: where the object that differs is seen


def seen_pixels(film: Film) -> int:
    """Pixels from which something counts as seen in frames of this size, as in our tasks."""
    return max(1, round(SEEN_PX * film.mask[0].size / 64**2))


class Stage:
    """A world with the camera path of one tour, to be filmed with and without a change.

    Args:
        task: of liftwm_envs, e.g. Revisit-S.
        seed: of the scene.
        options: of the environment.

    Raises:
        UserError: a task in which nothing hidden comes back into view.
    """

    def __init__(self, task: str, seed: int, options: EnvOptions | None = None) -> None:
        from liftwm_envs.tasks.policies import TourPolicy

        check_task(task)
        self.seed = seed
        self.env: Any = gymnasium.make(f"liftwm/{task}-v0", disable_env_checker=True, **asdict(options or EnvOptions()))
        world: Any = self.env.unwrapped
        obs, info = world.reset(seed=seed)
        policy, codec, recorder = TourPolicy(self.env), ActionCodec(world.action_space), Recorder(self.env)
        uncalled = {"goal": np.zeros_like(obs["goal"])}  # on this path nothing is ever called
        recorder.add(obs | uncalled, {})
        poses = [world.sim.camera_pose()]
        for _ in range(STEPS[task.rpartition("-")[2]]):
            action = policy.act(obs, info)
            obs, _, _, _, info = world.step(action)  # the tour goes on after the call
            recorder.add(obs | uncalled, {}, codec.encode(action), 0.0, False, False)
            poses.append(world.sim.camera_pose())
        self.sim, self.scene, self.poses = world.sim, world.scene, np.stack(poses)
        self.path = recorder.finish({"seed": seed})

    def film(self, object_id: int, **change: Any) -> Film:
        """What the camera saw along the path, or would have seen with a change (`Simulation.changed`) of one object."""
        with self.sim.changed(object_id, **change):
            rgb, depth, ids = (np.stack(part) for part in zip(*self.sim.film(self.poses), strict=True))
        return Film(rgb, depth, ids == object_id)

    def is_free(self, place: np.ndarray, object_id: int) -> bool:
        """Whether the object could stand at a place [2]: in nothing's way, nor in that of the agent on its path."""
        from liftwm_envs.rooms.navigation import distance_to_discs, distance_to_rectangles
        from liftwm_envs.rooms.scene import AGENT_RADIUS_M

        radius = self.scene.objects[object_id - 1].radius_m
        others = np.array([(*o.position, o.radius_m) for o in self.scene.objects if o.id != object_id]).reshape(-1, 3)
        return bool(
            distance_to_rectangles(place, self.scene.wall_rectangles).min() > radius + 0.02
            and distance_to_discs(place, others).min(initial=np.inf) > radius + 0.1
            and np.linalg.norm(self.poses[:, :2, 3] - place, axis=1).min() > radius + AGENT_RADIUS_M
        )

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()


def check_task(task: str) -> None:
    """Raise UserError for a task that no quadruplet can be made of."""
    from liftwm_envs import ENV_IDS

    known = [name.removeprefix("liftwm/").removesuffix("-v0") for name in ENV_IDS]
    fit = [name for name in known if name.rpartition("-")[0] in ("Revisit", "MovingOcclusion")]
    if task not in fit:
        raise UserError(f"task {task}: what is hidden must come back into view; expectation needs one of {', '.join(fit)}")


def kinds_of(task: str) -> tuple[str, ...]:
    """Kinds of change that a task is tested with."""
    return ("tunnel",) if task.startswith("MovingOcclusion") else KINDS[:4]


def changes(stage: Stage, kind: str, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    """Worlds B of a kind, as far as an object has any, in random order."""
    return _CHANGES[kind](stage, object_id, rng)


def _vanish(stage: Stage, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    yield {"place": (*stage.scene.objects[object_id - 1].position, _BELOW)}


def _recolour(stage: Stage, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    """A colour that no object of the scene has, and that nobody takes for the old one."""
    from liftwm_envs.rooms.scene import PALETTE

    old, taken = stage.scene.objects[object_id - 1].colour, {item.colour_name for item in stage.scene.objects}
    others = [np.array(colour) for name, colour in PALETTE.items() if name not in taken]
    others = [colour for colour in others if math.sqrt(((colour - old) ** 2).mean()) >= OTHER_COLOUR]
    if others:
        yield {"colour": others[int(rng.integers(len(others)))]}


def _teleport(stage: Stage, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    item, centres = stage.scene.objects[object_id - 1], stage.scene.grid.centres.reshape(-1, 2)
    x0, y0, x1, y1 = stage.scene.rooms[item.room].interior
    inside = (centres > (x0, y0)).all(1) & (centres < (x1, y1)).all(1)
    far = centres[inside & (np.linalg.norm(centres - item.position, axis=1) >= FARTHER_M)]
    free = (place for place in rng.permutation(far) if stage.is_free(place, object_id))
    yield from ({"place": (*place, 0.0)} for place, _ in zip(free, range(TRIES), strict=False))


def _through_wall(stage: Stage, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    """The mirror places behind the walls between the object's room and others."""
    item = stage.scene.objects[object_id - 1]
    for wall in stage.scene.walls:
        if wall.bottom_m > 0 or item.room not in (wall.left, wall.right) or None in (wall.left, wall.right):
            continue
        start, end, here = np.array(wall.start), np.array(wall.end), np.array(item.position)
        along = (end - start) / np.linalg.norm(end - start)
        foot = start + ((here - start) @ along) * along
        place = 2 * foot - here
        if 0 < (here - start) @ along < np.linalg.norm(end - start) and stage.is_free(place, object_id):
            yield {"place": (*place, 0.0)}


def _other_way(stage: Stage, object_id: int, rng: np.random.Generator) -> Iterator[Change]:
    """Tracks that cross the middle of the tunnel when the object does, in the other direction."""
    for track in stage.scene.tracks:
        if track.object_id != object_id:
            continue
        middle, turn = 0.5 * sum(track.covered), 2 * track.length_m
        for way in (middle, turn - middle):  # going there, and coming back
            yield {"track": replace(track, offset_m=(turn - way - (way - track.offset_m)) % turn)}


def is_passage(stage: Stage, track: Any, films: tuple[Film, Film], hidden: int, entry: int) -> bool:
    """Whether a hidden time is one passage of the tunnel: both are inside at once, and each was watched on its way there."""
    tracks = next(t for t in stage.scene.tracks if t.object_id == track.object_id), track
    steps = np.arange(hidden, entry)
    inside = steps[~tracks[0].is_out(steps) & ~tracks[1].is_out(steps)]
    if not len(inside):
        return False
    for own, film in zip(tracks, films, strict=True):
        way = np.array([own.passage(step) == own.passage(int(inside[0])) for step in range(entry + 1)])
        seen = film.mask.sum((1, 2)) >= seen_pixels(film)
        if not way[entry] or (seen[:hidden] & way[:hidden]).sum() < WATCHED_FRAMES:
            return False
    return True


_CHANGES: dict[str, Callable[[Stage, int, np.random.Generator], Iterator[Change]]] = {
    "vanish": _vanish, "teleport": _teleport, "recolour": _recolour, "wall": _through_wall, "tunnel": _other_way,
}  # fmt: skip
