"""Benchmarks, the demonstration and the experiments of `liftwm reproduce`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from embodied_liftwm.config.checks import above_zero, at_least
from embodied_liftwm.config.episodes import REPORT_SEED, CollectConfig, EnvOptions
from embodied_liftwm.config.judging import EvaluateConfig, TrainAgentConfig
from embodied_liftwm.config.training import LEAST_BUDGET, LEAST_LATENT_DIM, ModelConfig, TrainConfig
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

    env: str = "Revisit-S"  # collect: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    frames: int = 1500  # collect: frames per timing
    workers: int = 2  # collect: processes in the scaling row
    train: TrainConfig = field(default_factory=TrainConfig)  # train: what is trained, on which dataset
    model: ModelConfig = field(default_factory=ModelConfig)  # state, memory: the untrained model that is timed
    checkpoint: str = ""  # state: a trained one instead, such as base
    steps: int = 1000  # state: observes
    memory_sizes: tuple[int, ...] = (64, 128, 256)  # memory: pixels a side
    memory_frames: tuple[int, ...] = (100, 1000, 10_000)  # memory: ages, in frames, at which memories are compared
    memory_growing_frames: int = 1000  # memory: oldest of what grows but raw frames, and of all at all but the least size
    memory_budgets: tuple[int, ...] = (2**20, 2**17)  # memory: bytes of bounded caches
    repeats: int = 3  # timings, of which the median is reported
    threads: int = 0  # torch threads; 0 for all cores
    device: str = "cpu"  # memory, rasterize, state: torch device
    out: str = "results"  # folder for the CSV

    def __post_init__(self) -> None:
        for name in ("frames", "workers", "steps", "repeats", "memory_growing_frames"):
            at_least(name, getattr(self, name), 1)
        for name in ("memory_sizes", "memory_frames", "memory_budgets"):
            numbers = getattr(self, name)
            if not numbers or min(numbers) < 1 or len(set(numbers)) < len(numbers):
                raise UserError(f"{name}={list(numbers)}: expected distinct numbers above 0")


@dataclass(frozen=True)
class DemoConfig:
    """`liftwm demo`: collect, train, plan, evaluate, report; small and whole."""

    out: str = "runs/demo"  # everything the demo writes
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=160, steps=96))
    eval_episodes: int = 12  # held-out episodes for the figures
    train: TrainConfig = field(default_factory=lambda: TrainConfig(minutes=5.0, threads=1))  # minutes for each of two models
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(navigation_episodes=12))
    agent: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(steps=512))


@dataclass(frozen=True)
class DoseConfig:
    """How much a teacher is corrupted, in `liftwm reproduce priors`: models for each dose (`priors/corruption.py`)."""

    scale: tuple[float, ...] = (0.1, 0.3, 0.9)  # drift: deviation of log-scale in the last frame
    noise: tuple[float, ...] = (0.1, 0.3, 0.9)  # deviation of log-depth, and of normals in radians
    outliers: tuple[float, ...] = (0.1, 0.3, 0.7)  # share of blocks of pixels replaced by anything
    pose: tuple[float, ...] = (0.05, 0.15, 0.45)  # by which wrong poses displace cameras, metres; they turn them too
    pure_noise: bool = True  # and a teacher that says nothing of the scene at all
    held: bool = True  # all of it once more with students that do not learn how noisy their teacher is

    def __post_init__(self) -> None:
        for name in ("scale", "noise", "outliers", "pose"):
            doses = getattr(self, name)
            if len(set(doses)) < len(doses) or min(doses, default=1.0) <= 0 or max(doses, default=0.0) == float("inf"):
                raise UserError(f"doses.{name}={list(doses)}: expected distinct numbers above 0")
        if max(self.outliers, default=0.0) > 1:
            raise UserError(f"doses.outliers={list(self.outliers)}: expected shares, at most 1")


@dataclass(frozen=True)
class AgentsConfig:
    """What `liftwm reproduce agents` compares, beside planner, random floor and scripted oracle."""

    tasks: tuple[str, ...] = ("Revisit-S", "Revisit-M", "Occlusion-M")  # where
    inputs: tuple[Literal["state", "pixels", "frame_stack", "recurrent", "imagined"], ...] = (  # what policies see
        "state", "pixels", "frame_stack", "recurrent", "imagined"
    )  # fmt: skip
    episodes: int = 100  # paired episodes of each task
    train: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(model="base"))  # of every policy: they differ in
    # input, env and seed

    def __post_init__(self) -> None:
        at_least("agents.episodes", self.episodes, 1)
        for name in ("tasks", "inputs"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise UserError(f"agents.{name}={list(given)}: expected distinct names")


@dataclass(frozen=True)
class ReproduceConfig:
    """`liftwm reproduce NAME`: an experiment, from nothing to its figures; what is finished is not done again."""

    out: str = "runs/reproduce"  # datasets, models and rows, in a folder of the experiment's name
    results: str = "results"  # folder for the CSV and the figure
    parts: tuple[Literal["toy", "curve"], ...] = ("toy", "curve")  # gap: the closed form, the curve on episodes
    supports_m: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)  # gap: radii of the discs that cameras stay in; 0 only turns
    displaced_m: float = 0.5  # gap: distance of a novel view from the nearest camera of its context
    rows: tuple[TableRow, ...] = get_args(TableRow)  # liftwm: which models are compared
    budgets: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # liftwm: primitives that the model with all terms may keep;
    # memories: Gaussians
    memories: tuple[MemoryRow, ...] = get_args(MemoryRow)  # memories: which are compared
    encoder: str = "base"  # memories: a run, checkpoint or shipped model whose depth all of them have, and whose sizes; "" lets
    # each learn its own
    cache_dim: int = 8  # memories: latent channels where latents alone are kept or decoded: caches, cloud, raw context
    cache_bytes: tuple[int, ...] = (2**17,)  # memories: what the bounded cache may take, bytes, beside what it is trained with
    loops: tuple[str, ...] = ("yaw-90", "out-and-back-0.5")  # memories: paths of generated videos, by `generate.path`
    loop_episodes: int = 6  # memories: videos of each path, from so many held-out episodes at most
    bases: tuple[TaughtBase, ...] = get_args(TaughtBase)  # priors: what teachers are added to
    teachers: tuple[str, ...] = (  # priors: by the names of `liftwm priors list`; each alone, and all together
        "house_depth", "mvs", "gaussian_splatting", "house_views", "disk"
    )  # fmt: skip
    prior_episodes: int = 0  # priors: training episodes, which every teacher observes; 0 for collect.episodes
    dosed: str = "mvs"  # priors: the teacher that is corrupted, dose by dose, over the model with all terms; empty for none
    doses: DoseConfig = field(default_factory=DoseConfig)
    alone_seeds: int = 0  # priors: training seeds of models with one teacher out of several; 0 for as many as the others
    dose_seeds: int = 1  # priors: training seeds of corrupted teachers
    context: int = 48  # frames observed before novel views are rendered
    views_per_episode: int = 6  # novel views; gap: and as many views of the context itself
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=400, steps=96))  # of each training dataset
    eval_episodes: int = 24  # held-out episodes of each evaluation dataset
    eval_seed: int = REPORT_SEED  # of the first of them, within split=eval; smaller ones are for development
    train: TrainConfig = field(default_factory=TrainConfig)  # of the model with all terms; others differ as their row says
    agents: AgentsConfig = field(default_factory=AgentsConfig)  # agents: who is compared, and where
    seeds: int = 3  # training seeds, from train.seed on; agents: from agents.train.seed on
    processes: int = 2  # models trained and judged side by side
    bootstrap: int = 1000  # resamples behind every interval

    def __post_init__(self) -> None:
        for name in ("context", "views_per_episode", "eval_episodes", "seeds", "dose_seeds", "processes", "bootstrap"):
            at_least(name, getattr(self, name), 1)
        at_least("prior_episodes", self.prior_episodes, 0)
        at_least("cache_dim", self.cache_dim, LEAST_LATENT_DIM)
        at_least("loop_episodes", self.loop_episodes, 1)
        if not self.memories or len(set(self.memories)) < len(self.memories):
            raise UserError(f"memories={list(self.memories)}: expected distinct ones out of {', '.join(get_args(MemoryRow))}")
        if len(set(self.cache_bytes)) < len(self.cache_bytes) or min(self.cache_bytes, default=1) < 1:
            raise UserError(f"cache_bytes={list(self.cache_bytes)}: expected distinct numbers above 0")
        if len(set(self.loops)) < len(self.loops):
            raise UserError(f"loops={list(self.loops)}: expected distinct paths")
        at_least("alone_seeds", self.alone_seeds, 0)
        if not self.bases or len(set(self.bases)) < len(self.bases):
            raise UserError(f"bases={list(self.bases)}: expected distinct ones out of {', '.join(get_args(TaughtBase))}")
        if len(set(self.teachers)) < len(self.teachers):
            raise UserError(f"teachers={list(self.teachers)}: expected distinct names")
        above_zero("displaced_m", self.displaced_m)
        if not self.supports_m or min(self.supports_m) < 0 or len(set(self.supports_m)) < len(self.supports_m):
            raise UserError(f"supports_m={list(self.supports_m)}: expected distinct radii in metres, at least 0")
        if not self.rows or len(set(self.rows)) < len(self.rows):
            raise UserError(f"rows={list(self.rows)}: expected distinct ones out of {', '.join(get_args(TableRow))}")
        if len(set(self.budgets)) < len(self.budgets) or min(self.budgets, default=LEAST_BUDGET) < LEAST_BUDGET:
            raise UserError(f"budgets={list(self.budgets)}: expected distinct numbers, at least {LEAST_BUDGET}")
        if self.context >= self.collect.steps:
            raise UserError(f"context={self.context}: must be below collect.steps={self.collect.steps}, to leave novel views")
