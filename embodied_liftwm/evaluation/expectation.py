"""Violation of expectation: is a model more surprised by what cannot be than by what can?

Protocol. A scene gives a quadruplet of each kind: videos A, B, A-then-B and B-then-A (`expectation_videos`). A model observes a
video frame by frame; before each frame of the window (`WINDOW` frames from the splice on, the same for all four) it is asked
for its surprise, -log p of that frame by its own likelihood, and these are summed. The two impossible videos hold the very
frames of the two possible ones, so that what a frame is worth by itself cancels. A model is right where

    surprise(A-then-B) + surprise(B-then-A) > surprise(A) + surprise(B)

(relative accuracy; Piloto et al. 2018, arXiv:1804.01128, section 3). Equal sums count half: the score of a model whose memory
is shorter than the hidden time is 50 % exactly. `pairs` compares videos that end alike, one by one: A against B-then-A, B
against A-then-B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.episodes import EpisodeBatch
from embodied_liftwm.evaluation.expectation_videos import WINDOW, Quadruplet, quadruplets
from embodied_liftwm.evaluation.hidden_worlds import KINDS, Stage, check_task, kinds_of
from embodied_liftwm.evaluation.manifest import folder_of, load_manifest
from embodied_liftwm.evaluation.persistence import GAP_BINS
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.evaluation.statistics import Estimate, bootstrap_mean, wilson_interval
from embodied_liftwm.evaluation.suites import Chart, Picture, Row, Suite, Table
from embodied_liftwm.evaluation.summary import gap_label
from embodied_liftwm.evaluation.tables import Column
from embodied_liftwm.tensor_tree import TensorTree

TIE = 1e-6
"""Sums of surprise that differ by a smaller share are equal: float32 rounds by as much."""


@dataclass(frozen=True)
class ExpectationRow(Row):
    """One (model, quadruplet)."""

    kind: str
    object_id: int
    gap: int  # frames of the hidden time
    entry: int  # the frame at which videos are spliced
    pixels: int  # in how many the worlds differ in the window, at most
    right: float  # 1, 0, or 0.5 for a tie
    pairs_right: float  # mean of the two pairs that end alike
    surprise_a: float  # sums over the window, in the model's own unit
    surprise_b: float
    surprise_a_then_b: float
    surprise_b_then_a: float


def measure(models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig) -> list[Row]:
    """A row of every model for every quadruplet of the scenes: by scene, kind and model.

    Raises:
        UserError: a task without quadruplets, scenes of which none gives one, or a model that returns what it should not.
    """
    found: list[Row] = []
    for episode, given in staged(task, seeds, config):
        for model in models:
            for quadruplet, state in after_beginning(model, given, config.device, episode):
                by_frame = surprises(model, quadruplet, state, config.device, episode)
                found.append(_row(model, task, episode, quadruplet, by_frame))
    return found


def staged(
    task: str, seeds: Sequence[int], config: EvaluateConfig, kinds: Sequence[str] = KINDS
) -> Iterator[tuple[int, list[Quadruplet]]]:
    """The quadruplets of each scene that has any, with the position of its seed.

    Args:
        task: that has a manifest, whose options of the environment hold here.
        seeds: of the scenes.
        config: `manifests` is read.
        kinds: those that are wanted, of those that the task has.

    Raises:
        UserError: a task without quadruplets, or scenes of which none gives one.
    """
    check_task(task)
    options, count = load_manifest(task, folder_of(config.manifests)).options, 0
    with progress(f"worlds that change while hidden, {task}", len(seeds)) as advance:
        for episode, seed in enumerate(seeds):
            stage = Stage(task, seed, options)
            given = list(quadruplets(stage, [kind for kind in kinds_of(task) if kind in kinds]))
            stage.close()
            if given:
                yield episode, given
            count += len(given)
            advance(1)
    if not count:
        raise UserError(f"task {task}: in none of {len(seeds)} scenes did anything hidden come back into view: use more seeds")


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
        while t < quadruplet.entry:
            state = model.at(episode, t).observe(state, videos.observation([(video, t) for video in rows]))
            t += 1
        yield quadruplet, state.index([0, 1])
        if len(rows) > 2:
            state, rows = state.index([0, *range(2, len(rows))]), [0, *rows[2:]]


@torch.no_grad()
def surprises(
    model: CheckedModel, quadruplet: Quadruplet, state: TensorTree, device: str = "cpu", episode: int = 0
) -> np.ndarray:
    """Surprise at each frame of the window in A, B, A-then-B and B-then-A, from the states of A and B before it. [4, WINDOW]"""
    videos = EpisodeBatch([*quadruplet.possible(), *quadruplet.impossible()], [0] * 4, device)
    state, found = state.index([0, 1, 0, 1]), []
    for t in range(quadruplet.entry, quadruplet.entry + WINDOW):
        now = videos.observation([(video, t) for video in range(4)])
        found.append(model.at(episode, t).surprise(state, now).double().cpu().numpy())
        state = model.observe(state, now)
    return np.stack(found, axis=1)


def _row(model: CheckedModel, task: str, episode: int, quadruplet: Quadruplet, by_frame: np.ndarray) -> ExpectationRow:
    a, b, a_then_b, b_then_a = (float(total) for total in by_frame.sum(1))
    return ExpectationRow(
        model=model.name, task=task, episode=episode, seed=quadruplet.seed, kind=quadruplet.kind,
        object_id=quadruplet.object_id, gap=quadruplet.gap, entry=quadruplet.entry, pixels=quadruplet.pixels,
        right=more(a_then_b + b_then_a, a + b), pairs_right=(more(a_then_b, b) + more(b_then_a, a)) / 2,
        surprise_a=a, surprise_b=b, surprise_a_then_b=a_then_b, surprise_b_then_a=b_then_a,
    )  # fmt: skip


def more(impossible: float, possible: float) -> float:
    """1 where the impossible surprises more, 0 where less, 0.5 where equally."""
    if abs(impossible - possible) <= TIE * max(abs(impossible), abs(possible)):
        return 0.5
    return float(impossible > possible)


def summarize(rows: Sequence[ExpectationRow], resamples: int, seed: int) -> dict[str, Any]:
    """Relative accuracy by model: of all quadruplets, by kind and by gap.

    Intervals draw scenes; where every scene gives one quadruplet they are Wilson's, which do not shrink to nothing at 100 %.
    """

    def accuracy(own: list[ExpectationRow], column: str = "right") -> dict[str, Any]:
        return _accuracy(own, column, resamples, seed).as_dict()

    found: dict[str, Any] = {}
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        found[name] = {
            "all": accuracy(own),
            "pairs": accuracy(own, "pairs_right"),
            "kinds": {kind: accuracy([row for row in own if row.kind == kind]) for kind in _kinds(own)},
            "gaps": {gap_label(*ends): accuracy([r for r in own if ends[0] <= r.gap <= ends[1]]) for ends in GAP_BINS},
        }
    return found


def _kinds(rows: Sequence[ExpectationRow]) -> list[str]:
    present = {row.kind for row in rows}
    return [kind for kind in KINDS if kind in present]


def _accuracy(rows: list[ExpectationRow], column: str, resamples: int, seed: int) -> Estimate:
    scenes, right = [row.seed for row in rows], [getattr(row, column) for row in rows]
    if len(set(scenes)) == len(rows):
        return wilson_interval(sum(right), len(rows))
    return bootstrap_mean(right, scenes, resamples, seed)


def show(summary: Mapping[str, Any]) -> list[Table | Chart]:
    """A table by kind, and a chart by gap."""
    kinds = list(dict.fromkeys(kind for figures in summary.values() for kind in figures["kinds"]))
    columns = [Column("all kinds", ("all",), 0, "higher", percent=True)]
    columns += [Column(kind, ("kinds", kind), 0, "higher", percent=True) for kind in kinds]
    columns.append(Column("pairs that end alike", ("pairs",), 0, "higher", percent=True))
    text = "Share of quadruplets whose impossible videos surprise the model more than the possible ones; chance is 50 %."
    gaps = [gap_label(*ends) for ends in GAP_BINS if any(f["gaps"][gap_label(*ends)]["count"] for f in summary.values())]
    lines = {name: [figures["gaps"][gap] for gap in gaps] for name, figures in summary.items()}
    return [
        Table("Violation of expectation: relative accuracy", tuple(columns), summary, text),
        Chart("Relative accuracy by hidden time", gaps, lines, "share of quadruplets that are right", 1.0, "Frames hidden."),
    ]


@torch.no_grad()
def illustrate(models: Sequence[CheckedModel], task: str, rows: Sequence[Any], config: EvaluateConfig) -> list[Picture]:
    """The first quadruplet of each kind: its videos around the splice, and what the first model expected of two of them."""
    firsts = {row.kind: (row.episode, row.seed) for row in reversed(list(rows))}
    options, found = load_manifest(task, folder_of(config.manifests)).options, []
    for kind in (kind for kind in KINDS if kind in firsts):
        episode, seed = firsts[kind]
        stage = Stage(task, seed, options)
        (quadruplet,) = quadruplets(stage, [kind])
        stage.close()
        found.append(_picture(models[0], quadruplet, episode, config.device))
    return found


def _picture(model: CheckedModel, quadruplet: Quadruplet, episode: int, device: str) -> Picture:
    before = int(quadruplet.a.mask[: quadruplet.hidden].sum((1, 2)).argmax())
    frames = [before, quadruplet.entry - 1, *range(quadruplet.entry, quadruplet.entry + WINDOW)]
    names = ("A: possible", "B: possible", "A then B: impossible", "B then A: impossible")
    videos = EpisodeBatch([*quadruplet.possible(), *quadruplet.impossible()], [episode] * 4, device)
    lines = {name: video.rgb[frames] for name, video in zip(names, videos.episodes, strict=True)}
    ((_, state),) = after_beginning(model, [quadruplet], device, episode)
    for row, world in enumerate("AB"):
        expected = [model.render(state.index([row]), videos.camera([(row, t)])).rgb[0] for t in frames]
        drawn = torch.stack(expected).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        lines[f"expected after {world}"] = drawn.cpu().numpy()
    heads = ["seen before", "hidden", *(f"frame {t}" for t in frames[2:])]
    text = (
        f"Seed {quadruplet.seed}, object {quadruplet.object_id}, hidden for {quadruplet.gap} frames; the last two lines are "
        "what the model shows of these views when the hidden time is over."
    )
    return Picture(f"expectation-{quadruplet.kind}", f"Expectation: {quadruplet.kind}", text, lines, heads)


SUITE = Suite(
    name="expectation",
    title="Violation of expectation",
    about=(
        "Videos in which an object changes while nobody sees it (it vanishes, is elsewhere, has another colour, is behind a "
        "wall, turns back in its tunnel), beside the possible videos that they are spliced from, frame by frame. A model is "
        "right where its own likelihood finds the impossible ones less likely."
    ),
    measure=measure,
    summarize=summarize,
    show=show,
    illustrate=illustrate,
    tasks=("Revisit", "MovingOcclusion"),
)
