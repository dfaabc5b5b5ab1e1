"""`liftwm reproduce priors`: does a teacher help, and when does it harm?

    OUT/priors/data/train, eval                  episodes, and held-out ones; what teachers said of the first in train/priors
    OUT/priors/mvs.quality.csv                   how right a teacher's depths are, episode by episode
    OUT/priors/glo+mvs-seed0/                    run folder of one model, taught by `mvs`; glo+inhouse_depth+mvs by both
    OUT/priors/glo+mvs-seed0.views.csv, .persistence.csv       its rows, judged
    OUT/priors/glo+mvs-noise-0.3-weighted-seed0/ and so on     taught by a corrupted teacher (`priors/corruption.py`);
                                                 a row that ends in -held does not learn how noisy its teacher is
    OUT/priors/index.html                        the page
    RESULTS/priors.csv, priors_dose.csv          figures with intervals
    RESULTS/priors_dose.svg                      the dose-response

Whatever is there is not done again, so an interrupted run goes on where it was. What a corrupted teacher says is made when its
model is trained, and removed once that is judged: it can be made again, bit for bit, and is large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.evaluation.results_table import TableFigure, relative_changes, table_figures
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.experiments.priors import report as priors_report
from embodied_liftwm.experiments.priors.doses import (
    CLEAN,
    PURE_NOISE,
    UNWEIGHTED,
    UNWEIGHTED_HELD,
    WEIGHTED,
    WEIGHTED_HELD,
    Dose,
    DoseFigure,
    dose_figures,
    teacher_figures,
)
from embodied_liftwm.experiments.priors.students import Student, dataset, judged, place, quality_of, train_and_judge
from embodied_liftwm.experiments.priors.teachers import Teacher, check_ready, observe
from embodied_liftwm.experiments.runs import claim, collect_both, seeds
from embodied_liftwm.priors.corruption import Corruption, check_corruptible
from embodied_liftwm.terminal import plain_console

DOSED_BASE = "glo"
"""The row that a corrupted teacher is added to."""
CHANGES = ("depth_rmse_seen_m",)
"""Figures whose relative change is told too."""


def run(config: ReproduceConfig) -> int:
    """Collect, observe, train, judge, and show both tables.

    Raises:
        UserError: a teacher is not ready, the folder holds the experiment with other settings, or a stage failed.
    """
    config = replace(config, collect=replace(config.collect, episodes=config.prior_episodes or config.collect.episodes))
    console = plain_console()
    wanted = list(dict.fromkeys([*config.teachers, *([config.dosed] if config.dosed else [])]))
    check_ready(config, wanted, dataset(config))
    with claim(place(config), config):
        collect_both(config, place(config) / "data")
        teachers = {name: observe(config, name, dataset(config), console) for name in wanted}
        if config.dosed:
            found = teachers[config.dosed].open(dataset(config)).read(0)
            check_corruptible(found, 0 if found.depth is None else len(found.depth.frames))
        figures = _table(config, teachers, console)
        doses = _doses(config, teachers[config.dosed], console) if config.dosed else []
        page = priors_report.write(config, place(config), Path(config.results), figures, doses)
        for line in priors_report.headline(figures, doses):
            console.print(f"  {line}", soft_wrap=True, markup=False)
        console.print(f"report: {page}")
        return 0


def lessons(config: ReproduceConfig, teachers: Mapping[str, Teacher], seed: int) -> list[Student]:
    """Every base without a teacher, with each of `config.teachers`, and with all of them together.

    Models with one teacher are trained at the first `config.alone_seeds` seeds, unless it is 0.
    """
    found = []
    for base in config.bases:
        alone = [Student(base, f"{base}+{name}", seed, (teachers[name],)) for name in config.teachers]
        together = Student(base, "+".join([base, *config.teachers]), seed, tuple(teachers[name] for name in config.teachers))
        all_of_them = [together] if len(alone) > 1 else []
        if all_of_them and config.alone_seeds and seed >= config.train.seed + config.alone_seeds:
            alone = []
        found += [Student(base, base, seed), *alone, *all_of_them]
    return found


def corruptions(config: ReproduceConfig, seed: int) -> list[Corruption]:
    """What is done to the dosed teacher: every kind and dose, weighted by what its confidence knows of that, and not.

    The first leaves what it says, but makes it equally sure of everything: there unweighted doses begin.
    """
    doses = config.doses
    by_kind = {"scale": doses.scale, "noise": doses.noise, "outliers": doses.outliers, "pose": doses.pose}
    found = [(kind, dose) for kind, values in by_kind.items() for dose in sorted(values)]
    found += [(PURE_NOISE, 1.0)] if doses.pure_noise else []
    both = [Corruption(kind, dose, weighted, seed) for kind, dose in found for weighted in (True, False)]
    return [Corruption(CLEAN, 0.0, False, seed), *both]


def dosed(config: ReproduceConfig, teacher: Teacher, seed: int, held: bool) -> dict[Dose | None, Student]:
    """GLO alone, under None; with the teacher as it is; and with the teacher at each dose, its noise learned or held."""
    row, end = f"{DOSED_BASE}+{teacher.name}", "-held" if held else ""
    weighted, unweighted = (WEIGHTED_HELD, UNWEIGHTED_HELD) if held else (WEIGHTED, UNWEIGHTED)
    found: dict[Dose | None, Student] = {
        None: Student(DOSED_BASE, DOSED_BASE, seed),
        Dose(CLEAN, weighted, 0.0): Student(DOSED_BASE, row + end, seed, (teacher,), None, held),
    }
    for how in corruptions(config, seed):
        dose = Dose(how.kind, weighted if how.weighted else unweighted, how.dose)
        found[dose] = Student(DOSED_BASE, f"{row}-{how.name}{end}", seed, (teacher,), how, held)
    return found


def _table(config: ReproduceConfig, teachers: Mapping[str, Teacher], console: Console) -> list[TableFigure]:
    """Train and judge what is taught by teachers as they are; write and print the figures."""
    trained: dict[str, list[int]] = {}
    for number, seed in enumerate(seeds(config), 1):
        train_and_judge(config, lessons(config, teachers, seed), f"seed {number}/{config.seeds}", console)
        for student in lessons(config, teachers, seed):
            trained.setdefault(student.row, []).append(seed)
    students = lessons(config, teachers, config.train.seed)
    table = {row: judged(config, row, own) for row, own in trained.items()}
    pairs = [(student.row, student.base) for student in students if student.teachers]
    figures = table_figures(table, config.bootstrap, pairs) + relative_changes(table, pairs, CHANGES, config.bootstrap)
    for student in students:
        if len(student.teachers) == 1:
            figures += teacher_figures(student.row, quality_of(config, student), config.bootstrap)
    write_rows(Path(config.results) / "priors.csv", figures)
    priors_report.print_rows(console, figures)
    return figures


def _doses(config: ReproduceConfig, teacher: Teacher, console: Console) -> list[DoseFigure]:
    """Train and judge what is taught by the corrupted teacher; write and print the figures."""
    own = range(config.train.seed, config.train.seed + config.dose_seeds)
    by_seed: dict[int, dict[Dose | None, Student]] = {seed: {} for seed in own}
    for number, seed in enumerate(own, 1):
        for held in (False, True) if config.doses.held else (False,):
            chosen = dosed(config, teacher, seed, held)
            what = f"doses{', noise held' if held else ''}, seed {number}/{config.dose_seeds}"
            train_and_judge(config, list(chosen.values()), what, console)
            by_seed[seed] |= chosen
    students = by_seed[own[0]]
    rows = {dose: student.row for dose, student in students.items()}
    table = {row: judged(config, row, own) for row in rows.values()}
    named = {f"{row} - {DOSED_BASE}": dose for dose, row in rows.items() if dose is not None}
    pairs = [(row, DOSED_BASE) for dose, row in rows.items() if dose is not None]
    found = table_figures(table, config.bootstrap, pairs) + relative_changes(table, pairs, CHANGES, config.bootstrap)
    for row, dose in named.items():
        quality = [entry for seed in own for entry in quality_of(config, by_seed[seed][dose])]
        found += teacher_figures(row, quality, config.bootstrap)
    figures = dose_figures(found, named)
    write_rows(Path(config.results) / "priors_dose.csv", figures)
    priors_report.print_doses(console, figures)
    return figures
