"""What the body does is known before the first step, from all of the data, and the same in any process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embodied_liftwm.data import TrainingReader
from embodied_liftwm.training.body import fit_ego_motion, transitions
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.world_model.dynamics import EgoMotion
from tests.toy_room import write_dataset
from tests.training.small import config, same

pytestmark = pytest.mark.usefixtures("whole_fit")
SEEN = 40
"""Episodes to learn from; those after them are held out."""


@pytest.fixture(scope="module")
def tours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("tours") / "data", episodes=2 * SEEN)


def fitted(reader: TrainingReader, seed: int) -> EgoMotion:
    torch.manual_seed(0)
    body = EgoMotion(reader.action_dim)
    fit_ego_motion(body, reader, seed)
    return body


def test_the_fit_holds_on_tours_it_did_not_see(tours: Path, tmp_path: Path) -> None:
    body = fitted(TrainingReader(write_dataset(tmp_path / "seen", episodes=SEEN)), 0)
    action, before, twist = (rows.unflatten(0, (2, -1))[1] for rows in transitions(TrainingReader(tours)))
    with torch.no_grad():
        error = (body(action, before).mean - twist).norm(dim=-1).median()
    assert float(error) < 0.05 * float(twist.norm(dim=-1).median())  # untrained it expects to stand still: 1.0


def test_a_seed_gives_the_same_body(tours: Path) -> None:
    reader = TrainingReader(tours)
    bodies = [fitted(reader, seed).state_dict() for seed in (0, 0, 1)]
    assert same(bodies[0], bodies[1]) and not same(bodies[0], bodies[2])


def test_a_training_begins_with_it_unless_motion_is_not_among_its_terms(data: Path, tmp_path: Path) -> None:
    known = Trainer(config(data, tmp_path / "with")).model.ego_motion
    assert same(known.state_dict(), Trainer(config(data, tmp_path / "again")).model.ego_motion.state_dict())
    unknown = Trainer(config(data, tmp_path / "without", terms=("frame",))).model.ego_motion
    assert not unknown.head.weight.any() and known.head.weight.any()


def test_a_resumed_training_goes_on_with_the_body_that_it_had(data: Path, tmp_path: Path) -> None:
    Trainer(config(data, tmp_path / "run", steps=2)).fit()
    weights = [Trainer(config(data, tmp_path / "run", steps=4)).model.ego_motion.state_dict() for _ in range(2)]
    fresh = Trainer(config(data, tmp_path / "fresh", steps=2)).model.ego_motion.state_dict()
    assert same(*weights) and not same(weights[0], fresh)  # two steps have moved it
