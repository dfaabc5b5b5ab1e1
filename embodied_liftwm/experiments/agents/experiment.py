"""`liftwm reproduce agents`: what a persistent state is worth to a policy, against pixels and learned memories.

    OUT/agents/Revisit-M/state-seed0/        run folder of one policy
    OUT/agents/Revisit-M/state-seed0.csv     its episodes, judged; scripted.csv holds planner, random and
                                             oracle, planner_on_oracle_state.csv the planner on it
    RESULTS/agents.csv                       success with Wilson's 95 % intervals, SPL and SoftSPL, by task, agent, seed and gap

Every policy has the same steps, scenes, tours, rewards, actions and seeds, and is judged on the same paired episodes by the
code of `liftwm evaluate`. Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import embodied_liftwm
from embodied_liftwm.config import EvaluateConfig, PlannerConfig, ReproduceAgentsConfig, TrainAgentConfig
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.arena import Arena, NavigationRow, oracle_agent, random_agent
from embodied_liftwm.evaluation.navigation.contestants import agent_on
from embodied_liftwm.evaluation.navigation.navigation import SEED_OFFSET, evaluate_navigation
from embodied_liftwm.evaluation.permanence.controls import task_env
from embodied_liftwm.evaluation.report import tables
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.evaluation.views.bounds import KnownDepth, NoDepthError, with_known_depth
from embodied_liftwm.experiments.acting import planner_on, policy_agent
from embodied_liftwm.experiments.agents.aims import ALL, GAPS, ORACLE_STATE, POOLED, AgentFigure, aim_lines
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers import find_engine, run_tasks
from liftwm_agents.policies.training_envs import check_task

SCRIPTED = "scripted"


@dataclass(frozen=True)
class Cell:
    """A policy to train and judge; without an input, or on the oracle's state, agents that need no training."""

    task: str
    input: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.input}-seed{self.seed}" if self.trained else self.input or SCRIPTED

    @property
    def trained(self) -> bool:
        """Whether there is a policy to train."""
        return self.input not in ("", ORACLE_STATE)

    def rows(self, folder: Path) -> Path:
        """Where its episodes go; there once it is judged."""
        return folder / self.task / f"{self.name}.csv"


@dataclass(frozen=True)
class Cells:
    """Cells trained and judged in processes of their own. A policy is on disk after every update: killed, it goes on there."""

    config: ReproduceAgentsConfig
    name: str = "training"

    def start(self, report: Callable[[Cell], None]) -> Callable[[Cell], None]:
        """See `workers.contract.Work`; tasks and messages are cells."""

        def perform(cell: Cell) -> None:
            if not cell.rows(Path(self.config.out) / "agents").exists():  # else a worker died before it could say so
                train_and_judge(self.config, cell)
            report(cell)

        return perform

    def left(self, task: Cell, message: Cell) -> Cell:
        """The same: it is judged then, and not again."""
        return task

    def place(self, task: Cell) -> str:
        return f"{task.task}, {task.name}"


def run(config: ReproduceAgentsConfig) -> int:
    """Train, judge, and show the table and what became of the aims.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    from embodied_liftwm.experiments.page import print_table

    console, folder = plain_console(), Path(config.out) / "agents"
    _check_tasks(config)
    with open_run(folder, config, {"out", "results", "seeds", "processes"}, continued=True):
        todo = [cell for cell in cells(config) if not cell.rows(folder).exists()]
        for number, cell in enumerate(run_tasks(Cells(config), todo, find_engine("local", config.processes)), 1):
            console.print(f"{number}/{len(todo)}: {cell.task}, {cell.name}")
        figures = all_figures(config)
        path = Path(config.results) / "agents.csv"
        write_rows(path, figures, AgentFigure)
        print_table(console, "success, seeds pooled", table(figures))
        for line in aim_lines(figures):
            console.print(line, soft_wrap=True)
        console.print(f"rows: {path}")
        return 0


def _check_tasks(config: ReproduceAgentsConfig) -> None:
    """Raises UserError for a task that is not ours, or that the model cannot watch."""
    model = embodied_liftwm.load(config.train.model, config.train.device)
    for task in config.tasks:
        if not find_env(task).ours:
            raise UserError(f"tasks: {task} is no task of liftwm_envs, such as Revisit-S")
        check_task(replace(config.train, env=task, input="state"), model)


def cells(config: ReproduceAgentsConfig) -> list[Cell]:
    """Everything that is judged, seed by seed."""
    seeds = range(config.train.seed, config.train.seed + config.seeds)
    scripted = [Cell(task, kind, 0) for task in config.tasks for kind in ("", ORACLE_STATE)]
    return scripted + [Cell(task, kind, seed) for seed in seeds for task in config.tasks for kind in config.inputs]


def settings(config: ReproduceAgentsConfig, cell: Cell) -> TrainAgentConfig:
    """How a policy is trained: `train`, but for what its name says."""
    run_folder = Path(config.out) / "agents" / cell.task / cell.name
    changes: dict[str, Any] = {"input": cell.input, "env": cell.task, "seed": cell.seed, "run": str(run_folder)}
    return replace(config.train, **changes)


def train_and_judge(config: ReproduceAgentsConfig, cell: Cell) -> None:
    """One cell, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    base = config.train
    if cell.trained:
        agents: dict[str, Any] = {cell.input: partial(policy_agent, base.model, _train(settings(config, cell)), base.device)}
    else:
        planner = partial(agent_on, partial(planner_on, PlannerConfig()), "model", base.model, base.device)
        agents = {"planner": planner, "random": random_agent, "oracle": oracle_agent}
    judging = EvaluateConfig(
        model=base.model, env=cell.task, env_options=base.env_options, navigation_episodes=config.episodes, workers=1,
        device=base.device,
    )  # fmt: skip
    on_truth = cell.input == ORACLE_STATE
    rows = on_oracle_state(judging) if on_truth else evaluate_navigation(agents, judging).rows
    write_rows(cell.rows(Path(config.out) / "agents"), rows, NavigationRow)


