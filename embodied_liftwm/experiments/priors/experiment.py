"""`liftwm reproduce priors`: does a teacher help, and when does it harm? (`engine.py` says what is written where)

    OUT/priors/data/train/priors                 what teachers said of the training episodes
    OUT/priors/mvs.quality.csv                   how right a teacher's depths are, episode by episode
    OUT/priors/glo+mvs-seed0/                    run folder of one model, taught by `mvs`; glo+inhouse_depth+mvs by both
    OUT/priors/glo+mvs-noise-0.3-weighted-seed0/ and so on     taught by a corrupted teacher (`priors/corruption.py`);
                                                 a row that ends in -held does not learn how noisy its teacher is
    RESULTS/priors.csv, priors_dose.csv          figures with intervals
    RESULTS/priors_dose.svg                      the dose-response

What a corrupted teacher says is made when its model is trained, and removed once that is judged: it can be made again, bit for
bit, and is large.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from embodied_liftwm.config import ReproducePriorsConfig, TrainConfig
from embodied_liftwm.data import TrainingReader
from embodied_liftwm.evaluation.metrics.prior_quality import DepthQuality
from embodied_liftwm.evaluation.results_table import TableFigure, relative_changes, table_figures
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.experiments import liftwm
from embodied_liftwm.experiments.engine import Experiment
from embodied_liftwm.experiments.page import about_tables, show
from embodied_liftwm.experiments.priors import report
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
from embodied_liftwm.experiments.priors.teachers import Teacher, check_ready, observe, options_of, quality
from embodied_liftwm.files import write_text
from embodied_liftwm.priors.cache import clip_of, create_cache, folder_of
from embodied_liftwm.priors.corruption import Corruption, check_corruptible, corrupt, generator
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers.side_by_side import Tell

DOSED_BASE = "glo"
"""The row that a corrupted teacher is added to."""
CHANGES = ("depth_rmse_seen_m",)
"""Figures whose relative change is told too."""


@dataclass(frozen=True)
class Student:
    """A model to train: a row of the results table, and who teaches it."""

    base: str
    row: str
    teachers: tuple[Teacher, ...] = ()
    corruption: Corruption | None = None  # of its only teacher
    noise_held: bool = False  # that of its teachers is not learned

    @property
    def taught_by(self) -> tuple[Teacher, ...]:
        """Its teachers as they speak to it: a corrupted one has a cache of its own, of depth and normals alone."""
        if self.corruption is None:
            return self.teachers
        (teacher,), given = self.teachers, ("depth", "normals")
        fingerprint = self.corruption.fingerprint(teacher.fingerprint)
        return (Teacher(teacher.name, fingerprint, tuple(kind for kind in teacher.gives if kind in given)),)


class Lessons(Experiment[ReproducePriorsConfig]):
    """Students by training seed and row."""

    name, about = "priors", DOSED_BASE
    may_change = {"bases", "teachers", "dosed", "doses", "alone_seeds", "dose_seeds"}

    def __init__(self, config: ReproducePriorsConfig, students: Mapping[int, Iterable[Student]] | None = None) -> None:
        super().__init__(config)
        self.students = {seed: {student.row: student for student in given} for seed, given in (students or {}).items()}

    @property
    def dataset(self) -> Path:
        """The training episodes, which teachers observe."""
        return self.data / "train"

    def trained_rows(self, seed: int) -> list[str]:
        return list(self.students[seed])

    def changes(self, row: str, seed: int) -> TrainConfig:
        """As its base is trained, with every term that takes something of what its teachers give."""
        from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS

        student = self.students[seed][row]
        found = liftwm.changes(self.config.train, student.base)
        kinds = {kind for teacher in student.taught_by for kind in teacher.gives}
        added = tuple(name for name, term in TEACHER_TERMS.items() if term.kind in kinds)
        noise: Any = "held" if student.noise_held else "learned"
        priors = tuple(teacher.cache for teacher in student.taught_by)
        return replace(found, terms=(*found.terms, *added), priors=priors, teacher_noise=noise)

    def train_and_judge(self, rows: Iterable[str], seed: int, what: str, console: Console) -> None:
        """No two of the rows may share a corrupted teacher."""
        super().train_and_judge(rows, seed, what, console)
        for row in rows:
            self._forget(row, seed)

    def work(self, row: str, seed: int, tell: Tell) -> None:
        self._corrupt(row, seed)
        super().work(row, seed, tell)
        self._forget(row, seed)

    def quality_of(self, row: str, seed: int) -> list[DepthQuality]:
        """How right the depths of a student's only teacher are, as it speaks to the student."""
        student = self.students[seed][row]
        (teacher,) = student.taught_by
        name = teacher.name if student.corruption is None else f"{row}-seed{seed}"
        return quality(teacher, self.dataset, self.file(f"{name}.quality.csv"))

    def _corrupt(self, row: str, seed: int) -> None:
        """Write what a student's teacher says once it is corrupted; episodes that are there are kept."""
        student = self.students[seed][row]
        if student.corruption is None:
            return
        reader, (clean,), (worse,) = TrainingReader(self.dataset), student.teachers, student.taught_by
        source = clean.open(self.dataset, reader)
        licence = f"{source.about.get('licence', '')}, corrupted"
        cache = create_cache(reader, worse.name, worse.fingerprint, options_of(self.config), licence)
        with cache.writing():
            for episode in cache.missing():
                rng = generator(student.corruption, int(reader.indices[episode]))
                cache.write(episode, corrupt(source.read(episode), clip_of(reader, episode), student.corruption, rng))
        self.quality_of(row, seed)

    def _forget(self, row: str, seed: int) -> None:
        """Remove what a corrupted teacher said once its student is judged."""
        student = self.students[seed][row]
        if student.corruption is not None and not self.left(row, seed):
            (teacher,) = student.taught_by
            shutil.rmtree(folder_of(self.dataset, teacher.name, teacher.fingerprint), ignore_errors=True)

    def figures(self, pairs: list[tuple[str, str]]) -> list[TableFigure]:
        """Figures of every row, of these differences, and of those to the honest rows."""
        table, resamples = self.judged(self.table_rows(), self.students), self.config.bootstrap
        found = table_figures(table, resamples, [*pairs, *self.compared(self.table_rows())])
        return found + relative_changes(table, pairs, CHANGES, resamples)


