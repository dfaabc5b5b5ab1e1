"""Guided tours with their truth: what every model is shown before an object is called, and what the oracle would see after.

The tour is the one that `GuidedTour` drives for agents, frame by frame, recorded beside the hidden state. What follows the
call is the scripted oracle's way to the goal: no model sees it, it says from where the object comes into view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np

from embodied_liftwm.config import EnvOptions
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.recorder import Recorder
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import task_id
from embodied_liftwm.evaluation.views.episodes import true_poses
from liftwm_envs.actions import ActionCodec

LONGEST_TOUR = 2000
"""Steps after which a tour without a call is a mistake of the environment."""

ROUNDED = 3
"""Decimals of poses and plans that a hash keeps: a millimetre, more than arithmetic differs by between machines."""

UNSOLVABLE, SOLVED, ORACLE_FAILS = "unsolvable by memory", "solved at the start", "the scripted oracle fails"


@dataclass(frozen=True)
class Guided:
    """One recorded episode."""

    seed: int
    episode: Episode  # with truth; frames 0 to `call` are the tour, the rest the oracle's way
    call: int  # the frame that shows the goal: the last that models observe
    goal_object: int  # id of what is called; 0 where nothing is
    removed: str  # why it tests no memory, or ""
    goal: tuple[float, ...] = ()  # of worlds that are not ours: what the observation says of the goal
    known: tuple[str, ...] = ()  # of these: arrays of truth that they tell, and "success" and "goal"; ours tell all

    def fingerprint(self) -> str:
        """sha256 of the scene, of the tour's true poses, and of what is called; not of pixels, since renderers differ."""
        truth = self.episode.truth
        poses = np.round(true_poses(self.episode)[: self.call + 1].astype(np.float64), ROUNDED) + 0.0
        plan = _rounded(truth.scene) if truth is not None else {}
        called = [self.goal_object, *([list(self.goal)] if self.goal else [])]
        text = json.dumps([self.seed, plan, poses.tolist(), *called], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _rounded(value: Any) -> Any:
    """JSON data with its numbers rounded; no negative zero."""
    if isinstance(value, float):
        return round(value, ROUNDED) + 0.0
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value


class Guide:
    """One environment with truth, in which tours are driven."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        """
        Args:
            task: "Revisit-S", or a whole id.
            options: of the environment.

        Raises:
            UserError: no such task.
        """
        self.task = task
        self.env = gymnasium.make(task_id(task), disable_env_checker=True, truth=True, **asdict(options)).unwrapped

    def record(self, seed: int, way: bool = True) -> Guided:
        """Drive the tour of a seed and, unless `way` is false or the start tests no memory, the oracle's way."""
        from liftwm_envs.tasks.policies import OraclePolicy, TourPolicy

        codec, recorder = ActionCodec(self.env.action_space), Recorder(self.env)
        obs, info = self.env.reset(seed=seed)
        recorder.add(obs, info)

        def follow(policy: TourPolicy) -> bool:
            """One step of a policy; whether the episode is over."""
            nonlocal obs, info
            action = policy.act(obs, info)
            obs, reward, terminated, truncated, info = self.env.step(action)
            recorder.add(obs, info, codec.encode(action), reward, terminated, truncated)
            return terminated or truncated

        guide = TourPolicy(self.env)
        while info["phase"] == "tour":
            done = follow(guide)
            if info["phase"] == "tour" and (done or recorder.frames > LONGEST_TOUR):
                raise UserError(f"{self.task}, seed {seed}: the tour ended before a goal was called")
        call, called = recorder.frames - 1, info
        removed = "" if called.get("solvable_by_memory", True) else UNSOLVABLE
        removed = removed or (SOLVED if called["success"] else "")
        if way and not removed:
            oracle = OraclePolicy(self.env)
            while not follow(oracle):
                pass
            removed = "" if info["success"] else ORACLE_FAILS
        return Guided(seed, recorder.finish({"seed": seed}), call, int(called["goal_object"]), removed)

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()
