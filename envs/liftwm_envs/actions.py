"""Who chooses actions, and how these are written down.

Models, tours and datasets have float32 numbers of them, discrete choices one-hot. This is the one codec, for any environment
with a Box or a Discrete action space; it needs no simulator. The tables say which continuous action stands behind each
discrete one.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.errors import EnvError

WHEELS_ACTIONS = np.array([[0, 0], [1, 0], [0, 1], [0, -1], [1, 1], [1, -1]], np.float32)
"""Stop, forward, left, right, forward and left, forward and right, of a forward and a turning speed."""
DRONE_ACTIONS = np.array(
    [[0] * 6]
    + [[1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, -1, 0, 0, 0, 0]]
    + [[0, 0, 1, 0, 0, 0], [0, 0, -1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, -1]],
    np.float32,
)
"""Stop, forward, backward, left, right, up, down, turn left, turn right."""


class Policy(Protocol):
    """What chooses actions: a scripted explorer, or an agent of yours."""

    def reset(self) -> None:
        """Start an episode; called after the environment's reset."""
        ...

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Choose an action of the environment's action space."""
        ...


class Wander:
    """Explores any environment that shows its camera: an action is held for a random while, a leg or a turn.

    Which action leads ahead is learned on the way from the camera's own motion, so that about half of all legs do; a leg ends
    where the camera no longer moves, and another choice follows. Box actions are held at the ends of one axis while the others
    rest at 0, so that legs are straight and turns pure, or anywhere between.
    """

    longest = 12
    """Steps that an action is held at most: at 15 degrees a step, half a turn."""

    def __init__(self, env: gymnasium.Env, seed: int = 0) -> None:
        """
        Args:
            env: with a Discrete action space, or a Box of one axis with bounds.
            seed: of its choices.
        """
        self._space, self._seed = env.action_space, seed
        self.reset()

    def reset(self) -> None:
        """Start anew, with nothing learned."""
        self._rng = np.random.default_rng([self._seed, 23])
        space = self._space
        count = int(space.n) if isinstance(space, spaces.Discrete) else 2 * spaces.flatdim(space) + 1
        self._ahead = np.zeros(count)  # how far each choice moves the camera forward, when it moves
        self._choice, self._left, self._action = 0, 0, None
        self._pose: NDArray | None = None
        self._blocked = False

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """The action that is held, or the next one."""
        pose = np.array(obs["world_from_camera"], np.float64).reshape(4, 4)
        if self._pose is not None:
            self._learn(self._pose, pose)
        self._pose = pose
        if self._left == 0:
            likely = 1.0 + len(self._ahead) * (self._ahead == self._ahead.max()) * (self._ahead.max() > 0)
            likely[self._choice] *= not self._blocked or len(likely) == 1
            self._choice = int(self._rng.choice(len(likely), p=likely / likely.sum()))
            self._left, self._action = int(self._rng.integers(1, self.longest + 1)), self._chosen()
        self._left -= 1
        return self._action

    def _learn(self, before: NDArray, now: NDArray) -> None:
        moved = now[:3, 3] - before[:3, 3]
        self._blocked = bool(np.abs(now - before).max() < 1e-4)
        if self._blocked:
            self._left = 0
        else:
            self._ahead[self._choice] += 0.5 * (float(moved @ before[:3, 2]) - self._ahead[self._choice])

    def _chosen(self) -> Any:
        space = self._space
        if not isinstance(space, spaces.Box):
            return self._choice + int(getattr(space, "start", 0))
        axis, end = divmod(self._choice, 2)
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        if axis == len(low):
            return self._rng.uniform(space.low, space.high).astype(space.dtype)
        action = np.clip(0.0, low, high)
        action[axis] = (low, high)[end][axis]
        return action.reshape(space.shape).astype(space.dtype)


class ActionCodec:
    """Between the actions of a space and the numbers that are written down of them.

    With a `table` the actions are choices among its rows, and the rows are what is written down.
    """

    def __init__(self, space: gymnasium.Space | None, table: NDArray | None = None) -> None:
        """
        Args:
            space: Box or Discrete.
            table: continuous action behind each choice. [K, A]

        Raises:
            EnvError: another space.
        """
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise EnvError(f"action space {type(space).__name__} cannot be recorded: Box and Discrete can")
        self.space = space
        self._start = int(space.start) if isinstance(space, spaces.Discrete) else 0
        self._rows = table
        if table is None and isinstance(space, spaces.Discrete):
            self._rows = np.eye(int(space.n), dtype=np.float32)
        self.width = spaces.flatdim(space) if self._rows is None else self._rows.shape[1]
        """Numbers an action, A."""

    def encode(self, action: Any) -> NDArray[np.float32]:
        """The numbers of an action. [A]

        Raises:
            EnvError: a choice that there is not.
        """
        if self._rows is None:
            return np.asarray(action, np.float32).reshape(-1)
        try:
            index = int(action) - self._start
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < len(self._rows):
            last = self._start + len(self._rows) - 1
            raise EnvError(f"action: got {action!r:.60}, expected one of {self._start} .. {last}")
        return self._rows[index]

    def decode(self, numbers: NDArray) -> Any:
        """The action of the space that numbers [A] are nearest to: the inverse of `encode`."""
        if self._rows is None:
            return np.array(numbers, np.float32).reshape(self.space.shape)
        return self._start + int(((self._rows - numbers) ** 2).sum(1).argmin())


def space_of(actions: NDArray) -> spaces.Box | spaces.Discrete:
    """The action space of a tour's actions [K, A]: rows that are all one-hot, after the zeros of the first, are choices.

    A choice of two cannot be told from two numbers, and is taken for these.
    """
    width, rows = actions.shape[1], actions[1:]
    one_hot = len(rows) > 0 and width > 2 and bool(np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1))
    return spaces.Discrete(width) if one_hot else spaces.Box(-1.0, 1.0, (width,), np.float32)
