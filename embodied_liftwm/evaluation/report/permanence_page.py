"""The report of the permanence benchmark: `report/index.html`, with the videos that it shows beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from embodied_liftwm.data.video import write_mp4
from embodied_liftwm.evaluation.permanence.suites import Chart, Picture, Suite, Table
from embodied_liftwm.evaluation.report import charts, pictures, tables
from embodied_liftwm.evaluation.report.charts import Series
from embodied_liftwm.evaluation.report.page import template
from embodied_liftwm.evaluation.report.terminal import terminal_table
from embodied_liftwm.files import write_text

COLOURS = {
    "model": "var(--model)",
    "baseline": "var(--baseline)",
    "last_frame": "var(--shuffled)",
    "floor": "var(--floor)",
    "random": "var(--floor)",
    "mean place": "var(--floor)",
    "oracle": "var(--oracle)",
}
MORE_COLOURS = ("#5aa7a7", "#c9a227", "#b86b8b", "#7a8f3c", "#6d6fb5")
"""Of models and conditions without a colour of their own, in turn."""
SHOWN_FRAMES = 8
"""Frames of an episode on the page; the video has all."""
RANKED = ("model", "baseline", "last_frame")
"""Rows among which the best figure is marked."""

Pictures = Mapping[tuple[str, str], Sequence[Picture]]
"""(task, suite) -> its pictures."""


def write_page(
    folder: Path, metrics: dict[str, Any], chosen: Sequence[Suite], labels: dict[str, str], drawn: Pictures, config_yaml: str
) -> Path:
    """Write the page and its videos, each whole or not at all.

    Args:
        folder: OUT/report.
        metrics: what metrics.json holds.
        chosen: the suites that were run, in order.
        labels: model -> how the page calls it.
        drawn: pictures by task and suite.
        config_yaml: the resolved configuration.
    """
    parts = [_part(folder, suite, metrics["tasks"], labels, drawn) for suite in chosen]
    text = template("permanence.html").render(
        metrics=metrics,
        labels=labels,
        parts=[part for part in parts if part["tasks"]],
        agent_colours=colours_of(labels),
        cards=_cards(metrics["tasks"]),
        config_yaml=config_yaml,
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def colours_of(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """A colour for each name: its own, else one of `MORE_COLOURS` in turn."""
    others = [name for name in names if name not in COLOURS]
    return COLOURS | {name: MORE_COLOURS[i % len(MORE_COLOURS)] for i, name in enumerate(others)}


def _part(folder: Path, suite: Suite, tasks: Mapping[str, Any], labels: dict[str, str], drawn: Pictures) -> dict[str, Any]:
    """One suite: its heading, and what it shows of each task."""
    shown = []
    for task in (task for task in tasks if suite.name in tasks[task]):
        items = [_item(item, labels) for item in suite.show(tasks[task][suite.name])]
        films = [_film(folder, picture) for picture in drawn.get((task, suite.name), ())]
        shown.append({"task": task, "items": [item for item in items if item], "films": films})
    return {"title": suite.title, "about": suite.about, "tasks": shown, "pictures": suite.pictures}


def _item(item: Table | Chart, labels: dict[str, str]) -> dict[str, Any]:
    """What the template needs of a table or a chart; empty for a table of nothing."""
    about = {"title": item.title, "text": item.text}
    if isinstance(item, Chart):
        return about | {"chart": _chart(item, labels)}
    if not item.figures:
        return {}
    return about | {"table": tables.figure_table(dict(item.figures), labels, item.columns, RANKED)}


def _chart(chart: Chart, labels: dict[str, str]) -> Markup:
    colours = colours_of(list(chart.lines))
    lines = [
        Series.of(labels.get(name, name), colours[name], estimates, name in chart.dashed)
        for name, estimates in chart.lines.items()
    ]
    if chart.bars:
        return Markup(charts.bar_chart(chart.categories, lines, chart.y_label, chart.top))
    return Markup(charts.category_chart(chart.categories, lines, chart.y_label, chart.top, chart.notes))


def _film(folder: Path, picture: Picture) -> dict[str, Any]:
    """Write the video; the page shows a few of its frames."""
    frames = np.concatenate(list(picture.lines.values()), axis=2)
    write_mp4(folder / f"{picture.name}.mp4", frames)
    which = np.unique(np.linspace(0, len(frames) - 1, SHOWN_FRAMES).round().astype(int)).tolist()
    rows = [
        {"label": label, "images": [pictures.data_uri(pictures.frame_picture(own[i] / 255.0)) for i in which]}
        for label, own in picture.lines.items()
    ]
    heads = [((picture.heads[i] if picture.heads else f"{i}"), "") for i in which]
    return {
        "title": picture.title, "text": picture.text, "heads": heads, "rows": rows, "svg": Markup(picture.svg),
        "video": f"{picture.name}.mp4", "beside": " | ".join(picture.lines),
    }  # fmt: skip


def _cards(tasks: Mapping[str, Any]) -> list[dict[str, str]]:
    """Of each task: how often the planner on the model arrives, beside everyone else."""
    found = []
    for task, by_suite in tasks.items():
        acted = by_suite.get("readings", {}).get("act", {})
        if "model" not in acted:
            continue
        own = tables.cell(acted["model"]["success"], 0, percent=True)
        names = (("last_frame", "last frame alone"), ("baseline", "baseline"), ("random", "random"), ("oracle", "oracle"))
        beside = [
            f"{label} {tables.cell(acted[key]['success'], 0, percent=True).value}" for key, label in names if key in acted
        ]
        name = f"of objects called in {task} are reached"
        found.append({"value": own.value, "interval": own.interval, "name": name, "beside": " · ".join(beside)})
    return found


def terminal_tables(metrics: dict[str, Any], chosen: Sequence[Suite], labels: dict[str, str]) -> list[Any]:
    """The first columns of every table that is meant for the terminal."""
    found = []
    for task, by_suite in metrics["tasks"].items():
        for suite in (suite for suite in chosen if suite.name in by_suite):
            for shown in suite.show(by_suite[suite.name]):
                if isinstance(shown, Table) and shown.terminal and shown.figures:
                    body = tables.figure_table(dict(shown.figures), labels, shown.columns[: shown.terminal_columns], ())
                    found.append(terminal_table(f"{task}: {shown.title}", body))
    return found
