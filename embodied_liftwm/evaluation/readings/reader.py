"""What a model's state says under a question, and what it renders of what is hidden, one guided tour at a time.

The model observes the tour frame by frame. At a frame of questions it is asked as the task asks, by the goal: from the state
before the frame, the frame is observed once for every question with the question as its goal, and the summary of that state
is what the probe may read. After the call it goes blind: it imagines the oracle's actions, and renders at the frames in which
hidden objects come back, from the pose the agent would believe there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.images import right_colour, right_depth
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, MEAN_COLOUR, load_all, mean_colour_on, sources_of
from embodied_liftwm.evaluation.permanence.manifest import Manifest, folder_of, load_manifest
from embodied_liftwm.evaluation.readings.questions import (
    PROBE_NEEDS,
    RENDER_NEEDS,
    Look,
    Question,
    looks,
    questions,
    tells,
)
from embodied_liftwm.evaluation.spread import judge_each
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, TrueFrames
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.protocols import Observation, View
from embodied_liftwm.tensor_tree import TensorTree

LEAST_PIXELS = 4
"""So many pixels in the object's colour, or it is not in the picture."""
TRUE_PLACE_M = 0.5
"""Where the true frame itself, read the same way, errs more than this, its colour is not the object's alone: not asked."""


@dataclass(frozen=True)
class Looked:
    """What a model rendered of a hidden object."""

    score: float  # share of its true pixels in the right colour at the right depth
    colour_share: float
    depth_share: float
    place_error_m: float  # in the plan, from what has its colour in the picture; inf without any, NaN if not asked


NOTHING = Looked(math.nan, math.nan, math.nan, math.nan)


@torch.no_grad()
def summaries(
    model: CheckedModel, batch: EpisodeBatch, episode: int, asked: Sequence[Question], until: int
) -> tuple[np.ndarray, TensorTree]:
    """Observe the tour, and read the state under every question.

    Args:
        model: anything that satisfies `WorldModel`.
        batch: of the one episode.
        episode: its number, for messages.
        asked: questions by frame.
        until: the call.

    Returns:
        Features [Q, F + 9] float32: the summary and the question; and the state after the call, batch of one.
    """
    state, found = model.initial_state(1), []
    first = until if model.name == LAST_FRAME else 0
    frames = {q.frame for q in asked}
    for t in range(until + 1):
        if t < first and t not in frames:
            continue
        model.at(episode, t)
        now = batch.observation([(0, t)])
        mine = [q for q in asked if q.frame == t]
        if mine:
            found.append(_read(model, state, now, np.stack([q.query for q in mine])))
        state = model.observe(state, now)
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32), state


def _read(model: CheckedModel, before: TensorTree, now: Observation, queries: np.ndarray) -> np.ndarray:
    """The summaries of a state that observes one frame under several goals, and the goals. [Q, F + 9] float32"""
    count, goal = len(queries), torch.from_numpy(queries).to(now.rgb.device)
    asked = now.index([0] * count)
    if asked.goal is not None and asked.goal.shape == goal.shape:  # else the task has no words for it: the probe alone is told
        asked = replace(asked, goal=goal)
    summary = model.summarize(model.observe(before.index([0] * count), asked), count)
    return torch.cat([summary.float(), goal], dim=1).cpu().numpy()


@torch.no_grad()
def look(
    model: CheckedModel, state: TensorTree, batch: EpisodeBatch, episode: int, wanted: Sequence[Look], call: int
) -> list[Looked]:
    """Render what is asked for: earlier views from the state at the call, returns after imagining the way there."""
    found = dict.fromkeys(wanted, NOTHING)
    for shown in wanted:
        if shown.kind != "return":
            found[shown] = _look_once(model.at(episode, shown.frame), state, batch, shown)
    for t in range(call + 1, max((shown.frame for shown in wanted), default=0) + 1):
        action = torch.from_numpy(batch.episodes[0].action[t - 1])[None].to(batch.device)
        state = model.at(episode, t).imagine(state, action)
        for shown in wanted:
            if shown.kind == "return" and shown.frame == t:
                found[shown] = _look_once(model, state, batch, shown)
    return [found[shown] for shown in wanted]


