"""Benchmarks, the demonstration and the experiments of `liftwm reproduce`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from embodied_liftwm.config.checks import (
    LAST_SEED,
    MOST_PROCESSES,
    MOST_THREADS,
    bounded,
    check_fields,
    distinct,
    may_be_empty,
    shown,
)
from embodied_liftwm.config.episodes import REPORT_SEED, CollectConfig, EnvOptions, training_scenes
from embodied_liftwm.config.judging import HELD_OUT, EvaluateConfig, TrainAgentConfig
from embodied_liftwm.config.model import LEAST_BUDGET, LEAST_LATENT_DIM, ModelConfig
from embodied_liftwm.config.training import TrainConfig
from embodied_liftwm.errors import UserError

TableRow = Literal["none", "recurrent", "2d_only", "mv", "epipolar", "depth_normal", "glo", "oracle"]
"""Rows of the table of `liftwm reproduce liftwm`, in its order."""
MemoryRow = Literal[
    "none", "context", "recurrent", "gaussians", "rgb_cloud", "latent_append", "latent_bounded", "patches", "oracle"
]
"""Rows of the table of `liftwm reproduce memories`, in its order."""
TaughtBase = Literal["2d_only", "glo"]
"""Rows of that table to which `liftwm reproduce priors` adds teachers."""


@dataclass(frozen=True)
class BenchConfig:
    """`liftwm bench NAME`: speed as a ratio within one run."""

    env: str = "Revisit-S"  # collect, train, state: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)  # collect, train, state: its options
    frames: int = bounded(1500, 1, 10_000_000)  # collect: frames per timing
    workers: int = bounded(2, 1, MOST_PROCESSES)  # collect, train: processes; of collect in the scaling row
    train: TrainConfig = field(default_factory=TrainConfig)  # train: what is trained, on which dataset
    model: ModelConfig = field(default_factory=ModelConfig)  # state, memory: the untrained model that is timed
    checkpoint: str = ""  # state: a trained one instead, such as base
    steps: int = bounded(1000, 1, 10_000_000)  # state: observes
    memory_sizes: tuple[int, ...] = bounded((64, 128, 256), 16, 2048)  # memory: pixels a side
    memory_frames: tuple[int, ...] = bounded((100, 1000, 10_000), 1, 1_000_000)  # memory: ages, in frames, at which memories
    # are compared
    memory_growing_frames: int = bounded(1000, 1, 1_000_000)  # memory: oldest of what grows but raw frames, and of all at all
    # but the least size
    memory_budgets: tuple[int, ...] = bounded((2**20, 2**17), 1, 2**36)  # memory: bytes of bounded caches
    repeats: int = bounded(3, 1, 1000)  # timings, of which the median is reported
    threads: int = bounded(0, 0, MOST_THREADS)  # rasterize, train, state, memory: torch threads; 0 for all cores
    device: str = "cpu"  # memory, rasterize, state: torch device
    out: str = "results"  # folder for the CSV

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("memory_sizes", "memory_frames", "memory_budgets"):
            distinct(name, getattr(self, name), "numbers")


@dataclass(frozen=True)
class DemoConfig:
    """`liftwm demo`: collect, train, plan, evaluate, report; small and whole."""

    out: str = "runs/demo"  # everything the demo writes
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=160, steps=96))
    eval_episodes: int = bounded(12, 1, 100_000)  # held-out episodes for the figures
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=120))  # of the model, and of the baseline but for its
    # steps
    baseline_steps: int = bounded(440, 1, 100_000_000)  # as long on a core of its own as the model takes: 0.64 and 2.3 s a step
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(navigation_episodes=12))
    agent: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(steps=512))

    def __post_init__(self) -> None:
        check_fields(self)
        training_scenes(self.collect)
        if ":" in self.collect.env:
            raise UserError(f"collect.env={shown(self.collect.env)}: the demo plans, in tasks of liftwm_envs alone")
        if set(self.evaluate.suite) != set(HELD_OUT):
            raise UserError(f"evaluate.suite={list(self.evaluate.suite)}: the demo shows figures of {', '.join(HELD_OUT)}")
        if self.evaluate.context >= self.collect.steps:
            raise UserError(f"evaluate.context={self.evaluate.context}: must be below collect.steps={self.collect.steps}")
        if self.agent.loop:
            raise UserError("agent.loop=True: the demo trains its policy once")


@dataclass(frozen=True)
class DoseConfig:
    """How much a teacher is corrupted, in `liftwm reproduce priors`: models for each dose (`priors/corruption.py`)."""

    scale: tuple[float, ...] = bounded((0.1, 0.3, 0.9), 0, 100, above=True)  # drift: deviation of log-scale in the last frame
    noise: tuple[float, ...] = bounded((0.1, 0.3, 0.9), 0, 100, above=True)  # deviation of log-depth, and of normals in radians
    outliers: tuple[float, ...] = bounded((0.1, 0.3, 0.7), 0, 1, above=True)  # share of blocks of pixels replaced by anything
    pose: tuple[float, ...] = bounded((0.05, 0.15, 0.45), 0, 100, above=True)  # by which wrong poses displace cameras, metres;
    # they turn them too
    pure_noise: bool = True  # and a teacher that says nothing of the scene at all
    held: bool = True  # all of it once more with students that do not learn how noisy their teacher is

    def __post_init__(self) -> None:
        check_fields(self, "doses.")
        for name in ("scale", "noise", "outliers", "pose"):
            distinct(f"doses.{name}", getattr(self, name), "numbers", least=0)


@dataclass(frozen=True)
class AgentsConfig:
    """What `liftwm reproduce agents` compares, beside planner, random floor and scripted oracle."""

    tasks: tuple[str, ...] = ("Revisit-S", "Revisit-M", "Occlusion-M")  # where
    inputs: tuple[Literal["state", "pixels", "frame_stack", "recurrent", "imagined"], ...] = (  # what policies see
        "state", "pixels", "frame_stack", "recurrent", "imagined"
    )  # fmt: skip
    episodes: int = bounded(100, 1, 100_000)  # paired episodes of each task
    train: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(model="base"))  # of every policy: they differ in
    # input, env and seed

    def __post_init__(self) -> None:
        check_fields(self, "agents.")
        for name in ("tasks", "inputs"):
            distinct(f"agents.{name}", getattr(self, name), "names")


@dataclass(frozen=True)
class ReproduceConfig:
    """`liftwm reproduce NAME`: an experiment, from nothing to its figures; what is finished is not done again."""

    out: str = "runs/reproduce"  # datasets, models and rows, in a folder of the experiment's name
    results: str = "results"  # folder for the CSV and the figure
    parts: tuple[Literal["toy", "curve"], ...] = ("toy", "curve")  # gap: the closed form, the curve on episodes
    supports_m: tuple[float, ...] = bounded((0.0, 0.1, 0.3, 1.0, 3.0), 0, 100)  # gap: radii of the discs that cameras stay in;
    # 0 only turns
    displaced_m: float = bounded(0.5, 0, 100, above=True)  # gap: distance of a novel view from the nearest camera of its
    # context
    rows: tuple[TableRow, ...] = get_args(TableRow)  # liftwm: which models are compared
    budgets: tuple[int, ...] = bounded((64, 128, 256, 512, 1024, 2048), LEAST_BUDGET, 2**20)  # liftwm: primitives that the
    # model with all terms may keep; memories: Gaussians
    memories: tuple[MemoryRow, ...] = get_args(MemoryRow)  # memories: which are compared
    encoder: str = may_be_empty("base")  # memories: a run, checkpoint or shipped model whose depth all of them have, and whose
    # sizes; "" lets each learn its own
    cache_dim: int = bounded(8, LEAST_LATENT_DIM, 256)  # memories: latent channels where latents alone are kept or decoded:
    # caches, cloud, raw context
    cache_bytes: tuple[int, ...] = bounded((2**17,), 1, 2**36)  # memories: what the bounded cache may take, bytes, beside
    # what it is trained with
    loops: tuple[str, ...] = ("yaw-90", "out-and-back-0.5")  # memories: paths of generated videos, by `generate.path`
    loop_episodes: int = bounded(6, 1, 100_000)  # memories: videos of each path, from so many held-out episodes at most
    bases: tuple[TaughtBase, ...] = get_args(TaughtBase)  # priors: what teachers are added to
    teachers: tuple[str, ...] = (  # priors: by the names of `liftwm priors list`; each alone, and all together
        "inhouse_depth", "mvs", "gaussian_splatting", "inhouse_views", "disk"
    )  # fmt: skip
    prior_episodes: int = bounded(0, 0, 1_000_000)  # priors: training episodes, which every teacher observes; 0 for
    # collect.episodes
    dosed: str = may_be_empty("mvs")  # priors: the teacher that is corrupted, dose by dose, over the model with all terms;
    # empty for none
    doses: DoseConfig = field(default_factory=DoseConfig)  # priors: by how much
    alone_seeds: int = bounded(0, 0, 1000)  # priors: training seeds of models with one teacher out of several; 0 for as many as
    # the others
    dose_seeds: int = bounded(1, 1, 1000)  # priors: training seeds of corrupted teachers
    context: int = bounded(48, 1, 100_000)  # all but agents: frames observed before novel views are rendered
    views_per_episode: int = bounded(6, 1, 1000)  # all but agents: novel views; gap: and as many views of the context itself
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=400, steps=96))  # all but agents: of each
    # training dataset
    eval_episodes: int = bounded(24, 1, 100_000)  # all but agents: held-out episodes of each evaluation dataset
    eval_seed: int = bounded(REPORT_SEED, 0, LAST_SEED)  # all but agents: of the first of them, within split=eval; smaller ones
    # are for development
    train: TrainConfig = field(default_factory=TrainConfig)  # all but agents: of the model with all terms; others differ as
    # their row says
    agents: AgentsConfig = field(default_factory=AgentsConfig)  # agents: who is compared, and where
    seeds: int = bounded(3, 1, 1000)  # training seeds, from train.seed on; agents: from agents.train.seed on
    processes: int = bounded(2, 1, MOST_PROCESSES)  # models trained and judged side by side
    bootstrap: int = bounded(1000, 1, 100_000)  # all but agents: resamples behind every interval

    def __post_init__(self) -> None:
        check_fields(self)
        training_scenes(self.collect)
        distinct("parts", self.parts, "ones out of toy, curve")
        distinct("supports_m", self.supports_m, "radii in metres")
        distinct("rows", self.rows, f"ones out of {', '.join(get_args(TableRow))}")
        distinct("budgets", self.budgets, "numbers", least=0)
        distinct("memories", self.memories, f"ones out of {', '.join(get_args(MemoryRow))}")
        distinct("cache_bytes", self.cache_bytes, "numbers", least=0)
        distinct("loops", self.loops, "paths", least=0)
        distinct("bases", self.bases, f"ones out of {', '.join(get_args(TaughtBase))}")
        distinct("teachers", self.teachers, "names", least=0)
        if self.context >= self.collect.steps:
            raise UserError(f"context={self.context}: must be below collect.steps={self.collect.steps}, to leave novel views")
