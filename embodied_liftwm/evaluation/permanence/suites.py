"""What a suite of the permanence benchmark is: how it measures, what its figures are, and what is shown of them.

A suite is one `Suite`. `liftwm evaluate suite=permanence` runs every suite of `benchmark.suites`, the registry, on every task
of `tasks=`: `measure` turns the episodes of the task's manifest into rows, `summarize` turns rows into figures, and `show` says
which tables and charts the terminal and the report make of them. Whoever acts comes from `liftwm_agents`, which this package
does not import: a suite in which someone acts is made by a function that takes a `MakeAgent`.

What comes with it for all suites alike: rows.csv, metrics.json, the report, the same figures from the same command. Rows
therefore hold no timings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.report.tables import Column


@dataclass(frozen=True)
class Row:
    """One thing measured. Suites derive their rows from this: numbers and words only, NaN where nothing was to be measured."""

    model: str  # `CheckedModel.name`, or who stands beside the models, such as "random" and "oracle"
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
    dashed: tuple[str, ...] = ()  # lines that are bounds, not models


@dataclass(frozen=True)
class Picture:
    """Frames of one episode side by side, and as a video."""

    name: str  # of the files in report/, without suffix
    title: str
    text: str
    lines: Mapping[str, np.ndarray]  # label -> frames [F, H, W, 3] uint8, as many in every line
    heads: Sequence[str] = ()  # [F] what stands over each frame
    svg: str = ""  # a plan, drawn beside the frames


Measure = Callable[[Sequence[CheckedModel], str, Sequence[int], EvaluateConfig], list[Row]]
"""(models, the first named "model"; task; seeds of its manifest in order; config) -> rows of every model.

Their order does not depend on `config.workers`. UserError where a model returns what it should not, or an episode is not the
one that was frozen.
"""
Summarize = Callable[[Sequence[Any], int, int], dict[str, Any]]
"""(rows of one task, resamples, seed) -> JSON-able figures by model, each an estimate as `Estimate.as_dict` gives it."""
Show = Callable[[Mapping[str, Any]], list[Table | Chart]]
"""Figures of one task -> tables and charts, in the order of the report."""
Illustrate = Callable[[Sequence[CheckedModel], str, Sequence[Any], EvaluateConfig], list[Picture]]
"""(models, task, rows, config) -> pictures of some episodes."""


@dataclass(frozen=True)
class Suite:
    """One suite of the permanence benchmark."""

    name: str  # key in metrics.json, column `suite` of rows.csv, word of `suite=`
    title: str  # heading in the report
    about: str  # what it asks and how, a paragraph of plain text
    measure: Measure | None  # None for a suite with a `question`
    summarize: Summarize
    show: Show
    illustrate: Illustrate | None = None
    tasks: tuple[str, ...] = ()  # tasks that it can be run on, without size ("Revisit"); empty for all
    rows: tuple[type[Row], ...] = ()  # classes of its rows
    pictures: tuple[str, str] = ("Pictures", "")  # heading and text above them
    ours: str = ""  # what it needs of an environment that those of liftwm_envs alone have; empty where any will do
    question: Any = None  # `watching.Question`: suites that have one are measured together, on tours watched once
