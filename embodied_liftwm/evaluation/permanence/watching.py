"""Worlds that change while nobody looks, watched once by every model, for all the suites that ask something of them.

A scene is toured, filmed and watched once: `expectation` and `hidden_changes` both begin with what a model holds when the
hidden time of a quadruplet is over, and cost little more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from embodied_liftwm.config import EnvOptions, EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, load_all, sources_of
from embodied_liftwm.evaluation.permanence.changed_worlds import KINDS, Stage, check_task, kinds_of
from embodied_liftwm.evaluation.permanence.manifest import folder_of, load_manifest
from embodied_liftwm.evaluation.permanence.quadruplets import Quadruplet, quadruplets
from embodied_liftwm.evaluation.permanence.suites import Row
from embodied_liftwm.evaluation.spread import judge_each
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.tensor_tree import TensorTree

Ask = Callable[[CheckedModel, str, int, Quadruplet, TensorTree, str], list[Row]]
"""(model, task, episode, quadruplet, state of the worlds A and B when its hidden time is over, device) -> rows.

It is sent to other processes: a function, no lambda.
"""


@dataclass(frozen=True)
class Question:
    """What one suite asks of quadruplets."""

    ask: Ask
    kinds: tuple[str, ...] = KINDS  # of which it is asked


class Watcher:
    """All models, in one process."""

    def __init__(
        self, questions: Mapping[str, Question], models: Sequence[CheckedModel], task: str, options: EnvOptions, device: str
    ) -> None:
        self._questions, self._models, self._task = questions, models, task
        self._options, self._device = options, device

    def judge(self, place: tuple[int, int]) -> dict[str, list[Row]]:
        """The rows of each suite for one scene, by model and quadruplet.

        Args:
            place: position of the episode, and its seed.

        Raises:
            UserError: a model returns what it should not.
        """
        episode, seed = place
        stage = Stage(self._task, seed, self._options)
        wanted = {kind for question in self._questions.values() for kind in question.kinds}
        given = list(quadruplets(stage, [kind for kind in kinds_of(self._task) if kind in wanted]))
        stage.close()
        found: dict[str, list[Row]] = {name: [] for name in self._questions}
        for model in self._models if given else ():
            for quadruplet, state in after_beginning(model, given, self._device, episode):
                for name, question in self._questions.items():
                    if quadruplet.kind in question.kinds:
                        found[name] += question.ask(model, self._task, episode, quadruplet, state, self._device)
        return found

    def close(self) -> None:
        """Nothing is kept open from scene to scene."""


def watch(
    questions: Mapping[str, Question], models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig
) -> dict[str, list[Row]]:
    """Rows of every suite that has a question, by scene, model and quadruplet; none of scenes that give no quadruplet.

    Args:
        questions: of each suite, by its name.
        models: those to be judged.
        task: that has a manifest, whose options of the environment hold here.
        seeds: of the scenes; the first `config.control_episodes`.
        config: `manifests`, `device` and `workers` are read.

    Raises:
        UserError: a task without quadruplets, or a model that returns what it should not.
    """
    check_task(task)
    options = load_manifest(task, folder_of(config.manifests)).options
    chosen = list(enumerate(seeds[: config.control_episodes or len(seeds)]))
    make = partial(_make_watcher, dict(questions), sources_of(models), task, str(folder_of(config.manifests)), config.device)
    here = partial(Watcher, questions, models, task, options, config.device)
    scenes = judge_each(chosen, make, config, f"worlds that change while hidden, {task}", here)
    return {name: [row for scene in scenes for row in scene[name]] for name in questions}


def _make_watcher(
    questions: Mapping[str, Question], sources: Sequence[tuple[str, str]], task: str, folder: str, device: str
) -> Watcher:
    return Watcher(questions, load_all(sources, device), task, load_manifest(task, Path(folder)).options, device)


@torch.no_grad()
def after_beginning(
    model: CheckedModel, given: Sequence[Quadruplet], device: str = "cpu", episode: int = 0
) -> Iterator[tuple[Quadruplet, TensorTree]]:
    """What a model holds when the hidden time of each quadruplet of a scene is over: the states of worlds A and B, two rows.

    World A is the same for all of them, and a state is a value: each beginning is watched once.
    """
    left = sorted(given, key=lambda quadruplet: quadruplet.entry)
    videos = EpisodeBatch(
        [left[0].possible()[0], *(quadruplet.possible()[1] for quadruplet in left)], [0] * (len(left) + 1), device
    )
    rows, state, t = list(range(len(videos))), model.initial_state(len(videos)), 0
    for quadruplet in left:
        if model.name == LAST_FRAME:  # keeps nothing of what came before
            t = max(t, quadruplet.entry - 1)
        while t < quadruplet.entry:
            state = model.at(episode, t).observe(state, videos.observation([(video, t) for video in rows]))
            t += 1
        yield quadruplet, state.index([0, 1])
        if len(rows) > 2:
            state, rows = state.index([0, *range(2, len(rows))]), [0, *rows[2:]]


def scene_of(quadruplet_kind: str, task: str, seed: int, config: EvaluateConfig) -> Quadruplet:
    """The quadruplet of a kind that a scene gave, made anew to be drawn."""
    stage = Stage(task, seed, load_manifest(task, folder_of(config.manifests)).options)
    (found,) = quadruplets(stage, [quadruplet_kind])
    stage.close()
    return found
