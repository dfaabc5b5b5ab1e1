"""Objects removed or moved while hidden: once the agent has seen the place again, does the model hold the updated state?

Protocol. The videos are those of the test of expectation (`quadruplets`): world A until the hidden time is over, then
world B, in which the object is gone (`vanish`) or elsewhere (`teleport`, `wall`). A place is seen again at the first frame
after it in which the object covers `SEEN_PX` pixels, or would. From the pose of that frame the model renders what it believes
after it has observed 0, 1, 2, 4 and 8 frames from there on. Of the object's pixels,

    old_share   are still as in world A: where the object was, this is *false persistence*
    new_share   are as in world B: where the object is now, this is the persistence score
    floor       are as in world A for a model that watched B all along: likeness by chance

with the colour within 0.15 and the depth within 10 % (`metrics.persistent_pixels`). What comes back changed must be believed
as it is now (MemoBench); after no frame at all, the model can but believe the old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.images import persistent_pixels
from embodied_liftwm.evaluation.permanence.changed_worlds import Film, seen_pixels
from embodied_liftwm.evaluation.permanence.quadruplets import Quadruplet
from embodied_liftwm.evaluation.permanence.suites import Chart, Row, Suite, Table
from embodied_liftwm.evaluation.permanence.watching import Question
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.statistics import column_mean, grouped
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.protocols import View
from embodied_liftwm.tensor_tree import TensorTree

NAME = "hidden_changes"
AFTER = (0, 1, 2, 4, 8)
"""Frames observed since the place is in view again."""
CASES = {"removed": "where it was removed", "moved_from": "where it no longer is", "moved_to": "where it is now"}
SHOWN = (
    ("removed", "old_share", "lower", "removed: still there"),
    ("moved_from", "old_share", "lower", "moved: still at the old place"),
    ("moved_to", "new_share", "higher", "moved: at the new place"),
)
"""Columns of the table: case, figure, which way is better, heading."""
FIGURES = ("old_share", "new_share", "floor")


@dataclass(frozen=True)
class HiddenChangeRow(Row):
    """One (model, place, number of frames observed)."""

    kind: str  # of the quadruplet
    case: str  # a key of CASES
    object_id: int
    gap: int  # frames of the hidden time
    frame: int  # at which the place is seen again
    after: int  # frames observed from there on
    pixels: int  # of the object there
    old_share: float
    new_share: float
    floor: float


@dataclass(frozen=True)
class _Place:
    """Where the object is looked for."""

    case: str
    frame: int
    mask: np.ndarray  # [H, W] bool


def _places(quadruplet: Quadruplet) -> list[_Place]:
    """Where the object was, and where it is, each where it comes into view again early enough."""
    moved = bool(quadruplet.b.mask.any())
    cases = [("moved_from", quadruplet.a), ("moved_to", quadruplet.b)] if moved else [("removed", quadruplet.a)]
    found = []
    for case, film in cases:
        pixels = film.mask[quadruplet.entry :].sum((1, 2))
        frames = quadruplet.entry + np.flatnonzero(pixels >= seen_pixels(film))
        if len(frames) and frames[0] + AFTER[-1] <= len(film.rgb):
            found.append(_Place(case, int(frames[0]), film.mask[frames[0]]))
    return found


@torch.no_grad()
def ask(model: CheckedModel, task: str, episode: int, quadruplet: Quadruplet, state: TensorTree, device: str) -> list[Row]:
    """Let a model that holds A, and one that holds B, watch B go on, and look at the places in between."""
    a_then_b, b = quadruplet.impossible()[0], quadruplet.possible()[1]
    videos = EpisodeBatch([a_then_b, b], [0, 0], device)
    asked = [(place, after) for place in _places(quadruplet) for after in AFTER]
    last = max((place.frame + after for place, after in asked), default=quadruplet.entry)
    found: dict[tuple[str, int], HiddenChangeRow] = {}
    for t in range(quadruplet.entry, last + 1):
        for place, after in asked:
            if place.frame + after == t:
                view = model.at(episode, t).render(state, videos.camera([(0, place.frame), (1, place.frame)]))
                as_a, as_b = (_shares(view, film, place) for film in (quadruplet.a, quadruplet.b))
                found[place.case, after] = HiddenChangeRow(
                    model=model.name, task=task, episode=episode, seed=quadruplet.seed, kind=quadruplet.kind,
                    case=place.case, object_id=quadruplet.object_id, gap=quadruplet.gap, frame=place.frame, after=after,
                    pixels=int(place.mask.sum()), old_share=as_a[0], new_share=as_b[0], floor=as_a[1],
                )  # fmt: skip
        if t < last:
            state = model.at(episode, t).observe(state, videos.observation([(0, t), (1, t)]))
    return [found[place.case, after] for place, after in asked]


QUESTION = Question(ask, ("vanish", "teleport", "wall"))


def _shares(view: View, world: Film, place: _Place) -> list[float]:
    """Share of the place's pixels that each row of a view shows as a world has them. [B]"""
    rgb = torch.from_numpy(world.rgb[place.frame]).permute(2, 0, 1)[None].to(view.rgb) / 255.0
    depth = torch.from_numpy(world.depth[place.frame])[None].to(view.depth)
    alike = persistent_pixels(view.rgb, view.depth, rgb, depth) & torch.from_numpy(place.mask).to(view.rgb.device)
    return (alike.flatten(1).sum(1).double() / int(place.mask.sum())).cpu().tolist()


