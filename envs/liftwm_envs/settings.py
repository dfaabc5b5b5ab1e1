"""The rules of all tasks, and how tasks and sizes differ from one another, in figures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from liftwm_envs.errors import EnvError
from liftwm_envs.rooms.scene import SceneOptions
from liftwm_envs.rooms.variation import Variation

STEP_M, STEP_RAD = 0.2, 0.3
"""What a full action moves and turns in a control step."""
SEEN_PX = 12
"""An object counts as seen from this many pixels in a 64 x 64 frame; other sizes in proportion."""
REACH_M = 0.6
"""Success: camera to surface in the plan."""
MIN_CALL_M = 1.5
"""The goal's surface is at least so far away along the way when it is called."""
LIMIT_FACTOR, LIMIT_EXTRA_STEPS = 1.4, 4
"""Time allowed after the call, from the oracle's."""


@dataclass(frozen=True)
class TaskSettings:
    """How one task and size differ from another. Steps are control steps."""

    scene: SceneOptions
    tour_steps: dict[int, int]  # by number of rooms: calls come, screens rise, unwatched cups come down from this step on
    gap_steps: tuple[int, int]  # hidden at least the first; Occlusion, ShellGame: drawn between both, from hiding to the call
    max_delay_steps: int = 60  # how long a call waits for an object that qualifies
    extra_tour_steps: int = 0  # the tour is longer by a number drawn up to this
    targets: int = 1  # how many objects are called, one after another

    def scene_of(self, texture: str, distractors: bool | None = None, variation: Variation | None = None) -> SceneOptions:
        """The scene's options with a texture variant, with or without distractors where that is said, and varied."""
        distractors = self.scene.distractors if distractors is None else distractors
        return replace(self.scene, texture=texture, distractors=distractors, variation=variation or self.scene.variation)


def _moving(rooms: tuple[int, ...], objects: tuple[int, int], movers: int) -> SceneOptions:
    """Rooms large enough for lines along their walls: two moving objects in each, or one where most walls have doors."""
    return SceneOptions(rooms, objects, room_side_m=(4.8, 6.0), movers=movers, empty_tunnels=1)


def _large(objects: tuple[int, int], **options: object) -> SceneOptions:
    """Nine rooms with distractors and held-out layouts."""
    return SceneOptions((9,), objects, distractors=True, held_out_doors=True, **options)  # type: ignore[arg-type]


def _cups(rooms: int, objects: tuple[int, int], cups: int, a_room: int, swaps: tuple[int, int]) -> SceneOptions:
    """Rooms large enough for a row of cups; `objects` more stand about in those without one."""
    return SceneOptions((rooms,), objects, room_side_m=(4.8, 5.6), cups=cups, cups_a_room=a_room, swaps=swaps)


SETTINGS: dict[tuple[str, str], TaskSettings] = {
    ("Revisit", "S"): TaskSettings(SceneOptions((1, 2, 2, 2), (4, 8)), {1: 45, 2: 60}, (8, 8)),
    ("Revisit", "M"): TaskSettings(SceneOptions((4,), (8, 12)), {4: 150}, (20, 20)),
    ("Revisit", "L"): TaskSettings(_large((14, 18)), {9: 450}, (50, 50), extra_tour_steps=550),
    ("Occlusion", "S"): TaskSettings(SceneOptions((1, 2), (4, 6), screens=True), {1: 30, 2: 60}, (10, 30)),
    ("Occlusion", "M"): TaskSettings(SceneOptions((4,), (6, 9), screens=True), {4: 150}, (50, 200)),
    ("Occlusion", "L"): TaskSettings(_large((12, 16), screens=True), {9: 450}, (200, 1000)),
    ("MovingOcclusion", "S"): TaskSettings(_moving((1, 2), (4, 6), movers=2), {1: 30, 2: 45}, (2, 2), max_delay_steps=240),
    ("MovingOcclusion", "M"): TaskSettings(_moving((4,), (6, 9), movers=1), {4: 150}, (2, 2), max_delay_steps=240),
    ("MovingOcclusion", "L"): TaskSettings(
        _large((12, 16), room_side_m=(4.8, 6.0), movers_in_all=6, empty_tunnels=3),
        {9: 450},
        (2, 2),
        max_delay_steps=400,
    ),
    ("ShellGame", "S"): TaskSettings(_cups(2, (1, 2), 3, 3, (1, 2)), {2: 100}, (10, 50)),
    ("ShellGame", "M"): TaskSettings(_cups(4, (3, 4), 4, 4, (2, 4)), {4: 250}, (50, 200)),
    ("ShellGame", "L"): TaskSettings(
        _large((6, 8), room_side_m=(4.8, 5.6), cups=6, cups_a_room=3, swaps=(3, 5)), {9: 700}, (200, 1000)
    ),
    ("Search", "S"): TaskSettings(SceneOptions((2,), (6, 8)), {2: 60}, (8, 8), targets=2),
    ("Search", "M"): TaskSettings(SceneOptions((4,), (8, 12)), {4: 150}, (20, 20), targets=3),
    ("Search", "L"): TaskSettings(_large((14, 18)), {9: 450}, (50, 50), extra_tour_steps=550, targets=4),
}


def settings_of(task: str, size: str) -> TaskSettings:
    """Settings by name.

    Raises:
        EnvError: no such task or size.
    """
    if (task, size) not in SETTINGS:
        raise EnvError(f"task={task!r}, size={size!r}: must be one of {', '.join('-'.join(key) for key in SETTINGS)}")
    return SETTINGS[task, size]
