"""Persistence: does an object that left the view come back where it was, looking as it did?

Protocol. An object of a held-out episode was in view (8 px or more), was gone (under 3 px) for at least one frame, and enters
the view again at frame t (3 px or more). From t on the model observes nothing. It renders the frame within [t, t + 3] that
shows most of the object (at least 8 px, and not gone again in between), from the pose the agent believes it has there. Its
score is the share of the object's true pixels that have the right colour and the right depth (`metrics.persistent_pixels`).
The gap is the number of steps from the last frame with any trace of the object to the frame rendered. At entry only a sliver
stands at the image's edge, so that frame is scored too, apart (`entry_score`), where it shows 8 px. The floor is the same
render from the state of another episode at the same step: what a model scores here that remembers a different scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.images import right_colour, right_depth
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.tensor_tree import TensorTree

IN_VIEW_PX, TRACE_PX = 8, 3
"""Pixels from which an object counts as in view, and under which it is gone."""

BLIND_FRAMES = 3
"""Frames after entry among which the one showing most of the object is rendered."""

GAP_BINS: tuple[tuple[int, int], ...] = ((1, 5), (6, 10), (11, 50), (51, 200), (201, 1000))
"""Steps since last seen, both ends included: the bins of Memory Maze's probes."""


@dataclass(frozen=True)
class Revisit:
    """An object that comes back into view."""

    episode: int  # position in the batch
    object_id: int
    last_seen: int  # last frame with a trace of it
    entry: int  # first frame with a trace of it again; the model is blind from here
    frame: int  # frame of [entry, entry + 3] that shows most of it
    pixels: int  # there
    entry_pixels: int  # at entry

    @property
    def gap(self) -> int:
        """Steps between the two looks."""
        return self.frame - self.last_seen


@dataclass(frozen=True)
class PersistenceRow:
    """One (model, object, revisit)."""

    model: str
    episode: int
    object_id: int
    last_seen: int
    entry: int
    frame: int
    gap: int
    pixels: int
    score: float  # share of the object's true pixels in the right colour at the right depth
    colour_share: float  # in the right colour
    depth_share: float  # at the right depth
    floor: float  # score of another episode's state; NaN with one episode
    entry_pixels: int
    entry_score: float  # the same at the first frame back; NaN under 8 px


def find_revisits(visible_pixels: np.ndarray, object_ids: np.ndarray, episode: int = 0) -> list[Revisit]:
    """All revisits of an episode, by frame of entry.

    Args:
        visible_pixels: true pixels of each object in each frame. [F, O] int
        object_ids: ids of the objects. [O]
        episode: position that the revisits carry.
    """
    found: list[Revisit] = []
    for column, object_id in enumerate(object_ids):
        pixels = visible_pixels[:, column]
        traces = np.flatnonzero(pixels >= TRACE_PX)
        for last_seen, entry in pairwise(traces.tolist()):
            window = _until_gone(pixels[entry : entry + BLIND_FRAMES + 1])
            frame = int(entry + np.argmax(window))
            was_in_view = bool((pixels[: last_seen + 1] >= IN_VIEW_PX).any())
            if entry - last_seen >= 2 and was_in_view and pixels[frame] >= IN_VIEW_PX:
                counts = int(pixels[frame]), int(pixels[entry])
                found.append(Revisit(episode, int(object_id), last_seen, entry, frame, *counts))
    return sorted(found, key=lambda r: (r.entry, r.object_id))


def _until_gone(pixels: np.ndarray) -> np.ndarray:
    """The leading frames that show a trace of the object: a glimpse that ends is not part of the next return."""
    gone = np.flatnonzero(pixels < TRACE_PX)
    return pixels[: gone[0]] if len(gone) else pixels


class Persistence:
    """The judge of one batch of episodes; see the top of this module."""

    def __init__(self, batch: EpisodeBatch) -> None:
        self.batch = batch
        truths = [batch.truth(e) for e in range(len(batch))]
        self.revisits = [r for e, truth in enumerate(truths) for r in find_revisits(truth.visible_pixels, truth.object_id, e)]

    def frames(self) -> set[int]:
        """The state is asked for before each frame at which an object enters."""
        return {revisit.entry for revisit in self.revisits}

    def judge(self, model: CheckedModel, t: int, state: TensorTree) -> list[PersistenceRow]:
        """One row for each object that enters at `t`."""
        return _score_step(model, self.batch, state, [revisit for revisit in self.revisits if revisit.entry == t])


@torch.no_grad()
def _score_step(model: CheckedModel, batch: EpisodeBatch, state: TensorTree, entering: list[Revisit]) -> list[PersistenceRow]:
    """Three renders for each revisit, in one batch: the frame, the frame from another episode's state, and the entry."""
    own = [r.episode for r in entering]
    others = [(e + 1) % len(batch) for e in own]
    frames = [(r.episode, r.frame) for r in entering]
    entries = [(r.episode, r.entry) for r in entering]
    view = model.render(state.index(own + others + own), batch.camera(frames + frames + entries))
    true = batch.true(frames + frames + entries)
    masks = true.segmentation == torch.tensor([r.object_id for r in entering] * 3, device=batch.device)[:, None, None]
    alike, near = right_colour(view.rgb, true.rgb), right_depth(view.depth, true.depth)
    right, colour, depth = (_share(part, masks) for part in (alike & near, alike, near))
    n = len(entering)
    nan = float("nan")
    return [
        PersistenceRow(
            model=model.name, episode=batch.indices[r.episode], object_id=r.object_id, last_seen=r.last_seen, entry=r.entry,
            frame=r.frame, gap=r.gap, pixels=r.pixels, score=right[i], colour_share=colour[i], depth_share=depth[i],
            floor=right[n + i] if len(batch) > 1 else nan,
            entry_pixels=r.entry_pixels, entry_score=right[2 * n + i] if r.entry_pixels >= IN_VIEW_PX else nan,
        )
        for i, r in enumerate(entering)
    ]  # fmt: skip


def _share(right: Tensor, masks: Tensor) -> list[float]:
    """Share of masked pixels that are right. [P]"""
    return ((right & masks).flatten(1).sum(1).double() / masks.flatten(1).sum(1)).cpu().tolist()
