"""Models to which things move are trained on the one path: with the frames around each frame, and with time that passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.movers import Movers
from embodied_liftwm.objectives.terms import TERMS
from embodied_liftwm.protocols import Camera
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.world_model.liftwm import LiftWM
from tests.training.small import SMALL, config, disturb

MOVING = {"model": replace(SMALL, movers=32), "terms": ("frame", "multi_view", "motion", "ego_motion")}


@pytest.mark.parametrize("only_geometry", [True, False])
def test_the_term_teaches_the_belief_and_nothing_else_does(data: Path, tmp_path: Path, only_geometry: bool) -> None:
    trainer = Trainer(config(data, tmp_path, **MOVING))
    disturb(trainer.model)
    found = trainer.learner.differentiate(trainer.load(0), only_geometry)
    assert math.isfinite(found["loss"]) and found["motion"] < 0
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    head = [g for name, g in gradients.items() if name.startswith("motion.")]
    assert len(head) >= 6 and all(bool((g != 0).any()) for g in head)
    without = Trainer(config(data, tmp_path / "b", model=MOVING["model"], terms=("frame", "multi_view", "ego_motion")))
    disturb(without.model)
    without.learner.differentiate(without.load(0), only_geometry)
    assert not any(p.grad is not None and bool(p.grad.any()) for p in without.model.motion.parameters())


def test_a_view_shows_what_moves_where_it_is_by_then(data: Path, tmp_path: Path) -> None:
    """A red point a metre ahead goes left; rendered now, 10 steps later and 10 steps before."""
    model = Trainer(config(data, tmp_path, **MOVING)).model
    assert isinstance(model, LiftWM)
    size = model.image_size[0]
    state, like = model.initial_state(1), torch.zeros(())
    movers = Movers.empty(1, 32, SMALL.latent_dim, like)
    fields = {"means": [1.0, 0.0, 1.0], "velocities": [0.0, 0.03, 0.0], "rgb": [1.0, 0.0, 0.0], "sizes": 0.2, "evidence": 1e4}
    for name, value in fields.items():
        getattr(movers, name)[0, 0] = torch.tensor(value)
    pose = torch.tensor([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    focal = size / 2
    intrinsics = torch.tensor([[focal, 0, focal], [0, focal, focal], [0, 0, 1]])
    camera = Camera(intrinsics.expand(3, 3, 3), pose.expand(3, 4, 4), size, size)
    state = replace(state, world=replace(state.world, movers=movers))
    steps = torch.tensor([0.0, 10.0, -10.0])
    with torch.no_grad():
        read = model.memory.read_at(state.world, camera, steps)
        middles = [float((s[0] > 0.5).nonzero()[:, 1].float().mean()) for s in read.features]
        now = model.imagine(state, torch.zeros(1, 2))
    assert middles[0] == pytest.approx(size / 2 - 0.5, abs=0.6)
    assert middles[0] - middles[1] == pytest.approx(0.3 * focal, abs=1.0)
    assert middles[2] - middles[0] == pytest.approx(0.3 * focal, abs=1.0)
    assert float(now.world.movers.means[0, 0, 1]) == pytest.approx(0.03, abs=1e-3)


def test_only_patches_have_things_that_move_beside_them() -> None:
    with pytest.raises(UserError, match=r"model.movers=8: things move beside patches only, not with model.memory=gaussians"):
        ModelConfig(memory="gaussians", movers=8)
    assert "motion" in TERMS
