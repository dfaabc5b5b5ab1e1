"""`liftwm reproduce gap`: the 3D-awareness gap, in closed form and on episodes.

    OUT/gap/support-0.3/data/train, eval      episodes whose cameras stay within 0.3 m, and held-out ones that then leave
    OUT/gap/support-0.3/glo-seed0/            run folder of one model; snapshots/ holds it at earlier times
    OUT/gap/support-0.3/glo-seed0.csv         its views, judged: there once the model is finished
    RESULTS/gap_toy.csv, gap.csv, gap.svg     the closed form; figures with intervals; the curve

Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from embodied_liftwm.config import ReproduceConfig, TrainConfig
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.experiments.gap import views as gap
from embodied_liftwm.experiments.gap.report import curve_table, draw, toy_table
from embodied_liftwm.experiments.gap.toy import support_rows, term_rows
from embodied_liftwm.experiments.runs import (
    claim,
    collect_both,
    seeds,
    train,
    without_geometry,
)
from embodied_liftwm.terminal import heading, plain_console
from embodied_liftwm.training.checkpoint import load_model, save_checkpoint
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.workers.side_by_side import Task, Tell, side_by_side

SNAPSHOTS = (0.3, 0.5, 0.7, 0.85)
"""Shares of a training after which a model is kept to be judged, beside its end."""


@dataclass(frozen=True)
class Job:
    """One model to train and judge."""

    model: str
    support_m: float
    train: TrainConfig
    episodes: Path  # held-out
    rows: Path  # where its judged views go
    experiment: ReproduceConfig

    @property
    def snapshots(self) -> list[float]:
        """When to keep it: nothing is rendered while depth is learned alone."""
        return [share for share in SNAPSHOTS if share > self.train.geometry_first]


def run(config: ReproduceConfig) -> int:
    """The toy's tables, then the curve."""
    console = plain_console()
    if "toy" in config.parts:
        toy(config, console)
    if "curve" in config.parts:
        curve(config, console)
    return 0


def toy(config: ReproduceConfig, console: Console) -> None:
    """Print and write what each loss knows of depth."""
    supports, terms = support_rows(config.supports_m), term_rows()
    console.print(toy_table("What a loss knows of log-depth: rank, and Fisher information in the worst direction", supports))
    console.print(toy_table("A camera that only turns: what each term adds to the 2D loss", terms))
    write_rows(Path(config.results) / "gap_toy.csv", [*supports, *terms])


def curve(config: ReproduceConfig, console: Console) -> None:
    """Collect, train, judge and compare, support by support.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    with claim(_folder(config), config):
        for number, support in enumerate(config.supports_m, 1):
            where = "only turn" if support == 0 else f"stay within {support:g} m"
            heading(console, f"{number}/{len(config.supports_m)}", f" cameras that {where}")
            leave = f"support-{support:g}-leave-{config.displaced_m:g}-after-{config.context}"
            collect_both(config, _place(config, support) / "data", f"support-{support:g}", leave)
            for seed in seeds(config):
                todo = [job for job in jobs(config, support, seed) if not job.rows.exists()]
                if todo:
                    tasks = [Task(job.model, partial(_train_and_judge, job)) for job in todo]
                    side_by_side(tasks, config.processes, console)
        rows = [row for job in all_jobs(config) for row in read_rows(job.rows, gap.GapRow)]
        figures = gap.figures(rows, config.bootstrap)
        write_rows(Path(config.results) / "gap.csv", figures)
        draw(figures, Path(config.results) / "gap.svg")
        for loss, title in (("equal", "at equal 2D loss"), ("final", "at the end of training")):
            console.print(curve_table(title, [f for f in figures if (f.loss, f.seed) == (loss, "pooled")]))


def _folder(config: ReproduceConfig) -> Path:
    return Path(config.out) / "gap"


def _place(config: ReproduceConfig, support_m: float) -> Path:
    return _folder(config) / f"support-{support_m:g}"


def jobs(config: ReproduceConfig, support_m: float, seed: int) -> list[Job]:
    """The two models of one support and training seed: alike but for the terms, and for where depth can come from."""
    place = _place(config, support_m)
    found = []
    for model in (gap.TWO_D, gap.GLO):
        own = replace(config.train, data=str(place / "data/train"), run=str(place / f"{model}-seed{seed}"), seed=seed)
        own = without_geometry(own) if model == gap.TWO_D else own
        found.append(Job(model, support_m, own, place / "data/eval", place / f"{model}-seed{seed}.csv", config))
    return found


def all_jobs(config: ReproduceConfig) -> list[Job]:
    """Every model of the experiment."""
    return [job for support in config.supports_m for seed in seeds(config) for job in jobs(config, support, seed)]


def _train_and_judge(job: Job, tell: Tell) -> None:
    """One model, kept at several times of its training."""

    def keep(trainer: Trainer) -> None:
        for share in job.snapshots:
            place = _snapshot(job, share)
            if share <= trainer.progress < 1.0 and not place.exists():
                save_checkpoint(place, trainer.step, trainer.model, {}, {"seconds": trainer.seconds})

    train(job.train, tell, keep)
    write_rows(job.rows, _judge(job))


def _snapshot(job: Job, share: float) -> Path:
    return Path(job.train.run) / "snapshots" / f"{share:g}"


def _judge(job: Job) -> list[gap.GapRow]:
    """Every snapshot, and the end, on the held-out episodes."""
    from embodied_liftwm.data import EvaluationReader
    from embodied_liftwm.evaluation.checked import CheckedModel

    config, device = job.experiment, job.train.device
    episodes = list(EvaluationReader(job.episodes))
    places = {share: _snapshot(job, share) for share in job.snapshots if _snapshot(job, share).exists()}
    rows = []
    for share, place in (places | {1.0: Path(job.train.run)}).items():
        model = CheckedModel(load_model(str(place), device), job.model, str(place))
        views = gap.judge(model, episodes, config.context, config.displaced_m, config.views_per_episode, device)
        rows += [gap.gap_row(view, job.support_m, job.train.seed, share, config.context) for view in views]
    return rows
