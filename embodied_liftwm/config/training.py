"""World models, their training, and what teachers say of their data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from embodied_liftwm.config.checks import above_zero, at_least
from embodied_liftwm.errors import UserError

LEAST_BUDGET = 16
"""Primitives that a state holds at least."""
LEAST_LATENT_DIM = 4
"""Latent channels where latents alone carry colour, which takes three of them."""


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
        at_least("model.budget", self.budget, LEAST_BUDGET)
        at_least("model.movers", self.movers, 0)
        if self.movers and self.memory != "patches":
            raise UserError(f"model.movers={self.movers}: things move beside patches only, not with model.memory={self.memory}")
        if self.frame_moves_depth and self.memory in ("rgb_cloud", "context"):
            raise UserError(f"model.frame_moves_depth=True: no image moves depth with model.memory={self.memory}")
        above_zero("model.voxel_m", self.voxel_m)
        at_least("model.context_views", self.context_views, 1)
        at_least("model.texels", self.texels, 3)  # patches of fewer than a handful of texels are not kept
        if self.width < 8 or self.width % 8:
            raise UserError(f"model.width={self.width}: must be a multiple of 8")
        at_least("model.widest", self.widest, 1)
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
    teacher_noise: Literal["learned", "held"] = "learned"  # held: at what it is for a good teacher, to compare with
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
            at_least(name, getattr(self, name), 1)
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size}: must be a multiple of accumulate={self.accumulate}")
        if self.span < self.context + self.targets:
            raise UserError(f"span={self.span}: must be at least context + targets = {self.context + self.targets}")
        above_zero("learning_rate", self.learning_rate)
        above_zero("grad_clip", self.grad_clip)


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
        at_least("batch_size", self.batch_size, 1)
        at_least("episodes", self.episodes, 0)