class TrueState(Arena):
    """The planner on a state that is told the true depth of every frame: what better depth can bring to this model."""

    def __init__(self, judging: EvaluateConfig) -> None:
        known = KnownDepth()
        task = judging.env.removeprefix("liftwm/").removesuffix("-v0")
        self.env = task_env(task, judging, known, 0.0)
        model = with_known_depth(embodied_liftwm.load(judging.model, judging.device), known)
        self.agents = {ORACLE_STATE: planner_on(PlannerConfig(), model, judging.device, self.env, judging.seed)}


def on_oracle_state(judging: EvaluateConfig) -> list[NavigationRow]:
    """Rows of `TrueState` on the episodes of navigation; none where the model keeps no depth that it could be told."""
    if not hasattr(embodied_liftwm.load(judging.model, judging.device), "encode"):
        return []
    arena = TrueState(judging)
    try:
        return [row for i in range(judging.navigation_episodes) for row in arena.play(i, SEED_OFFSET + judging.seed + i).rows]
    except NoDepthError:
        return []
    finally:
        arena.env.close()


def _train(settings: TrainAgentConfig) -> str:
    """Train a policy, or go on with it, to its end; returns its run folder."""
    from liftwm_agents.policies.policy_file import policy_at
    from liftwm_agents.policies.training import MAY_CHANGE, train_policy

    folder = Path(settings.run)
    with open_run(folder, settings, MAY_CHANGE, continued=policy_at(folder) is not None):
        train_policy(settings, embodied_liftwm.load(settings.model, settings.device))
    return settings.run


def all_figures(config: ReproduceAgentsConfig) -> list[AgentFigure]:
    """Every agent in every task, seed by seed and pooled."""
    folder, steps = Path(config.out) / "agents", config.train.steps
    judged = {cell: read_rows(cell.rows(folder), NavigationRow) for cell in cells(config)}
    figures = []
    for task in config.tasks:
        for agent in ("oracle", ORACLE_STATE, "planner", "random"):
            rows = [row for row in judged[Cell(task, agent if agent == ORACLE_STATE else "", 0)] if row.agent == agent]
            figures += by_gap(task, agent, "", 0, rows) if rows else []
        for kind in config.inputs:
            by_seed = {cell.seed: rows for cell, rows in judged.items() if (cell.task, cell.input) == (task, kind)}
            for seed, rows in by_seed.items():
                figures += by_gap(task, kind, str(seed), steps, rows)
            figures += by_gap(task, kind, POOLED, steps, [row for rows in by_seed.values() for row in rows])
    return figures


def by_gap(task: str, agent: str, seed: str, steps: int, rows: Sequence[NavigationRow]) -> list[AgentFigure]:
    """Figures of all of an agent's episodes, and of those whose goal was hidden for long; these may be none."""
    return [
        figure(task, agent, seed, gap, steps, [row for row in rows if gap == ALL or row.gap_steps >= shortest])
        for gap, shortest in GAPS.items()
    ]


def figure(task: str, agent: str, seed: str, gap: str, steps: int, rows: Sequence[NavigationRow]) -> AgentFigure:
    """Means of an agent's episodes, and Wilson's interval of its success; NaN without any."""
    share = wilson_interval(round(sum(row.success for row in rows)), len(rows))
    means = [float(np.mean([getattr(row, name) for row in rows])) if rows else float("nan") for name in ("spl", "soft_spl")]
    return AgentFigure(task, agent, seed, gap, steps, len(rows), share.mean, share.low, share.high, *means)


def table(figures: Sequence[AgentFigure]) -> tables.Table:
    """A row an agent and gap, a column a task."""
    tasks = list(dict.fromkeys(found.task for found in figures))
    shown = {(found.agent, found.gap, found.task): found for found in figures if found.seed in ("", POOLED)}
    rows = []
    for agent in dict.fromkeys(found.agent for found in figures):
        for gap in GAPS:
            name = f"{agent.replace('_', ' ')}, gaps: {gap}"
            rows.append((agent, name, [_cell(shown.get((agent, gap, task))) for task in tasks]))
    return tables.Table(tasks, rows)


def _cell(found: AgentFigure | None) -> tables.Cell:
    if found is None or not found.episodes:
        return tables.Cell("-")
    return tables.Cell(f"{100 * found.success:.0f} %", f"[{100 * found.low:.0f}, {100 * found.high:.0f}]")
