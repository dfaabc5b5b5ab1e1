"""`liftwm reproduce liftwm`: the results table, from nothing to its figures.

    OUT/liftwm/data/train, eval                  episodes, and held-out ones of other scenes and layouts
    OUT/liftwm/glo-seed0/                        run folder of one model
    OUT/liftwm/glo-seed0.views.csv, .persistence.csv       its rows, judged; so for glo-seed0-budget64, oracle-seed0, ...
    OUT/liftwm/cost.csv, index.html              what calls cost at each budget; the page
    RESULTS/liftwm.csv, liftwm_budget.csv        figures with intervals
    RESULTS/liftwm_budget.svg, liftwm_strip.png  the budget curve; true, predicted, error, depth, normals

Whatever is there is not done again, so an interrupted run goes on where it was.

Every model that is trained has the same encoder, decoder, data, number of steps, seeds, and about as large a state. `settings`
says in what they differ. `none` and `oracle` are the weights of `glo`: one forgets all but the last frame, the other lifts the
true depth of the episodes that it is judged on (`evaluation/bounds.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

import embodied_liftwm
from embodied_liftwm.config import ReproduceConfig, TrainConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import CostRow
from embodied_liftwm.evaluation.metrics.persistence import PersistenceRow
from embodied_liftwm.evaluation.results_table import Judged, judge, table_figures
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.bounds import LastFrame, with_true_depth
from embodied_liftwm.evaluation.views.budget_curve import BudgetFigure, at_budget, curve_figures, measure_costs
from embodied_liftwm.evaluation.views.novel import ViewRow
from embodied_liftwm.evaluation.views.strips import Strip, choose_revisits, make_strip
from embodied_liftwm.experiments.liftwm import report as table_report
from embodied_liftwm.experiments.runs import (
    claim,
    collect_both,
    seeds,
    train,
    without_geometry,
)
from embodied_liftwm.terminal import heading, plain_console
from embodied_liftwm.workers.side_by_side import Task, Tell, side_by_side

TRAINED = ("glo", "epipolar", "mv", "2d_only", "depth_normal", "recurrent")
"""Rows that have weights of their own, the longest work first."""
BOUNDS = ("none", "oracle")
"""Rows made of the weights of `glo`."""
LEARNING_RATES: dict[str, float] = {}
"""Rows that do better with another peak learning rate than `train.learning_rate`; found on development rooms
(docs/experiments.md, section 14)."""
FRAME_ALONE = ("2d_only", "epipolar", "depth_normal")
"""Rows in which the frame term moves depth."""
ATTENTION_HEADS = 2
"""Of epipolar attention in the rows that have it, where `train.model.epipolar_heads` says none."""
SHOWN = ("2d_only", "glo", "oracle")
"""Rows in the strip of pictures, from the first seed."""


@dataclass(frozen=True)
class Model:
    """A model of the table: a row at a training seed, perhaps at another budget."""

    row: str
    seed: int
    budget: int = 0  # 0 for the one that it was trained with

    @property
    def name(self) -> str:
        return f"{self.row}-seed{self.seed}" + (f"-budget{self.budget}" if self.budget else "")

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Where its rows go; both are there once it is judged."""
        return folder / f"{self.name}.views.csv", folder / f"{self.name}.persistence.csv"

    def is_judged(self, folder: Path) -> bool:
        return all(path.exists() for path in self.files(folder))

    def write(self, folder: Path, judged: Judged) -> None:
        views, persistence = self.files(folder)
        write_rows(views, judged.views, ViewRow)
        write_rows(persistence, judged.persistence, PersistenceRow)

    def read(self, folder: Path) -> Judged:
        views, persistence = self.files(folder)
        return Judged(read_rows(views, ViewRow), read_rows(persistence, PersistenceRow))


