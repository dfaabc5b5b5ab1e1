"""The training of world models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from embodied_liftwm.config.checks import LAST_SEED, MOST_THREADS, bounded, check_fields, distinct, shown
from embodied_liftwm.config.model import ModelConfig
from embodied_liftwm.errors import UserError

MOST_FRAMES = 2**16
"""In the windows of one step of training."""
TRAIN_MAY_CHANGE = {
    "steps", "minutes", "threads", "log_every", "save_every", "run", "device", "accumulate", "precision", "compile",
}  # fmt: skip
"""Settings in which a continued run may differ from what it was begun with: its length, its speed, its rounding."""


VALIDATION = 0.05
"""Share of each of several datasets that is held out where nobody says: enough for a mean, few enough to spare."""


@dataclass(frozen=True)
class TrainConfig:
    """`liftwm train`: a world model from a dataset, or from several."""

    data: tuple[str, ...] = ("data/revisit-s",)  # dataset folder; or several, a,b,c, of any cameras and frame sizes, of which
    # every step learns from one. The model is built for the frames, the body and the goals of the first
    weights: tuple[float, ...] = bounded((), 0, 1e9, above=True)  # how often each of several is drawn, as in 2,1,1; by default
    # as often as it has frames
    validation: tuple[float, ...] = bounded((), 0, 0.5)  # share of a dataset's episodes, its last ones, that is not learned
    # from: the terms are measured on it at every checkpoint, into validation.csv; one for all, or one each; by default 0.05 of
    # each of several and none of one alone; rounded down, so that small datasets have none
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
        if isinstance(self.data, str):
            object.__setattr__(self, "data", (self.data,))
        check_fields(self)
        distinct("data", self.data, "dataset folders")
        if self.weights and len(self.weights) != len(self.data):
            raise UserError(
                f"weights={shown(self.weights)}: expected {len(self.data)}, one for each of data={shown(self.data)}"
            )
        if len(self.validation) not in (0, 1, len(self.data)):
            one = "one number, or one for each of data"
            raise UserError(f"validation={shown(self.validation)}: expected {one}={shown(self.data)}")
        if self.batch_size % self.accumulate:
            raise UserError(f"batch_size={self.batch_size}: must be a multiple of accumulate={self.accumulate}")
        frames = self.batch_size * (self.context + self.targets)
        if frames > MOST_FRAMES:
            raise UserError(f"batch_size={self.batch_size}: makes {frames} frames a step, of at most {MOST_FRAMES}")
        if self.span < self.context + self.targets:
            raise UserError(f"span={self.span}: must be at least context + targets = {self.context + self.targets}")

    @property
    def held_out(self) -> tuple[float, ...]:
        """The share of each dataset that is not learned from."""
        shares = self.validation or (VALIDATION if len(self.data) > 1 else 0.0,)
        return shares * len(self.data) if len(shares) == 1 else shares
