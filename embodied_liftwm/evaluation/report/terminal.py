"""Tables of the report in the terminal: their first columns, each figure with its interval below it."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from embodied_liftwm.evaluation.report import tables


def result_tables(metrics: dict[str, Any]) -> list[Table]:
    """The report's first columns for the terminal, each figure with its interval."""
    labels = tables.labels_of(metrics["models"])
    views, agents = metrics.get("views"), metrics.get("navigation", {}).get("agents")
    images, geometry, calibration = tables.view_columns(views) if views else ((), (), ())
    parts = (
        ("novel views", views, labels, (*images[:2], *geometry[:1])),
        ("calibration of seen", views, labels, calibration[:3]),
        ("surprise", metrics.get("surprise"), labels, tables.SURPRISE_COLUMNS),
        ("persistence", metrics.get("persistence"), labels, tables.PERSISTENCE_COLUMNS[:3]),
        ("navigation", agents, tables.AGENTS, tables.navigation_columns(agents)[:3] if agents else ()),
    )
    found = []
    for title, figures, names, columns in parts:
        if not figures or not columns:
            continue
        body = tables.figure_table(figures, names, columns, ())
        found.append(terminal_table(title, body))
    return found


def terminal_table(title: str, body: tables.Table, intervals: bool = True) -> Table:
    """A table of `report.tables` for the terminal, each figure with its interval below it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *body.titles):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for _, label, cells in body.rows:
        table.add_row(label, *(_text(cell, intervals) for cell in cells))
    return table


def _text(cell: tables.Cell, interval: bool) -> Text:
    below = f"\n{cell.interval.replace(' %', '')}" if interval and cell.interval else ""  # the unit stands with the value above
    return Text.assemble(cell.value, (below, "dim"))
