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
