"""Controls: does an agent succeed because of what its world model remembers, and how much error can it bear?

Every control is the same agent on the same episodes, with one thing changed: what the state holds from the call on, what the
agent is told, or how well the body and the encoder measure. An agent that acts on its memory falls to the floor where that is
another episode's or gone, goes elsewhere where another object is called, and does a little better on a perfect one; the
distance between where it believes the goal to be and where that is says why it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np

import embodied_liftwm
from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.navigation.arena import Agent, Arena, MakeAgent, task_id
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME
from embodied_liftwm.evaluation.permanence.manifest import folder_of, load_manifest
from embodied_liftwm.evaluation.permanence.suites import Row
from embodied_liftwm.evaluation.permanence.tampered import ClearedMemory, KeepsState, OtherGoal, SwappedMemory, with_noisy_depth
from embodied_liftwm.evaluation.spread import judge_each
from embodied_liftwm.evaluation.views.bounds import KnownDepth, with_known_depth

OWN, ORACLE, SWAPPED, CLEARED, OTHER = "own_memory", "oracle_state", "swapped", "cleared", "other_place"
ODOMETRY, DEPTH = "odometry_noise", "depth_noise"
DOSES: dict[str, tuple[float, ...]] = {ODOMETRY: (0.01, 0.03, 0.1), DEPTH: (0.05, 0.1, 0.2)}
"""Share by which believed motion is off, and deviation of log-depth; dose 0 is `OWN`."""


@dataclass(frozen=True)
class ControlRow(Row):
    """One control on one episode."""

    control: str
    dose: float  # of the noises, else 0
    success: float  # 1 or 0
    spl: float
    place_error_m: float  # at the call, between the believed and the true place of the goal as seen from the agent; NaN: none
    believed: float  # 1 if the agent named any place


@dataclass(frozen=True)
class Control:
    """One thing that is changed."""

    name: str
    dose: float = 0.0


CONTROLS: tuple[Control, ...] = (
    *(Control(name) for name in (OWN, ORACLE, SWAPPED, CLEARED, OTHER)),
    *(Control(name, dose) for name, doses in DOSES.items() for dose in doses),
)


class DepthTap(gymnasium.Wrapper):
    """Tells the true depth of every frame to whoever is to know it; agents see nothing of it."""

    def __init__(self, env: gymnasium.Env, known: KnownDepth) -> None:
        super().__init__(env)
        self._tell = known

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Another episode: what was told of the last one is forgotten."""
        obs, info = self.env.reset(**given)
        self._tell.forget()
        self._tell.tell(obs["rgb"], obs["world_from_camera"], info["truth"]["depth"])
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._tell.tell(obs["rgb"], obs["world_from_camera"], info["truth"]["depth"])
        return obs, reward, terminated, truncated, info


MakeEnv = Callable[[KnownDepth, float], gymnasium.Env]
"""(who is told the true depths, odometry noise) -> a task with truth and its guided tour."""


def task_env(task: str, config: EvaluateConfig, known: KnownDepth, odometry_noise: float) -> gymnasium.Env:
    """A task of liftwm_envs. Raises UserError for one that does not exist."""
    from liftwm_envs.wrappers import GuidedTour

    options = asdict(config.env_options) | ({"odometry_noise": odometry_noise} if odometry_noise else {})
    return GuidedTour(DepthTap(gymnasium.make(task_id(task), disable_env_checker=True, truth=True, **options), known))


def measure_controls(
    make_agent: MakeAgent, models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig
) -> list[Row]:
    """Rows of every control on the first `config.control_episodes` seeds, for each model that remembers.

    Args:
        make_agent: who acts.
        models: one called "last_frame" has no memory to be tampered with, and is left out.
        task: that has a manifest, whose options of the environment hold here.
        seeds: of the episodes; the memory that is swapped in comes from the next one.
        config: control_episodes, manifests, workers, seed and device are read.
    """
    options = load_manifest(task, folder_of(config.manifests)).options
    there, chosen = replace(config, env_options=options), seeds[: config.control_episodes or len(seeds)]
    rows: list[Row] = []
    for model in models:
        if model.name != LAST_FRAME:
            load = partial(embodied_liftwm.load, model.source, config.device)
            makers = make_agent, partial(task_env, task, there), load
            rows += run_controls(partial(Controls, model.name, task, *makers, there), chosen, there, f"controls, {task}")
    return rows


def run_controls(
    make: Callable[[], Controls],
    seeds: Sequence[int],
    config: EvaluateConfig,
    title: str = "controls",
    controls: Sequence[Control] = CONTROLS,
) -> list[ControlRow]:
    """Rows, control by control. Those that the model cannot have are left out: they need an `encode` that gives depth.

    Args:
        make: the controls of a model on a task, in each process.
        seeds: of the episodes.
        config: `workers` and `engine` are read.
        title: of the progress bar.
        controls: which.
    """
    follows = [*seeds[1:], seeds[0] if len(seeds) > 1 else seeds[0] + 1]
    plays = [_Play(c, e, seed, other) for c in controls for e, (seed, other) in enumerate(zip(seeds, follows, strict=True))]
    return [row for row in judge_each(plays, make, config, title) if row is not None]


