"""Use: every agent gets the same guided tours of the same scenes, and must then go to the object that is called.

Protocol. One integer seed fixes a scene, its tour and its goal. `GuidedTour` drives the tour; an agent digests it
(`begin(tour)`) and acts from the call on. Episodes that memory cannot solve (the goal was never in view) and episodes solved
where they start are removed for all agents, and counted. What remains is paired: same seeds, same order, for every agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig
from embodied_liftwm.evaluation.left_out import LeftOut
from embodied_liftwm.evaluation.navigation.arena import AgentFactory, Arena, NavigationRow, Outcome, Trace, make_env
from embodied_liftwm.evaluation.spread import judge_each

SEED_OFFSET = EVAL_SEED_OFFSET + 2**24
"""First seed of navigation: beyond those of evaluation datasets, so that no goal lies in a scene of theirs."""


@dataclass(frozen=True)
class NavigationResult:
    """Rows of all agents, what was removed and why, and the time taken to decide."""

    rows: list[NavigationRow]
    removed: dict[str, list[int]]  # reason -> seeds
    traces: list[Trace]
    act_ms: dict[str, float]  # agent -> mean milliseconds per action; a timing, so never twice the same


def evaluate_navigation(
    agents: Mapping[str, AgentFactory], config: EvaluateConfig, seeds: Sequence[int] | None = None
) -> NavigationResult:
    """Let every agent navigate the same episodes, spread over `config.workers` processes.

    Args:
        agents: name -> factory, importable from a fresh process.
        config: env, env_options, navigation_episodes, seed, workers, engine and ray_address are read.
        seeds: of the episodes; by default the `config.navigation_episodes` from `SEED_OFFSET` + `config.seed` on.

    Raises:
        UserError: no such environment, workers that keep dying, or no Ray for engine=ray.
        RuntimeError: a bug in a worker, with its traceback.
    """
    seeds = [SEED_OFFSET + config.seed + i for i in range(config.navigation_episodes)] if seeds is None else list(seeds)
    make_env(config).close()  # a mistake in the environment is better named here than by a worker
    outcomes = judge_each(list(enumerate(seeds)), partial(Arena, dict(agents), config), config, "navigation")
    return _collect(list(agents), seeds, outcomes)


def untold(result: NavigationResult, source: str) -> list[LeftOut]:
    """What could not be judged, since the environment, which `source` names, does not tell what it needs."""
    needs = {
        "success": ("success", 'info["success"]'),
        "SPL": ("spl", 'info["success"] and info["shortest_path_m"]'),
        "SoftSPL": ("soft_spl", 'info["shortest_path_m"] and info["distance_to_goal"]'),
    }
    found = [
        LeftOut(name, f"needs {told}, which {source} lacks")
        for name, (column, told) in needs.items()
        if result.rows and all(np.isnan(getattr(row, column)) for row in result.rows)
    ]
    agents = {row.agent for row in result.rows}
    if agents and "oracle" not in agents:
        found.append(LeftOut("oracle", f"needs oracle_action(), which {source} lacks"))
    if agents and "planner" not in agents:
        found.append(LeftOut("planner", f"needs a goal in the observation, which {source} lacks"))
    return found


def _collect(agents: list[str], seeds: list[int], outcomes: list[Outcome]) -> NavigationResult:
    removed: dict[str, list[int]] = {}
    for seed, outcome in zip(seeds, outcomes, strict=True):
        if outcome.removed:
            removed.setdefault(outcome.removed, []).append(seed)
    kept = [outcome for outcome in outcomes if not outcome.removed]
    rows = [outcome.rows[i] for i in range(len(agents)) for outcome in kept]
    traces = [outcome.traces[i] for i in range(len(agents)) for outcome in kept]
    seconds = {name: [outcome.act_seconds[i] for outcome in kept] for i, name in enumerate(agents)}
    return NavigationResult(rows, removed, traces, {name: 1e3 * float(np.mean(s)) for name, s in seconds.items() if s})
