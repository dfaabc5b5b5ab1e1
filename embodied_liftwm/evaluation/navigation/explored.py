"""Tours of environments that are not ours, recorded with whatever truth they tell: `guided.Guide` for anyone's world.

The tour is the one that agents are given (`EnvSource.make_task`), frame by frame: the environment's own, or somebody's walk
through the world. What is known of an object that is hidden when the task begins is asked as in ours. Where the environment
offers `oracle_action()`, that way is recorded after the tour, and says from where things come into view again.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from embodied_liftwm.config import EnvOptions
from embodied_liftwm.data.recorder import Recorder
from embodied_liftwm.environments import find_env
from embodied_liftwm.environments.env_source import explored
from embodied_liftwm.evaluation.navigation.arena import ORACLE
from embodied_liftwm.evaluation.navigation.guided import ORACLE_FAILS, SOLVED, UNSOLVABLE, Guided
from embodied_liftwm.evaluation.views.episodes import known_truth
from liftwm_envs.actions import ActionCodec

SUCCESS, GOAL, SHORTEST, LEFT = "success", "goal", "shortest_path_m", "distance_to_goal"
"""What an environment may tell besides arrays of truth: whether the agent has arrived, where it is to go, and how far it is."""


class ExploredGuide:
    """One environment that is none of ours, in which tours are recorded."""

    def __init__(self, env: str, options: EnvOptions, tour: str, tour_steps: int, max_steps: int) -> None:
        """
        Args:
            env: its name, as every command takes it.
            options: of the environment.
            tour: who walks through it, where it gives no tour of its own.
            tour_steps: for so long.
            max_steps: that the way after it may take.

        Raises:
            UserError: no such environment, or options that it does not take.
        """
        self.task = env
        self._tour, self._tour_steps, self._max_steps = tour, tour_steps, max_steps
        self._tap = _Tap(find_env(env).make(options, truth=True))
        self.env: gymnasium.Env = self._tap

    def record(self, seed: int, way: bool = True) -> Guided:
        """The tour of a seed and, where the environment knows it and `way` is true, the way to the goal."""
        self._tap.seen.clear()
        obs, info = explored(self._tap, self._tour, self._tour_steps).reset(seed=seed)
        recorder, nothing = Recorder(self.env), np.zeros(ActionCodec(self.env.action_space).width, np.float32)
        walked = len(self._tap.seen) > 1
        seen = self._tap.seen if walked else _frames_of(info["tour"])
        for k, (frame, told, action) in enumerate(seen):
            recorder.add(
                _without_picture(frame), told, *((nothing if action is None else action, 0.0, False, False) if k else ())
            )
        call = recorder.frames - 1
        removed = "" if info.get("solvable_by_memory", True) else UNSOLVABLE
        removed = removed or (SOLVED if info.get(SUCCESS) else "")
        if way and walked and not removed and self.env.has_wrapper_attr(ORACLE):
            removed = "" if self._drive(recorder, info) else ORACLE_FAILS
        called = [] if obs["goal"].ndim > 1 else [round(float(v), 3) + 0.0 for v in obs["goal"]]
        episode = recorder.finish({"seed": seed})
        tells = [name for name in (SUCCESS, SHORTEST, LEFT) if name in info] + [GOAL] * (obs["goal"].size > 0)
        known = (*sorted(known_truth([episode])), *tells)
        return Guided(seed, episode, call, int(info.get("goal_object", 0)), removed, tuple(called), known)

    def _drive(self, recorder: Recorder, info: dict[str, Any]) -> bool:
        """Follow the environment's own way; whether it arrives, as far as it says."""
        codec, best = ActionCodec(self.env.action_space), self.env.get_wrapper_attr(ORACLE)
        for _ in range(self._max_steps):
            action = best()
            obs, reward, terminated, truncated, info = self.env.step(action)
            recorder.add(_without_picture(obs), info, codec.encode(action), reward, terminated, truncated)
            if terminated or truncated:
                break
        return bool(info.get(SUCCESS, True))

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()


class _Tap(gymnasium.Wrapper):
    """Keeps every frame with what is told of it, and the action that led there: None where the world was reset."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._codec = ActionCodec(env.action_space)
        self.seen: list[tuple[Any, dict[str, Any], np.ndarray | None]] = []

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """The first frame."""
        obs, info = self.env.reset(**given)
        self.seen.append((obs, info, None))
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.seen.append((obs, info, self._codec.encode(action)))
        return obs, reward, terminated, truncated, info


def _without_picture(obs: dict[str, Any]) -> dict[str, Any]:
    """What models are told: no goal that is a picture."""
    return {key: value for key, value in obs.items() if key != "goal" or np.ndim(value) == 1}


def _frames_of(tour: dict[str, np.ndarray]) -> list[tuple[Any, dict[str, Any], np.ndarray | None]]:
    """The frames of a tour that the environment gave itself, of whose truth it told nothing."""
    views = [{key: rows[k] for key, rows in tour.items() if key != "action"} for k in range(len(tour["rgb"]))]
    return [(view, {}, np.asarray(action)) for view, action in zip(views, tour["action"], strict=True)]
