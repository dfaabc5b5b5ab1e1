"""`liftwm reproduce agents`: what a persistent state is worth to a policy, against pixels and learned memories (`engine.py`).

    OUT/agents/Revisit-M/state-seed0/        run folder of one policy
    OUT/agents/Revisit-M/state-seed0.csv     its episodes, judged; scripted.csv holds planner, random and
                                             oracle, planner_on_oracle_state.csv the planner on it
    RESULTS/agents.csv                       success with Wilson's 95 % intervals, SPL and SoftSPL, by task, agent, seed and gap

Every policy has the same steps, scenes, tours, rewards, actions and seeds, and is judged on the same paired episodes by the
code of `liftwm evaluate`. Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
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
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.evaluation.views.bounds import KnownDepth, NoDepthError, with_known_depth
from embodied_liftwm.experiments.acting import planner_on, policy_agent
from embodied_liftwm.experiments.agents.aims import ALL, GAPS, ORACLE_STATE, POOLED, AgentFigure, aim_lines
from embodied_liftwm.experiments.engine import Trainings
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers.side_by_side import TRAINED, Tell
from liftwm_agents.policies.training_envs import check_task

SCRIPTED = "scripted"
"""The row of agents that need no training: planner, random and oracle."""


class Agents(Trainings[ReproduceAgentsConfig]):
    """Policies by task and what they see, as in `Revisit-M/state`, and agents that need no training."""

    name = "agents"

    def trained_rows(self, seed: int) -> list[str]:
        """Policies; at the first seed first those that need no training."""
        c = self.config
        untrained = [f"{task}/{agent}" for task in c.tasks for agent in (SCRIPTED, ORACLE_STATE)]
        policies = [f"{task}/{kind}" for task in c.tasks for kind in c.inputs]
        return [*untrained, *policies] if seed == self.seeds[0] else policies

    def parts(self, key: str) -> dict[str, type]:
        return {"navigation": NavigationRow}

    def files(self, key: str, seed: int) -> dict[str, Path]:
        return {"navigation": self.folder / f"{key}-seed{seed}.csv" if self.trained(key) else self.folder / f"{key}.csv"}

    def trained(self, key: str) -> bool:
        """Whether there is a policy to train."""
        return key.partition("/")[2] in self.config.inputs

    def settings(self, key: str, seed: int) -> TrainAgentConfig:
        """How a policy is trained: `train`, but for what its name says."""
        task, _, kind = key.partition("/")
        changes: dict[str, Any] = {"input": kind, "env": task, "seed": seed, "run": str(self.folder / f"{key}-seed{seed}")}
        return replace(self.config.train, **changes)

    def work(self, row: str, seed: int, tell: Tell) -> None:
        import torch

        torch.set_num_threads(1)
        base, (task, _, agent) = self.config.train, row.partition("/")
        judging = EvaluateConfig(
            model=base.model, env=task, env_options=base.env_options, navigation_episodes=self.config.episodes, workers=1,
            device=base.device,
        )  # fmt: skip
        if self.trained(row):
            policy = partial(policy_agent, base.model, train(self.settings(row, seed), tell), base.device)
            rows = evaluate_navigation({agent: policy}, judging).rows
        elif agent == ORACLE_STATE:
            rows = on_oracle_state(judging)
        else:
            planner = partial(agent_on, partial(planner_on, PlannerConfig()), "model", base.model, base.device)
            rows = evaluate_navigation({"planner": planner, "random": random_agent, "oracle": oracle_agent}, judging).rows
        write_rows(self.files(row, seed)["navigation"], rows, NavigationRow)


def run(config: ReproduceAgentsConfig) -> int:
    """Train, judge, and show the table and what became of the aims.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, it = plain_console(), Agents(config)
    _check_tasks(config)
    with it.claim():
        it.train_and_judge_all(console)
        figures = all_figures(it)
        write_rows(it.results / "agents.csv", figures, AgentFigure)
        print_table(console, "success, seeds pooled", table(figures))
        for line in aim_lines(figures):
            console.print(line, soft_wrap=True)
        console.print(f"rows: {it.results / 'agents.csv'}")
        return 0


def _check_tasks(config: ReproduceAgentsConfig) -> None:
    """Raises UserError for a task that is not ours, or that the model cannot watch."""
    model = embodied_liftwm.load(config.train.model, config.train.device)
    for task in config.tasks:
        if not find_env(task).ours:
            raise UserError(f"tasks: {task} is no task of liftwm_envs, such as Revisit-S")
        check_task(replace(config.train, env=task, input="state"), model)


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


def train(settings: TrainAgentConfig, tell: Tell) -> str:
    """Train a policy, or go on with it, to its end; returns its run folder."""
    from liftwm_agents.policies.policy_file import policy_at
    from liftwm_agents.policies.training import MAY_CHANGE, AgentProgress, train_policy

    begun = time.perf_counter()

    def show(now: AgentProgress) -> None:
        spent = time.perf_counter() - begun
        done = min(1.0, now.steps / now.total)
        tell({"step": now.steps, "seconds": spent, "success": now.success_rate, "progress": done})

    folder = Path(settings.run)
    with open_run(folder, settings, MAY_CHANGE, continued=policy_at(folder) is not None):
        train_policy(settings, embodied_liftwm.load(settings.model, settings.device), show)
    tell(TRAINED)
    return settings.run


def all_figures(it: Agents) -> list[AgentFigure]:
    """Every agent in every task, seed by seed and pooled."""
    figures, steps, first = list[AgentFigure](), it.config.train.steps, it.seeds[0]
    for task in it.config.tasks:
        untrained = [row for name in (SCRIPTED, ORACLE_STATE) for row in it.read(f"{task}/{name}", first, "navigation")]
        for agent in ("oracle", ORACLE_STATE, "planner", "random"):
            rows = [row for row in untrained if row.agent == agent]
            figures += by_gap(task, agent, "", 0, rows) if rows else []
        for kind in it.config.inputs:
            by_seed = {seed: it.read(f"{task}/{kind}", seed, "navigation") for seed in it.seeds}
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
