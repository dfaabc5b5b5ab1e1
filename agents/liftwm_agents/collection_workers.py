"""The processes behind `collect`: they share nothing but the dataset folder, and one of them dying harms nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import pack_shard, write_episode
from embodied_liftwm.errors import UserError
from liftwm_agents.env_source import EnvSource

if TYPE_CHECKING:
    from liftwm_agents.shard_collector import ShardCollector

DEATHS = 3
"""A worker that dies so often without finishing an episode is not replaced again."""


@dataclass(frozen=True)
class Shard:
    """Work for one process."""

    number: int
    indices: list[int]  # episodes the shard shall hold
    missing: list[int]  # those to be collected

    def without(self, index: int) -> Shard:
        """The work that is left once an episode is finished."""
        return replace(self, missing=[i for i in self.missing if i != index])


@dataclass(frozen=True)
class Report:
    """What a worker has done since its last report."""

    frames: int = 0
    episode: int | None = None  # index of an episode that is now on disk
    packed: bool = False  # the shard is complete
    error: str = ""  # what went wrong
    user_error: bool = False  # whether that is for the user to mend

    @property
    def episodes(self) -> int:
        return int(self.episode is not None)


class _Worker:
    """The parent's view of a process."""

    def __init__(self, config: CollectConfig, source: EnvSource, shard: Shard) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(config, source, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.deaths = 0
        self.give(shard)

    def give(self, shard: Shard | None) -> None:
        self.shard = shard
        self.connection.send(shard)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_shards(config: CollectConfig, source: EnvSource, shards: list[Shard]) -> Iterator[Report]:
    """Collect and pack shards in worker processes; yield their reports as they come.

    Raises:
        UserError: a worker met one, or workers keep being killed.
        RuntimeError: a bug, with the worker's traceback.
    """
    todo = deque(shards)
    workers = [_Worker(config, source, todo.popleft()) for _ in range(min(config.workers, len(todo)))]
    try:
        while workers:
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                report = _receive(worker)
                if report is None:
                    workers[workers.index(worker)] = _replacement(config, source, worker)
                    continue
                if report.episode is not None and worker.shard is not None:
                    worker.shard, worker.deaths = worker.shard.without(report.episode), 0
                if report.packed:
                    _next(worker, todo, workers)
                yield report
    finally:
        for worker in workers:
            worker.stop()


def _receive(worker: _Worker) -> Report | None:
    """The next report, or None from a worker that is dead."""
    try:
        report: Report = worker.connection.recv()
    except (EOFError, OSError):
        return None
    if report.error:
        raise UserError(report.error) if report.user_error else RuntimeError(f"a collecting process failed\n{report.error}")
    return report


def _next(worker: _Worker, todo: deque[Shard], workers: list[_Worker]) -> None:
    if todo:
        worker.give(todo.popleft())
    else:
        worker.give(None)
        worker.process.join()
        worker.connection.close()
        workers.remove(worker)


def _replacement(config: CollectConfig, source: EnvSource, dead: _Worker) -> _Worker:
    """A new worker for what a dead one left undone."""
    dead.process.join()
    dead.connection.close()
    deaths, code = dead.deaths + 1, dead.process.exitcode or 0
    assert dead.shard is not None
    if deaths >= DEATHS:
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        where = f"episode {dead.shard.missing[0]}" if dead.shard.missing else f"packing shard {dead.shard.number}"
        raise UserError(f"a collecting process died {deaths} times over at {where} ({cause}): is there enough memory?")
    worker = _Worker(config, source, dead.shard)
    worker.deaths = deaths
    return worker


def _work(config: CollectConfig, source: EnvSource, connection: Connection) -> None:
    """A worker's life: shards come in, reports go out, None ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    lock = threading.Lock()

    def report(message: Report) -> None:
        with lock:  # the writer reports from its thread
            connection.send(message)

    try:
        from liftwm_agents.shard_collector import ShardCollector

        collector, writer = ShardCollector(config, source), ShardWriter(Path(config.out), report)
        while (shard := connection.recv()) is not None:
            collect_shard(collector, writer, shard, report)
            writer.wait()
    except EOFError:
        return  # the parent is gone
    except Exception as error:
        user_error = isinstance(error, ValueError) and type(error).__name__ in ("UserError", "EnvError", "TruthAccessError")
        report(Report(error=str(error) if user_error else traceback.format_exc(), user_error=user_error))


class ShardWriter:
    """Writes in a thread while the environment prepares the next episode, and is done before that has its first step.

    So a kill never costs more than one episode, and compression, which needs no interpreter, costs little time.
    """

    def __init__(self, folder: Path, report: Callable[[Report], None]) -> None:
        self._folder, self._report = folder, report
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def write(self, index: int, episode: Episode) -> None:
        """Begin to write a finished episode."""
        self._begin(self._write, index, episode)

    def pack(self, shard: Shard) -> None:
        """Begin to pack a shard whose episodes are finished."""
        self._begin(self._pack, shard)

    def wait(self) -> None:
        """Return when everything begun is on disk. Raises what went wrong there."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self.wait()
        self._pending = self._thread.submit(work, *arguments)

    def _write(self, index: int, episode: Episode) -> None:
        write_episode(self._folder, index, episode)
        self._report(Report(episode=index))

    def _pack(self, shard: Shard) -> None:
        pack_shard(self._folder, shard.number, shard.indices)
        self._report(Report(packed=True))


def collect_shard(collector: ShardCollector, writer: ShardWriter, shard: Shard, report: Callable[[Report], None]) -> None:
    """Record what a shard lacks, each episode written as soon as it is finished, and pack it."""
    for index in shard.missing:
        episode = collector.record(index, on_ready=writer.wait, on_frames=lambda frames: report(Report(frames=frames)))
        writer.write(index, episode)
    writer.pack(shard)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
