"""The schema of every command and the only home of defaults.

A command is configured by one frozen dataclass below. Values come, in this order, from the defaults here, from a preset
(`configs/NAME.yaml`, one section per command), and from `key=value` words on the command line; `__post_init__` cross-checks
them. Code below the command line receives these typed objects, never a `DictConfig`. Loading and its errors are in
`embodied_liftwm.commands.load_config`. The comment after a field is its documentation: `docs/config.md` is generated from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from embodied_liftwm.errors import UserError

EVAL_SEED_OFFSET = 2**30
"""Seeds below belong to training scenes, seeds from here on to evaluation: the two never share a room."""
TEACHER_SEED_OFFSET = 2**31
"""Seeds from here on belong to scenes that the embedded teachers learn from: no world model is trained or judged in them."""
REPORT_SEED = 2**20
"""Evaluation seeds below are for development; reported figures use those from here on, and nothing is tuned on them."""

POLICIES = ("explore", "walk", "tour", "loop", "random", "oracle")
"""Named explorers of `liftwm collect`."""
SUPPORT_POLICY = re.compile(r"support-(?P<radius>\d+(?:\.\d+)?)(?:-leave-(?P<leave>\d+(?:\.\d+)?)-after-(?P<after>[1-9]\d*))?")
"""`support-R` stays within R metres of its start; `support-R-leave-D-after-N` leaves it after N frames, by D metres."""

LEAST_BUDGET = 16
"""Primitives that a state holds at least."""
LEAST_LATENT_DIM = 4
"""Latent channels where latents alone carry colour, which takes three of them."""
TableRow = Literal["none", "recurrent", "2d_only", "mv", "epipolar", "depth_normal", "glo", "oracle"]
"""Rows of the table of `liftwm reproduce liftwm`, in its order."""
TaughtBase = Literal["2d_only", "glo"]
"""Rows of that table to which `liftwm reproduce priors` adds teachers."""


def split_of(seed: int) -> Literal["train", "eval", "teacher"]:
    """Whose scene a seed makes."""
    return "train" if seed < EVAL_SEED_OFFSET else "eval" if seed < TEACHER_SEED_OFFSET else "teacher"


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise UserError(f"{name}={value}: must be at least {least}")


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={value}: must be above 0")


@dataclass(frozen=True)
class EnvOptions:
    """Keyword arguments of our environments; see docs/tasks.md."""

    embodiment: Literal["base", "drone"] = "base"  # wheeled base with odometry, or 6-DoF drone
    action: Literal["continuous", "discrete"] = "continuous"  # what the action space is
    image_size: int = 64  # height and width of frames, pixels
    texture: Literal["rich", "flat"] = "rich"  # flat colours leave depth unidentifiable: a stress test
    odometry_noise: float = 0.0  # standard deviation of the believed motion, as a share of the true motion

    def __post_init__(self) -> None:
        _at_least("env_options.image_size", self.image_size, 16)
        _at_least("env_options.odometry_noise", self.odometry_noise, 0.0)


@dataclass(frozen=True)
class CollectConfig:
    """`liftwm collect`: episodes from an environment into a dataset folder."""

    env: str = "Revisit-S"  # Task-size, a gymnasium id, or my_package:make_env
    env_options: EnvOptions = field(default_factory=EnvOptions)
    out: str = "data/revisit-s"  # dataset folder; an interrupted one is continued
    episodes: int = 100  # how many
    steps: int = 96  # actions per episode at most; the environment may end it earlier
    policy: str = "explore"  # explore mixes walk, tour and loop; random; oracle;
    # support-METRES stays within so far of its start
    split: Literal["train", "eval", "teacher"] = "train"  # whose seeds: training, evaluation and the embedded teachers
    # never share a scene
    seed: int = 0  # episode i uses seed + i within its split
    workers: int = 2  # processes, one shard each at a time
    engine: Literal["local", "ray"] = "local"  # what runs them: processes of this machine, or Ray (docs/scaling.md)
    ray_address: str = ""  # ray: a cluster to join, or auto; empty starts Ray on this machine
    episodes_per_shard: int = 16  # episodes packed into one file
    renderer: Literal["auto", "egl", "osmesa"] = "auto"  # which GL; auto takes EGL, else OSMesa

    def __post_init__(self) -> None:
        for name in ("episodes", "steps", "workers", "episodes_per_shard"):
            _at_least(name, getattr(self, name), 1)
        if self.policy not in POLICIES and not SUPPORT_POLICY.fullmatch(self.policy):
            raise UserError(f"policy={self.policy}: expected {' | '.join(POLICIES)} | support-METRES, such as support-0.3")
        if not 0 <= self.seed < EVAL_SEED_OFFSET:
            raise UserError(f"seed={self.seed}: must be in [0, {EVAL_SEED_OFFSET}); split= chooses whose seeds they are")

    @property
    def first_seed(self) -> int:
        """Environment seed of episode 0."""
        return self.seed + {"train": 0, "eval": EVAL_SEED_OFFSET, "teacher": TEACHER_SEED_OFFSET}[self.split]


@dataclass(frozen=True)
class ModelConfig:
    """The world model: what it remembers with, and how large it is."""

    memory: Literal["patches", "gaussians", "latent_append", "latent_bounded", "recurrent", "rgb_cloud", "context"] = "patches"
    # 3D primitives of texels each, plain Gaussians, a cache of latent tokens that grows or that is bounded, the 2D recurrent
    # baseline, a point cloud of all pixels, or all frames as they were
    budget: int = 512  # patches or Gaussians the state holds, N
    memory_bytes: int = 2**20  # latent_bounded: what the cache of an episode may take, bytes
    texels: int = 8  # texels a side of a patch
    latent_dim: int = 4  # latent channels of a texel, Gaussian or token, D
    stride: int = 2  # pixels a side of the image patch that becomes one primitive
    width: int = 32  # channels of the first encoder and decoder stage
    widest: int = 4  # times as many that their deeper stages have at most
    recurrent_dim: int = 512  # units of the baseline's GRU
    planes: int = 40  # depth hypotheses per cell, uniform in log-depth
    max_depth_m: float = 10.0  # the farthest of them, metres
    min_depth_m: float = 0.15  # and the nearest
    stereo_sources: int = 6  # recent frames that depth is triangulated with; 0 for monocular depth alone
    movers: int = 0  # points that may move, beside the patches; 0 where the world stands still
    learned_fusion: bool = True  # learn what a look at a texel counts, and tell the decoder how sure the map is
    frame_moves_depth: bool = False  # let the splatted image move depth: where no term on several views does
    voxel_m: float = 0.01  # rgb_cloud: edge of the voxels in each of which one point is kept, metres
    context_views: int = 4  # context: frames that a view is read from
    epipolar_heads: int = 0  # heads of the encoder's attention along epipolar lines of those frames; 0 for none

    def __post_init__(self) -> None:
        _at_least("model.budget", self.budget, LEAST_BUDGET)
        _at_least("model.movers", self.movers, 0)
        if self.movers and self.memory != "patches":
            raise UserError(f"model.movers={self.movers}: things move beside patches only, not with model.memory={self.memory}")
        if self.frame_moves_depth and self.memory in ("rgb_cloud", "context"):
            raise UserError(f"model.frame_moves_depth=True: no image moves depth with model.memory={self.memory}")
        _above_zero("model.voxel_m", self.voxel_m)
        _at_least("model.context_views", self.context_views, 1)
        _at_least("model.texels", self.texels, 3)  # patches of fewer than a handful of texels are not kept
        if self.width < 8 or self.width % 8:
            raise UserError(f"model.width={self.width}: must be a multiple of 8")
        _at_least("model.widest", self.widest, 1)
        if self.memory.startswith("latent_") and self.latent_dim < LEAST_LATENT_DIM:
            least = f"{LEAST_LATENT_DIM} with model.memory={self.memory}"
            raise UserError(f"model.latent_dim={self.latent_dim}: must be at least {least}")
        if self.stride not in (1, 2, 4, 8):
            raise UserError(f"model.stride={self.stride}: must be 1, 2, 4 or 8")


@dataclass(frozen=True)
class TrainConfig:
    """`liftwm train`: a world model, or a teacher of our own, from a dataset."""

    prior: Literal["none", "house_depth", "house_views"] = "none"  # train this teacher instead of a world model, on data
    # collected with split=teacher; of the keys below only data (folders, separated by commas), run, steps, minutes,
    # batch_size, context (which it multiplies: frames a step), learning_rate, grad_clip, seed, precision, threads, log_every,
    # save_every and device count then
    data: str = "data/revisit-s"  # dataset folder
    run: str = "runs/train"  # run folder: config, log, metrics, checkpoints; an interrupted one is continued
    initial: str = ""  # weights to begin with: a run, a checkpoint, or a shipped one by its name, such as base; "" for none
    model: ModelConfig = field(default_factory=ModelConfig)
    terms: tuple[str, ...] = (  # of the objective
        "frame", "multi_view", "smoothness", "seen", "ego_motion", "reward", "continuation"
    )  # fmt: skip
    priors: tuple[str, ...] = ()  # teachers, by the names of `liftwm priors run`, whose answers the teacher terms learn from
    steps: int = 20_000  # optimiser steps at most
    minutes: float = 0.0  # wall-clock training time at most, over all resumptions; 0 for no limit
    batch_size: int = 4  # windows a step, over all processes
    accumulate: int = 1  # micro-batches that a process's windows are split into, for less memory; the gradient is the same
    context: int = 8  # frames observed, in order, per window
    targets: int = 4  # frames rendered per window: from before, among and after the context
    sources: int = 16  # other frames of the episode that must explain each context and target frame
    geometry_first: float = 0.5  # share of the training in which a model that lifts learns depth alone, at half the cost
    span: int = 48  # steps an episode window spans; context frames are drawn from it in order
    learning_rate: float = 3e-3  # peak, after warm-up; cosine decay over steps or minutes
    grad_clip: float = 1.0  # largest gradient norm
    seed: int = 0  # weights, windows and everything else random
    precision: Literal["float32", "bf16"] = "float32"  # of the arithmetic in image networks; all else is float32
    compile: bool = False  # torch.compile the image networks
    threads: int = 0  # torch threads; 0 for all cores
    log_every: int = 10  # steps between log rows
    save_every: int = 100  # steps between checkpoints
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "context", "targets", "sources", "log_every", "save_every"):
            _at_least(name, getattr(self, name), 1)
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size}: must be a multiple of accumulate={self.accumulate}")
        if self.span < self.context + self.targets:
            raise UserError(f"span={self.span}: must be at least context + targets = {self.context + self.targets}")
        _above_zero("learning_rate", self.learning_rate)
        _above_zero("grad_clip", self.grad_clip)


@dataclass(frozen=True)
class PriorsConfig:
    """`liftwm priors list` and `liftwm priors run`: what teachers say of a dataset, kept beside it (docs/priors.md)."""

    name: str = ""  # run: a prior of `liftwm priors list`, or my_package:make_prior; list: of this one alone
    data: str = "data/revisit-s"  # run: dataset folder; what is there already is not done again
    weights: str = ""  # hub id, file or folder; empty for the prior's own choice
    code: str = ""  # folder of the model's public repository, for those that no registry has
    device: str = "cpu"  # torch device
    batch_size: int = 8  # frames or pairs at once
    seed: int = 0  # of priors that draw
    prompt: str = "an indoor room"  # of priors that are told in words what they are to show
    accept_license: bool = False  # of models that may not be used commercially
    episodes: int = 0  # run: the first so many of the dataset; 0 for all

    def __post_init__(self) -> None:
        _at_least("batch_size", self.batch_size, 1)
        _at_least("episodes", self.episodes, 0)


@dataclass(frozen=True)
class EvaluateConfig:
    """`liftwm evaluate`: score a world model on held-out episodes and tasks, and write a report."""

    model: str = "runs/train"  # run folder, or my_package:make_model
    baseline: str = ""  # a second model to compare with, scored by the same code
    policy: str = ""  # navigation: run folder of `liftwm train-agent`, or its zip, to compare with the planner
    data: str = "data/revisit-s-eval"  # held-out episodes with truth
    out: str = "runs/evaluate"  # where metrics.json, rows.csv and report/index.html go
    episodes: int = 0  # episodes of data to use; 0 for all
    suites: tuple[Literal["views", "persistence", "navigation"], ...] = ("views", "persistence", "navigation")  # what
    context: int = 48  # views: frames observed before novel views are rendered
    views_per_episode: int = 8  # views: held-out target frames per episode
    env: str = "Revisit-S"  # navigation: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    navigation_episodes: int = 30  # navigation: paired episodes per agent
    bootstrap: int = 1000  # resamples behind every interval
    seed: int = 0  # of the bootstrap and of the navigation episodes
    workers: int = 2  # navigation: processes
    engine: Literal["local", "ray"] = "local"  # what runs them: processes of this machine, or Ray (docs/scaling.md)
    ray_address: str = ""  # ray: a cluster to join, or auto; empty starts Ray on this machine
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("context", "views_per_episode", "navigation_episodes", "bootstrap", "workers"):
            _at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class GenerateConfig:
    """`liftwm generate`: from one first frame and a camera path, a video with the memory in the loop (docs/generation.md)."""

    model: str = "base"  # run folder, checkpoint, the name of a shipped one, or my_package:make_model
    first_frame: str = ""  # picture, .png or .jpg; cropped to its central square and resized to what the model takes
    fov_deg: float = 90.0  # field of view of that square, degrees; data= brings its own
    data: str = ""  # or a dataset folder, whose frames begin videos
    episode: int = 0  # data: of the first video
    frame: int = 0  # data: of the episode, that begins the video
    episodes: int = 1  # data: videos from so many episodes, from episode= on; 0 for all; pictures are of the first
    path: str = "yaw-90"  # yaw-DEGREES | out-and-back-METRES | aba-METRES | abca-METRES | loop-METRES, a file of poses
    # (.txt of RealEstate10K, .npy, .json), or with data recorded: the episode's own
    steps: int = 8  # of a named path, from one waypoint to the next: yaw-90 has two such legs
    metres_per_unit: float = 1.0  # path in a file: by which its translations are multiplied
    loop: bool = True  # believe what was generated; false keeps to the first frame alone, as a control
    out: str = "runs/generate"  # where video.mp4, picture.png, metrics.json and rows.csv go
    fps: int = 8  # frames a second of the video
    bootstrap: int = 1000  # resamples behind every interval
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("steps", "fps", "bootstrap"):
            _at_least(name, getattr(self, name), 1)
        for name in ("episode", "frame", "episodes"):
            _at_least(name, getattr(self, name), 0)
        _above_zero("metres_per_unit", self.metres_per_unit)
        if not 1 <= self.fov_deg <= 170:
            raise UserError(f"fov_deg={self.fov_deg}: must be in [1, 170]")


@dataclass(frozen=True)
class PlannerConfig:
    """Model-predictive control on the state: MPPI over `imagine`."""

    horizon: int = 12  # steps looked ahead
    num_samples: int = 128  # action sequences tried per plan
    iterations: int = 2  # refinements of the sampling distribution
    temperature: float = 0.1  # of the softmax over returns, metres of cost
    noise: float = 0.6  # standard deviation of sampled actions
    panorama_views: int = 6  # views rendered from the state to find the goal and free space
    cell_m: float = 0.1  # edge of an occupancy cell


@dataclass(frozen=True)
class TrainAgentConfig:
    """`liftwm train-agent`: stable-baselines3 PPO on what a world model remembers."""

    model: str = "runs/train"  # run folder of a trained world model
    env: str = "Revisit-S"  # the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    run: str = "runs/agent"  # run folder: SB3 zip, TensorBoard log, metrics
    steps: int = 100_000  # environment steps
    num_envs: int = 2  # environments in the VecEnv
    rollout_steps: int = 128  # PPO n_steps
    batch_size: int = 64  # PPO batch_size
    learning_rate: float = 3e-4  # PPO learning_rate
    seed: int = 0  # weights and environments
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("steps", "num_envs", "rollout_steps"):
            _at_least(name, getattr(self, name), 1)
        _at_least("batch_size", self.batch_size, 2)
        _at_least("rollout_steps * num_envs", self.rollout_steps * self.num_envs, 2)
        _above_zero("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class BenchConfig:
    """`liftwm bench NAME`: speed as a ratio within one run."""

    env: str = "Revisit-S"  # collect: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    frames: int = 1500  # collect: frames per timing
    workers: int = 2  # collect: processes in the scaling row
    train: TrainConfig = field(default_factory=TrainConfig)  # train: what is trained, on which dataset
    model: ModelConfig = field(default_factory=ModelConfig)  # state: the untrained model whose calls are timed
    checkpoint: str = ""  # state: a trained one instead, such as base
    steps: int = 1000  # state: observes
    repeats: int = 3  # timings, of which the median is reported
    threads: int = 0  # torch threads; 0 for all cores
    device: str = "cpu"  # rasterize, state: torch device
    out: str = "results"  # folder for the CSV

    def __post_init__(self) -> None:
        for name in ("frames", "workers", "steps", "repeats"):
            _at_least(name, getattr(self, name), 1)


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
    """How much a teacher is corrupted, in `liftwm reproduce priors`: a model for each dose, twice (`priors/corruption.py`)."""

    scale: tuple[float, ...] = (0.1, 0.3, 0.9)  # drift: deviation of log-scale in the last frame
    noise: tuple[float, ...] = (0.1, 0.3, 0.9)  # deviation of log-depth, and of normals in radians
    outliers: tuple[float, ...] = (0.1, 0.3, 0.7)  # share of blocks of pixels replaced by anything
    pose: tuple[float, ...] = (0.05, 0.15, 0.45)  # by which wrong poses displace cameras, metres; they turn them too
    pure_noise: bool = True  # and a teacher that says nothing of the scene at all

    def __post_init__(self) -> None:
        for name in ("scale", "noise", "outliers", "pose"):
            doses = getattr(self, name)
            if len(set(doses)) < len(doses) or min(doses, default=1.0) <= 0 or max(doses, default=0.0) == float("inf"):
                raise UserError(f"doses.{name}={list(doses)}: expected distinct numbers above 0")
        if max(self.outliers, default=0.0) > 1:
            raise UserError(f"doses.outliers={list(self.outliers)}: expected shares, at most 1")


@dataclass(frozen=True)
class ReproduceConfig:
    """`liftwm reproduce NAME`: an experiment, from nothing to its figures; what is finished is not done again."""

    out: str = "runs/reproduce"  # datasets, models and rows, in a folder of the experiment's name
    results: str = "results"  # folder for the CSV and the figure
    parts: tuple[Literal["toy", "curve"], ...] = ("toy", "curve")  # gap: the closed form, the curve on episodes
    supports_m: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0)  # gap: radii of the discs that cameras stay in; 0 only turns
    displaced_m: float = 0.5  # gap: distance of a novel view from the nearest camera of its context
    rows: tuple[TableRow, ...] = get_args(TableRow)  # liftwm: which models are compared
    budgets: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)  # liftwm: primitives that the model with all terms may keep
    bases: tuple[TaughtBase, ...] = get_args(TaughtBase)  # priors: what teachers are added to
    teachers: tuple[str, ...] = (  # priors: by the names of `liftwm priors list`; each alone, and all together
        "house_depth", "mvs", "gaussian_splatting", "house_views", "disk"
    )  # fmt: skip
    prior_episodes: int = 0  # priors: training episodes, which every teacher observes; 0 for collect.episodes
    dosed: str = "mvs"  # priors: the teacher that is corrupted, dose by dose, over the model with all terms; empty for none
    doses: DoseConfig = field(default_factory=DoseConfig)
    dose_seeds: int = 1  # priors: training seeds of corrupted teachers
    context: int = 48  # frames observed before novel views are rendered
    views_per_episode: int = 6  # novel views; gap: and as many views of the context itself
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=400, steps=96))  # of each training dataset
    eval_episodes: int = 24  # held-out episodes of each evaluation dataset
    eval_seed: int = REPORT_SEED  # of the first of them, within split=eval; smaller ones are for development
    train: TrainConfig = field(default_factory=TrainConfig)  # of the model with all terms; others differ as their row says
    seeds: int = 3  # training seeds, from train.seed on
    processes: int = 2  # models trained and judged side by side
    bootstrap: int = 1000  # resamples behind every interval

    def __post_init__(self) -> None:
        for name in ("context", "views_per_episode", "eval_episodes", "seeds", "dose_seeds", "processes", "bootstrap"):
            _at_least(name, getattr(self, name), 1)
        _at_least("prior_episodes", self.prior_episodes, 0)
        if not self.bases or len(set(self.bases)) < len(self.bases):
            raise UserError(f"bases={list(self.bases)}: expected distinct ones out of {', '.join(get_args(TaughtBase))}")
        if len(set(self.teachers)) < len(self.teachers):
            raise UserError(f"teachers={list(self.teachers)}: expected distinct names")
        _above_zero("displaced_m", self.displaced_m)
        if not self.supports_m or min(self.supports_m) < 0 or len(set(self.supports_m)) < len(self.supports_m):
            raise UserError(f"supports_m={list(self.supports_m)}: expected distinct radii in metres, at least 0")
        if not self.rows or len(set(self.rows)) < len(self.rows):
            raise UserError(f"rows={list(self.rows)}: expected distinct ones out of {', '.join(get_args(TableRow))}")
        if len(set(self.budgets)) < len(self.budgets) or min(self.budgets, default=LEAST_BUDGET) < LEAST_BUDGET:
            raise UserError(f"budgets={list(self.budgets)}: expected distinct numbers, at least {LEAST_BUDGET}")
        if self.context >= self.collect.steps:
            raise UserError(f"context={self.context}: must be below collect.steps={self.collect.steps}, to leave novel views")


COMMANDS: dict[str, Any] = {
    "collect": CollectConfig,
    "priors": PriorsConfig,
    "train": TrainConfig,
    "train-agent": TrainAgentConfig,
    "evaluate": EvaluateConfig,
    "generate": GenerateConfig,
    "bench": BenchConfig,
    "reproduce": ReproduceConfig,
    "demo": DemoConfig,
}
"""Command name -> its schema. Preset files have one section per command under the same name."""
