"""`liftwm reproduce gap`: the 3D-awareness gap, in closed form and on episodes.

    OUT/gap/support-0.3/data/train, eval      episodes whose cameras stay within 0.3 m, and held-out ones that then leave
    OUT/gap/support-0.3/glo-seed0/            run folder of one model; snapshots/ holds it at earlier times
    OUT/gap/support-0.3/glo-seed0.csv         its views, judged: there once the model is finished
    RESULTS/gap_toy.csv, gap.csv, gap.svg     the closed form; figures with intervals; the curve

Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from embodied_liftwm.commands import collect
from embodied_liftwm.commands.gap_report import curve_table, draw, toy_table
from embodied_liftwm.commands.run_folder import open_run
from embodied_liftwm.commands.train import MAY_CHANGE, watch
from embodied_liftwm.config import ReproduceConfig, TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation import gap
from embodied_liftwm.evaluation.gap_toy import support_rows, term_rows
from embodied_liftwm.workers.local_engine import die_with_parent

TWO_D_TERMS = ("frame", "ego_motion", "reward", "continuation")
"""The frame term, and what of the task every model learns beside it."""
SNAPSHOTS = (0.3, 0.5, 0.7, 0.85)
"""Shares of a training after which a model is kept to be judged, beside its end."""
SETTINGS_MAY_CHANGE = {"out", "results", "parts", "supports_m", "seeds", "bootstrap"}


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
    console = Console(highlight=False)
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
    gap.write_rows(Path(config.results) / "gap_toy.csv", [*supports, *terms])


def curve(config: ReproduceConfig, console: Console) -> None:
    """Collect, train, judge and compare, support by support.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    _claim(config)
    for number, support in enumerate(config.supports_m, 1):
        where = "only turn" if support == 0 else f"stay within {support:g} m"
        console.print(f"\n[bold]{number}/{len(config.supports_m)}[/bold] cameras that {where}")
        _collect(config, support)
        for seed in range(config.train.seed, config.train.seed + config.seeds):
            todo = [job for job in jobs(config, support, seed) if not job.rows.exists()]
            if todo:
                _train_side_by_side(todo, console)
    rows = [row for job in all_jobs(config) for row in gap.read_rows(job.rows)]
    figures = gap.figures(rows, config.bootstrap)
    gap.write_rows(Path(config.results) / "gap.csv", figures)
    draw(figures, Path(config.results) / "gap.svg")
    for loss, title in (("equal", "at equal 2D loss"), ("final", "at the end of training")):
        console.print(curve_table(title, [f for f in figures if (f.loss, f.seed) == (loss, "pooled")]))


def _claim(config: ReproduceConfig) -> None:
    """Write the settings into the folder, or hold those that are there against these."""
    try:
        open_run(_folder(config), config, SETTINGS_MAY_CHANGE, continued=True)
    except UserError as error:
        raise UserError(str(error).replace("another run=", "another out=")) from None


def _folder(config: ReproduceConfig) -> Path:
    return Path(config.out) / "gap"


def _collect(config: ReproduceConfig, support_m: float) -> None:
    """Training and held-out episodes of one support, from the same scenes as for every other."""
    data = _folder(config) / f"support-{support_m:g}" / "data"
    policy = f"support-{support_m:g}"
    collect.run(replace(config.collect, out=str(data / "train"), split="train", policy=policy))
    policy += f"-leave-{config.displaced_m:g}-after-{config.context}"
    held_out = replace(config.collect, out=str(data / "eval"), split="eval", policy=policy, seed=config.eval_seed)
    collect.run(replace(held_out, episodes=config.eval_episodes))


def jobs(config: ReproduceConfig, support_m: float, seed: int) -> list[Job]:
    """The two models of one support and training seed: alike but for the terms, and for where depth can come from.

    What the frame term alone has to teach depth is the splatted image; matching frames by depth is not part of it.
    """
    place = _folder(config) / f"support-{support_m:g}"
    found = []
    for model in (gap.TWO_D, gap.GLO):
        train = replace(config.train, data=str(place / "data/train"), run=str(place / f"{model}-seed{seed}"), seed=seed)
        if model == gap.TWO_D:
            unmatched = replace(train.model, stereo_sources=0, epipolar_heads=0, frame_moves_depth=True)
            train = replace(train, terms=TWO_D_TERMS, geometry_first=0.0, model=unmatched)
        found.append(Job(model, support_m, train, place / "data/eval", place / f"{model}-seed{seed}.csv", config))
    return found


def all_jobs(config: ReproduceConfig) -> list[Job]:
    """Every model of the experiment."""
    seeds = range(config.train.seed, config.train.seed + config.seeds)
    return [job for support in config.supports_m for seed in seeds for job in jobs(config, support, seed)]


def _train_side_by_side(todo: list[Job], console: Console) -> None:
    """Train and judge models side by side: the same wall-clock time on the same machine.

    Raises:
        UserError: one of them failed; its reason.
    """
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    processes = {job.model: context.Process(target=_train_and_judge, args=(job, queue), daemon=True) for job in todo}
    for process in processes.values():
        process.start()
    try:
        watch(console, queue, processes)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _train_and_judge(job: Job, queue: Any) -> None:
    """One model, in a process of its own; its progress, its end or its error goes into `queue`."""
    die_with_parent()
    try:
        _train(job, queue)
        gap.write_rows(job.rows, _judge(job))
        queue.put((job.model, None))
    except UserError as error:
        queue.put((job.model, str(error)))


def _train(job: Job, queue: Any) -> None:
    from embodied_liftwm.training.checkpoint import checkpoints, save_checkpoint
    from embodied_liftwm.training.trainer import Trainer

    folder = Path(job.train.run)
    open_run(folder, job.train, MAY_CHANGE, continued=bool(checkpoints(folder)))
    trainer = Trainer(job.train)

    def after_step(row: dict[str, float]) -> None:
        for share in job.snapshots:
            place = _snapshot(job, share)
            if share <= trainer.progress < 1.0 and not place.exists():
                save_checkpoint(place, trainer.step, trainer.model, {}, {"seconds": trainer.seconds})
        queue.put((job.model, row | {"progress": trainer.progress}))

    trainer.fit(after_step)


def _snapshot(job: Job, share: float) -> Path:
    return Path(job.train.run) / "snapshots" / f"{share:g}"


def _judge(job: Job) -> list[gap.GapRow]:
    """Every snapshot, and the end, on the held-out episodes."""
    from embodied_liftwm.data import EvaluationReader
    from embodied_liftwm.evaluation.checked import CheckedModel
    from embodied_liftwm.training.checkpoint import load_model

    config, device = job.experiment, job.train.device
    episodes = list(EvaluationReader(job.episodes))
    places = {share: _snapshot(job, share) for share in job.snapshots if _snapshot(job, share).exists()}
    rows = []
    for share, place in (places | {1.0: Path(job.train.run)}).items():
        model = CheckedModel(load_model(str(place), device), job.model, str(place))
        views = gap.judge(model, episodes, config.context, config.displaced_m, config.views_per_episode, device)
        rows += [gap.gap_row(view, job.support_m, job.train.seed, share, config.context) for view in views]
    return rows
