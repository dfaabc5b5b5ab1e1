"""`liftwm reproduce agents`: what a persistent state is worth to a policy, against pixels and learned memories.

    OUT/agents/Revisit-M/state-seed0/        run folder of one policy
    OUT/agents/Revisit-M/state-seed0.csv     its episodes, judged; scripted.csv holds planner, random and oracle
    RESULTS/agents.csv                       success with Wilson's 95 % intervals, SPL and SoftSPL, by task, agent and seed

Every policy has the same steps, scenes, tours, rewards, actions and seeds, and is judged on the same paired episodes by the
code of `liftwm evaluate`. Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import embodied_liftwm
from embodied_liftwm.commands.evaluate import planner_agent, policy_agent
from embodied_liftwm.commands.reproduce_runs import claim
from embodied_liftwm.commands.run_folder import open_run
from embodied_liftwm.commands.train_agent import MAY_CHANGE
from embodied_liftwm.config import EvaluateConfig, PlannerConfig, ReproduceConfig, TrainAgentConfig
from embodied_liftwm.evaluation.arena import NavigationRow, oracle_agent, random_agent
from embodied_liftwm.evaluation.navigation import evaluate_navigation
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.workers.local_engine import die_with_parent

POOLED = "pooled"
SCRIPTED = "scripted"


@dataclass(frozen=True)
class AgentFigure:
    """One agent in one task."""

    task: str
    agent: str
    seed: str  # of the training, or pooled; empty where nothing is trained
    steps: int  # trained; 0 where nothing is
    episodes: int  # judged
    success: float
    low: float
    high: float
    spl: float
    soft_spl: float


@dataclass(frozen=True)
class Cell:
    """A policy to train and judge; without an input, the agents that need no training."""

    task: str
    input: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.input}-seed{self.seed}" if self.input else SCRIPTED

    def rows(self, folder: Path) -> Path:
        """Where its episodes go; there once it is judged."""
        return folder / self.task / f"{self.name}.csv"


def run(config: ReproduceConfig) -> int:
    """Train, judge, and show the table.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, folder = Console(highlight=False), Path(config.out) / "agents"
    claim(folder, config)
    todo = [cell for cell in cells(config) if not cell.rows(folder).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(config.processes, max(len(todo), 1)), context, initializer=die_with_parent) as pool:
        running = {pool.submit(train_and_judge, config, cell): cell for cell in todo}
        for number, done in enumerate(as_completed(running), 1):
            done.result()
            console.print(f"{number}/{len(todo)}: {running[done].task}, {running[done].name}")
    figures = all_figures(config)
    path = Path(config.results) / "agents.csv"
    write_rows(path, figures, AgentFigure)
    console.print(_table(figures))
    console.print(f"rows: {path}")
    return 0


def cells(config: ReproduceConfig) -> list[Cell]:
    """Everything that is judged, seed by seed."""
    agents = config.agents
    seeds = range(agents.train.seed, agents.train.seed + config.seeds)
    scripted = [Cell(task, "", 0) for task in agents.tasks]
    return scripted + [Cell(task, kind, seed) for seed in seeds for task in agents.tasks for kind in agents.inputs]


def settings(config: ReproduceConfig, cell: Cell) -> TrainAgentConfig:
    """How a policy is trained: `agents.train`, but for what its name says."""
    run_folder = Path(config.out) / "agents" / cell.task / cell.name
    changes: dict[str, Any] = {"input": cell.input, "env": cell.task, "seed": cell.seed, "run": str(run_folder)}
    return replace(config.agents.train, **changes)


def train_and_judge(config: ReproduceConfig, cell: Cell) -> None:
    """One cell, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    base = config.agents.train
    if cell.input:
        agents: dict[str, Any] = {cell.input: partial(policy_agent, base.model, _train(settings(config, cell)), base.device)}
    else:
        planner = partial(planner_agent, base.model, PlannerConfig(), base.device)
        agents = {"planner": planner, "random": random_agent, "oracle": oracle_agent}
    judging = EvaluateConfig(
        model=base.model, env=cell.task, env_options=base.env_options, navigation_episodes=config.agents.episodes, workers=1,
        device=base.device,
    )  # fmt: skip
    found = evaluate_navigation(agents, judging)
    write_rows(cell.rows(Path(config.out) / "agents"), found.rows, NavigationRow)


def _train(settings: TrainAgentConfig) -> str:
    """Train a policy, or go on with it, to its end; returns its run folder."""
    from liftwm_agents.policy import ZIP_NAME
    from liftwm_agents.training import train_policy

    folder = Path(settings.run)
    open_run(folder, settings, MAY_CHANGE, continued=(folder / ZIP_NAME).exists())
    train_policy(settings, embodied_liftwm.load(settings.model, settings.device))
    return settings.run


def all_figures(config: ReproduceConfig) -> list[AgentFigure]:
    """Every agent in every task, seed by seed and pooled."""
    folder, steps = Path(config.out) / "agents", config.agents.train.steps
    judged = {cell: read_rows(cell.rows(folder), NavigationRow) for cell in cells(config)}
    figures = []
    for task in config.agents.tasks:
        for agent in ("oracle", "planner", "random"):
            rows = [row for row in judged[Cell(task, "", 0)] if row.agent == agent]
            figures.append(figure(task, agent, "", 0, rows))
        for kind in config.agents.inputs:
            by_seed = {cell.seed: rows for cell, rows in judged.items() if (cell.task, cell.input) == (task, kind)}
            figures += [figure(task, kind, str(seed), steps, rows) for seed, rows in by_seed.items()]
            figures.append(figure(task, kind, POOLED, steps, [row for rows in by_seed.values() for row in rows]))
    return figures


def figure(task: str, agent: str, seed: str, steps: int, rows: Sequence[NavigationRow]) -> AgentFigure:
    """Means of an agent's episodes, and Wilson's interval of its success."""
    share = wilson_interval(round(sum(row.success for row in rows)), len(rows))
    means = [float(np.mean([getattr(row, name) for row in rows])) if rows else float("nan") for name in ("spl", "soft_spl")]
    return AgentFigure(task, agent, seed, steps, len(rows), share.mean, share.low, share.high, *means)


def _table(figures: Sequence[AgentFigure]) -> Table:
    table = Table(title="success, seeds pooled", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    tasks = list(dict.fromkeys(found.task for found in figures))
    for heading in ("", *tasks):
        table.add_column(heading, justify="right" if heading else "left")
    shown = {(found.agent, found.task): found for found in figures if found.seed in ("", POOLED)}
    for agent in dict.fromkeys(found.agent for found in figures):
        cells = [shown[agent, task] for task in tasks]
        table.add_row(agent, *[f"{100 * c.success:.0f} % [{100 * c.low:.0f}, {100 * c.high:.0f}]" for c in cells])
    return table
