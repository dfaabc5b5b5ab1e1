"""`liftwm bench collect`: the whole of collection against the least that any collection must do.

The least is a bare loop of physics, one colour-and-depth pass and one segmentation pass. It replays the actions of the very
episodes that were collected just before, in the same scenes and the same process, with building the scenes left out. The whole
is everything `liftwm collect` does in a worker: build and reset environments, plan, step, record, compress, write, pack.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied_liftwm.bench.table import Row, machine, report
from embodied_liftwm.config import BenchConfig, CollectConfig
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.data.storage import FORMAT, write_info
from embodied_liftwm.terminal import plain_console
from liftwm_agents.collection.collect import CollectProgress, collect
from liftwm_agents.collection.env_source import EnvSource, find_env
from liftwm_agents.collection.shard_collector import ShardCollector
from liftwm_agents.collection.workers import Report, Shard, ShardWriter, collect_shard

TARGET = 0.85


@dataclass(frozen=True)
class Cost:
    """Seconds: a reading of the clocks, or a frame's share of what passed since one."""

    wall: float
    cpu: float  # of this process, all its threads

    @staticmethod
    def now() -> Cost:
        return Cost(time.perf_counter(), time.process_time())

    def until_now(self, frames: int) -> Cost:
        now = Cost.now()
        return Cost((now.wall - self.wall) / frames, (now.cpu - self.cpu) / frames)


