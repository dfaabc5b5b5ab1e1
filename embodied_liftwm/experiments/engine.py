"""One engine for every table: collect, train side by side, judge, go on where it was, read the rows.

An experiment is **rows, each a name and what it changes; seeds; data; what judges it; what is printed**. `Trainings` is the
engine, `Experiment` that of world models; a subclass says the first (`trained_rows`, `settings`, `made_of`) and the last, and
inherits the rest:

    OUT/NAME/data/train, eval                      episodes, and held-out ones of other scenes and layouts
    OUT/NAME/glo-seed0/                            run folder of one training
    OUT/NAME/glo-seed0.views.csv, .persistence.csv its rows, judged; so for everything that is made of its weights
    OUT/NAME/index.html                            the page (`page.py`)

Whatever is there is not done again, so an interrupted run goes on where it was. Beside the rows of its author every table has
the honest ones (`HONEST`): what the same architecture does with nothing learned, and what its frames do with nothing merged,
made of the row that the table is about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console

import embodied_liftwm
from embodied_liftwm.config import TRAIN_MAY_CHANGE, CollectConfig, ModelConfig, TableConfig, TrainConfig, TrainingsConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.metrics.persistence import PersistenceRow
from embodied_liftwm.evaluation.results_table import Judged, judge
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.bounds import can_match, frame_warp, matching, untrained
from embodied_liftwm.evaluation.views.budget_curve import at_budget
from embodied_liftwm.evaluation.views.mean_colour import mean_colour_of
from embodied_liftwm.evaluation.views.novel import ViewRow
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import heading
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.workers.side_by_side import TRAINED, Task, Tell, side_by_side
from liftwm_agents.collection.shown import collect_shown

Make = Callable[[Any, Sequence[Episode]], Any]
"""What is judged, of a loaded model and the episodes that it is judged on."""
Settings = TypeVar("Settings", bound=TrainingsConfig)
Config = TypeVar("Config", bound=TableConfig)

TWO_D_TERMS = ("frame", "ego_motion", "reward", "continuation")
"""The frame term, and what of the task every model learns beside it."""
GAUSSIANS_A_PATCH = 32
"""Gaussians that take about the bytes of a patch. Where the frame term moves depth they are the better read-out
(docs/experiments.md, section 14): alpha compositing lets more of a picture's error reach depth than the first surface does."""
UNTRAINED, MATCHING, FRAME_WARP, MEAN_COLOUR = "untrained", "matching", "frame_warp", "mean_colour"
HONEST = {
    UNTRAINED: "untrained (initial weights)",
    MATCHING: "matching (no network)",
    FRAME_WARP: "frame warp (frames, their depth)",
    MEAN_COLOUR: "mean colour",
}
"""Rows that every table gets, and what they are called. A claim is the difference to the best of them."""


def as_it_is(model: Any, episodes: Sequence[Episode]) -> Any:
    """The trained model."""
    return model


def at(budget: int, model: Any, episodes: Sequence[Episode]) -> Any:
    """The trained model with a memory of another size."""
    return at_budget(model, budget)


def honest_rows(config: ModelConfig, seed: int, device: str) -> dict[str, Make]:
    """The honest rows, made of a model of this kind."""
    rows: dict[str, Make] = {UNTRAINED: lambda model, _: untrained(model, seed)}
    if can_match(config):
        rows |= {MATCHING: lambda model, _: matching(model), FRAME_WARP: lambda model, _: frame_warp(model)}
    return rows | {MEAN_COLOUR: lambda _, episodes: mean_colour_of(episodes, device)}


