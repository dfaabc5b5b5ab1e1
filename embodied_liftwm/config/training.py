"""World models and their training."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from embodied_liftwm.config.checks import LAST_SEED, MOST_THREADS, bounded, check_fields, shown
from embodied_liftwm.errors import UserError

LEAST_BUDGET = 16
"""Primitives that a state holds at least."""
MOST_STATE_BYTES = 2**32
"""Of the primitives of one state."""
STATE_NUMBERS = 8
"""That a texel or Gaussian holds beside its latents, about: colour, depth, weight and the like."""
MOST_CHANNELS = 4096
"""Of the widest stage of encoder and decoder."""
MOST_FRAMES = 2**16
"""In the windows of one step of training."""
TRAIN_MAY_CHANGE = {
    "steps", "minutes", "threads", "log_every", "save_every", "run", "device", "accumulate", "precision", "compile",
}  # fmt: skip
"""Settings in which a continued run may differ from what it was begun with: its length, its speed, its rounding."""
MEMORIES = ("patches", "gaussians", "latent_append", "latent_bounded", "recurrent", "rgb_cloud", "context")
"""Those that come with the package; `world_model/build.py` knows what they are."""
LEAST_LATENT_DIM = 4
"""Latent channels where latents alone carry colour, which takes three of them."""


@dataclass(frozen=True)
class ModelConfig:
    """The world model: what it remembers with, and how large it is."""

    memory: str = "patches"  # patches: 3D primitives of texels each; gaussians: plain ones; latent_append, latent_bounded: a
    # cache of latent tokens that grows, or that is bounded; rgb_cloud: a point cloud of all pixels; recurrent: the 2D baseline;
    # context: all frames as they were; or one of your own, my_package:MyMemory (docs/your_memory.md)
    budget: int = bounded(512, LEAST_BUDGET, 2**20)  # patches or Gaussians the state holds, N
    memory_bytes: int = bounded(2**20, 1, 2**36)  # latent_bounded: what the cache of an episode may take, bytes
    texels: int = bounded(8, 3, 64)  # texels a side of a patch
    latent_dim: int = bounded(4, 1, 256)  # latent channels of a texel, Gaussian or token, D
    stride: int = bounded(2, 1, 8)  # pixels a side of the image patch that becomes one primitive
    width: int = bounded(32, 8, 512)  # channels of the first encoder and decoder stage
    widest: int = bounded(4, 1, 16)  # times as many that their deeper stages have at most
    recurrent_dim: int = bounded(512, 1, 8192)  # units of the baseline's GRU
    planes: int = bounded(40, 2, 512)  # depth hypotheses per cell, uniform in log-depth
    max_depth_m: float = bounded(10.0, 0.01, 1000)  # the farthest of them, metres
    min_depth_m: float = bounded(0.15, 0.001, 1000)  # and the nearest
    stereo_sources: int = bounded(6, 0, 64)  # recent frames that depth is triangulated with; 0 for monocular depth alone
    movers: int = bounded(0, 0, 2**16)  # points that may move, beside the patches; 0 where the world stands still
    learned_fusion: bool = True  # learn what a look at a texel counts, and tell the decoder how sure the map is
    frame_moves_depth: bool = False  # let the splatted image move depth: where no term on several views does
    voxel_m: float = bounded(0.01, 0.0001, 10)  # rgb_cloud: edge of the voxels in each of which one point is kept, metres
    context_views: int = bounded(4, 1, 256)  # context: frames that a view is read from
    epipolar_heads: int = bounded(0, 0, 64)  # heads of the encoder's attention along epipolar lines of those frames; 0 for none

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.memory not in MEMORIES and ":" not in self.memory:
            near = difflib.get_close_matches(self.memory, MEMORIES, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(MEMORIES)}, or my_package:MyMemory"
            raise UserError(f"model.memory={shown(self.memory)}: {hint}")
        if self.min_depth_m >= self.max_depth_m:
            raise UserError(f"model.min_depth_m={self.min_depth_m}: must be below model.max_depth_m={self.max_depth_m}")
        if self.movers and self.memory != "patches":
            raise UserError(f"model.movers={self.movers}: things move beside patches only, not with model.memory={self.memory}")
        if self.frame_moves_depth and self.memory in ("rgb_cloud", "context"):
            raise UserError(f"model.frame_moves_depth=True: no image moves depth with model.memory={self.memory}")
        if self.epipolar_heads and self.width % self.epipolar_heads:
            raise UserError(f"model.epipolar_heads={self.epipolar_heads}: must divide model.width={self.width}")
        if self.width * self.widest > MOST_CHANNELS:
            raise UserError(f"model.widest={self.widest}: with model.width={self.width} more than {MOST_CHANNELS} channels")
        size = 4 * self.budget * (self.texels**2 if self.memory == "patches" else 1) * (self.latent_dim + STATE_NUMBERS)
        if size > MOST_STATE_BYTES:
            raise UserError(f"model.budget={self.budget}: with these sizes a state of {size / 2**30:.0f} GiB, more than 4")
        if self.width % 8:
            raise UserError(f"model.width={self.width}: must be a multiple of 8")
        if self.memory.startswith("latent_") and self.latent_dim < LEAST_LATENT_DIM:
            least = f"{LEAST_LATENT_DIM} with model.memory={self.memory}"
            raise UserError(f"model.latent_dim={self.latent_dim}: must be at least {least}")
        if self.stride not in (1, 2, 4, 8):
            raise UserError(f"model.stride={self.stride}: must be 1, 2, 4 or 8")

    def sized(self, size: int) -> Self:
        """With a memory that keeps so much, in the unit of its budget; the same where it has none."""
        return replace(self, memory_bytes=size) if self.memory == "latent_bounded" else replace(self, budget=size)


@dataclass(frozen=True)
class TrainConfig:
    """`liftwm train`: a world model from a dataset."""

    data: str = "data/revisit-s"  # dataset folder
    run: str = "runs/train"  # run folder: config, log, metrics, checkpoints; an interrupted one is continued
    initial: str = ""  # weights to begin with: a run, a checkpoint, or a shipped one by its name, such as base; "" for none
    model: ModelConfig = field(default_factory=ModelConfig)
    terms: tuple[str, ...] = (  # of the objective
        "frame", "multi_view", "smoothness", "seen", "ego_motion", "reward", "continuation"
    )  # fmt: skip
    priors: tuple[str, ...] = ()  # teachers, by the names of `liftwm priors run`, whose answers the teacher terms learn from
    teacher_noise: Literal["learned", "held"] = "learned"  # held: at what it is for a good teacher, to compare with
    steps: int = bounded(20_000, 1, 100_000_000)  # optimiser steps: with them, a seed gives the same weights on a slow machine
    # as on a fast one
    minutes: float = bounded(0.0, 0, 525_600)  # end after so much wall-clock time over all resumptions, wherever it is then; 0
    # for no limit
    batch_size: int = bounded(4, 1, 4096)  # windows a step, over all processes
    accumulate: int = bounded(1, 1, 4096)  # micro-batches that a process's windows are split into, for less memory; the
    # gradient is the same
    context: int = bounded(8, 1, 1024)  # frames observed, in order, per window
    targets: int = bounded(4, 1, 1024)  # frames rendered per window: from before, among and after the context
    sources: int = bounded(16, 1, 1024)  # other frames of the episode that must explain each context and target frame
    geometry_first: float = bounded(0.5, 0, 1)  # share of the training in which a model that lifts learns depth alone, at half
    # the cost
    span: int = bounded(48, 2, 100_000)  # steps an episode window spans; context frames are drawn from it in order
    learning_rate: float = bounded(3e-3, 0, 1, above=True)  # peak, after warm-up; cosine decay over steps or minutes
    grad_clip: float = bounded(1.0, 0, 1e6, above=True)  # largest gradient norm
    seed: int = bounded(0, 0, LAST_SEED)  # weights, windows and everything else random
    precision: Literal["float32", "bf16"] = "float32"  # of the arithmetic in image networks; all else is float32
    compile: bool = False  # torch.compile the image networks
    threads: int = bounded(1, 0, MOST_THREADS)  # torch threads; 0 for all cores. A second one gains nothing at these sizes, and
    # beside another process the two wait for one another (docs/training.md)
    log_every: int = bounded(10, 1, 1_000_000)  # steps between log rows
    save_every: int = bounded(100, 1, 1_000_000)  # steps between checkpoints
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size}: must be a multiple of accumulate={self.accumulate}")
        frames = self.batch_size * (self.context + self.targets)
        if frames > MOST_FRAMES:
            raise UserError(f"batch_size={self.batch_size}: makes {frames} frames a step, of at most {MOST_FRAMES}")
        if self.span < self.context + self.targets:
            raise UserError(f"span={self.span}: must be at least context + targets = {self.context + self.targets}")
