"""`liftwm bench collect_ray`: collection by Ray's workers against the same by local processes, on this machine.

Both collect the same episodes with as many workers, in turn, so that what else the machine does meets both. Ray is started
and ended with every collection, as `liftwm collect engine=ray` does: that is in its start, not in its frames per second.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from embodied_liftwm.bench.collect import time_workers
from embodied_liftwm.bench.table import Row, machine, report
from embodied_liftwm.config import BenchConfig, CollectConfig
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers import find_engine

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")


def run(config: BenchConfig) -> int:
    """Time, print and write `bench_collect_ray.csv`. Raises UserError without Ray."""
    console = plain_console()
    find_engine("ray", config.workers)
    settings = CollectConfig(env=config.env, env_options=config.env_options, workers=config.workers)
    settings = replace(settings, episodes=max(1, round(config.frames / (settings.steps + 1))))
    timings: dict[Engine, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    with console.status("timing") as status:
        for repeat in range(config.repeats):
            for engine in ENGINES:
                status.update(f"timing engine={engine}, {repeat + 1} of {config.repeats}")
                timings[engine].append(time_workers(replace(settings, engine=engine)))
    local = [speed for _, speed in timings["local"]]
    about: dict[str, object] = {"env": config.env, "image_size": config.env_options.image_size, "workers": config.workers}
    rows = []
    for engine in ENGINES:
        starts, speeds = ([timing[i] for timing in timings[engine]] for i in range(2))
        ratios = [speed / other for speed, other in zip(speeds, local, strict=True)]
        rows.append(
            Row(about | {"engine": engine}, {"frames/s": speeds, "times local": ratios, "seconds to the first frames": starts})
        )
    path = Path(config.out) / "bench_collect_ray.csv"
    report(console, "collecting", rows, machine("numpy", "mujoco", "gymnasium", "ray"), path)
    return 0