class Trainings(ABC, Generic[Settings]):
    """Rows that are trained and judged side by side, seed by seed; whatever is there is not done again."""

    name: ClassVar[str]
    may_change: ClassVar[set[str]] = set()
    """Settings of its own in which a continued experiment may differ: how much of it is done, not how any part of it is."""

    def __init__(self, config: Settings) -> None:
        self.config, self.folder, self.results = config, Path(config.out) / self.name, Path(config.results)

    @abstractmethod
    def trained_rows(self, seed: int) -> list[str]:
        """Rows that have weights of their own, the longest work first."""

    @abstractmethod
    def parts(self, key: str) -> dict[str, type]:
        """What a judged row is made of, and the rows of each part."""

    @abstractmethod
    def work(self, row: str, seed: int, tell: Tell) -> None:
        """One training, and what is judged of it, in a process of its own."""

    def rows_of(self, row: str, seed: int) -> dict[str, Make]:
        """Everything that is judged with the weights of one training, by its row in the table."""
        return {row: as_it_is}

    @property
    def seeds(self) -> range:
        """Training seeds of the experiment."""
        first = self.config.train.seed  # type: ignore[attr-defined]
        return range(first, first + self.config.seeds)

    def claim(self) -> AbstractContextManager[Path]:
        """Hold the experiment's folder, and write the settings into it, or hold those that are there against these.

        Raises:
            UserError: another process holds it, or it holds the experiment with another setting, which is named.
        """
        common = {"out", "results", "seeds", "processes", "bootstrap"}
        return open_run(self.folder, self.config, common | self.may_change, continued=True)

    def file(self, name: str) -> Path:
        """A file of a row's name; that of a user's own prior has a colon."""
        return self.folder / name.replace(":", ".")

    def files(self, key: str, seed: int) -> dict[str, Path]:
        """Where a judged row goes, part by part; all are there once it is judged."""
        return {part: self.file(f"{key}-seed{seed}.{part}.csv") for part in self.parts(key)}

    def left(self, row: str, seed: int) -> dict[str, Make]:
        """What is still to be judged of a training."""
        return {
            key: make
            for key, make in self.rows_of(row, seed).items()
            if not all(path.exists() for path in self.files(key, seed).values())
        }

    def train_and_judge_all(self, console: Console) -> None:
        """Whatever is not there yet, seed by seed, several models side by side."""
        for number, seed in enumerate(self.seeds, 1):
            self.train_and_judge(self.trained_rows(seed), seed, f"seed {number}/{self.config.seeds}", console)

    def train_and_judge(self, rows: Iterable[str], seed: int, what: str, console: Console) -> None:
        """What is not there yet of these rows at a seed."""
        todo = [row for row in rows if self.left(row, seed)]
        if todo:
            heading(console, what, f": train and judge {', '.join(todo)}")
            tasks = [Task(row, partial(self.work, row, seed)) for row in todo]
            side_by_side(tasks, self.config.processes, console)

    def read(self, key: str, seed: int, part: str) -> list[Any]:
        """Rows of one part, as they were written."""
        return read_rows(self.files(key, seed)[part], self.parts(key)[part])


