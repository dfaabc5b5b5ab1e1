"""Where training episodes start: guided tours of training scenes, toured and watched once, and drawn again and again.

What an episode costs at its start is not the tour (1 ms a frame) but watching it through a world model (10 ms a frame) and
reading the state from where the tour has been. Both depend on the scene's seed alone, so whoever watches keeps what came out in
`Start.memory`. Scenes do not run out: a share of all draws is a new one, which takes the oldest one's place. Each draw is
played a few times in a row; where the environment can go back to a moment (`save`), that spares building the scene and touring
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from embodied_liftwm.config import EVAL_SEED_OFFSET


@dataclass
class Start:
    """A seed, and what was made of its tour."""

    seed: int
    memory: Any = None  # of whoever watches tours; never changed once it is set


class StartPool:
    """The last `size` starts of one environment."""

    def __init__(self, size: int, fresh: float, seed: int, repeats: int = 1) -> None:
        """
        Args:
            size: starts kept; 0 makes every start a new one.
            fresh: share of draws that are a new start.
            seed: of the draws.
            repeats: episodes in a row from each draw.
        """
        self._size, self._fresh, self._repeats = size, fresh, repeats
        self._starts: list[Start] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Draw from another stream; what is kept is kept."""
        self._rng = np.random.default_rng(seed)
        self._last, self._left = Start(0), 0

    def draw(self) -> Start:
        """A start in a scene of the training half of the seeds."""
        if self._left == 0:
            self._last, self._left = self._draw(), self._repeats
        self._left -= 1
        return self._last

    def _draw(self) -> Start:
        if self._starts and self._rng.random() >= self._fresh:
            return self._starts[int(self._rng.integers(len(self._starts)))]
        start = Start(int(self._rng.integers(EVAL_SEED_OFFSET)))
        if self._size:
            self._starts = [*self._starts, start][-self._size :]
        return start


@dataclass(frozen=True)
class _Begun:
    """How the present scene's episode began."""

    start: Start
    go_back: Callable[[], None]
    obs: dict[str, np.ndarray]
    info: dict[str, Any]


class TrainingSeeds(gym.Wrapper):
    """Draws every episode's scene from the training half of the seeds; its start is `info["start"]`."""

    def __init__(self, env: gym.Env, seed: int, starts: int = 0, fresh: float = 1.0, repeats: int = 1) -> None:
        """`starts`, `fresh` and `repeats` as in `StartPool`."""
        super().__init__(env)
        self._pool = StartPool(starts, fresh, seed, repeats)
        self._begun: _Begun | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The next episode; a seed begins another stream of scenes."""
        if seed is not None:
            self._pool.reseed(seed)
        start = self._pool.draw()
        if self._begun is None or self._begun.start is not start or options:
            obs, info = self.env.reset(seed=start.seed, options=options)
            save = getattr(self.env.unwrapped, "save", None)
            self._begun = None if save is None else _Begun(start, save(), obs, info)
            return obs, {**info, "start": start}
        self._begun.go_back()
        return dict(self._begun.obs), {**self._begun.info, "start": start}
