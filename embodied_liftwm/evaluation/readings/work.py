"""The work behind the readings, one guided tour at a time, in this process or in others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.navigation.contestants import FLOOR, floor_of, load_all, sources_of
from embodied_liftwm.evaluation.navigation.guided import Guide
from embodied_liftwm.evaluation.permanence.manifest import Manifest, folder_of, load_manifest
from embodied_liftwm.evaluation.readings.hidden import Question, Shown, questions, shown_frames
from embodied_liftwm.evaluation.readings.read_state import Looked, look, summaries
from embodied_liftwm.evaluation.spread import judge_each
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch

PROBE_SEED = 2**29
"""First seed of the tours that probes learn from: training scenes, far from those that models are trained on by default."""


@dataclass(frozen=True)
class Tour:
    """One task of the work."""

    episode: int  # position in the manifest, or among the probe's tours
    seed: int
    judged: bool  # an episode of the manifest: checked against it, and rendered


@dataclass(frozen=True)
class Reading:
    """What all models had to say about one tour."""

    tour: Tour
    asked: tuple[Question, ...]
    features: dict[str, np.ndarray]  # model -> [Q, F + 9] float32, what the probe may read
    shown: tuple[Shown, ...] = ()
    looked: dict[str, tuple[Looked, ...]] | None = None  # model -> what it rendered, as `shown`


class Reader:
    """One environment and all models, in one process."""

    def __init__(self, models: Sequence[CheckedModel], manifest: Manifest, device: str) -> None:
        self.models, self.manifest, self.device = models, manifest, device
        self.guide = Guide(manifest.task, manifest.options)

    def judge(self, tour: Tour) -> Reading:
        """Drive the tour and read every model's state.

        Raises:
            UserError: the tour is not the one that was frozen, or a model returns what it should not.
        """
        guided = self.guide.record(tour.seed, way=tour.judged)
        if tour.judged:
            self.manifest.verify(guided)
        batch = EpisodeBatch([guided.episode], [tour.episode], self.device)
        asked, shown = tuple(questions(guided)), tuple(shown_frames(guided)) if tour.judged else ()
        features, looked = {}, {}
        for model in self.models:
            features[model.name], state = summaries(model, batch, tour.episode, asked, guided.call)
            looked[model.name] = tuple(look(model, state, batch, tour.episode, shown, guided.call))
        if shown:
            looked[FLOOR] = tuple(_look_of_floor(floor_of(guided.episode, self.device), batch, shown, guided.call))
        return Reading(tour, asked, features, shown, looked)

    def close(self) -> None:
        """Free the renderer."""
        self.guide.close()


def _look_of_floor(floor: CheckedModel, batch: EpisodeBatch, shown: Sequence[Shown], call: int) -> list[Looked]:
    state = floor.initial_state(1)
    for t in range(call + 1):
        state = floor.observe(state, batch.observation([(0, t)]))
    return look(floor, state, batch, batch.indices[0], shown, call)


def read_all(
    models: Sequence[CheckedModel], manifest: Manifest, tours: Sequence[Tour], config: EvaluateConfig
) -> list[Reading]:
    """Read all tours, spread over `config.workers` processes; in the order of `tours`.

    Raises:
        UserError: as `Reader.judge`, or workers that keep dying.
    """
    folder = str(folder_of(config.manifests))
    make = partial(_make_reader, sources_of(models), manifest.task, folder, config.device)
    return judge_each(tours, make, config, f"tours of {manifest.task}", lambda: Reader(models, manifest, config.device))


def _make_reader(sources: Sequence[tuple[str, str]], task: str, folder: str, device: str) -> Reader:
    return Reader(load_all(sources, device), load_manifest(task, Path(folder)), device)
