"""The models of `liftwm reproduce memories`: how each is trained, made ready to be judged, and judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import embodied_liftwm
from embodied_liftwm.config import ModelConfig, ReproduceConfig, TrainConfig, size_word
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.generation.camera_paths import named_path
from embodied_liftwm.evaluation.generation.closed_loop import ClosedLoopRow, closed_loop_rows, generate
from embodied_liftwm.evaluation.generation.tours import Tour, first_clear_tour
from embodied_liftwm.evaluation.metrics.persistence import PersistenceRow
from embodied_liftwm.evaluation.results_table import Judged, judge
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.bounds import LastFrame, with_true_depth
from embodied_liftwm.evaluation.views.budget_curve import at_budget
from embodied_liftwm.evaluation.views.novel import ViewRow
from embodied_liftwm.experiments import runs as reproduce_runs
from embodied_liftwm.memory.latents.bounded import slots_for
from embodied_liftwm.training.frozen_depth import freeze_depth
from embodied_liftwm.workers.side_by_side import Tell

TRAINED = ("rgb_cloud", "context", "gaussians", "latent_bounded", "patches", "latent_append", "recurrent")
"""Rows that have weights of their own, the longest work first."""
BOUNDS = ("none", "oracle")
"""Rows made of the weights of `patches`."""
GAUSSIANS = 2048
"""That `gaussians` is trained with."""
RECURRENT_STEPS = 6
"""Steps that the recurrent baseline takes for one of the others: 0.46 s of a core each, where theirs take 2.9 s at most."""
LOOP_STEPS = 8
"""Steps of a generated video from one waypoint to the next."""


@dataclass(frozen=True)
class Memory:
    """What is judged: a row at a training seed, perhaps at another budget of primitives or bytes."""

    row: str
    seed: int
    budget: int = 0  # 0 for the one that it was trained with

    @property
    def key(self) -> str:
        """Its row in the table."""
        return f"{self.row}-{self.budget}" if self.budget else self.row

    def files(self, config: ReproduceConfig) -> dict[str, Path]:
        """Where its rows go, by what they are of; all are there once it is judged."""
        own = {"views": ViewRow, "persistence": PersistenceRow} | {path: ClosedLoopRow for path in self.loops(config)}
        return {part: place(config) / f"{self.key}-seed{self.seed}.{part}.csv" for part in own}

    def loops(self, config: ReproduceConfig) -> tuple[str, ...]:
        """Paths of its videos; none of the oracle, for nobody knows the true depth of what was invented."""
        return () if self.row == "oracle" else config.loops

    def is_judged(self, config: ReproduceConfig) -> bool:
        return all(path.exists() for path in self.files(config).values())


def place(config: ReproduceConfig) -> Path:
    """The folder of the experiment."""
    return Path(config.out) / "memories"


def trained_rows(config: ReproduceConfig) -> list[str]:
    """Rows to train: those asked for, and `patches` for the rows that are made of it."""
    wanted = {*config.memories, *(("patches",) if set(BOUNDS) & set(config.memories) else ())}
    return [row for row in TRAINED if row in wanted]


def made_of(config: ReproduceConfig, row: str, seed: int) -> list[Memory]:
    """Everything that is judged with the weights of one training."""
    found = [Memory(row, seed)] if row in config.memories else []
    if row == "patches":
        found += [Memory(bound, seed) for bound in BOUNDS if bound in config.memories]
    more = {"gaussians": config.budgets, "latent_bounded": config.cache_bytes}.get(row, ())
    return found + [Memory(row, seed, budget) for budget in more if budget != _trained_with(config, row)]


def check(config: ReproduceConfig) -> None:
    """Raises UserError for what would fail only after hours: paths, budgets of bytes, the model that depth is taken from."""
    for path in config.loops:
        named_path(path, LOOP_STEPS)
    if not config.encoder:
        return
    size = _shipped(config.encoder).image_size
    cells = math.prod(size) // architecture(config).stride ** 2
    for budget in config.cache_bytes if "latent_bounded" in config.memories else ():
        slots_for(budget, config.cache_dim, cells)
    options = config.collect.env_options
    if options.sides != size:
        wanted = f"encoder={config.encoder} is for {size_word(size)}"
        raise UserError(f"collect.env_options.image_size={options.image_size}: {wanted}")


def _trained_with(config: ReproduceConfig, row: str) -> int:
    return GAUSSIANS if row == "gaussians" else architecture(config).latent_bounded.bytes


@cache
def _shipped(name: str) -> Any:
    return embodied_liftwm.load(name)


def architecture(config: ReproduceConfig) -> ModelConfig:
    """Sizes that all rows have: those of the model that depth is taken from; `train.model` where there is none."""
    own = config.train.model
    sizes = {"patches": own.patches, "latent_bounded": own.latent_bounded}
    return replace(_shipped(config.encoder).config, **sizes) if config.encoder else own


def settings(config: ReproduceConfig, row: str, seed: int) -> TrainConfig:
    """How a row is trained: `config.train`, but for its memory, and for what a depth that does not learn has no need of.

    `recurrent`, whose steps are cheap, takes `RECURRENT_STEPS` times as many.
    """
    model = replace(architecture(config), memory=row)
    if row == "gaussians":
        model = model.sized(GAUSSIANS)
    if row in ("latent_append", "latent_bounded", "rgb_cloud", "context"):
        model = replace(model, latent_dim=config.cache_dim)
    found = replace(
        config.train,
        data=str(place(config) / "data/train"),
        run=str(place(config) / f"{row}-seed{seed}"),
        model=model,
        seed=seed,
    )
    if config.encoder:  # nothing judges a depth that is given
        found = replace(found, geometry_first=0.0, sources=max(1, min(found.sources, model.stereo_sources)))
    return replace(found, steps=RECURRENT_STEPS * found.steps) if row == "recurrent" else found


def train_and_judge(config: ReproduceConfig, row: str, seed: int, tell: Tell) -> None:
    """One training, and all models that are made of it, in a process of their own."""
    chosen = settings(config, row, seed)
    put_back: list[Any] = []

    def begin(trainer: Any) -> None:
        if config.encoder and row != "recurrent":
            put_back.append(freeze_depth(trainer.model.encoder, _shipped(config.encoder).encoder, fresh=trainer.step == 0))

    def after_step(trainer: Any) -> None:
        for again in put_back:
            again()

    reproduce_runs.train(chosen, tell, after_step, begin)
    reader = EvaluationReader(place(config) / "data/eval")
    episodes = list(reader)
    for memory in made_of(config, row, seed):
        if not memory.is_judged(config):
            _judge(config, memory, reader, episodes)


def _judge(config: ReproduceConfig, memory: Memory, reader: EvaluationReader, episodes: list[Episode]) -> None:
    model, device = load(config, memory, episodes), config.train.device
    found = judge(model, memory.key, memory.key, episodes, config.context, config.views_per_episode, device)
    files = memory.files(config)
    write_rows(files["views"], found.views, ViewRow)
    write_rows(files["persistence"], found.persistence, PersistenceRow)
    for path in memory.loops(config):
        rows: list[ClosedLoopRow] = []
        for tour in _tours(config, path, reader, episodes):
            rows += closed_loop_rows(memory.key, tour, generate(CheckedModel(model, memory.key), tour, device=device))
        write_rows(files[path], rows, ClosedLoopRow)


_drawn: dict[str, list[Tour]] = {}
"""Tours of this process, by path: all models that it judges are shown the same."""


def _tours(config: ReproduceConfig, path: str, reader: EvaluationReader, episodes: Sequence[Episode]) -> list[Tour]:
    """The first held-out episodes in which the path is clear.

    Raises:
        UserError: it is clear in none.
    """
    if path not in _drawn:
        found: list[Tour] = []
        for index, episode in enumerate(episodes):
            tour = first_clear_tour(reader.info, episode, index, named_path(path, LOOP_STEPS))
            found += [tour] if tour is not None else []
            if len(found) == config.loop_episodes:
                break
        if not found:
            raise UserError(f"loops: {path} would run into a wall or an object in every held-out episode: take a shorter one")
        _drawn[path] = found
    return _drawn[path]


def load(config: ReproduceConfig, memory: Memory, episodes: Sequence[Episode]) -> Any:
    """A model, ready to be judged on these episodes."""
    weights = "patches" if memory.row in BOUNDS else memory.row
    found: Any = embodied_liftwm.load(str(place(config) / f"{weights}-seed{memory.seed}"), config.train.device)
    if memory.row == "none":
        return LastFrame(found)
    if memory.row == "oracle":
        return with_true_depth(found, episodes)
    return at_budget(found, memory.budget) if memory.budget else found


def judged(config: ReproduceConfig, memory: Memory) -> Judged:
    """A model's rows, as they were written."""
    files = memory.files(config)
    return Judged(read_rows(files["views"], ViewRow), read_rows(files["persistence"], PersistenceRow))


def generated(config: ReproduceConfig, memory: Memory) -> dict[str, list[ClosedLoopRow]]:
    """Path -> rows of a model's videos."""
    files = memory.files(config)
    return {path: read_rows(files[path], ClosedLoopRow) for path in memory.loops(config)}
