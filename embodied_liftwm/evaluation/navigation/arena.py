"""One environment and the agents that navigate it, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError


class Agent(Protocol):
    """What is scored: made once per process, follows its environment from episode to episode.

    It may offer `reseed(seed)`, called before each episode with the episode's seed, and `diagnostics()`, a dict whose
    `goal_xyz` is where it believes the goal to be.
    """

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """Start an episode by watching its guided tour."""
        ...

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        """An action of the environment's action space."""
        ...


ORACLE = "oracle_action"
"""Method of an environment, or of a wrapper around it, that returns the best next action."""
MakeAgent = Callable[[Any, str, gymnasium.Env, int], Agent]
"""(world model, torch device, environment, seed) -> an agent that acts on what the model remembers. It is sent to other
processes: a function or a partial of one, no lambda."""
AgentFactory = Callable[[gymnasium.Env, int], Agent]
"""(environment, seed) -> an agent; sent to other processes alike."""


@dataclass(frozen=True)
class NavigationRow:
    """One (agent, episode)."""

    agent: str
    episode: int
    seed: int
    success: float  # 1 or 0; this and lengths are nan where the environment does not tell them
    spl: float
    soft_spl: float
    steps: int  # from the call on
    path_m: float  # travelled from the call on
    shortest_m: float  # geodesic at the call
    final_distance_m: float  # geodesic at the end
    bumps: int
    gap_steps: int = -1  # at the call, since what is called was last in view; -1 where it never was, or nothing says


@dataclass(frozen=True)
class Trace:
    """What happened, to draw. Positions are true world xy in metres."""

    agent: str
    seed: int
    tour: list[list[float]]  # as driven
    path: list[list[float]]  # from the call on
    goal_object: int
    remembered_goal: list[float] | None  # where the agent last believed the goal to be, if it says so
    success: bool
    scene: dict[str, Any]
    targets_reached: int = 0  # objects called one after another that were reached; more than one in Search alone


@dataclass(frozen=True)
class Outcome:
    """One seed: removed for a reason, or a row and a trace for each agent."""

    removed: str = ""
    rows: tuple[NavigationRow, ...] = ()
    traces: tuple[Trace, ...] = ()
    act_seconds: tuple[float, ...] = ()  # mean per action


class Arena:
    """An environment and all agents."""

    def __init__(self, agents: Mapping[str, AgentFactory], config: EvaluateConfig) -> None:
        self.env = make_env(config)
        self.agents = {name: factory(self.env, config.seed) for name, factory in agents.items()}

    def judge(self, task: tuple[int, int]) -> Outcome:
        """`play`, as `spread.judge_each` has it."""
        return self.play(*task)

    def close(self) -> None:
        """Free the renderer."""
        self.env.close()

    def play(self, episode: int, seed: int) -> Outcome:
        """All agents, one after another, on one seed."""
        played = []
        for name, agent in self.agents.items():
            obs, info = self.env.reset(seed=seed)
            if not info.get("solvable_by_memory", True):
                return Outcome(removed="unsolvable by memory")
            if info.get("success", False):
                return Outcome(removed="solved at the start")
            if callable(getattr(agent, "reseed", None)):
                agent.reseed(seed)  # type: ignore[attr-defined]
            played.append(self._navigate(name, agent, obs, info, episode, seed))
        rows, traces, seconds = zip(*played, strict=True)
        return Outcome("", rows, traces, seconds)

    def _navigate(
        self, name: str, agent: Agent, obs: dict[str, Any], info: dict[str, Any], episode: int, seed: int
    ) -> tuple[NavigationRow, Trace, float]:
        """One agent from the call to the end."""
        tour, gap, shortest = info["tour"], int(info.get("gap_steps", -1)), _number(info, "shortest_path_m")
        agent.begin(tour)
        path, bumps, spent, done = [position_of(obs, info)], 0, 0.0, False
        while not done:
            started = time.perf_counter()
            action = agent.act(obs, info)
            spent += time.perf_counter() - started
            obs, _, terminated, truncated, info = self.env.step(action)
            path.append(position_of(obs, info))
            bumps += bool(info.get("bump", False))
            done = bool(terminated or truncated)
        length = float(np.linalg.norm(np.diff(np.stack(path), axis=0), axis=1).sum())
        success = _number(info, "success")
        final = 0.0 if success > 0 else _number(info, "distance_to_goal")
        row = NavigationRow(
            agent=name, episode=episode, seed=seed, success=success, spl=spl(success, shortest, length),
            soft_spl=soft_spl(final, shortest, length), steps=len(path) - 1, path_m=length, shortest_m=shortest,
            final_distance_m=_number(info, "distance_to_goal"), bumps=bumps, gap_steps=gap,
        )  # fmt: skip
        trace = Trace(
            agent=name, seed=seed, tour=tour["world_from_camera"].reshape(-1, 4, 4)[:, :2, 3].tolist(),
            path=np.stack(path).tolist(), goal_object=int(info.get("goal_object", 0)),
            remembered_goal=_remembered_goal(agent), success=success > 0, scene=described(self.env),
            targets_reached=int(info.get("targets_reached", success > 0)),
        )  # fmt: skip
        return row, trace, spent / (len(path) - 1)


