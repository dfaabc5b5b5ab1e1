"""Wrappers around the environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.actions import ActionCodec, Policy
from liftwm_envs.env import Record
from liftwm_envs.errors import EnvError
from liftwm_envs.tasks.policies import TourPolicy

_MAX_TOUR_STEPS = 4000


class GuidedTour(gymnasium.Wrapper):
    """Drives the scripted tour on reset, so that every agent saw the same and acts from the call on.

    `reset` returns the first observation of the call phase. Its info["tour"] holds every frame of the tour in order, that first
    observation included: rgb [K, H, W, 3], intrinsics [K, 9], world_from_camera [K, 16], goal [K, 9], and action [K, A], the
    action that led to each frame (zeros for the first; one-hot where actions are discrete).
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Reset, tour, return at the call."""
        obs, info = self.env.reset(seed=seed, options=options)
        guide = TourPolicy(self.env)
        codec = ActionCodec(self.env.action_space)
        frames, actions = [obs], [np.zeros(codec.width, np.float32)]
        while info["phase"] == "tour":
            action = guide.act(obs, info)
            obs, _, terminated, truncated, info = self.env.step(action)
            frames.append(obs)
            actions.append(codec.encode(action))
            if info["phase"] == "tour" and (terminated or truncated or len(frames) > _MAX_TOUR_STEPS):
                raise EnvError(f"the tour ended after {len(frames) - 1} steps, before a goal was called: raise max_steps")
        return obs, {**info, "tour": _stacked(frames, actions)}


class ExploredTour(gymnasium.Wrapper):
    """Shows a world before its task begins, for environments that give no tour of their own: somebody walks through it.

    The world is then reset with the same seed, so that the task begins at its start, with all the time that it has. A tour that
    the environment ends goes on from the start. `info["tour"]` is as `GuidedTour` has it; its last frame is the first of the
    task. Where the environment gives one at reset, that is kept.
    """

    def __init__(self, env: gymnasium.Env, guide: Callable[[gymnasium.Env, int], Policy], steps: int) -> None:
        """
        Args:
            env: as the contract has it: `reset(seed=)` decides the world.
            guide: makes who walks, of the environment that stands reset and a seed.
            steps: of the tour.
        """
        super().__init__(env)
        self._guide, self._steps, self._seeds = guide, steps, np.random.default_rng()
        self._last: tuple[int, Record] | None = None  # seed and tour: agents are judged in the same world one after another

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """Reset, tour, reset to the start."""
        if seed is None:
            seed = int(self._seeds.integers(2**30))
        else:
            self._seeds = np.random.default_rng(seed)
        obs, info = self.env.reset(seed=seed, options=options)
        if "tour" in info:
            return obs, info
        if self._last is None or self._last[0] != seed or options:
            self._last = seed, self._walk(obs, info, seed, options)
            obs, info = self.env.reset(seed=seed, options=options)
        return obs, {**info, "tour": self._last[1]}

    def _walk(self, obs: dict[str, NDArray], info: dict[str, Any], seed: int, options: dict[str, Any] | None) -> Record:
        codec, guide, first = ActionCodec(self.env.action_space), self._guide(self.env, seed), obs
        guide.reset()
        nothing = np.zeros(codec.width, np.float32)
        frames, actions = [obs], [nothing]
        for _ in range(self._steps):
            action = guide.act(obs, info)
            obs, _, terminated, truncated, info = self.env.step(action)
            frames.append(obs)
            actions.append(codec.encode(action))
            if terminated or truncated:
                obs, info = self.env.reset(seed=seed, options=options)
                frames.append(obs)
                actions.append(nothing)
        return _stacked([*frames, first], [*actions, nothing])


def _stacked(frames: list[dict[str, NDArray]], actions: list[NDArray]) -> Record:
    """The frames of a tour and the actions that led to each."""
    tour = {key: np.stack([frame[key] for frame in frames]) for key in ("rgb", "intrinsics", "world_from_camera", "goal")}
    return Record(**tour, action=np.stack(actions))


class PictureCalls(gymnasium.Wrapper):
    """Calls an object by what it looks like: `goal` [H, W, 4] uint8 is the frame that showed it best, and its mask.

    Best is with most pixels, of all frames before the first call; zeros until then, and for what none showed. The environment
    gives `info["truth"]` with its segmentation, which goes no further, and `info["goal_object"]`.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        self._size = space["rgb"].shape[:2]  # type: ignore[index]
        self.observation_space = spaces.Dict({**space, "goal": spaces.Box(0, 255, (*self._size, 4), np.uint8)})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray], dict[str, Any]]:
        """A new episode, in which nothing was seen yet."""
        self._best: dict[int, tuple[int, NDArray[np.uint8]]] = {}
        return self._called(*self.env.reset(seed=seed, options=options))

    def step(self, action: Any) -> tuple[dict[str, NDArray], float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        obs, info = self._called(obs, info)
        return obs, float(reward), terminated, truncated, info

    def _called(self, obs: dict[str, NDArray], info: dict[str, Any]) -> tuple[dict[str, NDArray], dict[str, Any]]:
        told = {key: value for key, value in info.items() if key != "truth"}
        segmentation, called = info["truth"]["segmentation"], int(info["goal_object"])
        if not called:
            for thing, pixels in zip(*np.unique(segmentation[segmentation > 0], return_counts=True), strict=True):
                if pixels > self._best.get(int(thing), (0,))[0]:
                    mask = 255 * (segmentation == thing)[..., None].astype(np.uint8)
                    self._best[int(thing)] = int(pixels), np.concatenate([obs["rgb"], mask], axis=-1)
        nothing = 0, np.zeros((*self._size, 4), np.uint8)
        return {**obs, "goal": self._best.get(called, nothing)[1].copy()}, told
