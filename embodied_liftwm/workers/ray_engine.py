"""Workers that are actors of Ray, on one machine or a cluster. Ray is imported here alone, and only when it is asked for.

A Ray that is started here listens on loopback alone, asks for a token that nobody else has, and is gone with this process.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from embodied_liftwm.errors import UserError
from embodied_liftwm.workers.contract import LEAVING, Died, Done, Failed, Work, failure
from embodied_liftwm.workers.watcher import Watcher

PATIENCE_S = 30.0
"""After so long without a sign of any worker, the user is told what Ray is waiting for."""
OBJECT_STORE_BYTES = 2**27
"""Messages are small, so the Ray that is started here needs little shared memory."""
LEAST_VERSION = (2, 52)
"""The first that knows tokens: without one, whoever reaches a port of Ray's runs what they like."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers may use this machine's GPUs without Ray's counting them
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^(A worker died|Raylet is terminated|The node with node id)",  # we replace it, or say why not
}


class RayEngine:
    """Actors of the Ray that runs in this process already, of a cluster, or of one started here and ended with the work."""

    def __init__(self, workers: int, address: str) -> None:
        self.workers = workers
        self._address = address
        self._ray = _import_ray(own=not address)
        self._mine = self._heard = False
        self._watcher: Watcher | None = None

    def __enter__(self) -> RayEngine:
        self._mine = not self._ray.is_initialized()
        if self._mine:
            self._connect()
        self._make = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(LiftwmWorker)
        return self

    def __exit__(self, *error: object) -> None:
        if self._mine:
            self._ray.shutdown()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def start(self, work: Work[Any, Any]) -> RayWorker:
        return RayWorker(self._ray, self._make.remote(pickle.dumps(work), os.getcwd(), sys.path))

    def ready(self, workers: Sequence[Any]) -> list[Any]:
        messages = [worker.messages for worker in workers]
        found, _ = self._ray.wait(messages, timeout=None if self._heard else PATIENCE_S)
        if not found:
            free, cpus = self._ray.available_resources().get("CPU", 0), self._ray.cluster_resources().get("CPU", 0)
            print(f"waiting for Ray's workers: each takes a CPU, {free:g} of {cpus:g} are free", file=sys.stderr)
        self._heard = True
        found, _ = self._ray.wait(messages, num_returns=len(messages), timeout=0)  # all that have something, not just the first
        return [worker for worker in workers if worker.messages in found]

    def _connect(self) -> None:
        """Start Ray here, or join the cluster; either way its log stays in its own files."""
        _check_address(self._address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        local = {"num_cpus": self.workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            if self._address:
                self._ray.init(address=self._address, **quiet)
                return
            self._watcher = Watcher()
            with _loopback(), _own_sigterm(), self._watcher.following():
                self._ray.init(address="local", **quiet, **local)
        except Exception as error:  # Ray has many, a bare Exception among them
            what = f"ray_address={self._address}: cannot join a Ray cluster" if self._address else "Ray does not start here"
            token = "; one that asks for a token needs RAY_AUTH_MODE=token" if self._address else ""
            raise UserError(f"{what} ({_first_line(error)}){token}; engine=local does without it") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would print a page and exit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class RayWorker:
    """The parent's view of an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.messages: Any = None  # a generator of references to what the actor says of its task

    def give(self, task: Any) -> None:
        self.messages = self._actor.do.options(num_returns="streaming").remote(task)

    def receive(self) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(next(self.messages))
        except StopIteration:
            return Done()
        except errors.RayTaskError as error:
            return Failed(str(error), user_error=False)
        except errors.RayError as error:  # the process, its node, or what it said is lost
            unborn = getattr(error, "actor_init_failed", False)  # its node lacks a package, say, as all will
            return Failed(str(error), user_error=False) if unborn else Died(_cause(error))

    def dismiss(self) -> None:
        self._actor.__ray_terminate__.remote()

    def kill(self) -> None:
        self._ray.kill(self._actor)


class LiftwmWorker:
    """A worker's life in a process of Ray's. Tasks are done in a thread of its own, since messages come from several."""

    def __init__(self, work: bytes, folder: str, path: list[str]) -> None:
        self._folder = folder
        sys.path[:] = [place for place in sys.path if place != folder]  # Ray puts it first: a stray mujoco.py would be found
        sys.path += [place for place in path if place not in sys.path]
        self._work: Work[Any, Any] = pickle.loads(work)
        self._thread = ThreadPoolExecutor(1)
        self._messages: SimpleQueue[Any] = SimpleQueue()
        self._perform: Any = None

    def do(self, task: Any) -> Iterator[Any]:
        """Do a task, and say meanwhile what there is to say of it."""
        self._thread.submit(self._do, task)
        while not isinstance(message := self._messages.get(), Done):
            yield message

    def _do(self, task: Any) -> None:
        try:
            self._perform = self._perform or self._start()
            self._perform(task)
        except (Exception, *LEAVING) as error:
            self._messages.put(failure(error))
        self._messages.put(Done())

    def _start(self) -> Any:
        try:
            os.chdir(self._folder)  # relative paths mean the same to all
        except OSError as error:
            raise UserError(f"a Ray node has no folder {self._folder}: start in one that all nodes share") from error
        return self._work.start(self._messages.put)


def _import_ray(own: bool) -> Any:
    """Import Ray; `own` is whether one will be started here, whose processes are then to ask for a token."""
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    if own and "ray" not in sys.modules:  # it reads this once
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        line = f"engine=ray needs Ray ({_first_line(error)}): pip install 'embodied-liftwm[dist]', or use engine=local"
        raise UserError(line) from error
    if own and tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2]) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise UserError(f"engine=ray needs Ray {least} or newer, which asks for a token; {ray.__version__} is installed")
    return ray


@contextmanager
def _loopback() -> Iterator[None]:
    """Let a Ray that is started in this block take 127.0.0.1 for this machine's address, and so listen nowhere else.

    It would replace the address given to `ray.init` by one that others reach.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _check_address(address: str) -> None:
    """Whether something answers there: Ray itself would try for minutes."""
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not host or "/" in host:
        raise UserError(
            f"ray_address={address}: must be auto or HOST:PORT, as `ray start --head` prints it; empty starts Ray here"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"ray_address={address}: nothing answers there ({error}); begin a cluster with `ray start --head`"
        ) from error


def _cause(error: Exception) -> str:
    """Ray's own words, as far as they say what happened: without ids, and without what else it might have been."""
    told = str(error).rpartition("exit detail: ")[2] or str(error)
    return _first_line(told.partition(". ")[0])


def _first_line(error: object) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
