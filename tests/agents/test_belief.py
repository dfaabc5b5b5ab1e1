"""What is believed of things that nothing shows: behind screens, in the primitives of a state, or no longer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from liftwm_agents.planning.belief import SpatialBelief
from liftwm_agents.planning.perception import level_cameras
from tests.agents.oracle_model import CloudState, OracleMemory
from tests.agents.test_planner import RED, blob


def box_of(points: int, half: float, height: float) -> np.ndarray:
    """The sides and the lid of a closed box around the origin."""
    rng = np.random.default_rng(5)
    along, up = rng.uniform(-half, half, points), rng.uniform(0, height, points)
    sides = [np.stack([along, np.full(points, s * half), up], -1) for s in (-1, 1)]
    sides += [side[:, [1, 0, 2]] for side in sides]
    return np.concatenate([*sides, np.stack([along, rng.uniform(-half, half, points), np.full(points, height)], -1)])


class Explicit(OracleMemory):
    """Also says which points it keeps."""

    def primitives(self, state: CloudState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kept = state.points[0, state.valid[0]]
        return kept[:, :3], kept[:, 3:], torch.ones(len(kept))


AROUND = np.array([[2.0, 0.0, 0.75], [-2.0, 0.0, 0.75], [0.0, 2.0, 0.75], [0.0, -2.0, 0.75]], dtype=np.float32)


def ball_behind_a_screen(kind: type[OracleMemory]) -> tuple[OracleMemory, CloudState]:
    """A model of a kind, and a state in which a closed box stands around a red ball."""
    screen = box_of(8000, 0.4, 1.5)
    ball, _ = blob(np.random.default_rng(6), [0.0, 0.0, 0.3], [0.8, 0.2, 0.2], 1500, 0.2)
    floor = np.stack([*np.random.default_rng(7).uniform(-3, 3, (2, 20_000)), np.zeros(20_000)], axis=-1)
    xyz = np.concatenate([screen, floor, ball])
    rgb = np.concatenate([np.full((len(screen) + len(floor), 3), 0.6), np.tile([0.8, 0.2, 0.2], (len(ball), 1))])
    model = kind(image_size=48, capacity=len(xyz))
    cloud = torch.from_numpy(np.concatenate([xyz, rgb], axis=1)).float()[None]
    pose = level_cameras(np.array([[2.0, 0.0, 0.75]]), np.zeros(1), 48, 48, 1)
    state = dataclasses.replace(model.initial_state(1), points=cloud, valid=torch.ones(1, len(xyz), dtype=torch.bool))
    return model, dataclasses.replace(state, world_from_camera=pose.world_from_camera, intrinsics=pose.intrinsics)


def test_what_a_screen_hides_from_all_sides_is_found_behind_it() -> None:
    model, state = ball_behind_a_screen(OracleMemory)
    belief = SpatialBelief(model, 6)
    belief.survey(state, AROUND, 4)
    belief.locate(state, RED)
    outside = belief.confidence
    belief.look_behind(state, 8)
    belief.locate(state, RED)
    assert outside < 0.05 and belief.confidence > 0.3
    assert belief.goal_xyz is not None and np.linalg.norm(belief.goal_xyz[:2]) < 0.15


def test_what_a_state_says_that_it_keeps_is_found_without_looking_behind_screens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = ball_behind_a_screen(Explicit)
    belief = SpatialBelief(model, 6)
    monkeypatch.setattr(belief, "look_behind", None)  # would raise
    belief.survey(state, AROUND, 4)
    belief.find(state, RED)
    assert belief.confidence > 0.3
    assert belief.goal_xyz is not None and np.linalg.norm(belief.goal_xyz[:2]) < 0.15
    votes, free = belief.evidence(RED), belief.grid()
    assert len(votes[0]) and np.linalg.norm(votes[0][:, :2], axis=1).max() < 0.3
    pictures = SpatialBelief(OracleMemory(48, state.points.shape[1]), 6)
    pictures.survey(state, AROUND, 4)
    np.testing.assert_array_equal(free.free, pictures.grid().free)  # what is free, only pictures show


def test_what_a_state_no_longer_keeps_is_no_longer_believed() -> None:
    model, state = ball_behind_a_screen(Explicit)
    belief = SpatialBelief(model, 6)
    belief.survey(state, AROUND, 4)
    belief.find(state, RED)
    assert belief.goal_xyz is not None
    belief.look(dataclasses.replace(state, valid=state.valid & (state.points[..., 4] > 0.4)))  # the ball's points are gone
    belief.locate(state, RED)
    assert belief.goal_xyz is None
