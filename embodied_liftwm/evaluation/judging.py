"""One pass over the episodes for all protocols: a model observes each frame once, and judges ask at the frames they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, batches, rollout
from embodied_liftwm.tensor_tree import TensorTree


class Judge(Protocol):
    """A protocol such as novel views or persistence, for one batch of episodes."""

    def frames(self) -> set[int]:
        """Frames before which it asks for the state."""
        ...

    def judge(self, model: CheckedModel, t: int, state: TensorTree) -> list[Any]:
        """Rows, from the state of all episodes of the batch before frame `t` is observed."""
        ...


class JudgeFactory(Protocol):
    """Makes the judge of a batch: what depends on truth alone is computed once for all models."""

    def __call__(self, batch: EpisodeBatch) -> Judge: ...


def judge_all(
    models: Sequence[CheckedModel], episodes: Sequence[Episode], factories: Sequence[JudgeFactory], device: str = "cpu"
) -> list[list[Any]]:
    """Let every model observe all episodes once, and collect the rows of every judge.

    Returns:
        Rows of each factory: by model, then by episode and frame as the judges order them.

    Raises:
        UserError: an episode has no truth, or a model returns what it should not.
    """
    parts = batches(episodes, device)
    judges = [[factory(batch) for factory in factories] for batch in parts]
    rows: list[list[Any]] = [[] for _ in factories]
    with progress("watching held-out episodes", len(models) * len(episodes)) as advance:
        for model in models:
            for batch, present in zip(parts, judges, strict=True):
                wanted = set().union(*(judge.frames() for judge in present))
                for t, state in rollout(model, batch, max(wanted, default=0)):
                    model.where = f" at episodes {batch.indices[0]} to {batch.indices[-1]}, frame {t}"
                    for found, judge in zip(rows, present, strict=True):
                        found += judge.judge(model, t, state) if t in judge.frames() else []
                advance(len(batch))
    return rows
