"""`liftwm bench collect`: the whole of collection against the least that any collection must do.

The least is a bare loop of physics, one colour-and-depth pass and one segmentation pass. It replays the actions of the very
episodes that were collected just before, in the same scenes and the same process, with building the scenes left out. The whole
is everything `liftwm collect` does in a worker: build and reset environments, plan, step, record, compress, write, pack.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodied_liftwm.bench.table import Row, machine, ratios, report
from embodied_liftwm.config import BenchConfig, CollectConfig
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.data.storage import FORMAT, write_info
from embodied_liftwm.environments import EnvSource, find_env
from embodied_liftwm.terminal import plain_console
from liftwm_agents.collection.collect import CollectProgress, collect
from liftwm_agents.collection.workers import Report, Shard, ShardCollector, ShardWriter, collect_shard

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
        bare, whole = _one_process(settings, source, config.repeats)
        rows = [
            Row(about | {"what": name}, _measures(costs, [b.wall for b in bare]))
            for name, costs in (("bare loop", bare), ("whole collection", whole))
        ]
        alone = 0.0
        for workers in range(1, config.workers + 1):
            status.update(f"timing {workers} workers")
            speeds = [_frames_per_s(replace(settings, workers=workers)) for _ in range(config.repeats)]
            alone = alone or statistics.median(speeds)
            measures = {"frames/s": speeds, "times one worker": [speed / alone for speed in speeds]}
            rows.append(Row(about | {"what": f"liftwm collect workers={workers}"}, measures))
    path = Path(config.out) / "bench_collect.csv"
    report(console, "collecting", rows, machine("numpy", "mujoco", "gymnasium"), path)
    reached = statistics.median(rows[1].measures["of the bare loop"])
    by_cpu = statistics.median(b.cpu / w.cpu for b, w in zip(bare, whole, strict=True))
    verdict = "reaches" if reached >= TARGET else "misses"
    console.print(f"{100 * reached:.0f} % of the bare loop per process ({verdict} 85 %), {100 * by_cpu:.0f} % by CPU time")
    return 0


def _measures(costs: list[Cost], bare: list[float]) -> dict[str, list[float]]:
    """Speed, ratio to the bare loop's seconds, and CPU time, all threads: steadier where others use the machine."""
    return {
        "frames/s": [1 / cost.wall for cost in costs],
        "of the bare loop": ratios(bare, [cost.wall for cost in costs]),
        "CPU ms a frame": [1e3 * cost.cpu for cost in costs],
    }


def _one_process(settings: CollectConfig, source: EnvSource, repeats: int) -> tuple[list[Cost], list[Cost]]:
    """The bare loop and the whole, alternating, after a short collection to warm up."""
    bare, whole = [], []
    for episodes in (2, *[settings.episodes] * repeats):
        with tempfile.TemporaryDirectory() as folder:
            asked = replace(settings, episodes=episodes, out=folder)
            whole.append(_whole(asked, source))
            bare.append(_bare_loop(asked, source))
    return bare[1:], whole[1:]


def _whole(settings: CollectConfig, source: EnvSource) -> Cost:
    """What a frame costs of everything that a worker of `liftwm collect` does."""
    indices, frames = list(range(settings.episodes)), 0

    def count(report: Report) -> None:
        nonlocal frames
        if report.frames:  # the writer's reports, from its thread, have none
            frames += report.frames

    begin = Cost.now()
    write_info(Path(settings.out), {"format": FORMAT})
    collector, writer = ShardCollector(settings, source), ShardWriter(Path(settings.out), count)
    for first in range(0, len(indices), settings.episodes_per_shard):
        held = indices[first : first + settings.episodes_per_shard]
        collect_shard(collector, writer, Shard(first // settings.episodes_per_shard, held, held), count)
    writer.wait()
    collector.close()
    return begin.until_now(frames)


def _bare_loop(settings: CollectConfig, source: EnvSource) -> Cost:
    """Seconds a frame of stepping, drawing and reading pixels alone, over the episodes that lie in `settings.out`.

    A frame is 20 commanded `mj_step`s, one pass for colour and depth and one for segmentation. Pixels are left as they come:
    upside down, depth not in metres, ids not looked up.
    """
    from liftwm_envs.rendering import drawing

    env = source.make(settings.env_options, truth=True)
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


def _frames_per_s(settings: CollectConfig) -> float:
    """Of `collect`, from its first frames on, when all workers have started, to its last."""
    stamps: list[tuple[float, int]] = []

    def stamp(progress: CollectProgress) -> None:
        if progress.frames:
            stamps.append((time.perf_counter(), progress.frames))

    with tempfile.TemporaryDirectory() as folder:
        shard, episodes = max(1, settings.episodes // 4), settings.episodes * settings.workers
        collect(replace(settings, out=folder, episodes=episodes, episodes_per_shard=shard), stamp)
    (first, before), (last, after) = stamps[0], stamps[-1]
    return (after - before) / (last - first)
