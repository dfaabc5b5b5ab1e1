"""The planning-budget curve: success, SPL and plans a second against the number of steps that a plan may imagine.

    python benchmarks/planner_budget.py results/planner_budget base Revisit-S 12

Writes `planner_budget.csv`, a row per setting and episode, and `planner_budget.svg`. Scenes are those of development; every
setting acts from the same state, for the tour is observed once. A plan is the search alone; a decision also observes, and reads
the state every fourth time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig, PlannerConfig
from embodied_liftwm.evaluation.navigation.arena import Arena, make_env
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.files import whole_file
from embodied_liftwm.protocols import Observation
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.planner import PlannerPolicy

SETTINGS: tuple[PlannerConfig, ...] = (
    *(PlannerConfig(num_samples=n, iterations=1) for n in (8, 32)),
    *(PlannerConfig(num_samples=n) for n in (32, 128, 512)),
    *(PlannerConfig(horizon=h) for h in (4, 24)),
    PlannerConfig(iterations=5),
    *(PlannerConfig(planner="cem", num_samples=n, num_elites=n // 8, iterations=i) for n, i in ((32, 2), (128, 2), (128, 5))),
)
"""The default one of `PlannerConfig`, and one thing changed at a time; CEM with the same budgets."""


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


class OneTour:
    """A model that observes a tour once, and gives back the same states when it is shown again."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._states: list[TensorTree] = []
        self._next, self.frames = 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def another(self) -> None:
        """Another tour comes."""
        self._states = []

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        """As the model; of the first `frames` frames, what it gave at the first showing."""
        self._next = 1 if bool(observation.is_first.any()) else self._next + 1
        if self._next <= len(self._states):
            return self._states[self._next - 1]
        found = self._model.observe(state, observation)
        if self._next <= self.frames:
            self._states.append(found)
        return found


class Timed(PlannerPolicy):
    """A planner that tells its model how long the tour is, and times its decisions after the first, which surveys."""

    def __init__(self, model: OneTour, *given: Any, **more: Any) -> None:
        self._tours, self.seconds = model, []  # type: ignore[var-annotated]
        super().__init__(model, *given, **more)  # type: ignore[arg-type]

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        self._tours.frames, self.seconds = len(tour["rgb"]), []
        super().begin(tour)

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any] | None = None) -> np.ndarray | int:
        started = time.perf_counter()
        action = super().act(obs, info)
        self.seconds.append(time.perf_counter() - started)
        return action


class Budgets(Arena):
    """Every setting in one environment."""

    def __init__(self, source: str, task: str) -> None:
        config = EvaluateConfig(env=task)
        self.env, self.model = make_env(config), OneTour(embodied_liftwm.load(source))
        space = self.env.action_space
        self.agents = {str(i): Timed(self.model, setting, space) for i, setting in enumerate(SETTINGS)}


def main(words: list[str]) -> None:
    """`OUT MODEL TASK EPISODES`"""
    if len(words) != 4:
        raise SystemExit("usage: python benchmarks/planner_budget.py OUT MODEL TASK EPISODES")
    out, source, task, count = Path(words[0]), words[1], words[2], int(words[3])
    torch.set_num_threads(1)
    arena, rows = Budgets(source, task), []
    for episode in range(count):
        arena.model.another()
        rows += play(arena, episode, EVAL_SEED_OFFSET + episode)
        if rows:
            write_rows(out.with_suffix(".csv"), rows)
            draw(rows, out.with_suffix(".svg"))
    arena.env.close()


def play(arena: Budgets, episode: int, seed: int) -> list[BudgetRow]:
    """All settings on one seed; nothing where it tests no memory."""
    rows = []
    for row in arena.play(episode, seed).rows:
        s, agent = SETTINGS[int(row.agent)], arena.agents[row.agent]
        assert isinstance(agent, Timed)
        rates = agent.diagnostics()["plans_per_second"], 1.0 / float(np.mean(agent.seconds[1:]))
        imagined = s.num_samples * s.horizon * s.iterations
        setting = s.planner, s.num_samples, s.horizon, s.iterations, imagined
        rows.append(BudgetRow(*setting, seed, row.success, row.spl, row.steps, *rates))
        print(rows[-1], flush=True)
    return rows


def draw(rows: list[BudgetRow], path: Path) -> None:
    """Success, SPL and plans a second over imagined steps a plan."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sheet, axes = pyplot.subplots(1, 3, figsize=(12, 3.4))
    for ax, figure, label in zip(
        axes, ("success", "spl", "plans_per_second"), ("success", "SPL", "plans a second, one core"), strict=True
    ):
        named = set[tuple[int, ...]]()
        for planner, mark in (("mppi", "o"), ("cem", "^")):
            points = sorted({(r.imagined_steps, r.num_samples, r.horizon, r.iterations) for r in rows if r.planner == planner})
            means = [
                np.mean([
                    getattr(r, figure)
                    for r in rows
                    if (r.planner, r.imagined_steps, r.num_samples, r.horizon, r.iterations) == (planner, *point)
                ])
                for point in points
            ]  # fmt: skip
            ax.plot([point[0] for point in points], means, mark, label=planner.upper())
            for point, mean in zip(points, means, strict=True):
                if point not in named:  # both planners at the same budget lie close together
                    ax.annotate(f"{point[1]}x{point[2]}x{point[3]}", (point[0], float(mean)), fontsize=6, rotation=40)
            named |= set(points)
        ax.set(xscale="log", xlabel="imagined steps a plan (samples x horizon x iterations)", ylabel=label)
        ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
        ax.grid(alpha=0.3)
    axes[0].legend(loc="lower right")
    sheet.tight_layout()
    with matplotlib.rc_context({"svg.hashsalt": "planner"}), whole_file(path) as partial:
        sheet.savefig(partial, format="svg", metadata={"Date": None})
    pyplot.close(sheet)


if __name__ == "__main__":
    main(sys.argv[1:])
