"""No scene of one split gets into another: neither while it is collected nor where it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from embodied_liftwm.commands import load_config
from embodied_liftwm.config import (
    EVAL_SEED_OFFSET,
    TEACHER_SEED_OFFSET,
    CollectConfig,
    DemoConfig,
    EvaluateConfig,
    ReproduceGapConfig,
    TrainConfig,
)
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.splits import NO_SEED, check_split, seed_of
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.held_out import load_episodes
from embodied_liftwm.training.trainer import Trainer

EVAL, TEACHER = EVAL_SEED_OFFSET, TEACHER_SEED_OFFSET
Build = Callable[..., Episode]


@pytest.fixture
def dataset(tmp_path: Path, make_episode: Build) -> Callable[..., str]:
    """A dataset that says it is of a split, with scenes of the given seeds."""

    def make(split: str | None, *seeds: int | None) -> str:
        write_info(tmp_path, {"format": FORMAT, "env": "Toy"} | ({"split": split} if split else {}))
        for index, seed in enumerate(seeds):
            meta = {} if seed is None else {"seed": seed}
            write_episode(tmp_path, index, replace(make_episode(9, index), meta=meta))
        return str(tmp_path)

    return make


@pytest.mark.parametrize(
    ("split", "seeds", "wanted"),
    [
        ("train", (0, EVAL - 1), "train"),
        ("eval", (EVAL, TEACHER - 1), "eval"),
        ("teacher", (TEACHER, TEACHER + 5), "teacher"),
        ("train", (NO_SEED,), "train"),
        ("eval", (NO_SEED,), "eval"),
        (None, (3, EVAL + 3), "train"),  # of another program: its seeds may mean anything
        (None, (3, EVAL + 3), "eval"),
    ],
)
def test_scenes_of_their_own_split_are_taken(split: str | None, seeds: tuple[int, ...], wanted: Any) -> None:
    check_split({"split": split} if split else {}, seeds, wanted, "data=x")


@pytest.mark.parametrize(
    ("split", "seeds", "wanted", "line"),
    [
        ("eval", (EVAL,), "train", f"data=x holds evaluation scenes \\(seed {EVAL}\\).* split=train"),
        ("train", (0, 1, EVAL), "train", "holds evaluation scenes"),
        ("train", (0, TEACHER), "train", "holds scenes that teachers learn from"),
        ("eval", (NO_SEED,), "train", r"holds evaluation scenes \(split=eval\)"),
        ("teacher", (), "train", r"scenes that teachers learn from \(split=teacher\)"),
        ("train", (5,), "eval", r"holds training scenes \(seed 5\).*split=eval"),
        ("eval", (EVAL, EVAL + 1, 7), "eval", r"holds training scenes \(seed 7\)"),
        ("eval", (TEACHER + 3,), "eval", "teachers learn from"),
        ("train", (NO_SEED,), "eval", r"holds training scenes \(split=train\)"),
        ("validation", (3,), "train", "scenes of no known split"),
        ("teacher", (NO_SEED,), "teacher", "holds training scenes"),
        (None, (TEACHER,), "teacher", "no known split"),
    ],
)
def test_scenes_of_another_split_are_refused(split: str | None, seeds: tuple[int, ...], wanted: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        check_split({"split": split} if split else {}, seeds, wanted, "data=x")


def test_seeds_of_metas() -> None:
    assert [seed_of(meta) for meta in ({}, {"seed": None}, {"seed": 7}, {"seed": 10**30})] == [NO_SEED, NO_SEED, 7, 2**62]


def test_both_readers_tell_every_seed(dataset: Callable[..., str]) -> None:
    folder = dataset("train", 5, None, EVAL + 9)
    assert TrainingReader(folder).seeds.tolist() == EvaluationReader(folder).seeds == [5, NO_SEED, EVAL + 9]


@pytest.mark.parametrize(("split", "seeds"), [("eval", (EVAL, EVAL + 1)), ("train", (0, 1, EVAL + 1)), ("teacher", (TEACHER,))])
def test_training_refuses_before_it_begins(dataset: Callable[..., str], tmp_path: Path, split: str, seeds: Any) -> None:
    with pytest.raises(UserError, match="which no world model may be trained in"):
        Trainer(TrainConfig(data=dataset(split, *seeds), run=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_evaluation_looks_at_every_scene_not_at_the_first_few(dataset: Callable[..., str]) -> None:
    folder = dataset("eval", EVAL, EVAL + 1, 6)
    with pytest.raises(UserError, match=r"holds training scenes \(seed 6\)"):
        load_episodes(EvaluateConfig(data=folder, episodes=1))


@pytest.mark.parametrize("split", ["train", "eval", "teacher"])
def test_no_seed_of_a_collection_lies_beyond_its_split(split: Any) -> None:
    last = CollectConfig(seed=EVAL - 3, episodes=3, split=split)
    assert last.first_seed + last.episodes - 1 == CollectConfig(seed=EVAL - 1, episodes=1, split=split).first_seed
    for seed, episodes in ((EVAL - 1, 2), (EVAL - 3, 4)):
        with pytest.raises(UserError, match=f"seed={seed} episodes={episodes}: every seed from"):
            CollectConfig(seed=seed, episodes=episodes, split=split)


@pytest.mark.parametrize("schema", [DemoConfig, ReproduceGapConfig])
@pytest.mark.parametrize("split", ["eval", "teacher"])
def test_larger_commands_train_on_training_scenes_alone(schema: type, split: str) -> None:
    with pytest.raises(UserError, match=f"collect.split={split}: models are trained with split=train alone"):
        load_config(schema, None, [f"collect.split={split}"])
