"""Scripted explorers: how episodes are collected when no agent has been trained yet.

`walk` sees nothing but its bumps. `tour`, `loop`, `oracle` and `support-R` plan on the true floor plan, so they are for
collecting data and for ceilings, never for scoring. All are deterministic in (environment seed, policy seed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from embodied_liftwm.config import SUPPORT_POLICY
from liftwm_envs.actions import Policy
from liftwm_envs.embodiments import EMBODIMENTS
from liftwm_envs.errors import EnvError
from liftwm_envs.rooms.navigation import CELL_M, bounded_angle
from liftwm_envs.settings import STEP_M, STEP_RAD
from liftwm_envs.tasks.policies import LOOK_AROUND_RAD, OraclePolicy, RandomPolicy, ScriptedPolicy, TourPolicy
from liftwm_envs.tasks.watching import watch_show, watch_something


class WalkPolicy(ScriptedPolicy):
    """A smooth random walk: forward with a slowly wandering turn rate; turns away from what it bumps into."""

    def reset(self) -> None:
        """Forget the script and re-seed."""
        super().reset()
        self._bumped = False

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """The script's next action; remembers whether the last one ended in a bump."""
        self._bumped = bool(info.get("bump", False))
        return super().act(obs, info)

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """One stretch: a random walk until a bump, then a turn of 60 to 180 degrees."""
        drift = 0.0
        speed = self.rng.uniform(0.5, 1.0)
        while not self._bumped:
            drift = 0.85 * drift + 0.35 * self.rng.standard_normal()
            yield self.driver.action(speed, float(np.clip(drift, -1, 1)))
        yield self.driver.action(-0.5, 0.0)
        yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 3, np.pi))
        self._bumped = False
        yield self.driver.action(speed, 0.0)


class LoopPolicy(TourPolicy):
    """Goes out to a random place, looks around, and returns to the pose it left: the revisits that memory is trained on."""

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """One loop; where things move, after a while of watching."""
        if self.driver.env.scene.tracks:
            yield from watch_something(self.driver, self.rng)
        for show in self.driver.env.scene.shows:
            yield from watch_show(self.driver, show.room)
        home, heading = self.driver.position(), self.driver.yaw()
        yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 2, LOOK_AROUND_RAD))
        yield from self.driver.go_to(self._viewpoint())
        yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 2, LOOK_AROUND_RAD))
        yield from self.driver.go_to(home)
        yield from self.driver.face(heading)


class ExplorePolicy:
    """One of walk, tour and loop, chosen by the seed; another seed, another mixture.

    Where things move it is mostly the tour, which watches them most.
    """

    _KINDS: tuple[type[ScriptedPolicy], ...] = (WalkPolicy, TourPolicy, LoopPolicy)
    _SHARES, _SHARES_WATCHING = (0.25, 0.4, 0.35), (0.05, 0.8, 0.15)

    def __init__(self, env: Any, seed: int = 0) -> None:
        options = env.unwrapped.settings.scene
        shares = self._SHARES_WATCHING if options.has_movers or options.cups else self._SHARES
        kind = int(np.random.default_rng([seed, 23]).choice(len(self._KINDS), p=shares))
        self.chosen = self._KINDS[kind](env, seed)

    def reset(self) -> None:
        """Start the chosen explorer anew."""
        self.chosen.reset()

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """The chosen explorer's action."""
        return self.chosen.act(obs, info)


