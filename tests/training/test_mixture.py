"""One training on several datasets: of other frame sizes, bodies and goals, drawn by weight, and validated each by itself."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.commands import load_config
from embodied_liftwm.config import TrainConfig
from embodied_liftwm.data import TrainingReader
from embodied_liftwm.data.mixture import Mixture
from embodied_liftwm.data.storage import write_episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.cache import PriorOptions, create_cache
from embodied_liftwm.priors.contract import DepthMaps, PseudoObservations
from embodied_liftwm.training.trainer import Trainer
from tests.toy_room import episode, write_dataset
from tests.training.small import SMALL, config, same, weights


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Larger frames, actions of four numbers, goals of three."""
    folder = write_dataset(tmp_path_factory.mktemp("other") / "data", episodes=4, size=48)
    for index in range(4):
        mine = episode(index, size=48)
        write_episode(folder, index, replace(mine, action=np.repeat(mine.action, 2, axis=1), goal=mine.goal[:, :3] + 0.5))
    return folder


def mixed(data: Path, other: Path, run: Path, **changes) -> TrainConfig:
    return replace(config(data, run, validation=(0.34,)), data=(str(data), str(other)), **changes)


def test_datasets_are_drawn_by_weight_or_by_their_frames(data: Path, other: Path) -> None:
    settings = mixed(data, other, Path("unused"))
    weighted = Mixture.open(replace(settings, weights=(3.0, 1.0)))
    drawn = np.bincount([weighted.of_step(step) for step in range(2000)])
    assert drawn / 2000 == pytest.approx([0.75, 0.25], abs=0.03)
    assert Mixture.open(settings).shares == pytest.approx([2 / 5, 3 / 5])  # of 2 and 3 episodes that are not held out
    alone = Mixture.open(replace(settings, data=(str(data),)))
    assert {alone.of_step(step) for step in range(20)} == {0} and len(alone.datasets[0].held_out) == 1


@pytest.mark.parametrize("memory", ["patches", "latent_append", "context"])
def test_a_mixture_is_learned_resumed_exactly_and_validated_by_name(
    data: Path, other: Path, tmp_path: Path, memory: str
) -> None:
    model = replace(SMALL, memory=memory, movers=8 if memory == "patches" else 0)  # type: ignore[arg-type]
    settings = mixed(data, other, tmp_path / "whole", model=model, weights=(1.0, 1.0))
    whole = Trainer(settings)
    assert {whole.mixture.of_step(step) for step in range(4)} == {0, 1}
    whole.fit()
    broken = replace(settings, run=str(tmp_path / "broken"))
    trainer = Trainer(broken)
    for _ in range(2):
        trainer.advance()
    trainer.save()
    trainer.advance()  # a step that a kill loses
    Trainer(broken).fit()
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    tables = [(tmp_path / run / "validation.csv").read_text() for run in ("whole", "broken")]
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert [(row["step"], row["data"]) for row in rows] == [(step, str(d)) for step in "24" for d in (data, other)]
    assert all(np.isfinite(float(row["frame"])) for row in rows if row["step"] == "4")
    assert rows[2]["loss"] != rows[3]["loss"]


def test_held_out_episodes_are_never_learned_from(data: Path, other: Path, tmp_path: Path) -> None:
    trainer = Trainer(mixed(data, other, tmp_path))
    seen = [set[int](), set[int]()]
    for step in range(30):
        seen[trainer.mixture.of_step(step)] |= set(trainer.load(step)[0].batch.episode.tolist())
    assert seen == [{0, 1}, {0, 1, 2}]
    assert [set(trainer._load(k, 0, held_out=True)[0].batch.episode.tolist()) for k in (0, 1)] == [{2}, {3}]


def test_the_body_is_that_of_the_first_dataset_and_goals_of_another_kind_teach_no_reward(
    data: Path, other: Path, tmp_path: Path
) -> None:
    trainer = Trainer(mixed(data, other, tmp_path))
    assert trainer.model.shapes.action_dim == 2 and trainer.model.image_size == (32, 32)
    first, second = (trainer.learner.differentiate(trainer._load(k, 0), False) for k in (0, 1))
    body = [parameter.grad for parameter in trainer.model.ego_motion.parameters()]
    assert body == [None] * len(body), "the second dataset's body is another"
    for term in ("ego_motion", "reward", "continuation"):
        assert second[term] == 0.0 != first[term], term
    assert second["frame"] != 0.0 != second["multi_view"] and trainer.model.image_size == (32, 32)


def test_every_dataset_has_its_own_answers_of_a_prior(data: Path, other: Path, tmp_path: Path) -> None:
    settings = mixed(data, other, tmp_path, priors=("mvs",), terms=("frame", "multi_view", "teacher_depth"))
    for folder, depth in ((data, 1.0), (other, 2.0)):
        with pytest.raises(UserError, match=str(folder)):
            Trainer(settings)
        reader = TrainingReader(folder)
        cache = create_cache(reader, "mvs", "0" * 16, PriorOptions(), "MIT")
        for index in range(len(reader)):
            frames = reader.episode_lengths[index] + 1
            values = np.full((frames, *reader.image_size), depth, np.float32)
            cache.write(index, PseudoObservations(depth=depth_maps(values)))
    trainer = Trainer(settings)
    found = [trainer._load(k, 0)[0].observed["depth"]["mvs"].values for k in (0, 1)]
    assert [values.unique().exp().tolist() for values in found] == [[1.0], [pytest.approx(2.0)]]  # kept as logarithms
    assert found[0].shape[-1] == 8 and found[1].shape[-1] == 12  # cells of 4 pixels


def depth_maps(values: np.ndarray) -> DepthMaps:
    import torch

    tensor = torch.from_numpy(values)
    return DepthMaps(tensor, torch.ones_like(tensor), torch.arange(len(tensor)), "metric")


def test_what_cannot_be_mixed_is_said_in_a_line(data: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights=\[1.0\]: expected 2, one for each of data=\[a, b\]"):
        load_config(TrainConfig, None, ["data=a,b", "weights=1"])
    with pytest.raises(UserError, match=r"data=\['a', 'a'\]: expected distinct dataset folders"):
        load_config(TrainConfig, None, ["data=a,a"])
    with pytest.raises(UserError, match=r"weights=0.0: must be above 0"):
        load_config(TrainConfig, None, ["data=a,b", "weights=1,0"])
    with pytest.raises(UserError, match=r"no dataset at .*nowhere"):
        Trainer(mixed(data, tmp_path / "nowhere", tmp_path))
    with pytest.raises(UserError, match=r": frames of 48 x 48 pixels; a model for frames of 32 x 32 pixels takes that size"):
        Trainer(mixed(data, other, tmp_path, model=replace(SMALL, memory="recurrent")))
    odd = write_dataset(tmp_path / "odd", episodes=1, size=40)
    with pytest.raises(UserError, match=r"odd: frames of 40 x 40 pixels; .* takes sides that are multiples of 16 beside it"):
        Trainer(mixed(data, odd, tmp_path))


def test_shares_are_held_out_of_several_datasets_and_of_one_where_asked() -> None:
    assert TrainConfig().held_out == (0.0,) and TrainConfig(validation=(0.1,)).held_out == (0.1,)
    assert TrainConfig(data=("a", "b")).held_out == (0.05, 0.05)
    assert TrainConfig(data=("a", "b"), validation=(0.0, 0.2)).held_out == (0.0, 0.2)
    with pytest.raises(UserError, match="validation=.*expected one number, or one for each of data"):
        TrainConfig(data=("a", "b"), validation=(0.1, 0.1, 0.1))