def _look_once(model: CheckedModel, state: TensorTree, batch: EpisodeBatch, shown: Look) -> Looked:
    view = model.render(state, batch.camera([(0, shown.frame)]))
    return judge_view(view, batch, shown)


def judge_view(view: View, batch: EpisodeBatch, shown: Look) -> Looked:
    """Compare a picture with the frame of `shown`."""
    true = batch.true([(0, shown.frame)])
    mask = true.segmentation == shown.object_id
    colour, depth = right_colour(view.rgb, true.rgb), right_depth(view.depth, true.depth)
    shares = [float((part & mask).sum() / mask.sum()) for part in (colour & depth, colour, depth)]
    own = _place_error(true.rgb, true.depth, batch, true, mask, shown.frame)
    error = _place_error(view.rgb, view.depth, batch, true, mask, shown.frame)
    return Looked(shares[0], shares[1], shares[2], error if own <= TRUE_PLACE_M else float("nan"))


def _place_error(rgb: Tensor, depth: Tensor, batch: EpisodeBatch, true: TrueFrames, mask: Tensor, frame: int) -> float:
    """Median plan distance of the points in the object's mean true colour to the middle of its true surface. Metres."""
    camera = batch.camera([(0, frame)])
    colour = true.rgb.permute(0, 2, 3, 1)[mask].mean(0)
    alike = right_colour(rgb, colour[None, :, None, None]) & (depth > 0)
    if int(alike.sum()) < LEAST_PIXELS:
        return float("inf")
    points = back_project(depth, camera.intrinsics, camera.world_from_camera)
    surface = back_project(true.depth, camera.intrinsics, camera.world_from_camera)
    middle = surface[mask & (true.depth > 0)][:, :2].median(0).values
    return float((points[alike][:, :2] - middle).norm(dim=-1).median())


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
    shown: tuple[Look, ...] = ()
    looked: dict[str, tuple[Looked, ...]] | None = None  # model -> what it rendered, as `shown`


class Reader:
    """One environment and all models, in one process."""

    def __init__(self, models: Sequence[CheckedModel], manifest: Manifest, device: str) -> None:
        self.models, self.manifest, self.device = models, manifest, device
        self.guide = manifest.guide()

    def judge(self, tour: Tour) -> Reading:
        """Drive the tour and read every model's state.

        Raises:
            UserError: the tour is not the one that was frozen, or a model returns what it should not.
        """
        guided = self.guide.record(tour.seed, way=tour.judged)
        if tour.judged:
            self.manifest.verify(guided)
        batch = EpisodeBatch([guided.episode], [tour.episode], self.device)
        asked = tuple(questions(guided)) if tells(PROBE_NEEDS, self.manifest.knows) else ()
        shown = tuple(looks(guided)) if tour.judged and tells(RENDER_NEEDS, self.manifest.knows) else ()
        features, looked = {}, {}
        for model in self.models:
            features[model.name], state = summaries(model, batch, tour.episode, asked, guided.call)
            looked[model.name] = tuple(look(model, state, batch, tour.episode, shown, guided.call))
        if shown:
            looked[MEAN_COLOUR] = tuple(_look_of_mean(mean_colour_on(guided.episode, self.device), batch, shown, guided.call))
        return Reading(tour, asked, features, shown, looked)

    def close(self) -> None:
        """Free the renderer."""
        self.guide.close()


def _look_of_mean(mean: CheckedModel, batch: EpisodeBatch, shown: Sequence[Look], call: int) -> list[Looked]:
    state = mean.initial_state(1)
    for t in range(call + 1):
        state = mean.observe(state, batch.observation([(0, t)]))
    return look(mean, state, batch, batch.indices[0], shown, call)


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