def position_of(obs: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
    """Where the agent is in the plan, [2]: what the environment says, else its camera."""
    found = info["position"] if "position" in info else np.reshape(obs["world_from_camera"], (4, 4))[:2, 3]
    return np.array(found, np.float64)[:2]


def described(env: gymnasium.Env) -> dict[str, Any]:
    """What an environment says of its present world, to draw it; empty where it says nothing."""
    scene: Any = env.get_wrapper_attr("scene") if env.has_wrapper_attr("scene") else None
    found: dict[str, Any] = scene.describe() if hasattr(scene, "describe") else {}
    return found


def _number(info: Mapping[str, Any], name: str) -> float:
    """A figure of the environment's; nan where it gives none."""
    value = info.get(name)
    return float("nan") if value is None else float(value)


def spl(success: float, shortest_m: float, path_m: float) -> float:
    """Success weighted by path length: success x shortest / max(travelled, shortest); nan where one is not known.

    Anderson et al. 2018, arXiv:1807.06757. Lengths in metres.
    """
    return float(success) * shortest_m / max(shortest_m, path_m, 1e-6)


def soft_spl(final_m: float, shortest_m: float, path_m: float) -> float:
    """SPL with progress in place of success: max(0, 1 - final / shortest) x shortest / max(travelled, shortest), or nan.

    Datta et al. 2020, arXiv:2009.03231. `final_m` is the geodesic distance left at the end, `shortest_m` that at the start.
    """
    progressed = max(1.0 - final_m / max(shortest_m, 1e-6), 0.0)
    return progressed * shortest_m / max(shortest_m, path_m, 1e-6)


def make_env(config: EvaluateConfig) -> gymnasium.Env:
    """The task `env`, anyone's, with a tour. Raises UserError for one that does not exist."""
    return find_env(config.env).make_task(config, config.goal)


def sizes_of(env: gymnasium.Env) -> tuple[tuple[int, int], int, int | None]:
    """Height and width of frames, numbers an action, and numbers a goal; None where it is a picture, which no model is told."""
    space = env.observation_space
    assert isinstance(space, spaces.Dict)
    (height, width, _), goal = space["rgb"].shape or (), space["goal"]
    return (height, width), spaces.flatdim(env.action_space), None if len(goal.shape or ()) == 3 else spaces.flatdim(goal)


def task_id(task: str) -> str:
    """The Gymnasium id of a task: "Revisit-S" or the id itself. Raises UserError where liftwm_envs has none of that name."""
    from liftwm_envs import ENV_IDS

    name = task if task.startswith("liftwm/") else f"liftwm/{task}-v0"
    if name not in ENV_IDS:
        known = ", ".join(known.removeprefix("liftwm/").removesuffix("-v0") for known in ENV_IDS)
        raise UserError(f"no task {task} in liftwm_envs, which has {known}")
    return name


def random_agent(env: gymnasium.Env, seed: int) -> Agent:
    """Uniform actions, another stream of them in every episode: what knows nothing does."""
    from liftwm_envs.tasks.policies import RandomPolicy

    return _Scripted(lambda episode: RandomPolicy(env, seed + episode))


def oracle_agent(env: gymnasium.Env, seed: int) -> Agent:
    """The scripted oracle, which reads the hidden state, or what the environment itself offers as `oracle_action()`."""
    if env.has_wrapper_attr(ORACLE):
        return _Offered(env.get_wrapper_attr(ORACLE))
    from liftwm_envs.tasks.policies import OraclePolicy

    oracle = OraclePolicy(env, seed)
    return _Scripted(lambda _: oracle)


class _Offered:
    """The best action, as an environment knows it."""

    def __init__(self, best: Callable[[], Any]) -> None:
        self._best = best

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """The tour is nothing to it."""

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        return self._best()


class _Scripted:
    """A policy of `liftwm_envs` as an agent."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self.reseed(0)

    def reseed(self, seed: int) -> None:
        self._policy = self._make(seed)

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        self._policy.reset()

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        return self._policy.act(dict(obs), dict(info))


def _remembered_goal(agent: Any) -> list[float] | None:
    diagnostics = getattr(agent, "diagnostics", None)
    goal = diagnostics().get("goal_xyz") if callable(diagnostics) else None
    return None if goal is None else [float(v) for v in goal]
