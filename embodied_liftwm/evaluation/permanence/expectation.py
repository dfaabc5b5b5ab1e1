"""Violation of expectation: is a model more surprised by what cannot be than by what can?

Protocol. A scene gives a quadruplet of each kind: videos A, B, A-then-B and B-then-A (`quadruplets`). A model observes a
video frame by frame; before each frame of the window (`WINDOW` frames from the splice on, the same for all four) it is asked
for its surprise, -log p of that frame by its own likelihood, and these are summed. The two impossible videos hold the very
frames of the two possible ones, so that what a frame is worth by itself cancels. A model is right where

    surprise(A-then-B) + surprise(B-then-A) > surprise(A) + surprise(B)

(relative accuracy; Piloto et al. 2018, arXiv:1804.01128, section 3). Equal sums count half: the score of a model whose memory
is shorter than the hidden time is 50 % exactly. `pairs` compares videos that end alike, one by one: A against B-then-A, B
against A-then-B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.permanence.changed_worlds import KINDS
from embodied_liftwm.evaluation.permanence.quadruplets import WINDOW, Quadruplet
from embodied_liftwm.evaluation.permanence.suites import Chart, Picture, Row, Suite, Table
from embodied_liftwm.evaluation.permanence.watching import Question, after_beginning, scene_of
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.statistics import Estimate, column_mean, grouped, wilson_interval
from embodied_liftwm.evaluation.summary import gap_label
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.tensor_tree import TensorTree

NAME = "expectation"
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


def ask(model: CheckedModel, task: str, episode: int, quadruplet: Quadruplet, state: TensorTree, device: str) -> list[Row]:
    """The row of a model for a quadruplet, whose beginning it has watched; see `watching.Ask`."""
    return [_row(model, task, episode, quadruplet, surprises(model, quadruplet, state, device, episode))]


QUESTION = Question(ask)


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
    for name, own in grouped(rows, "model").items():
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
    if len({row.seed for row in rows}) == len(rows):
        return wilson_interval(sum(getattr(row, column) for row in rows), len(rows))
    return column_mean(rows, column, resamples, seed, "seed")


def show(summary: Mapping[str, Any]) -> list[Table | Chart]:
    """A table by kind, and a chart by gap."""
    if not summary:
        return []
    kinds = list(dict.fromkeys(kind for figures in summary.values() for kind in figures["kinds"]))
    columns = [Column("all kinds", ("all",), 0, "higher", percent=True)]
    columns += [Column(kind, ("kinds", kind), 0, "higher", percent=True) for kind in kinds]
    columns.append(Column("pairs that end alike", ("pairs",), 0, "higher", percent=True))
    text = "Share of quadruplets whose impossible videos surprise the model more than the possible ones; chance is 50 %."
    gaps = [gap_label(*ends) for ends in GAP_BINS if any(f["gaps"][gap_label(*ends)]["count"] for f in summary.values())]
    lines = {name: [figures["gaps"][gap] for gap in gaps] for name, figures in summary.items()}
    return [
        Table("Violation of expectation: relative accuracy", tuple(columns), summary, text, terminal_columns=1 + len(kinds)),
        Chart("Relative accuracy by hidden time", gaps, lines, "share of quadruplets that are right", 1.0, "Frames hidden."),
    ]


@torch.no_grad()
def illustrate(models: Sequence[CheckedModel], task: str, rows: Sequence[Any], config: EvaluateConfig) -> list[Picture]:
    """A quadruplet of each kind, one that the first model got wrong if there is any: its videos around the splice."""
    own = [row for row in rows if row.model == models[0].name]
    chosen = {row.kind: row for row in sorted(own, key=lambda row: (-row.right, -row.episode))}
    return [
        _picture(models[0], task, scene_of(kind, task, chosen[kind].seed, config), chosen[kind], config.device)
        for kind in KINDS
        if kind in chosen
    ]


def _picture(model: CheckedModel, task: str, quadruplet: Quadruplet, row: ExpectationRow, device: str) -> Picture:
    before = int(quadruplet.a.mask[: quadruplet.hidden].sum((1, 2)).argmax())
    frames = [before, quadruplet.entry - 1, *range(quadruplet.entry, quadruplet.entry + WINDOW)]
    names = ("A: possible", "B: possible", "A then B: impossible", "B then A: impossible")
    videos = EpisodeBatch([*quadruplet.possible(), *quadruplet.impossible()], [row.episode] * 4, device)
    lines = {name: video.rgb[frames] for name, video in zip(names, videos.episodes, strict=True)}
    ((_, state),) = after_beginning(model, [quadruplet], device, row.episode)
    for which, world in enumerate("AB"):
        expected = [model.render(state.index([which]), videos.camera([(which, t)])).rgb[0] for t in frames]
        drawn = torch.stack(expected).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        lines[f"expected after {world}"] = drawn.cpu().numpy()
    heads = ["seen before", "hidden", *(f"frame {t}" for t in frames[2:])]
    sums = row.surprise_a_then_b + row.surprise_b_then_a, row.surprise_a + row.surprise_b
    text = (
        f"Hidden for {quadruplet.gap} frames. Surprise at the impossible videos {sums[0]:.3g}, at the possible ones "
        f"{sums[1]:.3g}, in the model's own unit, over {WINDOW} frames of two videos each."
    )
    title = f"{quadruplet.kind}, {VERDICTS[row.right]}: episode {row.episode}, seed {row.seed}, object {row.object_id}"
    return Picture(f"{task}-expectation-{quadruplet.kind}", title, text, lines, heads)


VERDICTS = {1.0: "right", 0.5: "undecided", 0.0: "wrong"}


SUITE = Suite(
    name=NAME,
    title="Violation of expectation",
    about=(
        "Videos in which an object changes while nobody sees it (it vanishes, is elsewhere, has another colour, is behind a "
        "wall, turns back in its tunnel), beside the possible videos that they are spliced from, frame by frame. A model is "
        "right where its own likelihood finds the impossible ones less likely."
    ),
    measure=None,
    ours="worlds in which objects vanish or change while nobody looks",
    summarize=summarize,
    show=show,
    illustrate=illustrate,
    tasks=("Revisit", "MovingOcclusion"),
    question=QUESTION,
    rows=(ExpectationRow,),
    pictures=(
        "Quadruplets",
        "One of each kind, one that the model got wrong if there is any: its four videos around the end of the hidden time, "
        "and what the model shows of the same views when the hidden time of A, or of B, is over.",
    ),
)