def run(config: BenchConfig) -> int:
    """Time, print and write `bench_collect.csv`."""
    console = plain_console()
    source = find_env(config.env)
    settings = CollectConfig(env=config.env, env_options=config.env_options, workers=1)
    settings = replace(settings, episodes=max(1, round(config.frames / (settings.steps + 1))))
    about: dict[str, object] = {"env": config.env, "image_size": config.env_options.image_size}
    with console.status("timing one process") as status:
        bare, whole, shares = _one_process(settings, source, config.repeats)
        rows = [
            Row(about | {"what": name}, _measures(costs, [b.wall for b in bare]))
            for name, costs in (("bare loop", bare), ("whole collection", whole))
        ]
        alone = 0.0
        for workers in range(1, config.workers + 1):
            status.update(f"timing {workers} workers")
            speeds = [time_workers(replace(settings, workers=workers))[1] for _ in range(config.repeats)]
            alone = alone or statistics.median(speeds)
            measures = {"frames/s": speeds, "times one worker": [speed / alone for speed in speeds]}
            rows.append(Row(about | {"what": f"liftwm collect workers={workers}"}, measures))
    path = Path(config.out) / "bench_collect.csv"
    report(console, "collecting", rows, machine("numpy", "mujoco", "gymnasium"), path)
    console.print("a frame of the whole, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in shares.items()), soft_wrap=True)
    reached = statistics.median(rows[1].measures["of the bare loop"])
    by_cpu = statistics.median(b.cpu / w.cpu for b, w in zip(bare, whole, strict=True))
    verdict = "reaches" if reached >= TARGET else "misses"
    console.print(f"{100 * reached:.0f} % of the bare loop per process ({verdict} 85 %), {100 * by_cpu:.0f} % by CPU time")
    return 0


def _measures(costs: list[Cost], bare: list[float]) -> dict[str, list[float]]:
    """Speed, ratio to the bare loop's seconds, and CPU time, all threads: steadier where others use the machine."""
    return {
        "frames/s": [1 / cost.wall for cost in costs],
        "of the bare loop": [b / cost.wall for cost, b in zip(costs, bare, strict=True)],
        "CPU ms a frame": [1e3 * cost.cpu for cost in costs],
    }


def _one_process(settings: CollectConfig, source: EnvSource, repeats: int) -> tuple[list[Cost], list[Cost], dict[str, float]]:
    """The bare loop and the whole, alternating, and where a frame's time went in milliseconds."""
    _timed_collection(replace(settings, episodes=2), source)  # warm up
    bare, whole, shares = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cost, share = _timed_collection(replace(settings, out=folder), source)
            whole.append(cost)
            shares.append(share)
            bare.append(_bare_loop(replace(settings, out=folder), source))
    return bare, whole, {name: statistics.median(share[name] for share in shares) for name in shares[0]}


def _timed_collection(settings: CollectConfig, source: EnvSource) -> tuple[Cost, dict[str, float]]:
    if settings.out == CollectConfig.out:
        with tempfile.TemporaryDirectory() as folder:
            return _timed_collection(replace(settings, out=folder), source)
    indices = list(range(settings.episodes))
    frames = 0

    def count(report: Report) -> None:
        nonlocal frames
        if report.frames:  # the writer's reports, from its thread, have none
            frames += report.frames

    begin = Cost.now()
    write_info(Path(settings.out), {"format": FORMAT})
    collector, writer = ShardCollector(settings, source), ShardWriter(Path(settings.out), count)
    clock = _Clock(collector, writer)
    for first in range(0, len(indices), settings.episodes_per_shard):
        held = indices[first : first + settings.episodes_per_shard]
        collect_shard(collector, writer, Shard(first // settings.episodes_per_shard, held, held), count)
    writer.wait()
    collector.close()
    cost = begin.until_now(frames)
    shares = {name: 1e3 * spent / frames for name, spent in clock.spent.items()}
    return cost, shares | {"all else": 1e3 * cost.wall - sum(shares.values())}


class _Clock:
    """Adds up the time in the parts of a collector: two clock readings a call, about 0.2 us."""

    def __init__(self, collector: ShardCollector, writer: ShardWriter) -> None:
        self.spent: dict[str, float] = {}
        env, sim_of = collector.env, collector.env.unwrapped
        self._wrap(env, "reset", "new scenes")
        self._wrap(writer, "wait", "waiting for the writer")
        self._wrap(sim_of, "step", "steps: physics, rendering, observation")
        make = collector.policy_maker

        def timed_policy(*arguments: Any, **options: Any) -> Any:
            policy = make(*arguments, **options)
            self._wrap(policy, "act", "choosing actions")
            return policy

        collector.policy_maker = timed_policy

    def _wrap(self, owner: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, method)
        self.spent.setdefault(name, 0.0)

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return inner(*arguments, **options)
            finally:
                self.spent[name] += time.perf_counter() - begin

        setattr(owner, method, timed)


def _bare_loop(settings: CollectConfig, source: EnvSource) -> Cost:
    """Seconds a frame of stepping, drawing and reading pixels alone, over the episodes that lie in `settings.out`.

    A frame is 20 commanded `mj_step`s, one pass for colour and depth and one for segmentation. Pixels are left as they come:
    upside down, depth not in metres, ids not looked up.
    """
    from liftwm_envs.rendering import drawing

    env, _ = source.make(settings.env_options, truth=True)
    costs, frames = [], []
    for episode in EvaluationReader(settings.out):
        env.reset(seed=episode.meta["seed"])
        sim: Any = env.unwrapped.sim  # type: ignore[attr-defined]
        actions = _continuous(env, episode.action)
        draw, draw_ids = sim.passes()
        with drawing():
            begin = Cost.now()
            for action in actions:
                sim.action[:] = action
                sim.step()
                draw()
                draw_ids()
            costs.append(begin.until_now(1))
        frames.append(len(actions))
    env.close()
    return Cost(sum(c.wall for c in costs) / sum(frames), sum(c.cpu for c in costs) / sum(frames))


def _continuous(env: Any, action: np.ndarray) -> np.ndarray:
    """Recorded actions as the simulation takes them. [T, A]"""
    if hasattr(env.action_space, "n"):
        from liftwm_envs.embodiments import EMBODIMENTS

        table = EMBODIMENTS[env.unwrapped.embodiment_name].discrete_actions
        return np.asarray(table)[action.argmax(1)]
    return action


def time_workers(settings: CollectConfig) -> tuple[float, float]:
    """Seconds until the first frames of `collect` came, and frames per second from there to its last."""
    begin = time.perf_counter()
    stamps: list[tuple[float, int]] = []

    def stamp(progress: CollectProgress) -> None:
        if progress.frames:
            stamps.append((time.perf_counter(), progress.frames))

    with tempfile.TemporaryDirectory() as folder:
        shard, episodes = max(1, settings.episodes // 4), settings.episodes * settings.workers
        collect(replace(settings, out=folder, episodes=episodes, episodes_per_shard=shard), stamp)
    (first, before), (last, after) = stamps[0], stamps[-1]
    return first - begin, (after - before) / (last - first)
