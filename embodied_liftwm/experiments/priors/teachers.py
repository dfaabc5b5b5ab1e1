"""The teachers of `liftwm reproduce priors`: whether they are ready, their pass over the episodes, and how right they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from embodied_liftwm.config import ReproducePriorsConfig
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.metrics.prior_quality import DepthQuality, depth_quality
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.plugins import is_function_name
from embodied_liftwm.priors.cache import PriorCache, clip_of, complete_cache, create_cache
from embodied_liftwm.priors.contract import Kind, PriorOptions
from embodied_liftwm.priors.registry import find_card, open_prior
from embodied_liftwm.workers import find_engine, run_tasks


@dataclass(frozen=True)
class Teacher:
    """A prior that has observed all training episodes."""

    name: str
    fingerprint: str
    gives: tuple[Kind, ...]

    @property
    def cache(self) -> str:
        """The name of its cache, as `train.priors` takes it."""
        return f"{self.name}-{self.fingerprint}"

    def open(self, dataset: Path, reader: TrainingReader | None = None) -> PriorCache:
        """What it said. Raises UserError unless that covers every episode."""
        return complete_cache(dataset, self.cache, reader)


@dataclass(frozen=True)
class Observing:
    """Episodes shown to a prior, in processes of their own."""

    prior: str
    options: PriorOptions
    cache: Path
    name: str = "observing"

    def start(self, report: Callable[[int], None]) -> Callable[[int], None]:
        """See `workers.contract.Work`; tasks and messages are episodes."""
        reader = TrainingReader(self.cache.absolute().parents[1])
        prior, cache = open_prior(self.prior, self.options), PriorCache(self.cache, reader)

        def perform(episode: int) -> None:
            cache.write(episode, prior.observe(clip_of(reader, episode)))
            report(episode)

        return perform

    def left(self, task: int, message: int) -> int:
        """The same: an episode is one task, and to observe it again does no harm."""
        return task

    def place(self, task: int) -> str:
        return f"episode {task} with prior {self.prior}"


def check_ready(config: ReproducePriorsConfig, names: Sequence[str], dataset: Path) -> None:
    """Refuse teachers that could not observe, before anything is done.

    Raises:
        UserError: one is unknown, lacks something on this machine, or has a licence that must be accepted; and it has not
            observed the dataset by `liftwm priors run` either.
    """
    for name in names:
        try:
            open_prior(name, options_of(config))
        except UserError as error:
            if not _observed(name, dataset):
                raise error from None


def observe(config: ReproducePriorsConfig, name: str, dataset: Path, console: Console) -> Teacher:
    """Let a prior observe the episodes that its cache lacks, several at a time.

    Raises:
        UserError: see `check_ready`; another process writes the cache; what the prior says breaks its contract.
    """
    reader, options = TrainingReader(dataset), options_of(config)
    try:
        fingerprint = open_prior(name, options).fingerprint()
    except UserError:  # with options that only `liftwm priors run` takes
        return _teacher(name, complete_cache(dataset, name, reader))
    licence = "its author's" if is_function_name(name) else find_card(name).licence
    cache = create_cache(reader, name, fingerprint, options, licence)
    missing = cache.missing()
    if missing:
        console.print(f"prior {name} observes {len(missing)} episodes", markup=False)
        with cache.writing(), progress(name, len(missing)) as advance:
            for _ in run_tasks(Observing(name, options, cache.folder), missing, find_engine("local", config.processes)):
                advance(1)
    return _teacher(name, cache)


def quality(teacher: Teacher, dataset: Path, file: Path) -> list[DepthQuality]:
    """How right a teacher's depths are, from `file`, or computed and written there; no row where it gives none."""
    if not file.exists():
        write_rows(file, depth_quality(teacher.name, teacher.open(dataset).read, EvaluationReader(dataset)), DepthQuality)
    return read_rows(file, DepthQuality)


def options_of(config: ReproducePriorsConfig) -> PriorOptions:
    """How priors are opened here. Others need other options: `liftwm priors run` takes them all."""
    return PriorOptions(device=config.train.device)


def _teacher(name: str, cache: PriorCache) -> Teacher:
    given = cast(tuple[Kind, ...], tuple(cache.read(0).given()))
    return Teacher(cache.about["name"], cache.about["fingerprint"], given)


def _observed(name: str, dataset: Path) -> bool:
    try:
        complete_cache(dataset, name)
    except UserError:
        return False
    return True
