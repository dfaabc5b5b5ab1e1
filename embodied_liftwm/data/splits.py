"""Whose scenes a dataset holds: no world model is judged in scenes it may have been trained in, or the other way round."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from embodied_liftwm.config import TEACHER_SEED_OFFSET, split_of
from embodied_liftwm.errors import UserError

NO_SEED = -1
_WHOSE = {"train": "training scenes", "eval": "evaluation scenes", "teacher": "scenes that teachers learn from"}
_REMEDY = {
    "train": "which no world model may be trained in: collect others with split=train",
    "eval": "which no world model is judged in: collect held-out ones with split=eval",
    "teacher": "which a teacher must not learn from: collect its own with split=teacher, whose seeds begin at "
    f"{TEACHER_SEED_OFFSET}",
}


def seed_of(meta: dict[str, Any]) -> int:
    """The seed of an episode's scene, `NO_SEED` where its meta tells none."""
    seed = meta.get("seed")
    return min(seed, 2**62) if isinstance(seed, int) else NO_SEED


def check_split(info: dict[str, Any], seeds: Iterable[int], wanted: Literal["train", "eval", "teacher"], source: str) -> None:
    """Check that every scene of a dataset is of one split.

    A dataset that names no split was not collected by `liftwm collect`, and its seeds may mean anything: it may serve for
    training and for evaluation, and not for teachers.

    Args:
        info: dataset.json.
        seeds: of its episodes, as `seed_of` tells them.
        wanted: the split.
        source: the dataset, for the message: `data=folder`.

    Raises:
        UserError: it says that it is of another split, or holds a scene of another.
    """
    said = info.get("split")
    if said is None and wanted != "teacher":
        return
    for seed in seeds:
        if (seed != NO_SEED or wanted == "teacher") and (found := split_of(seed)) != wanted:
            _refuse(source, wanted, _WHOSE[found], f"seed {seed}")
    if said != wanted:
        _refuse(source, wanted, _WHOSE.get(str(said), "scenes of no known split"), f"split={said}")


def _refuse(source: str, wanted: str, whose: str, what: str) -> None:
    raise UserError(f"{source} holds {whose} ({what}), {_REMEDY[wanted]}")
