"""What a suite of the permanence benchmark is: how it measures, what its figures are, and what is shown of them.

A suite is one `Suite`. `liftwm evaluate suite=permanence` runs every suite of `embodied_liftwm.commands.permanence.suites()`,
the registry, on every task of `tasks=`: `measure` turns the episodes of the task's manifest into rows, `summarize` turns rows
into figures, and `show` says which tables and charts the terminal and the report make of them. The registry stands with the
commands because some suites act, and whoever acts comes from `liftwm_agents`, which this package does not import: such a
suite is made by a function that takes a `MakeAgent`.

What comes with it for all suites alike: rows.csv, metrics.json, the report, the same figures from the same command. Rows
therefore hold no timings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.navigation.arena import Agent
from embodied_liftwm.evaluation.report.tables import Column

MakeAgent = Callable[[Any, str, Any, int], Agent]
"""(world model, torch device, environment, seed) -> an agent that acts on what the model remembers.

It is sent to other processes: a function or a partial of one, no lambda.
"""


@dataclass(frozen=True)
class Row:
    """One thing measured. Suites derive their rows from this: numbers and words only, NaN where nothing was to be measured."""

    model: str  # `CheckedModel.name`, or the name of a floor or ceiling such as "random" and "oracle"
    task: str  # "Revisit-S"
    episode: int  # position in the task's manifest
    seed: int  # of the environment


@dataclass(frozen=True)
class Table:
    """A table: one row for each model."""

    title: str
    columns: tuple[Column, ...]  # paths into the figures of a row
    figures: Mapping[str, Any]  # model -> its figures: estimates as `Estimate.as_dict` gives them, nested by name
    text: str = ""  # what it means, a sentence or two of plain text
    terminal: bool = True  # printed when the command ends, too
    terminal_columns: int = 3  # so many of the columns there


@dataclass(frozen=True)
class Chart:
    """A chart: estimates over categories, one line or group of bars for each model."""

    title: str
    categories: Sequence[str]  # such as bins of gaps
    lines: Mapping[str, Sequence[Mapping[str, Any]]]  # model -> an estimate for each category (mean, low, high; None: nothing)
    y_label: str  # with its unit
    top: float  # upper end of the y axis, which begins at 0
    text: str = ""
    notes: Sequence[str] = ()  # a second line under each category
    bars: bool = False  # bars beside one another, not a curve
    dashed: tuple[str, ...] = ()  # lines that are floors or ceilings


@dataclass(frozen=True)
class Picture:
    """Frames of one episode side by side, and as a video."""

    name: str  # of the files in report/, without suffix
    title: str
    text: str
    lines: Mapping[str, np.ndarray]  # label -> frames [F, H, W, 3] uint8, as many in every line
    heads: Sequence[str] = ()  # [F] what stands over each frame
    svg: str = ""  # a plan, drawn beside the frames


class Measure(Protocol):
    """Runs one task."""

    def __call__(self, models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig) -> list[Row]:
        """Rows of every model, in an order that does not depend on `config.workers`.

        Args:
            models: those to be judged, the first named "model".
            task: such as "Revisit-S".
            seeds: of the episodes, in the manifest's order: episode i has seeds[i].
            config: `workers`, `engine`, `device`, `seed` and what else concerns the suite.

        Raises:
            UserError: a model returns what it should not; an episode is not the one that was frozen.
        """
        ...


class Summarize(Protocol):
    """Turns the rows of one task into figures."""

    def __call__(self, rows: Sequence[Any], resamples: int, seed: int) -> dict[str, Any]:
        """JSON-able figures by model, each an estimate with its interval (`Estimate.as_dict`)."""
        ...


class Show(Protocol):
    """Chooses what is shown."""

    def __call__(self, summary: Mapping[str, Any]) -> list[Table | Chart]:
        """Tables and charts of one task's summary, in the order of the report."""
        ...


class Illustrate(Protocol):
    """Draws some episodes, for a suite that has pictures to show."""

    def __call__(self, models: Sequence[CheckedModel], task: str, rows: Sequence[Any], config: EvaluateConfig) -> list[Picture]:
        """Pictures for the report."""
        ...


@dataclass(frozen=True)
class Suite:
    """One suite of the permanence benchmark."""

    name: str  # key in metrics.json, column `suite` of rows.csv, word of `parts=`
    title: str  # heading in the report
    about: str  # what it asks and how, a paragraph of plain text
    measure: Measure
    summarize: Summarize
    show: Show
    illustrate: Illustrate | None = None
    tasks: tuple[str, ...] = ()  # tasks that it can be run on, without size ("Revisit"); empty for all
    rows: tuple[type[Row], ...] = ()  # classes of the rows that `measure` returns
    pictures: tuple[str, str] = ("Pictures", "")  # heading and text above them
    question: Any = None  # `watched_worlds.Question`: suites that have one are measured together, on tours watched once