class Experiment(Trainings[Config]):
    """A table of world models."""

    about: ClassVar[str]
    """The row that the table is about: honest rows have its architecture."""

    @abstractmethod
    def changes(self, row: str, seed: int) -> TrainConfig:
        """How a row is trained: `config.train`, but for what its name says."""

    def made_of(self, row: str) -> dict[str, Make]:
        """Everything that is judged with the weights of one training, by its row in the table."""
        return {row: as_it_is}

    def parts(self, key: str) -> dict[str, type]:
        """What a judged row is made of, and the rows of each part."""
        return {"views": ViewRow, "persistence": PersistenceRow}

    def judge(self, model: Any, key: str, seed: int, episodes: Sequence[Episode]) -> dict[str, list[Any]]:
        """Rows of each part of one model."""
        c = self.config
        return judge(model, key, f"{key}-seed{seed}", episodes, c.context, c.views_per_episode, c.train.device)._asdict()

    def begin(self, row: str, trainer: Trainer) -> Callable[[], None]:
        """Called before the first step of a training and of every resumption; gives what is called after every step."""
        return lambda: None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def collect(self, policy: str = "", held_out_policy: str = "") -> None:
        """Training episodes and held-out ones; a policy left empty is that of `config.collect`."""
        asked: CollectConfig = self.config.collect
        policies = policy or asked.policy, held_out_policy or asked.policy
        collect_shown(replace(asked, out=str(self.data / "train"), split="train", policy=policies[0]))
        held_out = replace(asked, out=str(self.data / "eval"), split="eval", policy=policies[1], seed=self.config.eval_seed)
        collect_shown(replace(held_out, episodes=self.config.eval_episodes))

    def episodes(self) -> list[Episode]:
        """The held-out ones."""
        return list(EvaluationReader(self.data / "eval"))

    def settings(self, row: str, seed: int) -> TrainConfig:
        """How a row is trained, and where."""
        run = str(self.file(f"{row}-seed{seed}"))
        return replace(self.changes(row, seed), data=(str(self.data / "train"),), run=run, seed=seed)

    def rows_of(self, row: str, seed: int) -> dict[str, Make]:
        """`made_of`, and the honest rows where the table is about this row, or this is the first and that is not trained."""
        trained = self.trained_rows(seed)
        about = self.about if self.about in trained else trained[0]
        if row != about:
            return self.made_of(row)
        own = self.settings(row, seed)
        return self.made_of(row) | honest_rows(own.model, seed, own.device)

    def work(self, row: str, seed: int, tell: Tell) -> None:
        """One training, and all models that are made of it, in a process of their own."""
        train(self.settings(row, seed), tell, partial(self.begin, row))
        episodes = self.episodes()
        for key, make in self.left(row, seed).items():
            found = self.judge(make(self.load(row, seed), episodes), key, seed, episodes)
            for part, path in self.files(key, seed).items():
                write_rows(path, found[part], self.parts(key)[part])

    def load(self, row: str, seed: int) -> Any:
        """A trained model."""
        return embodied_liftwm.load(self.settings(row, seed).run, self.config.train.device)

    def make(self, key: str, seed: int, episodes: Sequence[Episode]) -> Any:
        """A row of the table, ready to be judged on these episodes."""
        made = {key: (row, make) for row in self.trained_rows(seed) for key, make in self.rows_of(row, seed).items()}
        row, make = made[key]
        return make(self.load(row, seed), episodes)

    def table_rows(self) -> list[str]:
        """Every row of the table, as they are made."""
        return list(dict.fromkeys(key for row in self.trained_rows(self.seeds[0]) for key in self.rows_of(row, self.seeds[0])))

    def judged(self, keys: Iterable[str], seeds: Iterable[int] = ()) -> dict[str, dict[int, Judged]]:
        """Row -> seed -> what was judged, for seeds at which there is such a row; all seeds of the experiment without any."""
        found: dict[str, dict[int, Judged]] = {}
        for key in keys:
            there = [seed for seed in seeds or self.seeds if all(path.exists() for path in self.files(key, seed).values())]
            found[key] = {seed: Judged(*(self.read(key, seed, part) for part in Judged._fields)) for seed in there}
        return found

    def compared(self, keys: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of what the table is about, and of the honest rows, whose difference has a row of its own."""
        return [(self.about, other) for other in HONEST if {self.about, other} <= set(keys)]


def train(settings: TrainConfig, tell: Tell, begin: Callable[[Trainer], Callable[[], None]] = lambda _: lambda: None) -> None:
    """Train a model, or go on with it, to its end.

    Args:
        settings: of the run.
        tell: takes every step's row, with its progress, and the word that the training is over.
        begin: called before the first step, and again before the first of every resumption; gives what is called after every
            step, before it is told.
    """
    folder = Path(settings.run)
    with open_run(folder, settings, TRAIN_MAY_CHANGE, continued=bool(checkpoints(folder))):
        trainer = Trainer(settings)
        after_step = begin(trainer)

        def step(row: dict[str, float]) -> None:
            after_step()
            tell(row | {"progress": trainer.progress})

        trainer.fit(step)
    tell(TRAINED)


def without_geometry(train: TrainConfig) -> TrainConfig:
    """The same model with the frame term alone, and what only that term could teach.

    What it has to teach depth is the splatted image; matching frames by depth is not part of it. A state of patches becomes one
    of Gaussians, of about as many bytes.
    """
    unmatched = replace(train.model, stereo_sources=0, epipolar_heads=0, frame_moves_depth=True)
    if unmatched.memory == "patches":
        unmatched = replace(unmatched, memory="gaussians", movers=0).sized(GAUSSIANS_A_PATCH * unmatched.patches.budget)
    return replace(train, terms=TWO_D_TERMS, geometry_first=0.0, model=unmatched)
