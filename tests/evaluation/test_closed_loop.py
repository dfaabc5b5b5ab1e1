"""Closed-loop generation: what goes into the loop, and figures that can be foreseen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from embodied_liftwm.config import ModelConfig, RecurrentConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.generation.closed_loop import (
    ClosedLoopRow,
    closed_loop_rows,
    drift,
    generate,
    revisit_share,
    summarize_closed_loop,
)
from embodied_liftwm.evaluation.generation.tours import recorded_tour
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.mean_colour import mean_colour_of
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.baselines.recurrent import RecurrentWorldModel


class Witness:
    """Knows the world from its first frame on, and writes down what it is told to observe after it."""

    def __init__(self, clairvoyant) -> None:
        self.inner, self.observed, self.shown = clairvoyant, [], []

    def initial_state(self, batch_size: int):
        return self.inner.initial_state(batch_size)

    def observe(self, state, observation):
        self.observed.append(observation)
        return self.inner.observe(state, observation) if bool(observation.is_first.all()) else state

    def render(self, state, camera):
        self.shown.append(self.inner.render(state, camera))
        return self.shown[-1]


@pytest.fixture
def tour(tools):
    """A turn to the left by 90 degrees and back, in 8 steps."""
    yaw = np.radians([0, 22.5, 45, 67.5, 90, 67.5, 45, 22.5, 0])
    return recorded_tour(tools.make_episode(tools.WORLDS[0], [tools.pose_at(a) for a in yaw]), 0)


def test_the_loop_is_closed(tour, clairvoyant) -> None:
    witness = Witness(clairvoyant)
    generate(CheckedModel(witness, "m"), tour)
    assert len(witness.observed) == 9 and [bool(o.is_first) for o in witness.observed] == [True] + 8 * [False]
    for step in range(1, 9):
        assert torch.equal(witness.observed[step].rgb, witness.shown[step].rgb)
        assert np.allclose(witness.observed[step].camera.world_from_camera[0], tour.path.poses[step])
    alone = Witness(clairvoyant)
    generate(CheckedModel(alone, "m"), tour, loop=False)
    assert len(alone.observed) == 1


def test_a_model_s_own_step_is_taken_and_checked(tour, clairvoyant) -> None:
    class Own(Witness):
        def generate(self, state, camera):
            view = self.render(state, camera)
            return state, dataclasses.replace(view, rgb=view.rgb * factor)

    factor = 0.0
    assert float(generate(CheckedModel(Own(clairvoyant), "m"), tour).rgb[1:].max()) == 0.0
    factor = math.nan
    with pytest.raises(UserError, match="model m: generate: rgb holds NaN"):
        generate(CheckedModel(Own(clairvoyant), "m"), tour)


def test_our_models_observe_what_they_render() -> None:
    torch.manual_seed(0)
    config = ModelConfig(memory="recurrent", width=8, recurrent=RecurrentConfig(units=16))
    model = RecurrentWorldModel(config, ModelShapes(32, 2, 0)).eval()
    eye, K = torch.eye(4)[None], torch.tensor([[[16.0, 0, 16], [0, 16, 16], [0, 0, 1]]])
    there = eye.clone()
    there[0, 0, 3] = 0.3
    with torch.no_grad():
        state, view = model.generate(model.initial_state(1), Camera(K, there, 32, 32))
        assert torch.equal(view.rgb, model.render(model.initial_state(1), Camera(K, there, 32, 32)).rgb)
    assert torch.equal(model.ego_camera(state).world_from_camera, there)
    assert not torch.equal(state.hidden, model.initial_state(1).hidden)


def test_a_model_that_knows_the_world_closes_every_loop(tour, clairvoyant) -> None:
    rows = closed_loop_rows("m", tour, generate(CheckedModel(Witness(clairvoyant), "m"), tour))
    assert [row.revisits for row in rows] == [-1, -1, -1, -1, 3, 2, 1, 0] and revisit_share(rows) == 0.5
    assert min(row.psnr for row in rows) > 50 and max(row.abs_rel for row in rows) < 2e-3
    assert all(row.closure_psnr > 50 for row in rows[4:]) and all(math.isnan(row.closure_psnr) for row in rows[:4])
    assert all(row.closure_psnr > row.elsewhere_psnr + 25 for row in rows[4:])
    assert all(row.hole_rate == 0 for row in rows)
    home = rows[-1]
    assert home.psnr_hidden == pytest.approx(home.psnr, abs=1.0) and home.seen_share == 1.0
    # a turn by 45 degrees at a field of view of 90: half of the columns remain, but for corners that dip out
    assert rows[1].seen_share == pytest.approx(0.5, abs=0.12) and rows[3].seen_share < 0.04
    assert math.isnan(rows[0].psnr_hidden)  # nothing has left the view yet: there is no step in between
    assert rows[5].psnr_hidden > 50


def test_closure_without_memory_is_no_better_than_elsewhere(tour, episodes) -> None:
    rows = closed_loop_rows("floor", tour, generate(CheckedModel(mean_colour_of(episodes), "floor"), tour))
    assert rows[4].closure_psnr == pytest.approx(100) and rows[4].elsewhere_psnr > 50  # it always shows the same
    colour = tour.first.reshape(-1, 3).mean(0) / 255
    by_hand = -10 * np.log10(np.mean((tour.first / 255 - colour) ** 2))
    assert rows[-1].closure_psnr == pytest.approx(by_hand, abs=0.01)
    assert rows[-1].hole_rate == 1.0


def row(episode: int, step: int, metres: float, psnr: float, revisits: int = -1) -> ClosedLoopRow:
    nothing = dict.fromkeys([field.name for field in dataclasses.fields(ClosedLoopRow)][8:], math.nan)
    known = {"psnr": psnr, "closure_psnr": psnr if revisits >= 0 else math.nan, "hole_rate": 0.25}
    return ClosedLoopRow("m", "p", episode, 0, step, metres, 0.0, revisits, **(nothing | known))


def test_means_and_drift_are_grouped_by_hand(tmp_path) -> None:
    rows = [row(0, 1, 0.1, 30.0), row(0, 2, 0.3, 20.0), row(1, 1, 0.2, 26.0), row(1, 6, 5.0, 10.0, revisits=0)]
    assert [(label, e.mean, e.count) for label, e in drift(rows, "step", "psnr")] == [
        ("1-4", pytest.approx(76 / 3), 3),
        ("5-8", 10.0, 1),
    ]
    by_metre = [(label, e.mean) for label, e in drift(rows, "metres", "psnr")]
    assert by_metre == [("0-0.25 m", 28.0), ("0.25-0.5 m", 20.0), ("4+", 10.0)]
    found = summarize_closed_loop(rows)
    assert found["return_psnr"].mean == 10.0 and found["return_psnr"].count == 1 and found["hole_rate"].clusters == 2
    write_rows(tmp_path / "rows.csv", rows)
    assert [r.psnr for r in read_rows(tmp_path / "rows.csv", ClosedLoopRow)] == [30.0, 20.0, 26.0, 10.0]