def summarize(rows: Sequence[HiddenChangeRow], resamples: int, seed: int) -> dict[str, Any]:
    """Mean shares by model, case and frames observed (`after`), with intervals that draw scenes."""

    def estimate(own: list[HiddenChangeRow], figure: str) -> dict[str, Any]:
        return column_mean(own, figure, resamples, seed, "seed").as_dict()

    return {
        name: {
            case: {
                figure: {str(k): estimate([r for r in own if r.case == case and r.after == k], figure) for k in AFTER}
                for figure in FIGURES
            }
            for case in CASES
        }
        for name, own in grouped(rows, "model").items()
    }


def show(summary: Mapping[str, Any]) -> list[Table | Chart]:
    """One table of what is believed after four frames and, for comparison, after none; and a chart for each case."""
    if not summary:
        return []
    columns = [Column(f"{title}, 4 frames on", (case, figure, "4"), 2, better) for case, figure, better, title in SHOWN]
    columns += [Column(f"{title}, before", (case, figure, "0"), 2) for case, figure, _, title in SHOWN if case != "moved_to"]
    text = (
        "Share of the object's pixels that are rendered as before the change (removed: still there; moved: still at the old "
        "place) or as after it (moved: at the new place), once four frames have shown the place; and before any has, where the "
        "old is all that the model can know: a low figure there means that it had forgotten the object anyway."
    )
    charts = [_chart(summary, case) for case in CASES]
    return [Table("Objects removed or moved while hidden", tuple(columns), summary, text), *charts]


def _chart(summary: Mapping[str, Any], case: str) -> Chart:
    figure = "new_share" if case == "moved_to" else "old_share"
    title = "Persistence at the new place" if case == "moved_to" else "False persistence"
    lines = {name: [figures[case][figure][str(k)] for k in AFTER] for name, figures in summary.items()}
    floors = {f"{name}, never there": [f[case]["floor"][str(k)] for k in AFTER] for name, f in summary.items()}
    both = lines if case == "moved_to" else lines | floors
    ticks, label = [str(k) for k in AFTER], "share of the object's pixels"
    return Chart(
        f"{title}: {CASES[case]}", ticks, both, label, 1.0, "Frames observed since the place is in view.",
        dashed=tuple(name for name in both if name not in lines),
    )  # fmt: skip


SUITE = Suite(
    name=NAME,
    title="Objects removed or moved while hidden",
    about=(
        "An object is taken away, or put elsewhere, while nobody sees it. When the agent has looked at the place again, a "
        "model must believe what is there now: what it still shows of the old object is false persistence."
    ),
    measure=None,
    ours="worlds in which objects are taken away while nobody looks",
    summarize=summarize,
    show=show,
    tasks=("Revisit",),
    question=QUESTION,
    rows=(HiddenChangeRow,),
)