def lessons(config: ReproducePriorsConfig, teachers: Mapping[str, Teacher], seed: int) -> list[Student]:
    """Every base without a teacher, with each of `config.teachers`, and with all of them together.

    Models with one teacher are trained at the first `config.alone_seeds` seeds, unless it is 0.
    """
    found = []
    for base in config.bases:
        alone = [Student(base, f"{base}+{name}", (teachers[name],)) for name in config.teachers]
        together = Student(base, "+".join([base, *config.teachers]), tuple(teachers[name] for name in config.teachers))
        all_of_them = [together] if len(alone) > 1 else []
        if all_of_them and config.alone_seeds and seed >= config.train.seed + config.alone_seeds:
            alone = []
        found += [Student(base, base), *alone, *all_of_them]
    return found


def corruptions(config: ReproducePriorsConfig, seed: int) -> list[Corruption]:
    """What is done to the dosed teacher: every kind and dose, weighted by what its confidence knows of that, and not.

    The first leaves what it says, but makes it equally sure of everything: there unweighted doses begin.
    """
    doses = config.doses
    by_kind = {"noise": doses.noise, "outliers": doses.outliers}
    found = [(kind, dose) for kind, values in by_kind.items() for dose in sorted(values)]
    found += [(PURE_NOISE, 1.0)] if doses.pure_noise else []
    both = [Corruption(kind, dose, weighted, seed) for kind, dose in found for weighted in (True, False)]
    return [Corruption(CLEAN, 0.0, False, seed), *both]


