"""Teachers: what they say of a dataset, and the training of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embodied_liftwm.config.checks import LAST_SEED, MOST_THREADS, bounded, check_fields

FORMER_NAMES = {"house_depth": "inhouse_depth", "house_views": "inhouse_views"}
"""What teachers of our own were called before -> their names now. Caches and runs that bear the old ones are read."""


@dataclass(frozen=True)
class PriorsConfig:
    """`liftwm priors list` and `liftwm priors run`: what teachers say of a dataset, kept beside it (docs/priors.md)."""

    name: str = ""  # run: a prior of `liftwm priors list`, or my_package:make_prior; list: of this one alone
    data: str = "data/revisit-s"  # run: dataset folder; what is there already is not done again
    weights: str = ""  # hub id, file or folder; empty for the prior's own choice
    code: str = ""  # folder of the model's public repository, for those that no registry has
    device: str = "cpu"  # torch device
    batch_size: int = bounded(8, 1, 1024)  # frames or pairs at once
    seed: int = bounded(0, 0, LAST_SEED)  # of priors that draw
    prompt: str = "an indoor room"  # of priors that are told in words what they are to show
    accept_license: bool = False  # of models that may not be used commercially
    episodes: int = bounded(0, 0, 1_000_000)  # run: the first so many of the dataset; 0 for all

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TeacherConfig:
    """`liftwm priors train`: a teacher of our own, from the teachers' own scenes (docs/training.md)."""

    name: Literal["inhouse_depth", "inhouse_views"] = "inhouse_depth"  # which: depth and normals of a frame, or views beside it
    data: str = "data/teacher"  # dataset folders collected with split=teacher, separated by commas
    run: str = "runs/teacher"  # run folder: config, log, metrics, checkpoints; an interrupted one is continued
    steps: int = bounded(20_000, 1, 100_000_000)  # optimiser steps
    minutes: float = bounded(0.0, 0, 525_600)  # end after so much wall-clock time over all resumptions; 0 for no limit
    frames: int = bounded(32, 1, 2**16)  # a step
    learning_rate: float = bounded(3e-3, 0, 1, above=True)  # peak, after warm-up; cosine decay over steps or minutes
    grad_clip: float = bounded(1.0, 0, 1e6, above=True)  # largest gradient norm
    seed: int = bounded(0, 0, LAST_SEED)  # weights, frames and everything else random
    precision: Literal["float32", "bf16"] = "float32"  # of the arithmetic in the network
    threads: int = bounded(1, 0, MOST_THREADS)  # torch threads; 0 for all cores
    log_every: int = bounded(10, 1, 1_000_000)  # steps between log rows
    save_every: int = bounded(100, 1, 1_000_000)  # steps between checkpoints
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        check_fields(self)
