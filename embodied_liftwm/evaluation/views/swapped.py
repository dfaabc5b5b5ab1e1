"""Swapped frames: is a model more surprised by a frame of the same episode that was seen from elsewhere? It needs no truth.

Protocol. After the context of novel views, two target frames A and B of an episode make a pair. The model says how surprised
it is by each frame at its own camera, and by each at the camera of the other. It is right where the swapped frames surprise
it more, in sum: what makes a frame surprising anywhere cancels out. Chance is one half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.evaluation.views.novel import target_frames
from embodied_liftwm.tensor_tree import TensorTree

PAIRS = 8
"""Pairs in one call, of four frames each."""


@dataclass(frozen=True)
class SurpriseRow:
    """One pair of frames."""

    model: str
    episode: int
    frame: int  # A
    other: int  # B
    surprise: float  # of both at their own cameras, as the model gives it
    surprise_swapped: float  # of each at the other's
    right: float  # 1 where the swapped frames surprise more, 0.5 where equally


def is_surprised(model: CheckedModel) -> bool:
    """Whether a model says how surprised it is."""
    return callable(getattr(model.model, "surprise", None))


class SwappedFrames:
    """The judge of one batch of episodes; see the top of this module."""

    def __init__(self, batch: EpisodeBatch, context: int, views_per_episode: int) -> None:
        self.batch, self.context = batch, context
        targets = [target_frames(frames, context, views_per_episode) for frames in batch.frames]
        halves = [(e, own[: len(own) // 2], own[len(own) // 2 :]) for e, own in enumerate(targets)]
        self.pairs = [(e, a, b) for e, first, second in halves for a, b in zip(first, second, strict=False)]

    def frames(self) -> set[int]:
        """The state is asked for once, when the context has been observed."""
        return {self.context} if self.pairs else set()

    @torch.no_grad()
    def judge(self, model: CheckedModel, t: int, state: TensorTree) -> list[SurpriseRow]:
        """One row a pair; none for a model that is never surprised."""
        rows: list[SurpriseRow] = []
        for start in range(0, len(self.pairs) if is_surprised(model) else 0, PAIRS):
            chosen = self.pairs[start : start + PAIRS]
            a, b = ([(pair[0], pair[k]) for pair in chosen] for k in (1, 2))
            seen, shown = self.batch.observation([*a, *b, *a, *b]), self.batch.observation([*a, *b, *b, *a])
            asked = state.index([e for e, _, _ in chosen] * 4)
            said = model.surprise(asked, replace(seen, rgb=shown.rgb)).double().cpu().view(4, -1)
            own, swapped = (said[:2].sum(0).tolist(), said[2:].sum(0).tolist())
            rows += [
                SurpriseRow(model.name, self.batch.indices[e], first, second, own[i], swapped[i], _right(own[i], swapped[i]))
                for i, (e, first, second) in enumerate(chosen)
            ]
        return rows


def _right(own: float, swapped: float) -> float:
    return 0.5 if own == swapped else float(swapped > own)
