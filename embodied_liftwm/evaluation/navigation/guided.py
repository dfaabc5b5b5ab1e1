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
from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import task_id
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
    goal_object: int  # id of what is called
    removed: str  # why it tests no memory, or ""

    def fingerprint(self) -> str:
        """sha256 of the scene, of the tour's true poses, and of what is called; not of pixels, since renderers differ."""
        truth = self.episode.truth
        assert truth is not None
        poses = np.round(truth.world_from_camera[: self.call + 1].astype(np.float64), ROUNDED) + 0.0
        plan = _rounded(truth.scene)
        text = json.dumps([self.seed, plan, poses.tolist(), self.goal_object], sort_keys=True, separators=(",", ":"))
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

        tape = _Tape(self.env, seed)
        guide = TourPolicy(self.env)
        while tape.info["phase"] == "tour":
            done = tape.step(guide.act(tape.obs, tape.info))
            if tape.info["phase"] == "tour" and (done or len(tape.frames) > LONGEST_TOUR):
                raise UserError(f"{self.task}, seed {seed}: the tour ended before a goal was called")
        call, info = len(tape.frames) - 1, tape.info
        removed = "" if info.get("solvable_by_memory", True) else UNSOLVABLE
        removed = removed or (SOLVED if info["success"] else "")
        if way and not removed:
            oracle, done = OraclePolicy(self.env), False
            while not done:
                done = tape.step(oracle.act(tape.obs, tape.info))
            removed = "" if tape.info["success"] else ORACLE_FAILS
        return Guided(seed, tape.episode(), call, int(info["goal_object"]), removed)

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()


class _Tape:
    """Frames, actions and truth of a running episode."""

    def __init__(self, env: Any, seed: int) -> None:
        self.env, self.seed, self._codec = env, seed, ActionCodec(env.action_space)
        self.obs, self.info = env.reset(seed=seed)
        self.frames: list[dict[str, np.ndarray]] = [self.obs]
        self.truths: list[dict[str, np.ndarray]] = [self.info["truth"]]
        self.steps: list[tuple[np.ndarray, float, bool, bool]] = []
        self.scene: dict[str, Any] = env.scene.describe()

    def step(self, action: Any) -> bool:
        """One step; whether the episode is over."""
        self.obs, reward, terminated, truncated, self.info = self.env.step(action)
        self.frames.append(self.obs)
        self.truths.append(self.info["truth"])
        self.steps.append((self._codec.encode(action), float(reward), bool(terminated), bool(truncated)))
        return bool(terminated or truncated)

    def episode(self) -> Episode:
        """All of it."""
        objects = self.scene["objects"]
        action, reward, terminated, truncated = zip(*self.steps, strict=True)
        truth = Truth(
            **{name: np.stack([truth[name] for truth in self.truths]).astype(kind) for name, kind in _TRUTH.items()},
            object_id=np.array([o["id"] for o in objects], np.int32),
            object_colour=np.array([o["colour"] for o in objects], np.float32).reshape(-1, 3),
            object_shape=tuple(str(o["shape"]) for o in objects),
            scene=self.scene,
        )
        return Episode(
            rgb=np.stack([frame["rgb"] for frame in self.frames]),
            action=np.stack(action),
            reward=np.array(reward, np.float32),
            terminated=np.array(terminated),
            truncated=np.array(truncated),
            intrinsics=self.frames[0]["intrinsics"].reshape(3, 3).astype(np.float32),
            world_from_camera=np.stack([f["world_from_camera"].reshape(4, 4) for f in self.frames]).astype(np.float32),
            goal=np.stack([frame["goal"] for frame in self.frames]).astype(np.float32),
            meta={"seed": self.seed},
            truth=truth,
        )


_TRUTH = {
    "depth": np.float16,
    "segmentation": np.uint16,
    "world_from_camera": np.float32,
    "object_pose": np.float32,
    "visible_pixels": np.int32,
}