def dosed(config: ReproducePriorsConfig, teacher: Teacher, seed: int, held: bool) -> dict[Dose | None, Student]:
    """GLO alone, under None; with the teacher as it is; and with the teacher at each dose, its noise learned or held."""
    row, end = f"{DOSED_BASE}+{teacher.name}", "-held" if held else ""
    weighted, unweighted = (WEIGHTED_HELD, UNWEIGHTED_HELD) if held else (WEIGHTED, UNWEIGHTED)
    found: dict[Dose | None, Student] = {
        None: Student(DOSED_BASE, DOSED_BASE),
        Dose(CLEAN, weighted, 0.0): Student(DOSED_BASE, row + end, (teacher,), None, held),
    }
    for how in corruptions(config, seed):
        dose = Dose(how.kind, weighted if how.weighted else unweighted, how.dose)
        found[dose] = Student(DOSED_BASE, f"{row}-{how.name}{end}", (teacher,), how, held)
    return found


def run(config: ReproducePriorsConfig) -> int:
    """Collect, observe, train, judge, and show both tables.

    Raises:
        UserError: a teacher is not ready, the folder holds the experiment with other settings, or a stage failed.
    """
    console, it = plain_console(), Lessons(config)
    wanted = list(dict.fromkeys([*config.teachers, *([config.dosed] if config.dosed else [])]))
    check_ready(config, wanted, it.dataset)
    with it.claim():
        it.collect()
        teachers = {name: observe(config, name, it.dataset, console) for name in wanted}
        if config.dosed:
            found = teachers[config.dosed].open(it.dataset).read(0)
            check_corruptible(found, 0 if found.depth is None else len(found.depth.frames))
        figures = _table(config, teachers, console)
        doses = _doses(config, teachers[config.dosed], console) if config.dosed else []
        sections = report.sections(figures, doses)
        for section in sections:
            if section.chart:
                write_text(it.results / "priors_dose.svg", section.chart)
        title, said = "Does a teacher help, and when does it harm?", report.headline(figures, doses)
        show(console, config, it.folder / "index.html", title, about_tables(config), said, sections)
        return 0


def _table(config: ReproducePriorsConfig, teachers: Mapping[str, Teacher], console: Console) -> list[TableFigure]:
    """Train and judge what is taught by teachers as they are; write the figures."""
    it = Lessons(config, {seed: lessons(config, teachers, seed) for seed in Lessons(config).seeds})
    it.train_and_judge_all(console)
    students = it.students[config.train.seed].values()
    figures = it.figures([(student.row, student.base) for student in students if student.teachers])
    for student in students:
        if len(student.teachers) == 1:
            figures += teacher_figures(student.row, it.quality_of(student.row, config.train.seed), config.bootstrap)
    write_rows(it.results / "priors.csv", figures)
    return figures


def _doses(config: ReproducePriorsConfig, teacher: Teacher, console: Console) -> list[DoseFigure]:
    """Train and judge what is taught by the corrupted teacher; write the figures."""
    own = range(config.train.seed, config.train.seed + config.dose_seeds)
    arms = (False, True) if config.doses.held else (False,)
    by_seed = {seed: {held: dosed(config, teacher, seed, held) for held in arms} for seed in own}
    it = Lessons(config, {seed: [s for held in arms for s in by_seed[seed][held].values()] for seed in own})
    for number, seed in enumerate(own, 1):
        for held in arms:
            what = f"doses{', noise held' if held else ''}, seed {number}/{config.dose_seeds}"
            it.train_and_judge([student.row for student in by_seed[seed][held].values()], seed, what, console)
    rows = {student.row: dose for held in arms for dose, student in by_seed[own[0]][held].items() if dose is not None}
    found = it.figures([(row, DOSED_BASE) for row in rows])
    for row in rows:
        entries = [entry for seed in own for entry in it.quality_of(row, seed)]
        found += teacher_figures(f"{row} - {DOSED_BASE}", entries, config.bootstrap)
    figures = dose_figures(found, {f"{row} - {DOSED_BASE}": dose for row, dose in rows.items()})
    write_rows(it.results / "priors_dose.csv", figures)
    return figures
