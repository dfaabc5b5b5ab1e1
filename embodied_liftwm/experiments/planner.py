"""`liftwm reproduce planner`: how often the planner succeeds on states that bound its own, and by how much it may imagine.

    RESULTS/planner_states.csv            an agent in an episode: the planner on the model's state, on one that is told the true
                                          depth, on the last frame; random floor and scripted oracle
    RESULTS/planner_budget.csv, .svg      a planning budget in an episode

All agents play the same episodes, on scenes of development (seeds 2^30 and up, on which the planner was tuned). Rows are added
to the files; episodes of a task that they hold already are not played again. A plan is the search alone; a decision also
observes, and reads the state every fourth time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig, PlannerConfig, ReproducePlannerConfig
from embodied_liftwm.evaluation.navigation.arena import Arena, Outcome, make_env, oracle_agent, random_agent
from embodied_liftwm.evaluation.permanence.controls import task_env
from embodied_liftwm.evaluation.report.charts import COLOURS, Line, Panel, svg
from embodied_liftwm.evaluation.report.tables import Cell, Table
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.evaluation.views.bounds import KnownDepth, LastFrame, with_known_depth
from embodied_liftwm.experiments.acting import planner_on
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.files import write_text
from embodied_liftwm.terminal import plain_console

SETTINGS: tuple[PlannerConfig, ...] = (
    *(PlannerConfig(num_samples=n, iterations=1) for n in (8, 32)),
    *(PlannerConfig(num_samples=n) for n in (32, 128, 512)),
    *(PlannerConfig(horizon=h) for h in (4, 24)),
    PlannerConfig(iterations=5),
    *(PlannerConfig(planner="cem", num_samples=n, num_elites=n // 8, iterations=i) for n, i in ((32, 2), (128, 2), (128, 5))),
)
"""The default one of `PlannerConfig`, and one thing changed at a time; CEM with the same budgets."""


@dataclass(frozen=True)
class StateRow:
    """One agent in one episode."""

    model: str
    task: str
    seed: int
    agent: str
    success: float
    spl: float
    steps: int
    bumps: int
    error_m: float  # between the place of the goal that was believed last and the true one at the call; NaN: none
    plans_per_second: float  # search alone


@dataclass(frozen=True)
class BudgetRow:
    """One setting in one episode."""

    planner: str
    num_samples: int
    horizon: int
    iterations: int
    imagined_steps: int  # of one plan
    seed: int
    success: float
    spl: float
    steps: int
    plans_per_second: float
    decisions_per_second: float


class OfLastFrame(LastFrame):
    """`LastFrame` with all that a planner calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class States(Arena):
    """The planner on every state of one model, and those that need none."""

    def __init__(self, source: str, task: str) -> None:
        known, config = KnownDepth(), EvaluateConfig()
        self.source, self.task, self.env = source, task, task_env(task, config, known, 0.0)
        models = {
            "own state": embodied_liftwm.load(source),
            "true depth": with_known_depth(embodied_liftwm.load(source), known),
            "last frame": OfLastFrame(embodied_liftwm.load(source)),
        }
        self.agents = {name: planner_on(PlannerConfig(), model, "cpu", self.env, config.seed) for name, model in models.items()}
        self.agents |= {"random": random_agent(self.env, config.seed), "scripted oracle": oracle_agent(self.env, config.seed)}

    def rows(self, seed: int, outcome: Outcome) -> list[StateRow]:
        """All agents on one seed; nothing where it tests no memory."""
        found = []
        for row, trace in zip(outcome.rows, outcome.traces, strict=True):
            goal = next(item["position"] for item in trace.scene["objects"] if item["id"] == trace.goal_object)
            believed = trace.remembered_goal
            error = float("nan") if believed is None else float(np.hypot(believed[0] - goal[0], believed[1] - goal[1]))
            told = row.success, row.spl, row.steps, row.bumps, error, _plans(self.agents[row.agent])
            found.append(StateRow(self.source, self.task, seed, row.agent, *told))
        return found


