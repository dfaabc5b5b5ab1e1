"""The experiments of `liftwm reproduce NAME`, a schema each: nobody has keys of another's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from embodied_liftwm.config.checks import LAST_SEED, MOST_PROCESSES, bounded, check_fields, distinct, may_be_empty
from embodied_liftwm.config.episodes import REPORT_SEED, CollectConfig, EnvOptions, training_scenes
from embodied_liftwm.config.judging import TrainAgentConfig
from embodied_liftwm.config.model import LEAST_BUDGET, LEAST_LATENT_DIM
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
class ReproduceConfig:
    """What all experiments have."""

    results: str = "results"  # folder for the CSV and the figure

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainingsConfig(ReproduceConfig):
    """What experiments have that train; what is finished is not done again."""

    out: str = "runs/reproduce"  # datasets, models and rows, in a folder of the experiment's name
    seeds: int = bounded(3, 1, 1000)  # training seeds, from train.seed on
    processes: int = bounded(2, 1, MOST_PROCESSES)  # trained and judged side by side


@dataclass(frozen=True)
class TableConfig(TrainingsConfig):
    """What tables of world models have: on what they are trained, and what judges them."""

    context: int = bounded(48, 1, 100_000)  # frames observed before novel views are rendered
    views_per_episode: int = bounded(6, 1, 1000)  # novel views
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=400, steps=96))  # of each training dataset
    eval_episodes: int = bounded(24, 1, 100_000)  # held-out episodes of each evaluation dataset
    eval_seed: int = bounded(REPORT_SEED, 0, LAST_SEED)  # of the first of them, within split=eval; smaller ones are for
    # development
    train: TrainConfig = field(default_factory=TrainConfig)  # of the model with all terms; others differ as their row says
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval

    def __post_init__(self) -> None:
        super().__post_init__()
        training_scenes(self.collect)
        if self.context >= self.collect.steps:
            raise UserError(f"context={self.context}: must be below collect.steps={self.collect.steps}, to leave novel views")


@dataclass(frozen=True)
class ReproduceGapConfig(TableConfig):
    """`liftwm reproduce gap`: the 3D-awareness gap, in closed form and on episodes."""

    parts: tuple[Literal["toy", "curve"], ...] = ("toy", "curve")  # the closed form, the curve on episodes
    supports_m: tuple[float, ...] = bounded((0.0, 0.1, 0.3, 1.0, 3.0), 0, 100)  # radii of the discs that cameras stay in; 0
    # only turns
    displaced_m: float = bounded(0.5, 0, 100, above=True)  # distance of a novel view from the nearest camera of its context

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("parts", self.parts, "ones out of toy, curve")
        distinct("supports_m", self.supports_m, "radii in metres")


@dataclass(frozen=True)
class ReproduceLiftwmConfig(TableConfig):
    """`liftwm reproduce liftwm`: what each part of the objective brings."""

    rows: tuple[TableRow, ...] = get_args(TableRow)  # which models are compared
    budgets: tuple[int, ...] = bounded((64, 128, 256, 512, 1024, 2048), LEAST_BUDGET, 2**20)  # primitives that the model with
    # all terms may keep

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("rows", self.rows, f"ones out of {', '.join(get_args(TableRow))}")
        distinct("budgets", self.budgets, "numbers", least=0)


@dataclass(frozen=True)
class ReproduceMemoriesConfig(TableConfig):
    """`liftwm reproduce memories`: every memory on one scale."""

    memories: tuple[MemoryRow, ...] = get_args(MemoryRow)  # which are compared
    budgets: tuple[int, ...] = bounded((64, 128, 256, 512, 1024, 2048), LEAST_BUDGET, 2**20)  # Gaussians that may be kept
    encoder: str = may_be_empty("base")  # a run, checkpoint or shipped model whose depth all of them have, and whose sizes; ""
    # lets each learn its own
    cache_dim: int = bounded(
        8, LEAST_LATENT_DIM, 256
    )  # latent channels where latents alone are kept or decoded: caches, cloud,
    # raw context
    cache_bytes: tuple[int, ...] = bounded((2**17,), 1, 2**36)  # what the bounded cache may take, bytes, beside what it is
    # trained with
    loops: tuple[str, ...] = ("yaw-90", "out-and-back-0.5")  # paths of generated videos, by `generate.path`
    loop_episodes: int = bounded(6, 1, 100_000)  # videos of each path, from so many held-out episodes at most

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("memories", self.memories, f"ones out of {', '.join(get_args(MemoryRow))}")
        distinct("budgets", self.budgets, "numbers", least=0)
        distinct("cache_bytes", self.cache_bytes, "numbers", least=0)
        distinct("loops", self.loops, "paths", least=0)


@dataclass(frozen=True)
class DoseConfig:
    """How much a teacher is corrupted, in `liftwm reproduce priors`: models for each dose (`priors/corruption.py`)."""

    noise: tuple[float, ...] = bounded((0.1, 0.3, 0.9), 0, 100, above=True)  # deviation of log-depth, and of normals in radians
    outliers: tuple[float, ...] = bounded((0.1, 0.3, 0.7), 0, 1, above=True)  # share of blocks of pixels replaced by anything
    pure_noise: bool = True  # and a teacher that says nothing of the scene at all
    held: bool = True  # all of it once more with students that do not learn how noisy their teacher is

    def __post_init__(self) -> None:
        check_fields(self, "doses.")
        for name in ("noise", "outliers"):
            distinct(f"doses.{name}", getattr(self, name), "numbers", least=0)


@dataclass(frozen=True)
class ReproducePriorsConfig(TableConfig):
    """`liftwm reproduce priors`: does a teacher help, and when does it harm? Every teacher observes all training episodes."""

    bases: tuple[TaughtBase, ...] = get_args(TaughtBase)  # what teachers are added to
    teachers: tuple[str, ...] = (  # by the names of `liftwm priors list`; each alone, and all together
        "inhouse_depth", "mvs", "gaussian_splatting", "inhouse_views", "disk"
    )  # fmt: skip
    dosed: str = may_be_empty("mvs")  # the teacher that is corrupted, dose by dose, over the model with all terms; empty for
    # none
    doses: DoseConfig = field(default_factory=DoseConfig)  # by how much
    alone_seeds: int = bounded(0, 0, 1000)  # training seeds of models with one teacher out of several; 0 for as many as the
    # others
    dose_seeds: int = bounded(1, 1, 1000)  # training seeds of corrupted teachers

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("bases", self.bases, f"ones out of {', '.join(get_args(TaughtBase))}")
        distinct("teachers", self.teachers, "names", least=0)


@dataclass(frozen=True)
class ReproduceAgentsConfig(TrainingsConfig):
    """`liftwm reproduce agents`: what a persistent state is worth to a policy, beside planner, random floor and oracle."""

    tasks: tuple[str, ...] = ("Revisit-S", "Revisit-M", "Occlusion-M")  # where
    inputs: tuple[Literal["state", "pixels", "frame_stack", "recurrent", "imagined"], ...] = (  # what policies see
        "state", "pixels", "frame_stack", "recurrent", "imagined"
    )  # fmt: skip
    episodes: int = bounded(100, 1, 100_000)  # paired episodes of each task
    train: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(model="base"))  # of every policy: they differ in
    # input, env and seed

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tasks", "inputs"):
            distinct(name, getattr(self, name), "names")


@dataclass(frozen=True)
class ReproduceCheckpointConfig(ReproduceConfig):
    """`liftwm reproduce checkpoint`: figures of a trained model's card, beside its ceiling and what learns nothing."""

    model: str = "base"  # a run, a checkpoint or a shipped model
    data: str = "data/report-eval"  # held-out episodes: liftwm collect split=eval seed=1048576 episodes=24 out=data/report-eval
    budgets: tuple[int, ...] = bounded((64, 128, 256, 1024), LEAST_BUDGET, 2**20)  # primitives that it may keep
    context: int = bounded(48, 1, 100_000)  # frames observed before novel views are rendered
    views_per_episode: int = bounded(8, 1, 1000)  # novel views
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval
    device: str = "cpu"  # torch device


