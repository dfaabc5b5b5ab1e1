"""`liftwm bench train`: how fast windows are read, and which share of a training step each stage takes.

The steps are those of `liftwm train`, prefetching and logs included, on the dataset that `train.data` names, or on a few
episodes collected for the purpose where there is none. Functions of the trainer and the model are wrapped in a stopwatch that
gives every moment to the innermost stage it is in, so that the stages add up to the step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from embodied_liftwm.bench.stopwatch import REST, watching
from embodied_liftwm.bench.table import Row, by_name, machine, report, seconds
from embodied_liftwm.config import BenchConfig, CollectConfig, TrainConfig
from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.training.trainer import Trainer
from liftwm_agents.collection.collect import collect

EPISODES = 16
"""Collected where there is no dataset."""
WINDOW, READS = 16, 2000
"""Frames of a window that is read, and how many windows a timing takes."""
FRAMES_PER_S = 10_000
"""What reading must reach at least."""
WARM_UP, STEPS = 4, 10
"""Steps of each phase that are not counted, and that are, per repeat."""
OUTSIDE = ("waiting for data", "copy to device", "objective", "optimiser", "checkpoints", REST)
"""Stages that are neither model nor rasterizer."""
MOST_OUTSIDE = 10.0
"""Percent of a step that they may take."""

SETTINGS = ("batch_size", "accumulate", "precision", "compile")
"""Of the training, to stand beside the figures."""

Shares = dict[str, list[float]]
"""Stage -> milliseconds a step, one value per repeat."""


def run(config: BenchConfig) -> int:
    """Time, print and write `bench_train.csv`."""
    console = plain_console()
    with tempfile.TemporaryDirectory() as scratch, console.status("preparing") as status:
        train = _train_config(config, Path(scratch), status.update)
        status.update("timing the reader")
        rows = [_reader_row(TrainingReader(train.data[0]), config.repeats)]
        phases = _phases(train, config.repeats, Path(scratch), status.update)
    rows += [row for phase, shares in phases.items() for row in _stage_rows(phase, shares)]
    about = machine("numpy", "numba", device=train.device) | {"threads": str(torch.get_num_threads())}
    about |= {name: str(getattr(train, name)) for name in SETTINGS}
    report(console, "training", rows, about, Path(config.out) / "bench_train.csv")
    speed = median(rows[0].measures["frames/s"])
    console.print(f"reading: {speed:,.0f} frames/s ({'reaches' if speed >= FRAMES_PER_S else 'misses'} {FRAMES_PER_S:,})")
    for phase, shares in phases.items():
        verdict = "within" if (share := _outside(shares)) <= MOST_OUTSIDE else "above"
        console.print(f"{phase}: outside model and rasterizer: {share:.1f} % ({verdict} {MOST_OUTSIDE:.0f} %)")
    return 0


def _train_config(config: BenchConfig, scratch: Path, tell: Callable[[str], None]) -> TrainConfig:
    """What to train: on `train.data`, or on a few episodes collected into `scratch`."""
    train = replace(config.train, threads=config.threads or config.train.threads, minutes=0.0)
    if all(Path(folder).is_dir() for folder in train.data):
        return train
    tell(f"collecting {EPISODES} episodes: there is no {', '.join(train.data)}")
    folder = str(scratch / "data")
    collect(
        CollectConfig(env=config.env, env_options=config.env_options, out=folder, episodes=EPISODES, workers=config.workers)
    )
    return replace(train, data=(folder,), weights=())


def _reader_row(reader: TrainingReader, repeats: int) -> Row:
    """Random windows of one episode each, in one process and one thread."""
    rng = np.random.default_rng(0)
    episodes = rng.integers(len(reader), size=READS)
    starts = [int(rng.integers(max(1, reader.episode_lengths[e] + 2 - WINDOW))) for e in episodes]
    frames = [s + np.arange(min(WINDOW, reader.episode_lengths[e] + 1)) for e, s in zip(episodes, starts, strict=True)]

    def read() -> None:
        for episode, window in zip(episodes, frames, strict=True):
            reader.window(int(episode), window)

    count, spent = sum(map(len, frames)), seconds(read, repeats)
    about: dict[str, object] = {"phase": "data", "stage": f"reader, windows of {WINDOW} frames"}
    return Row(about, {"frames/s": [count / s for s in spent]})


def _phases(train: TrainConfig, repeats: int, scratch: Path, tell: Callable[[str], None]) -> dict[str, Shares]:
    """Stages of a step by phase, the whole of every repeat a training of its own from the first step on."""
    found = []
    for repeat in range(repeats):
        tell(f"training, {repeat + 1} of {repeats}")
        found.append(_profile(replace(train, run=str(scratch / f"run-{repeat}"))))
    return {phase: by_name([profile[phase] for profile in found]) for phase in found[0]}


def _profile(train: TrainConfig) -> dict[str, dict[str, float]]:
    """Mean milliseconds a step that each stage takes, by phase: geometry alone, for a model that has one, and all terms."""
    count = WARM_UP + STEPS
    trainer = Trainer(replace(train, steps=2 * count, geometry_first=0.5))
    laps: dict[str, list[dict[str, float]]] = {}
    with watching(trainer) as watch:

        def lap(row: dict[str, float]) -> None:
            laps.setdefault("depth first" if np.isnan(row["psnr"]) else "joint", []).append(watch.lap())

        watch.lap()
        trainer.fit(lap)
        checkpoint = watch.lap()["checkpoints"] / train.save_every
    return {phase: _mean(found[WARM_UP:]) | {"checkpoints": 1e3 * checkpoint} for phase, found in laps.items()}


def _mean(laps: list[dict[str, float]]) -> dict[str, float]:
    return {stage: 1e3 * sum(lap[stage] for lap in laps) / len(laps) for stage in laps[0]}


def _stage_rows(phase: str, shares: Shares) -> list[Row]:
    wholes = [sum(values) for values in zip(*shares.values(), strict=True)]
    rows = [Row({"phase": phase, "stage": "whole step"}, {"ms": wholes, "% of the step": [100.0] * len(wholes)})]
    for stage, ms in shares.items():
        percent = [100 * part / whole for part, whole in zip(ms, wholes, strict=True)]
        if max(ms):
            rows.append(Row({"phase": phase, "stage": stage}, {"ms": ms, "% of the step": percent}))
    return rows


def _outside(shares: Shares) -> float:
    """Percent of a step that is spent outside model and rasterizer."""
    wholes = [sum(values) for values in zip(*shares.values(), strict=True)]
    return median(100 * sum(shares[stage][k] for stage in OUTSIDE) / whole for k, whole in enumerate(wholes))
