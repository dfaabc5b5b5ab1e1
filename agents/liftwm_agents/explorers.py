"""Scripted explorers: how episodes are collected when no agent has been trained yet.

`walk` sees nothing but its bumps. `tour`, `loop` and `oracle` plan on the true floor plan, so they are for collecting data and
for ceilings, never for scoring. All are deterministic in (environment seed, policy seed).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from liftwm_envs.errors import EnvError
from liftwm_envs.policies import LOOK_AROUND_RAD, OraclePolicy, Policy, RandomPolicy, ScriptedPolicy, TourPolicy


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
        """One loop."""
        home, heading = self.driver.position(), self.driver.yaw()
        yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 2, LOOK_AROUND_RAD))
        yield from self.driver.go_to(self._viewpoint())
        yield from self.driver.look_around(self.rng.choice([-1, 1]) * self.rng.uniform(np.pi / 2, LOOK_AROUND_RAD))
        yield from self.driver.go_to(home)
        yield from self.driver.face(heading)


class ExplorePolicy:
    """One of walk, tour and loop, chosen by the seed; another seed, another mixture."""

    _KINDS: tuple[type[ScriptedPolicy], ...] = (WalkPolicy, TourPolicy, LoopPolicy)
    _SHARES = (0.25, 0.4, 0.35)

    def __init__(self, env: Any, seed: int = 0) -> None:
        kind = int(np.random.default_rng([seed, 23]).choice(len(self._KINDS), p=self._SHARES))
        self.chosen = self._KINDS[kind](env, seed)

    def reset(self) -> None:
        """Start the chosen explorer anew."""
        self.chosen.reset()

    def act(self, obs: dict[str, NDArray], info: dict[str, Any]) -> Any:
        """The chosen explorer's action."""
        return self.chosen.act(obs, info)


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

    Raises:
        EnvError: no explorer of that name.
    """
    if name not in EXPLORERS:
        raise EnvError(f"policy={name!r}: must be one of {', '.join(EXPLORERS)}")
    return EXPLORERS[name](env, seed)
