"""What an experiment prints and draws: tables for the terminal and the page, charts, and the page itself.

A page is headline, sections and where it all comes from. A `Section` is a title, a few words, a table, and charts of `Panel`s;
the terminal shows the tables of the same sections, without differences and, where it is narrow, without intervals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from rich.console import Console

from embodied_liftwm.config import ReproduceConfig, TableConfig
from embodied_liftwm.evaluation.report import tables
from embodied_liftwm.evaluation.report.charts import COLOURS
from embodied_liftwm.evaluation.report.page import template
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.report.terminal import terminal_table
from embodied_liftwm.evaluation.results_table import TableFigure, pooled
from embodied_liftwm.files import write_text
from embodied_liftwm.run_folder import versions
from embodied_liftwm.terminal import plain_console

WIDE = 132
"""Columns of a terminal from which tables have intervals."""
MINUS = " - "
"""In the name of a row that is the difference of two."""


@dataclass(frozen=True)
class Section:
    """A part of a page, and of what is printed."""

    title: str
    words: str = ""  # may hold tags
    table: tables.Table | None = None
    chart: str = ""  # of `charts.svg`
    picture: Any = None  # of `report.page.strip_grid`


def table_of(
    figures: Sequence[TableFigure],
    columns: Sequence[Column],
    label: Callable[[str], str],
    order: Sequence[str],
    unranked: str = "",
) -> tables.Table:
    """Rows in this order, then the paired differences; columns that no row has are left out.

    Args:
        figures: seed by seed and pooled; the latter are shown.
        columns: of the table; `memory_kib` is made of `memory_bytes`, and so on.
        label: what a row is called.
        order: rows of the table.
        unranked: a row among which the best is not looked for, such as a ceiling.
    """
    found = pooled(figures)
    for own in found.values():
        for name in [name for name in own if name.endswith("_bytes")]:
            own[name.replace("_bytes", "_kib")] = own[name] | {"mean": own[name]["mean"] / 1024}
    rows = [*(row for row in order if row in found), *(row for row in found if MINUS in row)]
    kept = {row: found[row] for row in rows if any(column.path[0] in found[row] for column in columns)}
    shown = tuple(column for column in columns if any(column.path[0] in own for own in kept.values()))
    names = {
        row: " − ".join(label(end).partition(" (")[0] for end in row.split(MINUS)) if MINUS in row else label(row)
        for row in kept
    }
    return tables.figure_table(kept, names, shown, tuple(row for row in kept if MINUS not in row and row != unranked))


def print_table(console: Console, title: str, body: tables.Table) -> None:
    """One table of figures, without differences, and with intervals where there is room for them."""
    if not console.is_terminal:
        console = plain_console(width=WIDE)
    rows = [row for row in body.rows if MINUS not in row[0]]
    console.print(terminal_table(title, replace(body, rows=rows), console.width >= WIDE))


def print_rows(console: Console, title: str, rows: Sequence[Any], columns: Sequence[str]) -> None:
    """Columns of a dataclass, a line a row."""
    texts = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in (getattr(r, c) for c in columns)] for r in rows
    ]
    print_table(console, title, tables.Table(list(columns[1:]), [(t[0], t[0], [tables.Cell(x) for x in t[1:]]) for t in texts]))


def told(estimate: Mapping[str, Any], digits: int, sign: bool = True) -> str:
    """A difference with its sign, and its interval."""
    shown = tables.cell(dict(estimate), digits)
    return f"{'+' if sign and (estimate['mean'] or 0.0) >= 0 else ''}{shown.value} {shown.interval}".strip()


def verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def show(
    console: Console,
    config: ReproduceConfig,
    path: Path,
    title: str,
    about: str,
    headline: Sequence[str],
    sections: Sequence[Section],
) -> None:
    """Print the tables and the headline, and write the page.

    Args:
        console: of the terminal.
        config: all settings, which the page shows.
        path: of the page.
        title: of the page.
        about: what was compared on what.
        headline: what the tables say, in a line for each claim that they can decide.
        sections: in order.
    """
    for section in sections:
        if section.table is not None:
            print_table(console, section.title, section.table)
    for claim in headline:
        console.print(f"  {claim}", soft_wrap=True, markup=False)
    keys = list(dict.fromkeys(key for section in sections if section.table for key, _, _ in section.table.rows))
    page = template("experiment.html").render(
        title=title,
        about=Markup(about),
        headline=headline,
        sections=[(s, Markup(s.words), Markup(s.chart.partition("?>")[2].partition(">")[2])) for s in sections],
        agent_colours={key: COLOURS[i % len(COLOURS)] for i, key in enumerate(keys)},
        versions=versions(),
        config_yaml=yaml.safe_dump(json.loads(json.dumps(asdict(config))), sort_keys=False),
    )
    write_text(path, page)
    console.print(f"report: {path}")


def about_tables(config: TableConfig) -> str:
    """What a page says of an experiment on world models before its figures."""
    plural = "" if config.seeds == 1 else "s"
    return (
        f"{config.eval_episodes} held-out episodes of <code>{Markup.escape(config.collect.env)}</code>, scenes and layouts "
        f"that no training saw; {config.seeds} training seed{plural} of {config.train.steps} steps each, on "
        f"{config.collect.episodes} episodes. Intervals are 95 %, {config.bootstrap} bootstrap resamples over episodes, "
        "seeds pooled. <em>Untrained</em>: the same architecture with initial weights; <em>matching</em>: earlier frames "
        "are matched, no network says anything."
    )


def honest_lines(figures: Sequence[TableFigure], about: str, honest: Sequence[str], label: Callable[[str], str]) -> list[str]:
    """What the row that a table is about has over the best of the honest rows, which is the claim, figure by figure."""
    rows, found = pooled(figures), []
    for figure, name, digits, sign in (
        ("psnr_seen", "PSNR on seen pixels (dB)", 2, 1), ("abs_rel_seen", "depth AbsRel on seen pixels", 3, -1),
        ("persistence", "persistence", 3, 1),
    ):  # fmt: skip
        there = [row for row in honest if figure in rows.get(row, {}) and f"{about}{MINUS}{row}" in rows]
        if there and figure in rows.get(about, {}):
            best = max(there, key=lambda row: sign * rows[row][figure]["mean"])
            gain = told(rows[f"{about}{MINUS}{best}"][figure], digits)
            found.append(f"{name}, {label(about)} beside the best row that learns nothing, {label(best)}: {gain}")
    return found