class Budgets(Arena):
    """Every setting in one environment."""

    def __init__(self, source: str, task: str) -> None:
        self.env, model = make_env(EvaluateConfig(env=task)), embodied_liftwm.load(source)
        self.agents = {str(i): planner_on(setting, model, "cpu", self.env, 0) for i, setting in enumerate(SETTINGS)}

    def rows(self, seed: int, outcome: Outcome) -> list[BudgetRow]:
        """All settings on one seed; nothing where it tests no memory."""
        found = []
        for row, seconds in zip(outcome.rows, outcome.act_seconds, strict=True):
            s = SETTINGS[int(row.agent)]
            setting = s.planner, s.num_samples, s.horizon, s.iterations, s.num_samples * s.horizon * s.iterations
            told = row.success, row.spl, row.steps, _plans(self.agents[row.agent]), 1.0 / seconds
            found.append(BudgetRow(*setting, seed, *told))
        return found


def run(config: ReproducePlannerConfig) -> int:
    """Play what is not there yet, and show the tables."""
    torch.set_num_threads(1)
    seeds, results = range(EVAL_SEED_OFFSET, EVAL_SEED_OFFSET + config.episodes), Path(config.results)
    if "states" in config.parts:
        path = results / "planner_states.csv"
        rows = read_rows(path, StateRow) if path.exists() else []
        for task in config.tasks:
            played = {row.seed for row in rows if (row.model, row.task) == (config.model, task)}
            left, arena = [seed for seed in seeds if seed not in played], None
            for seed in left:
                arena = arena or States(config.model, task)
                rows += arena.rows(seed, arena.play(seed - seeds[0], seed))
                write_rows(path, rows, StateRow)
        print_table(plain_console(), "success by state", state_table([row for row in rows if row.model == config.model]))
    if "budget" in config.parts:
        found, arena_of = list[BudgetRow](), Budgets(config.model, config.tasks[0])
        for seed in seeds:
            found += arena_of.rows(seed, arena_of.play(seed - seeds[0], seed))
            write_rows(results / "planner_budget.csv", found, BudgetRow)
        write_text(results / "planner_budget.svg", svg(budget_panels(found), salt="planner"))
    return 0


def state_table(rows: Sequence[StateRow]) -> Table:
    """Success with Wilson's interval."""
    agents, tasks = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("agent", "task"))
    lines = []
    for task in tasks:
        cells = []
        for agent in agents:
            own = [row.success for row in rows if (row.task, row.agent) == (task, agent)]
            e = wilson_interval(int(sum(own)), len(own))
            cells.append(Cell(f"{sum(own):.0f} / {len(own)}", f"[{100 * e.low:.0f}, {100 * e.high:.0f}] %"))
        lines.append((task, task, cells))
    return Table(agents, lines)


def budget_panels(rows: Sequence[BudgetRow]) -> list[Panel]:
    """Success, SPL and plans a second over imagined steps a plan."""
    found = []
    for figure, words in (("success", "success"), ("spl", "SPL"), ("plans_per_second", "plans a second, one core")):
        lines = []
        for colour, planner in zip(COLOURS, ("mppi", "cem"), strict=False):
            own = [row for row in rows if row.planner == planner]
            steps = sorted({row.imagined_steps for row in own})
            means = [float(np.mean([getattr(row, figure) for row in own if row.imagined_steps == n])) for n in steps]
            lines.append(Line(planner.upper(), steps, means, means, means, colour))
        found.append(Panel("imagined steps a plan (samples x horizon x iterations)", words, lines, log=True))
    return found


def _plans(agent: Any) -> float:
    """Plans a second of an agent's searches; NaN for one that does not search."""
    diagnostics = getattr(agent, "diagnostics", None)
    return float(diagnostics()["plans_per_second"]) if callable(diagnostics) else float("nan")
