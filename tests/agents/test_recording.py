"""What environments and camera sources of others give that no episode can hold: one line that says what would be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from embodied_liftwm.errors import UserError
from liftwm_agents.collection.acting import RandomActions
from liftwm_agents.collection.recording import record_episode
from liftwm_envs.contract import ContractEnv
from liftwm_envs.errors import EnvError

K = np.array([[16.0, 0, 12], [0, 16, 8], [0, 0, 1]])
FAR = np.ones((16, 24))


class Broken(gym.Env):
    """Sound, but for what `spoil` does to what reset or step return."""

    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, spoil: Callable[[tuple, int], Any]) -> None:
        self.spoil, self.t = spoil, 0

    def look(self) -> dict[str, Any]:
        return {"rgb": np.full((16, 24, 3), self.t, np.uint8), "intrinsics": K, "world_from_camera": np.eye(4)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.t = 0
        return self.spoil((self.look(), {}), 0)

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.spoil((self.look(), 0.0, False, False, {}), self.t)


def recorded(env: gym.Env, camera: Any) -> Any:
    return record_episode(ContractEnv(env, camera), lambda env: RandomActions(env.action_space, 0), 0, 4)


def with_info(**info: Any) -> Callable[[tuple, int], Any]:
    return lambda found, t: (*found[:-1], info)


def at(step: int, change: Callable[[tuple], Any]) -> Callable[[tuple, int], Any]:
    return lambda found, t: change(found) if t == step else found


def keep(found: tuple, t: int) -> tuple:
    return found


def hold_gradient(found: tuple) -> tuple:
    return {**found[0], "world_from_camera": torch.eye(4, requires_grad=True)}, *found[1:]


LINES: dict[str, tuple[Callable[[tuple, int], Any], str]] = {
    "truth as a list": (with_info(truth=[1]), "truth: frame 0: expected some of depth, .* got list"),
    "no truth in it": (with_info(truth={}), "truth: frame 0: expected some of depth, .* got nothing"),
    "truth that comes": (
        lambda found, t: (*found[:-1], {"truth": {"depth": FAR} if t < 2 else {"depth": FAR, "segmentation": FAR}}),
        "truth/segmentation: frame 2 has it, unlike those before it",
    ),
    "ids below 0": (with_info(truth={"segmentation": -np.ones((16, 24), int)}), "truth/segmentation: .* whole numbers from 0"),
    "success of two": (with_info(success=np.zeros(2, bool)), "info: success of frame 0 is array.*expected true or false"),
    "success in words": (with_info(success="no"), "info: success of frame 0 is 'no', expected true or false"),
    "path in words": (with_info(shortest_path_m="far"), "info: shortest_path_m of frame 0 is 'far', expected metres"),
    "pose with a gradient": (at(0, hold_gradient), "world_from_camera: frame 0 holds .* expected"),
    "ended by no number": (at(2, lambda found: (*found[:3], float("nan"), found[4])), "truncated: frame 2 holds 'nan', exp"),
    "neither": (at(1, lambda found: (*found[:2], None, *found[3:])), "terminated: frame 1 holds 'None', expected true"),
    "reward in words": (at(1, lambda found: (found[0], "1", *found[2:])), "reward: frame 1 holds '1', expected a number"),
    "ended in words": (at(1, lambda found: (*found[:2], "no", *found[3:])), "terminated: frame 1 holds 'no', expected"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINES)
def test_what_breaks_is_one_line(kind: str) -> None:
    spoil, words = LINES[kind]
    with pytest.raises((UserError, EnvError), match=words) as caught:
        recorded(Broken(spoil), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (lambda env, obs, info: None, r"frame 0: the camera source returned NoneType, expected \(intrinsics"),
        (lambda env, obs, info: (K, np.eye(4), 1), "frame 0: the camera source returned 3 things"),
        (lambda env, obs, info: (np.eye(4), K), r"intrinsics: frame 0 holds \[4, 4\] float64, expected \[3, 3\]"),
    ],
)
def test_a_camera_source_that_breaks_is_one_line(camera: Any, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        recorded(Broken(keep), camera)


def test_what_is_sound_is_handed_on() -> None:
    told = with_info(phase=np.zeros(2), success=np.bool_(True), shortest_path_m=np.inf)
    seen: list[Any] = []

    def camera(env: Any, obs: Any, info: Any) -> Any:
        seen.append(env)
        return [K, np.eye(4)]

    episode = recorded(Broken(told), camera)
    assert len(episode) == 4 and (episode.rgb[:, 0, 0, 0] == np.arange(5)).all() and type(seen[0]) is Broken
    assert episode.meta["success"] is True and episode.meta["call_frame"] is None


def test_what_is_known_of_the_truth_is_kept() -> None:
    ids = np.zeros((16, 24), np.int64)
    ids[:2, :3] = 7
    truth = recorded(Broken(with_info(truth={"depth": FAR, "segmentation": ids})), None).validate().truth
    assert truth.has("depth", "segmentation", "visible_pixels") and not truth.has("world_from_camera")
    assert (truth.depth == 1).all() and truth.object_id.tolist() == [7] and (truth.visible_pixels == 6).all()
