"""The models of `liftwm reproduce priors`: who teaches them, how they are trained and judged, and the teachers made worse."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

import embodied_liftwm
from embodied_liftwm.config import ReproduceConfig, TrainConfig
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.evaluation.metrics.prior_quality import DepthQuality
from embodied_liftwm.evaluation.results_table import Judged, judge
from embodied_liftwm.experiments.liftwm import experiment as reproduce_liftwm
from embodied_liftwm.experiments.liftwm.experiment import Model
from embodied_liftwm.experiments.priors.teachers import Teacher, options_of, quality
from embodied_liftwm.experiments.runs import train
from embodied_liftwm.priors.cache import clip_of, create_cache, folder_of
from embodied_liftwm.priors.corruption import Corruption, corrupt, generator
from embodied_liftwm.terminal import heading
from embodied_liftwm.workers.side_by_side import Task, Tell, side_by_side


@dataclass(frozen=True)
class Student:
    """A model to train: a row of the results table at a seed, and who teaches it."""

    base: str
    row: str
    seed: int
    teachers: tuple[Teacher, ...] = ()
    corruption: Corruption | None = None  # of its only teacher
    noise_held: bool = False  # that of its teachers is not learned

    @property
    def model(self) -> Model:
        """As it is judged."""
        return Model(self.row, self.seed)

    @property
    def taught_by(self) -> tuple[Teacher, ...]:
        """Its teachers as they speak to it: a corrupted one has a cache of its own, of depth and normals alone."""
        if self.corruption is None:
            return self.teachers
        (teacher,), given = self.teachers, ("depth", "normals")
        fingerprint = self.corruption.fingerprint(teacher.fingerprint)
        return (Teacher(teacher.name, fingerprint, tuple(gift for gift in teacher.gives if gift in given)),)


def place(config: ReproduceConfig) -> Path:
    """The folder of the experiment."""
    return Path(config.out) / "priors"


def dataset(config: ReproduceConfig) -> Path:
    """The training episodes, which teachers observe."""
    return place(config) / "data/train"


def settings(config: ReproduceConfig, student: Student) -> TrainConfig:
    """How a model is trained: as its base is, with every term that takes something of what its teachers give."""
    from embodied_liftwm.objectives.teacher_terms import TEACHER_TERMS

    found = reproduce_liftwm.settings(config, student.base, student.seed)
    gifts = {gift for teacher in student.taught_by for gift in teacher.gives}
    added = tuple(name for name, term in TEACHER_TERMS.items() if term.kind in gifts)
    return replace(
        found,
        data=str(dataset(config)),
        run=str(place(config) / _file_name(student.model.name)),
        terms=(*found.terms, *added),
        priors=tuple(teacher.cache for teacher in student.taught_by),
        teacher_noise="held" if student.noise_held else "learned",
    )


def train_and_judge(config: ReproduceConfig, students: Sequence[Student], what: str, console: Console) -> None:
    """Whatever is not there yet, several models side by side. No two of the students may share a corrupted teacher.

    Raises:
        UserError: one of them failed; its reason.
    """
    todo = [student for student in students if not _is_done(config, student)]
    if todo:
        heading(console, what, f": train and judge {', '.join(student.row for student in todo)}")
        tasks = [Task(student.row, partial(_train_and_judge, config, student)) for student in todo]
        side_by_side(tasks, config.processes, console)
    for student in students:
        _forget(config, student)


def judged(config: ReproduceConfig, row: str, seeds: Iterable[int]) -> dict[int, Judged]:
    """Rows of a model at these seeds, as they were written."""
    return {seed: Model(_file_name(row), seed).read(place(config)) for seed in seeds}


def quality_of(config: ReproduceConfig, student: Student) -> list[DepthQuality]:
    """How right the depths of a student's only teacher are, as it speaks to the student."""
    (teacher,) = student.taught_by
    name = teacher.name if student.corruption is None else student.model.name
    file = place(config) / f"{_file_name(name)}.quality.csv"
    return quality(teacher, dataset(config), file)


def _file_name(name: str) -> str:
    """A row's name as a file's: that of a user's own prior has a colon."""
    return name.replace(":", ".")


def _is_done(config: ReproduceConfig, student: Student) -> bool:
    return Model(_file_name(student.row), student.seed).is_judged(place(config))


def _train_and_judge(config: ReproduceConfig, student: Student, tell: Tell) -> None:
    """One model, in a process of its own."""
    if student.corruption is not None:
        _corrupt(config, student, student.corruption)
        quality_of(config, student)
    chosen, device = settings(config, student), config.train.device
    train(chosen, tell)
    episodes = list(EvaluationReader(place(config) / "data/eval"))
    model = embodied_liftwm.load(chosen.run, device)
    found = judge(model, student.row, student.model.name, episodes, config.context, config.views_per_episode, device)
    Model(_file_name(student.row), student.seed).write(place(config), found)
    _forget(config, student)


def _corrupt(config: ReproduceConfig, student: Student, how: Corruption) -> None:
    """Write what a student's teacher says once it is corrupted; episodes that are there are kept."""
    reader, (clean,), (worse,) = TrainingReader(dataset(config)), student.teachers, student.taught_by
    source = clean.open(dataset(config), reader)
    options = options_of(config)
    cache = create_cache(reader, worse.name, worse.fingerprint, options, f"{source.about.get('licence', '')}, corrupted")
    with cache.writing():
        for episode in cache.missing():
            rng = generator(how, int(reader.indices[episode]))
            cache.write(episode, corrupt(source.read(episode), clip_of(reader, episode), how, rng))


def _forget(config: ReproduceConfig, student: Student) -> None:
    """Remove what a corrupted teacher said once its student is judged."""
    if student.corruption is not None and _is_done(config, student):
        (teacher,) = student.taught_by
        shutil.rmtree(folder_of(dataset(config), teacher.name, teacher.fingerprint), ignore_errors=True)