class SupportPolicy(ScriptedPolicy):
    """Turns and wanders within a disc around its start; at radius 0 it only turns, so that no frame has parallax to another.

    Asked to leave, it goes, after so many frames, to places at one distance from the nearest it has been at, and looks around
    there on the spot. A discrete action moves 0.2 m at once: in a disc smaller than that it only turns.

    Args:
        env: the environment.
        seed: of the wandering.
        radius_m: of the disc, metres.
        leave_m: distance of those places; 0 to stay in the disc for ever.
        after: frames seen before it leaves.
    """

    def __init__(self, env: Any, seed: int = 0, *, radius_m: float, leave_m: float = 0.0, after: int = 0) -> None:
        self.radius_m, self.leave_m, self.after = radius_m, leave_m, after
        self._inner_m = radius_m - min(0.04, 0.12 * radius_m)  # it rolls on for up to 3 cm
        self._top_speed = min(1.0, radius_m / 0.4)
        super().__init__(env, seed)
        discrete = EMBODIMENTS[self.driver.env.embodiment_name].discrete_actions
        self._table = discrete if self.driver.env.action_kind == "discrete" else None

    def reset(self) -> None:
        """Forget the script and where it has been, and re-seed."""
        super().reset()
        self._visited: list[NDArray[np.float64]] = []

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """The script's next action; drops the wandering when it is time to leave."""
        if not self._leaving:
            self._visited.append(self.driver.position())
            self._running = None if self._leaving else self._running
        return super().act(obs, info)

    @property
    def _leaving(self) -> bool:
        return self.leave_m > 0 and len(self._visited) >= self.after

    def script(self, info: dict[str, Any]) -> Generator[Any, None, None]:
        """One look around and one way within the disc; or, leaving, one place outside and a look around there."""
        if self._leaving:
            yield from self.driver.go_to(self._place_outside())
            yield from self.driver.turn(2 * math.pi)
            return
        angle = self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 2, LOOK_AROUND_RAD)
        for _ in range(math.ceil(abs(angle) / STEP_RAD)):
            yield self._within(0.6, math.copysign(1.0, angle))
        if self.radius_m > 0:
            yield from self._go_straight(self._place_inside())

    def _place_inside(self) -> NDArray[np.float64]:
        """A free place of the disc, each part as likely, that can be reached in a straight line; here if none is found."""
        grid, here = self.driver.env.scene.grid, self.driver.position()
        for _ in range(30):
            angle, distance = self.rng.uniform(0, 2 * np.pi), self._inner_m * math.sqrt(self.rng.uniform())
            place = self._visited[0] + distance * np.array([math.cos(angle), math.sin(angle)])
            if grid.is_clear(here, place):
                return place
        return here

    def _place_outside(self) -> NDArray[np.float64]:
        """One of the nearest places whose distance to the nearest visited one is `leave_m`, or as near to that as there are."""
        grid = self.driver.env.scene.grid
        field = grid.field_to(self.driver.position())
        places, ways = grid.centres[np.isfinite(field)], field[np.isfinite(field)]
        nearest = np.hypot(*(places[:, None] - np.array(self._visited)).transpose(2, 0, 1)).min(1)
        off = np.abs(nearest - self.leave_m)
        good = np.flatnonzero(off <= off.min() + 0.25 * CELL_M)
        near = good[np.argsort(ways[good], kind="stable")[:10]]
        return places[int(self.rng.choice(near))]

    def _go_straight(self, place: NDArray[np.float64]) -> Generator[Any, None, None]:
        """Turn to a place of the disc and drive there; gives up where something holds it."""
        reach = 0.1 * min(1.0, self.radius_m)
        for _ in range(20 + math.ceil(2 * self.radius_m / (STEP_M * self._top_speed))):
            offset = place - self.driver.position()
            distance = math.hypot(*offset)
            if distance < reach:
                return
            error = bounded_angle(math.atan2(offset[1], offset[0]) - self.driver.yaw())
            forward = min(1.0, distance / STEP_M) * math.cos(error) ** 2 if abs(error) < 0.6 else 0.0
            yield self._within(forward, float(np.clip(error / STEP_RAD, -1, 1)))

    def _within(self, forward: float, yaw: float) -> Any:
        """The action for this speed, slowed until it ends within the disc and touches nothing."""
        grid = self.driver.env.scene.grid
        for share in (1.0, 0.5, 0.25):
            action = self.driver.action(share * min(forward, self._top_speed), yaw)
            end = self._end_of(action)
            if math.hypot(*(end - self._visited[0])) <= self._inner_m and grid.is_clear(end, end):
                return action
        return self.driver.action(0.0, yaw)

    def _end_of(self, action: Any) -> NDArray[np.float64]:
        """Where an action leads, along the chord of its arc. [2]"""
        values = action if self._table is None else self._table[action]
        turn = STEP_RAD * float(values[1] if len(values) == 2 else values[5])
        heading = self.driver.yaw() + 0.5 * turn
        return self.driver.position() + STEP_M * float(values[0]) * np.array([math.cos(heading), math.sin(heading)])


EXPLORERS: dict[str, Callable[..., Policy]] = {
    "explore": ExplorePolicy,
    "walk": WalkPolicy,
    "tour": TourPolicy,
    "loop": LoopPolicy,
    "random": RandomPolicy,
    "oracle": OraclePolicy,
}


def make_policy(name: str, env: gymnasium.Env, seed: int) -> Policy:
    """An explorer for one of our environments (wrapped or not). Call its `reset()` after each `env.reset()`.

    Args:
        name: of `EXPLORERS`, or `support-R` or `support-R-leave-D-after-N` for a `SupportPolicy`.
        env: the environment.
        seed: of the explorer.

    Raises:
        EnvError: no explorer of that name.
    """
    support = SUPPORT_POLICY.fullmatch(name)
    if name not in EXPLORERS and not support:
        raise EnvError(f"policy={name!r}: must be one of {', '.join(EXPLORERS)}, support-METRES")
    return support_policy(name)(env, seed) if support else EXPLORERS[name](env, seed)


def support_policy(name: str) -> Callable[..., SupportPolicy]:
    """The maker of the `SupportPolicy` that a name describes."""
    found = SUPPORT_POLICY.fullmatch(name)
    assert found, name
    leave, after = float(found["leave"] or 0.0), int(found["after"] or 0)
    return partial(SupportPolicy, radius_m=float(found["radius"]), leave_m=leave, after=after)
