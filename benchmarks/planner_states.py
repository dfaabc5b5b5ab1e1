"""How often the planner succeeds on a state, beside what bounds it: a state told the true depth, the last frame, chance.

    python benchmarks/planner_states.py results/planner_states.csv base Revisit-M 20

All agents play the same episodes, on scenes of development (seeds 2^30 and up, on which the planner was tuned). Rows are added
to the file; episodes of a task that it holds already are not played again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig, PlannerConfig
from embodied_liftwm.evaluation.navigation.arena import Arena, oracle_agent, random_agent
from embodied_liftwm.evaluation.permanence.controls import task_env
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.evaluation.views.bounds import KnownDepth, LastFrame, with_known_depth
from embodied_liftwm.experiments.acting import planner_on


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


class OfLastFrame(LastFrame):
    """`LastFrame` with all that a planner calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class States(Arena):
    """The planner on every state of one model, and those that need none."""

    def __init__(self, source: str, task: str, config: EvaluateConfig) -> None:
        known = KnownDepth()
        self.env = task_env(task, config, known, 0.0)
        models = {
            "own state": embodied_liftwm.load(source),
            "true depth": with_known_depth(embodied_liftwm.load(source), known),
            "last frame": OfLastFrame(embodied_liftwm.load(source)),
        }
        self.agents = {name: planner_on(PlannerConfig(), model, "cpu", self.env, config.seed) for name, model in models.items()}
        self.agents |= {"random": random_agent(self.env, config.seed), "scripted oracle": oracle_agent(self.env, config.seed)}


def main(words: list[str]) -> None:
    """`OUT.csv MODEL TASK EPISODES`"""
    if len(words) != 4:
        raise SystemExit("usage: python benchmarks/planner_states.py OUT.csv MODEL TASK EPISODES")
    out, source, task, count = Path(words[0]), words[1], words[2], int(words[3])
    torch.set_num_threads(1)
    rows = read_rows(out, StateRow) if out.exists() else []
    played = {row.seed for row in rows if (row.model, row.task) == (source, task)}
    arena = States(source, task, EvaluateConfig())
    for episode in range(count):
        seed = EVAL_SEED_OFFSET + episode
        if seed not in played:
            rows += play(arena, source, task, episode, seed)
            write_rows(out, rows)
    arena.env.close()
    show([row for row in rows if row.model == source])


def play(arena: States, source: str, task: str, episode: int, seed: int) -> list[StateRow]:
    """All agents on one seed; nothing where it tests no memory."""
    outcome = arena.play(episode, seed)
    rows = []
    for row, trace in zip(outcome.rows, outcome.traces, strict=True):
        goal = next(item["position"] for item in trace.scene["objects"] if item["id"] == trace.goal_object)
        believed = trace.remembered_goal
        error = float("nan") if believed is None else ((believed[0] - goal[0]) ** 2 + (believed[1] - goal[1]) ** 2) ** 0.5
        diagnostics = getattr(arena.agents[row.agent], "diagnostics", None)
        rate = diagnostics()["plans_per_second"] if callable(diagnostics) else float("nan")
        rows.append(StateRow(source, task, seed, row.agent, row.success, row.spl, row.steps, row.bumps, error, rate))
        print(", ".join(f"{f.name} {getattr(rows[-1], f.name)}" for f in fields(StateRow)), flush=True)
    return rows


def show(rows: list[StateRow]) -> None:
    """Success with Wilson's interval, in Markdown."""
    agents, tasks = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("agent", "task"))
    print("| task | " + " | ".join(agents) + " |\n|" + "---|" * (len(agents) + 1))
    for task in tasks:
        cells = []
        for agent in agents:
            own = [row.success for row in rows if (row.task, row.agent) == (task, agent)]
            e = wilson_interval(int(sum(own)), len(own))
            cells.append(f"{sum(own):.0f} / {len(own)} [{100 * e.low:.0f}, {100 * e.high:.0f}] %")
        print(f"| {task} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