@dataclass(frozen=True)
class ReproduceDemoConfig(ReproduceConfig):
    """`liftwm reproduce demo`: the table of several demos with different training seeds, pooled over the same scenes."""

    runs: tuple[str, ...] = ("runs/demo", "runs/demo-1", "runs/demo-2")  # liftwm demo out=runs/demo-1 train.seed=1 agent.seed=1
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("runs", self.runs, "folders of demos")


@dataclass(frozen=True)
class ReproduceExpectationConfig(ReproduceConfig):
    """`liftwm reproduce expectation`: violation of expectation and hidden changes, on development scenes alone."""

    models: tuple[str, ...] = ("base",)  # runs, checkpoints or shipped models; the first also with its last frame alone
    task: str = "Revisit-S"  # where
    scenes: int = bounded(14, 1, 100_000)  # watched, seeds from 2^30 on
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("models", self.models, "models")


@dataclass(frozen=True)
class ReproduceMovingConfig(ReproduceConfig):
    """`liftwm reproduce moving`: where a model believes an object that went behind a screen, beside where it was last seen."""

    model: str = "runs/moving"  # trained with model.movers=256 and the term motion
    data: str = (
        "data/report-moving"  # liftwm collect env=MovingOcclusion-S split=eval seed=1048576 episodes=24 steps=96 out=...
    )