@dataclass(frozen=True)
class _Play:
    """One control on one episode."""

    control: Control
    episode: int
    seed: int
    other: int  # of the episode whose memory may be swapped in


class Controls:
    """All controls of one model on one task, in one process. Each tampers with a model of its own."""

    def __init__(
        self, name: str, task: str, make_agent: MakeAgent, make_env: MakeEnv, load: Callable[[], Any], config: EvaluateConfig
    ) -> None:
        self._name, self._task, self._config = name, task, config
        self._make_agent, self._make_env, self._load = make_agent, make_env, load
        self._control: Control | None = None
        self._model: Any = None
        self._env: Any = None

    def judge(self, play: _Play) -> ControlRow | None:
        """One episode; None where it tests no memory, or the model cannot have the control."""
        if play.control != self._control:
            self._prepare(play.control)
        if self._model is None:
            return None
        control, model, env = play.control, self._model, self._env
        if control.name == SWAPPED:
            model = SwappedMemory(model, self._memory_of(play.other))
        elif control.name == CLEARED:
            model = ClearedMemory(model)
        agent = self._make_agent(model, self._config.device, env, self._config.seed)
        if control.name == OTHER:
            agent = OtherGoal(agent, _another_goal(env, play.seed))
        noted = _Noted(agent, env)
        outcome = _OneAgent(env, noted).play(play.episode, play.seed)
        if outcome.removed:
            return None
        row = outcome.rows[0]
        return ControlRow(
            self._name, self._task, play.episode, play.seed, control.name, control.dose,
            row.success, row.spl, noted.place_error_m, float(not np.isnan(noted.place_error_m)),
        )  # fmt: skip

    def close(self) -> None:
        """Free the renderer."""
        if self._env is not None:
            self._env.close()

    def _prepare(self, control: Control) -> None:
        self.close()
        self._control, self._model, self._env = control, self._load(), None
        if control.name in (ORACLE, DEPTH) and not hasattr(self._model, "encode"):
            self._model = None
            return
        known = KnownDepth()
        self._env = self._make_env(known, control.dose if control.name == ODOMETRY else 0.0)
        if control.name == ORACLE:
            self._model = with_known_depth(self._model, known)
        elif control.name == DEPTH:
            self._model = with_noisy_depth(self._model, control.dose, self._config.seed)

    def _memory_of(self, seed: int) -> Any:
        """The state at the call of another episode."""
        catcher = KeepsState(self._model)
        agent = self._make_agent(catcher, self._config.device, self._env, self._config.seed)
        agent.begin(self._env.reset(seed=seed)[1]["tour"])
        return catcher.last


class _OneAgent(Arena):
    """An arena of an environment that is there already."""

    def __init__(self, env: gymnasium.Env, agent: Agent) -> None:
        self.env, self.agents = env, {"agent": agent}


class _Noted:
    """Passes calls on, and notes where the agent believes the goal to be when it is called."""

    def __init__(self, agent: Any, env: gymnasium.Env) -> None:
        self.agent, self._env = agent, env
        self.place_error_m = float("nan")
        self._first = True

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        self.agent.begin(tour)

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        action = self.agent.act(obs, info)
        diagnostics = getattr(self.agent, "diagnostics", None)
        if self._first and callable(diagnostics):
            believed = diagnostics().get("goal_xyz")
            if believed is not None:
                here = np.asarray(info["truth"]["world_from_camera"])
                self.place_error_m = place_error(np.asarray(believed), obs["world_from_camera"], _true_goal(info), here)
        self._first = False
        return action


def place_error(believed: np.ndarray, believed_pose: np.ndarray, true: np.ndarray, true_pose: np.ndarray) -> float:
    """Error of the goal's place as seen from the agent, in the plan: drift of the whole frame is no error of memory.

    Args:
        believed: place in the believed world frame, metres. [3]
        believed_pose: world_from_camera that the agent believes. 16 numbers
        true: place, metres. [3]
        true_pose: exact world_from_camera. 16 numbers

    Returns:
        Metres.
    """

    def seen_from(place: np.ndarray, pose: np.ndarray) -> np.ndarray:
        pose = np.asarray(pose, np.float64).reshape(4, 4)
        heading = np.arctan2(pose[1, 2], pose[0, 2])
        east, north = np.asarray(place, np.float64)[:2] - pose[:2, 3]
        cos, sin = np.cos(heading), np.sin(heading)
        return np.array([cos * east + sin * north, cos * north - sin * east])

    return float(np.linalg.norm(seen_from(believed, believed_pose) - seen_from(true, true_pose)))


def _true_goal(info: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(info["truth"]["object_pose"])[int(info["goal_object"]) - 1, :3]


def _another_goal(env: gymnasium.Env, seed: int) -> np.ndarray:
    """The instruction that names an object of the scene of a seed which is not the goal. [G]"""
    _, info = env.reset(seed=seed)
    simulated: Any = env.unwrapped
    others = [item for item in simulated.scene.objects if item.id != info["goal_object"]]
    chosen = others[seed % len(others)]
    return np.concatenate([chosen.colour, chosen.one_hot_shape()]).astype(np.float32)
