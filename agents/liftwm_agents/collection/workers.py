"""What the processes behind `collect` do: they share nothing but the dataset folder, and one of them dying harms nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import INFO, episode_indices, group_name, pack_shard, shard_name, write_episode
from embodied_liftwm.environments import EnvSource, use_renderer, versions
from embodied_liftwm.errors import UserError
from embodied_liftwm.folder_lock import join
from embodied_liftwm.plugins import users_fault
from liftwm_agents.collection.acting import make_policy
from liftwm_agents.collection.recording import record_episode
from liftwm_envs.actions import Policy
from liftwm_envs.errors import EnvError


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

    @property
    def episodes(self) -> int:
        return int(self.episode is not None)


@dataclass(frozen=True)
class CollectShards:
    """The work of collection: a task is a shard, and every report of an episode takes it off."""

    config: CollectConfig
    source: EnvSource
    name: str = "collecting"

    def start(self, report: Callable[[Report], None]) -> Callable[[Shard], None]:
        folder = Path(self.config.out)
        if not (folder / INFO).exists():
            raise UserError(f"a worker does not see {folder}: the dataset must be on a file system that all nodes share")
        collector, writer = ShardCollector(self.config, self.source), ShardWriter(folder, report)

        def perform(shard: Shard) -> None:
            for index in finished_of(folder, shard):  # by a worker that died before it could say so
                report(Report(episode=index))
                shard = shard.without(index)
            try:
                collect_shard(collector, writer, shard, report)
            finally:  # whatever ends a shard, the episode before it is kept
                writer.wait()

        return perform

    def left(self, shard: Shard, report: Report) -> Shard:
        return shard if report.episode is None else shard.without(report.episode)

    def place(self, shard: Shard) -> str:
        return f"episode {shard.missing[0]}" if shard.missing else f"packing shard {shard.number}"


def finished_of(folder: Path, shard: Shard) -> list[int]:
    """Episodes that a shard is said to lack, and that are on disk nevertheless."""
    packed = folder / shard_name(shard.number)
    held = episode_indices(packed) if shard.missing and packed.exists() else []
    return [index for index in shard.missing if index in held or (folder / f"{group_name(index)}.h5").exists()]


class ShardCollector:
    """One environment, kept over the episodes of a process."""

    def __init__(self, config: CollectConfig, source: EnvSource) -> None:
        """Build the environment.

        Raises:
            UserError, EnvError: it cannot be built.
        """
        use_renderer(config.renderer)
        self._config, self._source = config, source
        self.env = source.make(config.env_options, truth=True)
        self.policy_maker: Callable[..., Policy] = make_policy
        self._versions = versions()
        self._renderer = _describe_renderer() if source.ours else None

    def record(
        self, index: int, *, on_ready: Callable[[], None] = lambda: None, on_frames: Callable[[int], None] = lambda frames: None
    ) -> Episode:
        """Record episode `index` of the dataset; `on_ready` and `on_frames` as in `record_episode`.

        Raises:
            UserError: the environment gave what no episode can hold; what is held, `write_episode` validates.
        """
        config, seed = self._config, self._config.first_seed + index
        policy = partial(self.policy_maker, config.policy, ours=self._source.ours, seed=seed)
        try:
            episode = record_episode(self.env, policy, seed, config.steps, on_ready, on_frames)
        except Exception as error:
            line = str(error) if isinstance(error, UserError | EnvError) else users_fault(error)
            if line is None:
                raise
            raise UserError(f"{group_name(index)}: {line}") from error
        varied = getattr(self.env.unwrapped, "variation", {})
        about = {
            "index": index,
            "env": config.env,
            "env_options": self._source.options(config.env_options),
            **({"variation": varied} if self._source.ours and varied else {}),
            "policy": config.policy,
            "renderer": self._renderer,
            "versions": self._versions,
            "licence": "CC0-1.0" if self._source.ours else None,
        }
        return replace(episode, meta=episode.meta | about)

    def close(self) -> None:
        """Free the environment's GL context."""
        self.env.close()


def _describe_renderer() -> str:
    from liftwm_envs.rendering import describe_renderer

    return describe_renderer()


class ShardWriter:
    """Writes in a thread while the environment prepares the next episode, and is done before that has its first step.

    So a kill never costs more than one episode, and compression, which needs no interpreter, costs little time.
    """

    def __init__(self, folder: Path, report: Callable[[Report], None]) -> None:
        self._folder, self._report = folder, report
        self._lock = join(folder)
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def write(self, index: int, episode: Episode) -> None:
        """Begin to write a finished episode."""
        self._begin(self._write, index, episode)

    def pack(self, shard: Shard) -> None:
        """Begin to pack a shard whose episodes are finished."""
        self._begin(pack_shard, self._folder, shard.number, shard.indices)

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


def collect_shard(collector: ShardCollector, writer: ShardWriter, shard: Shard, report: Callable[[Report], None]) -> None:
    """Record what a shard lacks, each episode written as soon as it is finished, and pack it."""
    for index in shard.missing:
        episode = collector.record(index, on_ready=writer.wait, on_frames=lambda frames: report(Report(frames=frames)))
        writer.write(index, episode)
    writer.pack(shard)