@dataclass(frozen=True)
class ReproducePlannerConfig(ReproduceConfig):
    """`liftwm reproduce planner`: success on states that bound the model's own, and by how much a plan may imagine."""

    model: str = "base"  # a run, a checkpoint or a shipped model
    tasks: tuple[str, ...] = ("Revisit-S", "Revisit-M")  # where
    parts: tuple[Literal["states", "budget"], ...] = ("states", "budget")  # own state, true depth, last frame; planning budgets
    episodes: int = bounded(20, 1, 100_000)  # on scenes of development, seeds from 2^30 on

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("tasks", self.tasks, "tasks")
        distinct("parts", self.parts, "ones out of states, budget")


@dataclass(frozen=True)
class ReproduceTeachersConfig(ReproduceConfig):
    """`liftwm reproduce teachers`: how right teachers are, and whether their confidence knows it."""

    teachers: tuple[str, ...] = (
        "mvs",
        "disk",
        "sweep",
    )  # by the names of `liftwm priors list`; beside them sweep, one pass over
    # past frames, and the floors constant and rows
    views: bool = False  # the views of inhouse_views instead, beside floors that know less
    data: str = "data/prior-dev"  # liftwm collect split=eval seed=0 episodes=8 steps=96 out=data/prior-dev
    weights: str = ""  # a teacher's weights; empty for its own
    accept_license: bool = False  # of a teacher that is not free for every use

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("teachers", self.teachers, "names")


@dataclass(frozen=True)
class ReproduceTransferConfig(ReproduceConfig):
    """`liftwm reproduce transfer`: depth in worlds that a model may never have seen, and in worlds scaled."""

    model: str = "base"  # a run, a checkpoint or a shipped model
    worlds: tuple[str, ...] = ("Revisit-S", "miniworld:FourRooms", "miniworld:MazeS3", "memory_maze:9x9")  # any that give true
    # depth; one whose package is missing is left out
    scales: tuple[float, ...] = bounded((0.25, 0.5, 1.0, 2.0, 4.0), 1e-3, 1e3)  # by which the first of them is multiplied
    scale_prior: float = bounded(0.8, 0, 2, above=True)  # of the row with a unit of the episode's own (model.scale_prior)
    env_options: EnvOptions = field(default_factory=EnvOptions)
    episodes: int = bounded(6, 1, 100_000)  # of each world
    steps: int = bounded(48, 13, 100_000)  # actions in each at most; figures are of frames from the 12th on
    out: str = "runs/reproduce"  # the episodes, in a folder of the experiment's name
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct("worlds", self.worlds, "environments")


EXPERIMENTS: dict[str, type[ReproduceConfig]] = {
    "agents": ReproduceAgentsConfig,
    "checkpoint": ReproduceCheckpointConfig,
    "demo": ReproduceDemoConfig,
    "expectation": ReproduceExpectationConfig,
    "gap": ReproduceGapConfig,
    "liftwm": ReproduceLiftwmConfig,
    "memories": ReproduceMemoriesConfig,
    "moving": ReproduceMovingConfig,
    "planner": ReproducePlannerConfig,
    "priors": ReproducePriorsConfig,
    "teachers": ReproduceTeachersConfig,
    "transfer": ReproduceTransferConfig,
}
"""NAME of `liftwm reproduce NAME` -> its schema."""
