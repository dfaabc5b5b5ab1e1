"""What `liftwm reproduce agents` is after, held against its figures where the goal was hidden for long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALL, LONG = "all", "50+"
GAPS: dict[str, int] = {ALL: -1, LONG: 50}
"""Column `gap` -> the fewest steps at the call since the goal was last in view; all episodes count in "all"."""
POOLED = "pooled"
ORACLE_STATE = "planner_on_oracle_state"
MEMORYLESS = ("pixels", "frame_stack")
STATE_FACTOR, RECURRENT_POINTS, PLANNER_POINTS = 2.0, 20.0, 10.0
"""The state has at least so many times the success of the best memory-less agent, beats the recurrent one by so many points,
and the planner is within so many of the planner on the oracle's state."""


@dataclass(frozen=True)
class AgentFigure:
    """One agent in one task."""

    task: str
    agent: str
    seed: str  # of the training, or pooled; empty where nothing is trained
    gap: str  # of `GAPS`: which episodes
    steps: int  # trained; 0 where nothing is
    episodes: int  # judged
    success: float
    low: float
    high: float
    spl: float
    soft_spl: float


@dataclass(frozen=True)
class Aim:
    """One aim in one task."""

    task: str
    compared: str  # who with whom
    shares: tuple[float, float]  # their success
    value: float  # a factor, infinite over nothing; or points
    wanted: float
    episodes: int  # of the first

    @property
    def reached(self) -> bool:
        """Whether it is what was aimed at; points are held against it as they are shown, free of rounding."""
        return round(self.value, 9) >= self.wanted


def aims(figures: Sequence[AgentFigure], gap: str = LONG) -> list[Aim]:
    """Every aim whose agents were judged, task by task, on pooled figures."""
    found = list[Aim]()
    for task in dict.fromkeys(figure.task for figure in figures):
        own = {f.agent: f for f in figures if (f.task, f.gap) == (task, gap) and f.seed in ("", POOLED) and f.episodes}
        memoryless = max((own[name] for name in MEMORYLESS if name in own), key=lambda f: f.success, default=None)
        pairs: list[tuple[str, AgentFigure | None, float]] = [
            ("state", memoryless, STATE_FACTOR),
            ("state", own.get("recurrent"), RECURRENT_POINTS),
            ("planner", own.get(ORACLE_STATE), -PLANNER_POINTS),
        ]
        for name, other, wanted in pairs:
            if name in own and other is not None:
                mine, theirs = own[name].success, other.success
                value = _factor(mine, theirs) if other is memoryless else 100 * (mine - theirs)
                found.append(Aim(task, f"{name}, {other.agent}", (mine, theirs), value, wanted, own[name].episodes))
    return found


def aim_lines(figures: Sequence[AgentFigure], gap: str = LONG) -> list[str]:
    """The aims as lines to print. Values are of shares as they were measured: their intervals are in the table."""
    lines = [f"aims, goals hidden for {gap} steps:"]
    for aim in aims(figures, gap):
        ours, theirs = (f"{100 * share:.0f} %" for share in aim.shares)
        first, second = aim.compared.replace("_", " ").split(", ")
        of_factor = aim.wanted == STATE_FACTOR
        shown = f"x {aim.value:.2f}, aim x {aim.wanted:g}" if of_factor else f"{aim.value:+.1f} points, aim {aim.wanted:+g}"
        said = f"{first} {ours}, {'best memory-less, ' if of_factor else ''}{second} {theirs}: {shown}"
        lines.append(f"  {aim.task}: {said}, {'reached' if aim.reached else 'missed'} ({aim.episodes} episodes)")
    return lines if len(lines) > 1 else [f"aims: nothing to compare on goals hidden for {gap} steps"]


def _factor(mine: float, theirs: float) -> float:
    """How many times as much; 0 where neither has any."""
    return mine / theirs if theirs > 0 else math.inf if mine > 0 else 0.0
