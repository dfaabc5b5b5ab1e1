"""What the tasks ask for, measured: success of the oracle, of a searcher without memory, and of random actions.

    python -m liftwm_envs.lower_bounds [--episodes 30] [--embodiment wheels] [--out results/lower_bounds.csv]

All act after the same guided tour, on evaluation scenes (seeds from 2**30). The searcher shares the oracle's driving and floor
plan but not the tour: it knows no object's place until it sees it. If it succeeded, the task would not test memory. Where
objects move, `static` remembers the tour, but as if nothing moved: it waits where the goal was last seen, and goes after it at
first sight, or takes the cup that stands there. If that succeeded, the task would not test memory of motion.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
from collections.abc import Callable, Generator
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from liftwm_envs import ENV_IDS
from liftwm_envs.actions import Policy
from liftwm_envs.rooms.floor_plan import EVALUATION_SEEDS
from liftwm_envs.settings import SEEN_PX
from liftwm_envs.tasks.policies import LOOK_AROUND_RAD, OraclePolicy, RandomPolicy, ScriptedPolicy, room_order
from liftwm_envs.tasks.shells import ShellGameTask
from liftwm_envs.tasks.watching import follow
from liftwm_envs.wrappers import GuidedTour


class SearchPolicy(ScriptedPolicy):
    """Looks for the goal from scratch: looks around room by room, or, where screens hide things, tries one after another.

    Where things move, it waits before the nearest tunnel, as any may be the right one, and looks around. Of cups it takes any.
    Called to the next object, it begins anew.
    """

    def reset(self) -> None:
        """Forget the script and re-seed."""
        super().reset()
        self._goal = 0

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """Drops what it does at each call."""
        if info["goal_object"] != self._goal:
            self._goal, self._running = info["goal_object"], None
        return super().act(obs, info)

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """Search, and at first sight drive to the goal the shortest way."""
        env = self.driver.env
        if isinstance(env.task, ShellGameTask):
            yield from self._take_cup(int(self.rng.integers(len(env.task.candidates))))
        if env.scene.tracks:
            yield from self._chase_at_first_sight(self._wait_at_a_tunnel())
            return
        search = self._try_screens() if env.scene.screens else self._look_through_rooms()
        for action in search:
            field = env.task.field
            if not env.scene.screens and field is not None and self._sees_goal():
                yield from self.driver.descend(field)
            yield action

    def _take_cup(self, index: int) -> Generator[Any, None, None]:
        """To the cup over an object the way the oracle would go, out of reach of the others, and stay there."""
        task = self.driver.env.task
        assert isinstance(task, ShellGameTask)
        grid = task.grid_to(index)
        yield from self.driver.descend(grid.distance_field(task.region(index)), grid)
        while True:
            yield self.driver.wait_facing(task.place(index))

    def _chase_at_first_sight(self, before: Generator[Any, None, None]) -> Generator[Any, None, None]:
        goal = self.driver.env.task.goal
        for action in before:
            if goal is not None and self._sees_goal():
                yield from follow(self.driver, self.driver.env.scene.tracks[goal.id - 1])
            yield action

    def _wait_at_a_tunnel(self) -> Generator[Any, None, None]:
        scene, here = self.driver.env.scene, self.driver.env.scene.grid.field_to(self.driver.position())
        fronts = [np.add(s.centre, (s.half_depth + 0.3) * np.array([np.cos(s.yaw), np.sin(s.yaw)])) for s in scene.screens]
        yield from self.driver.go_to(min(fronts, key=lambda front: here[scene.grid.cell(front)]))
        while True:
            yield from self.driver.turn(2 * np.pi)

    def _sees_goal(self) -> bool:
        env, goal = self.driver.env, self.driver.env.task.goal
        pixels = 0 if goal is None else np.count_nonzero(env.sim.render_segmentation() == goal.id)
        return bool(pixels >= SEEN_PX * math.prod(env.image_size) / 64**2)

    def _look_through_rooms(self) -> Generator[Any, None, None]:
        scene = self.driver.env.scene
        for stop, room in enumerate(room_order(scene, self.driver.position())):
            if stop > 0:
                yield from self.driver.go_to(scene.rooms[room].centre)
            yield from self.driver.turn(LOOK_AROUND_RAD)

    def _try_screens(self) -> Generator[Any, None, None]:
        env, left = self.driver.env, list(range(len(self.driver.env.scene.objects)))
        while left:
            here = env.scene.grid.field_to(self.driver.position())
            nearest = min(left, key=lambda k: here[env.task.region(k) & env.scene.grid.free].min())
            left.remove(nearest)
            yield from self.driver.descend(env.scene.grid.distance_field(env.task.region(nearest)))


class StaticPolicy(SearchPolicy):
    """Remembers where the goal was last seen, not that it goes on: waits there, facing the tunnel, or takes the cup there."""

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """To that end of the tunnel, and after the goal at first sight; or to the cup where the goal was covered."""
        task = self.driver.env.task
        assert task.goal is not None
        if isinstance(task, ShellGameTask):
            yield from self._take_cup(task.cup_at(task.goal.position))
        yield from self._chase_at_first_sight(self._wait_where_it_went_in())

    def _wait_where_it_went_in(self) -> Generator[Any, None, None]:
        task, scene = self.driver.env.task, self.driver.env.scene
        assert task.goal is not None
        track = scene.tracks[task.goal.id - 1]
        place = track.place(track.last_entry(task.called_at))
        yield from self.driver.go_to(place)
        while True:
            yield self.driver.wait_facing(scene.screens[task.goal.id - 1].centre)


POLICIES: dict[str, Callable[..., Policy]] = {"oracle": OraclePolicy, "search": SearchPolicy, "random": RandomPolicy}
MOTION_POLICIES: dict[str, Callable[..., Policy]] = {"static": StaticPolicy}  # only where things move


def measure(env_id: str, episodes: int, **kwargs: Any) -> list[dict[str, Any]]:
    """One row per episode and policy: success, steps from the call, shortest path in metres, whether memory can solve it.

    All policies of an episode go on from the same moment, the call.
    """
    env = GuidedTour(gymnasium.make(env_id, disable_env_checker=True, **kwargs))
    room_env: Any = env.unwrapped
    names = POLICIES | (MOTION_POLICIES if room_env.task_name in ("MovingOcclusion", "ShellGame") else {})
    looking = () if room_env.task_name == "ShellGame" else ("search", "static")  # what is under cups is not to be seen
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for index in range(episodes):
        obs, info = env.reset(seed=EVALUATION_SEEDS.start + index)
        restore = room_env.save()
        for name, make in names.items():
            room_env.sim.draws = name in looking
            restore()
            about = {"env": env_id, **kwargs, "policy": name, "seed": EVALUATION_SEEDS.start + index}
            rows[name].append(about | _run(env, make(env, index), obs, info))
    env.close()
    return [row for of_policy in rows.values() for row in of_policy]


def _run(env: GuidedTour, policy: Policy, obs: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """One policy from the call to the end."""
    start = {"shortest_path_m": round(info["shortest_path_m"], 3), "solvable_by_memory": info["solvable_by_memory"]}
    steps, done = 0, False
    while not done:
        obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
        steps, done = steps + 1, terminated or truncated
    return {"success": int(info["success"]), "steps": steps, **start}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: success of each policy by environment, in percent, and the mean shortest path of the episodes."""
    names = [*POLICIES, *MOTION_POLICIES]
    lines = [f"| id | {' | '.join(names)} | shortest path, m | solvable by memory |", "|---|" + "---|" * (len(names) + 2)]
    for env_id in dict.fromkeys(row["env"] for row in rows):
        mine = [row for row in rows if row["env"] == env_id]
        won = {name: [row["success"] for row in mine if row["policy"] == name] for name in names}
        cells = [f"{100 * np.mean(won[name]):.0f} %" if won[name] else "" for name in names]
        path = np.mean([r["shortest_path_m"] for r in mine])
        solvable = 100 * np.mean([r["solvable_by_memory"] for r in mine])
        lines.append(f"| `{env_id}` | {' | '.join(cells)} | {path:.1f} | {solvable:.0f} % |")
    return "\n".join(lines)


def write_csv(path: str, rows: list[dict[str, Any]]) -> None:
    """Write rows whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    partial = f"{path}.partial"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text.getvalue())
    os.replace(partial, path)


def main() -> None:
    """Measure, print the table, write the rows."""
    parser = argparse.ArgumentParser(prog="python -m liftwm_envs.lower_bounds", description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=30, help="per environment and policy")
    parser.add_argument("--embodiment", choices=["wheels", "drone"], default="wheels")
    parser.add_argument("--action", choices=["continuous", "discrete"], default="continuous")
    parser.add_argument("--envs", nargs="+", choices=ENV_IDS, default=ENV_IDS, metavar="ID", help="which; by default all")
    parser.add_argument("--out", default="", help="CSV of the raw rows")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for env_id in options.envs:
        rows += measure(env_id, options.episodes, embodiment=options.embodiment, action=options.action)
        print(table([row for row in rows if row["env"] == env_id]), flush=True)
        if options.out:
            write_csv(options.out, rows)


if __name__ == "__main__":
    main()
