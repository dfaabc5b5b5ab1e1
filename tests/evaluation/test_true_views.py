"""The world of an episode, drawn from cameras that were never there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import liftwm_envs  # noqa: F401
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.views.true_views import TrueWorld, can_draw, is_clear


def test_a_drawn_frame_is_the_frame_the_agent_saw() -> None:
    seed, options = 2**30 + 5, {"image_size": 32}
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True, **options)
    env.reset(seed=seed)
    for _ in range(4):
        obs = env.step(np.array([0.7, 0.8], np.float32))[0]
    env.close()
    episode: Any = SimpleNamespace(meta={"seed": seed})
    world = TrueWorld({"env": "Revisit-S", "env_options": options}, episode)
    pose = obs["world_from_camera"].reshape(4, 4)
    turned = pose.copy()
    turned[:3, :3] = pose[:3, :3] @ np.diag([-1.0, 1.0, -1.0])  # about face
    rgb, depth = world.draw(np.stack([turned, pose]))
    world.close()
    assert np.abs(rgb[1].astype(int) - obs["rgb"]).mean() < 0.5
    assert np.abs(rgb[0].astype(int) - obs["rgb"]).mean() > 5
    assert (depth > 0.05).all()


def test_worlds_that_nobody_can_build_again_are_refused() -> None:
    episode: Any = SimpleNamespace(meta={})
    assert not can_draw({"env": "Revisit-S"}, episode)
    with pytest.raises(UserError, match="only worlds of liftwm_envs"):
        TrueWorld({"env": "RealEstate10K"}, episode)


def test_paths_keep_their_distance_from_walls_and_things() -> None:
    scene = {"walls": [[0, 0, 4, 0]], "objects": [{"position": [2.0, 2.0], "radius": 0.3}]}

    def poses(*places: tuple[float, float]) -> np.ndarray:
        found = np.tile(np.eye(4), (len(places), 1, 1))
        found[:, :2, 3] = places
        return found

    assert is_clear(poses((1, 1), (3, 1)), scene)
    assert not is_clear(poses((1, 1), (1, 0.1)), scene)  # 0.1 m from the wall
    assert is_clear(poses((5, 0.0)), scene)  # past its end
    assert not is_clear(poses((4.1, 0.0)), scene)
    assert not is_clear(poses((2, 1.6)), scene) and is_clear(poses((2, 1.4)), scene)  # 0.3 + 0.2 m around the thing
    assert not is_clear(poses((2, 3)), scene | {"screens": [{"rectangle": [1, 2.9, 3, 2.95]}]})
