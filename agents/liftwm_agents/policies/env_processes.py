"""Environments with a process each, which say in one line what ended them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import SubprocVecEnv

from embodied_liftwm.errors import UserError
from embodied_liftwm.workers.contract import failure
from embodied_liftwm.workers.local_engine import die_with_parent, safe_spawning


class EnvProcesses(SubprocVecEnv):
    """A `SubprocVecEnv` that raises what an environment, or the model in its process, has raised."""

    def __init__(self, makers: list[Callable[[], gym.Env]]) -> None:
        """
        Args:
            makers: each makes an environment, in its own process.

        Raises:
            UserError, RuntimeError: as `Failed.error`; so do `reset` and `step_wait`.
        """
        self.processes: list[Any] = []
        self._folder = tempfile.TemporaryDirectory()
        self._fault = Path(self._folder.name) / "fault"
        with self._blamed(), safe_spawning():
            super().__init__([partial(_begin, make, self._fault) for make in makers], "spawn")

    def reset(self) -> Any:
        """First observations of all."""
        with self._blamed():
            return super().reset()

    def step_wait(self) -> Any:
        """What the steps that were asked for gave."""
        with self._blamed():
            return super().step_wait()

    def close(self) -> None:
        """End the processes, if none has failed."""
        with suppress(EOFError, OSError):
            super().close()
        self.closed = True
        self._folder.cleanup()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            for process in self.processes:  # what they would answer now, nobody asks for any more
                process.kill()
                process.join()
            self.closed = True
            if not isinstance(error, EOFError | ConnectionError):
                raise
            if not self._fault.exists():
                raise UserError("the process of an environment died: is there enough memory?") from error
            raise pickle.loads(self._fault.read_bytes()).error("training") from None


class _Reporting(gym.Wrapper):
    """Leaves what its environment raises where the parent looks."""

    def __init__(self, env: gym.Env, fault: Path) -> None:
        super().__init__(env)
        self._fault = fault

    def reset(self, **named: Any) -> Any:
        with _reporting(self._fault):
            return super().reset(**named)

    def step(self, action: Any) -> Any:
        with _reporting(self._fault):
            return super().step(action)


def _begin(make: Callable[[], gym.Env], fault: Path) -> gym.Env:
    os.environ.pop("PYTHONSAFEPATH", None)
    die_with_parent()
    with _reporting(fault):
        return _Reporting(make(), fault)


@contextmanager
def _reporting(fault: Path) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        own = fault.with_name(f"fault-{os.getpid()}")
        own.write_bytes(pickle.dumps(failure(error)))
        own.replace(fault)
        os._exit(1)
