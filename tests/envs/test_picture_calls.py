"""Objects called by a picture of the tour."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from liftwm_envs.tasks.policies import TourPolicy
from liftwm_envs.wrappers import GuidedTour, PictureCalls

REVISIT = "liftwm_envs:liftwm/Revisit-S-v0"


def test_an_object_is_called_by_the_frame_that_showed_it_best() -> None:
    told = gym.make(REVISIT, truth=True, disable_env_checker=True)
    env = GuidedTour(PictureCalls(told))
    obs, info = env.reset(seed=3)
    assert env.observation_space.contains(obs) and "truth" not in info
    assert obs["goal"].shape == (64, 64, 4) and not info["tour"]["goal"][:-1].any()
    frames, mask = info["tour"]["rgb"], obs["goal"][..., 3] > 0
    shown = [k for k, frame in enumerate(frames) if np.array_equal(frame, obs["goal"][..., :3])]
    assert len(shown) == 1 and shown[0] < len(frames) - 1
    colour = obs["goal"][mask][:, :3].mean(0)
    true = 255 * told.unwrapped.task.goal.colour  # type: ignore[attr-defined]
    np.testing.assert_allclose(colour / colour.sum(), true / true.sum(), atol=0.08)
    after, *_, later = env.step(env.action_space.sample())
    np.testing.assert_array_equal(after["goal"], obs["goal"])
    assert "truth" not in later
    obs, info = told.reset(seed=3)
    guide, seen = TourPolicy(told), []
    while not info["goal_object"]:
        seen.append(info["truth"]["segmentation"])
        obs, *_, info = told.step(guide.act(obs, info))
    assert mask.sum() == max(np.count_nonzero(frame == info["goal_object"]) for frame in seen)
    env.close()


def test_pictures_change_nothing_else_of_an_episode() -> None:
    plain = GuidedTour(gym.make(REVISIT, disable_env_checker=True))
    pictured = GuidedTour(PictureCalls(gym.make(REVISIT, truth=True, disable_env_checker=True)))
    (one, first), (other, second) = plain.reset(seed=4), pictured.reset(seed=4)
    for key in ("rgb", "world_from_camera"):
        np.testing.assert_array_equal(one[key], other[key])
        np.testing.assert_array_equal(first["tour"][key], second["tour"][key])
    plain.close()
    pictured.close()