def run(config: ReproduceConfig) -> int:
    """Collect, train, judge, and show the table.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, folder, results = plain_console(), _folder(config), Path(config.results)
    with claim(folder, config):
        collect_both(config, folder / "data")
        _train_and_judge_all(config, console)
        figures = table_figures({row: _judged(config, row) for row in config.rows}, config.bootstrap)
        write_rows(results / "liftwm.csv", figures)
        curve = _curve(config) if config.budgets else []
        if curve:
            write_rows(results / "liftwm_budget.csv", curve)
        strip = _strip(config)
        page = table_report.write(config, folder, results, figures, curve, strip)
        table_report.print_tables(console, figures, curve)
        if config.budgets and not curve:
            console.print("  no budget curve: it is made of glo, which rows= leaves out")
        for line in table_report.headline(figures, curve):
            console.print(f"  {line}")
        console.print(f"report: {page}")
        return 0


def _train_and_judge_all(config: ReproduceConfig, console: Console) -> None:
    """Whatever is not there yet, seed by seed, several models side by side."""
    for number, seed in enumerate(seeds(config), 1):
        rows = [row for row in trained_rows(config) if _todo(config, row, seed)]
        if rows:
            heading(console, f"seed {number}/{config.seeds}", f": train and judge {', '.join(rows)}")
            tasks = [Task(row, partial(_train_and_judge, config, row, seed)) for row in rows]
            side_by_side(tasks, config.processes, console)


def settings(config: ReproduceConfig, row: str, seed: int) -> TrainConfig:
    """How a row is trained: `config.train`, but for what its name says.

    - `2d_only`: the frame term alone moves depth, through the splatted image; no other frame is matched;
      its state is of Gaussians.
    - `epipolar`: the same with attention along epipolar lines, and the matching costs on them, of recent frames.
    - `depth_normal`: `2d_only` with the term that makes depths and normals agree.
    - `mv`: multi-view consistency, with all that the default model has for it (matching, depth learned first, smoothness).
    - `glo`: `mv` with attention and with the depth-normal term: all three.
    - `recurrent`: a GRU with a pose-queried decoder, on the same terms.
    """
    folder, base = _folder(config), config.train
    heads = base.model.epipolar_heads or ATTENTION_HEADS
    without_normal = tuple(term for term in base.terms if term != "depth_normal")
    found = replace(base, learning_rate=LEARNING_RATES.get(row, base.learning_rate))
    if row in FRAME_ALONE:
        found = without_geometry(found)
    if row == "epipolar":
        sources = max(base.model.stereo_sources, 1)
        found = replace(found, model=replace(found.model, epipolar_heads=heads, stereo_sources=sources))
    elif row == "depth_normal":
        found = replace(found, terms=(*found.terms, "depth_normal"))
    elif row == "mv":
        found = replace(found, terms=without_normal, model=replace(found.model, epipolar_heads=0))
    elif row == "glo":
        found = replace(found, terms=(*without_normal, "depth_normal"), model=replace(found.model, epipolar_heads=heads))
    elif row == "recurrent":
        found = replace(found, model=replace(found.model, memory="recurrent"))
    return replace(found, data=str(folder / "data/train"), run=str(folder / f"{row}-seed{seed}"), seed=seed)


def trained_rows(config: ReproduceConfig) -> list[str]:
    """Rows to train: those asked for, and `glo` for the rows that are made of it."""
    wanted = {*config.rows, *(("glo",) if set(BOUNDS) & set(config.rows) else ())}
    return [row for row in TRAINED if row in wanted]


def models_of(config: ReproduceConfig, row: str, seed: int) -> list[Model]:
    """Everything that is judged with the weights of one training."""
    if row != "glo":
        return [Model(row, seed)]
    bounds = [Model(bound, seed) for bound in BOUNDS if bound in config.rows]
    return [Model(row, seed), *bounds, *(Model(row, seed, budget) for budget in config.budgets)]


def _folder(config: ReproduceConfig) -> Path:
    return Path(config.out) / "liftwm"


def _todo(config: ReproduceConfig, row: str, seed: int) -> list[Model]:
    return [model for model in models_of(config, row, seed) if not model.is_judged(_folder(config))]


def _train_and_judge(config: ReproduceConfig, row: str, seed: int, tell: Tell) -> None:
    """One training, and all models that are made of it, in a process of their own."""
    train(settings(config, row, seed), tell)
    folder = _folder(config)
    episodes = list(EvaluationReader(folder / "data/eval"))
    for model in _todo(config, row, seed):
        found = judge(
            _load(config, model, episodes), model.row, model.name, episodes, config.context, config.views_per_episode,
            config.train.device,
        )  # fmt: skip
        model.write(folder, found)


def _load(config: ReproduceConfig, model: Model, episodes: list[Episode]) -> Any:
    """A model, ready to be judged on these episodes."""
    weights = "glo" if model.row in BOUNDS else model.row
    found: Any = embodied_liftwm.load(settings(config, weights, model.seed).run, config.train.device)
    if model.row == "none":
        return LastFrame(found)
    if model.row == "oracle":
        return with_true_depth(found, episodes)
    return at_budget(found, model.budget) if model.budget else found


def _judged(config: ReproduceConfig, row: str, budget: int = 0) -> dict[int, Judged]:
    """Rows of all seeds, as they were written."""
    return {seed: Model(row, seed, budget).read(_folder(config)) for seed in seeds(config)}


def _curve(config: ReproduceConfig) -> list[BudgetFigure]:
    """The budget curve of `glo`, at the budget it was trained with too; empty where it was not trained."""
    if "glo" not in trained_rows(config):
        return []
    own, place = config.train.model.size, _folder(config) / "cost.csv"
    judged = {budget: _judged(config, "glo", budget) for budget in config.budgets} | {own: _judged(config, "glo")}
    costs = read_rows(place, CostRow) if place.exists() else []
    if {row.model for row in costs} != {str(budget) for budget in judged}:
        episode = EvaluationReader(_folder(config) / "data/eval")[0]
        models = {budget: _load(config, Model("glo", config.train.seed, budget), []) for budget in sorted(judged)}
        costs = measure_costs(models, episode, config.train.device)
        write_rows(place, costs)
    return curve_figures(judged, costs, config.bootstrap)


def _strip(config: ReproduceConfig) -> Strip | None:
    """One turn away as the rows of `SHOWN` show it; None where no object of the episodes comes back."""
    episodes = list(EvaluationReader(_folder(config) / "data/eval"))
    chosen = choose_revisits(episodes, 1)
    rows = [row for row in SHOWN if row in config.rows]
    if not chosen or not rows:
        return None
    models = [CheckedModel(_load(config, Model(row, config.train.seed), episodes), row) for row in rows]
    ((index, revisit),) = chosen
    return make_strip(models, episodes[index], index, revisit, config.train.device)
