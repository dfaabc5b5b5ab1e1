"""Charts for pages, drawn by matplotlib as SVG that stands in the page and takes its colours, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIZE = 6.6, 3.4
"""Inches, 72 units of the picture each: small, so that words stay legible where a phone shrinks it."""
DASH = 6.0
"""Length of the dashes of lines that lie on one another, in widths of the line."""
LARGEST_MARK = 17.0
"""Diameter of the mark of all cases in a reliability diagram, points."""
VARIABLES = {
    "var(--model)": "#2463d1", "var(--baseline)": "#d9730d", "var(--floor)": "#8b9097", "var(--shuffled)": "#a45bb0",
    "var(--oracle)": "#2f8f4e", "var(--text)": "#1d1f23", "var(--soft)": "#62666d", "var(--edge)": "#e3e4e6",
    "var(--grid)": "#d3d6da",
}  # fmt: skip
"""The page's colours (templates/style.html) and what matplotlib draws in their place, until they are put back into the SVG."""
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "charts", "font.family": "sans-serif", "font.size": 11,
    "text.color": VARIABLES["var(--text)"], "xtick.labelcolor": VARIABLES["var(--text)"], "xtick.major.pad": 7,
    "axes.labelcolor": VARIABLES["var(--soft)"], "ytick.labelcolor": VARIABLES["var(--soft)"],
    "xtick.color": VARIABLES["var(--edge)"], "ytick.color": VARIABLES["var(--edge)"],
    "axes.edgecolor": VARIABLES["var(--edge)"], "grid.color": VARIABLES["var(--edge)"],
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "lines.dash_capstyle": "butt", "lines.solid_capstyle": "butt",
}  # fmt: skip
COLOURS = ("#2b6cb0", "#b0532b", "#2f7d5b", "#c9a227", "#b86b8b", "#5aa7a7", "#7a5aa7", "#97266d", "#8a8a8a", "#222222")


@dataclass(frozen=True)
class Line:
    """A line of a chart, with intervals where they are finite."""

    label: str
    at: Sequence[float]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    colour: str = COLOURS[0]


@dataclass(frozen=True)
class Panel:
    """One chart."""

    x: str
    y: str
    lines: Sequence[Line]
    title: str = ""
    ticks: Mapping[float, str] = field(default_factory=dict)  # place -> label; empty for numbers
    log: bool = False  # the horizontal axis
    level: float | None = None  # a horizontal line


@dataclass(frozen=True)
class Series:
    """One line or one group of bars. `low` and `high` are interval ends; None where there is none."""

    label: str
    colour: str  # one of VARIABLES, or a colour that CSS and matplotlib know
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False

    @classmethod
    def of(cls, label: str, colour: str, estimates: Sequence[Mapping[str, Any]], dashed: bool = False) -> Series:
        """Of estimates as `Estimate.as_dict` gives them."""
        mean, low, high = ([estimate.get(end) for estimate in estimates] for end in ("mean", "low", "high"))
        return cls(label, colour, mean, low, high, dashed)

    @property
    def known(self) -> list[int]:
        """Positions that have a value."""
        return [i for i, value in enumerate(self.values) if value is not None and math.isfinite(value)]


def category_chart(
    categories: Sequence[str], series: Sequence[Series], y_label: str, top: float, notes: Sequence[str] = ()
) -> str:
    """Points with intervals over named categories, joined within a series.

    Args:
        categories: names on the x axis.
        series: one value a category each.
        y_label: with its unit.
        top: upper end of the y axis, which begins at 0; both give way to values beyond them.
        notes: a second line under each category.
    """
    with _chart(series, y_label) as (axes, page):
        for k, line in enumerate(series):
            beside = (k - (len(series) - 1) / 2) * min(0.12, 0.6 / len(series))
            alike = [other for other in series if list(other.values) == list(line.values)]
            _draw(axes, line, [i + beside for i in range(len(categories))], turn=(alike.index(line), len(alike)))
        _name(axes, [f"{name}\n{note}" for name, note in zip(categories, [*notes, *[""] * len(categories)], strict=False)])
        _span(axes, series, top)
    return page[0]


def bar_chart(categories: Sequence[str], series: Sequence[Series], y_label: str, top: float) -> str:
    """Groups of bars with intervals; one group a category, one bar a series. Arguments as `category_chart`."""
    with _chart(series, y_label) as (axes, page):
        width = 0.7 / max(len(series), 1)
        for k, bars in enumerate(series):
            for i in bars.known:
                value, x = float(bars.values[i] or 0.0), i + (k - (len(series) - 1) / 2) * width
                ink = _ink(bars.colour)
                axes.bar(x, value, 0.9 * width, color=ink, edgecolor=ink, linewidth=1)  # the edge of a bar of 0 is seen
                _whisker(axes, bars, i, x)
                above = max([value, *[end for end in bars.high[i : i + 1] if end is not None]])
                axes.annotate(f"{value:.2f}", (x, above), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        _name(axes, categories)
        _span(axes, series, top)
    return page[0]


def line_chart(lines: Sequence[tuple[Series, Sequence[float]]], x_label: str, y_label: str) -> str:
    """Curves over a numeric x axis; empty where there is nothing to draw.

    Args:
        lines: each series with its x values.
        x_label: with its unit.
        y_label: with its unit.
    """
    if not any(line.known for line, _ in lines):
        return ""
    with _chart([line for line, _ in lines], y_label) as (axes, page):
        for line, at in lines:
            xs, ys = [at[i] for i in line.known], [float(line.values[i] or 0.0) for i in line.known]
            axes.plot(xs, ys, "--" if line.dashed else "-" if len(xs) > 1 else "o", color=_ink(line.colour), clip_on=False)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(x_label)
    return page[0]


def reliability_chart(curves: Sequence[tuple[Series, Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> str:
    """What came true over what was forecast, with intervals; a calibrated forecast lies on the diagonal.

    Args:
        curves: each series with its x values and the share of all cases behind each point, which is the area of its mark.
        x_label: of the forecast. [0, 1]
        y_label: of the share that came true. [0, 1]
    """
    with _chart([line for line, _, _ in curves], y_label) as (axes, page):
        axes.plot([0, 1], [0, 1], "--", color=_ink("var(--soft)"), linewidth=1, clip_on=False)
        for line, at, shares in curves:
            _draw(axes, line, at, [max(3.0, LARGEST_MARK * math.sqrt(share)) for share in shares])
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(0.0, 1.0)
        axes.set_xlabel(x_label)
    return page[0]


def inline(figure: Figure, kind: str) -> str:
    """A figure as an SVG element of a CSS class, as wide as its place: without head and clipping, in the page's colours."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>|\n *(?=<)", "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="url\(#\w+\)"| id="[a-zA-Z]+_\d+"| (?:width|height)="[\d.]+pt"', "", svg)
    for css, ink in VARIABLES.items():
        svg = svg.replace(ink, css)
    return svg.replace("<svg ", f'<svg class="{kind}" role="img" ', 1).strip()


def _ink(colour: str) -> str:
    return VARIABLES.get(colour, colour)


@contextmanager
def _chart(series: Sequence[Series], y_label: str) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; when the block ends, the list holds the chart below the names of the series that it shows."""
    page: list[str] = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.set_ylabel(y_label)
        yield axes, page
        keys = [(one.colour, one.label) for one in series if one.label and one.known]
        named = "".join(f'<span class="key"><i style="background:{c}"></i>{escape(label)}</span>' for c, label in keys)
        page.append(f'<div class="keys">{named}</div>{inline(figure, "chart")}')


def _draw(axes: Axes, line: Series, at: Sequence[float], marks: Sequence[float] = (), turn: tuple[int, int] = (0, 1)) -> None:
    """Points that are there, with their intervals, joined.

    Args:
        axes: to draw on.
        line: the series.
        at: places on the x axis.
        marks: diameters, points.
        turn: which of how many lines of the same values it is: their dashes take turns, so that all are seen.
    """
    places, ink = [(at[i], float(line.values[i] or 0.0)) for i in line.known], _ink(line.colour)
    style: Any = "--" if line.dashed else "-"
    which, count = turn
    if count > 1:
        style = ((count - which) % count * DASH, (DASH, (count - 1) * DASH))
    axes.plot([math.floor(x + 0.5) if count > 1 else x for x, _ in places], [y for _, y in places], ls=style, color=ink)
    for i, (x, y) in zip(line.known, places, strict=True):
        _whisker(axes, line, i, x)
        size, alpha = (marks[i], 0.75) if marks else (6.0, 1.0)
        axes.plot(x, y, "o", color=ink, markersize=size, alpha=alpha, markeredgewidth=0, clip_on=False)


def _whisker(axes: Axes, series: Series, i: int, x: float) -> None:
    ends = [end[i] if i < len(end) else None for end in (series.low, series.high)]
    if None not in ends:
        heights, ink = [float(end or 0.0) for end in ends], _ink("var(--text)")
        axes.plot([x, x], heights, color=ink, alpha=0.7, linewidth=1.2, clip_on=False)


def _name(axes: Axes, categories: Sequence[str]) -> None:
    axes.set_xticks(range(len(categories)), list(categories))
    axes.set_xlim(-0.5, max(len(categories), 1) - 0.5)


def _span(axes: Axes, series: Sequence[Series], top: float) -> None:
    """From 0 to `top`, and farther where a value lies beyond."""
    values = [line.values[i] or 0.0 for line in series for i in line.known]
    axes.set_ylim(min([0.0, *(1.05 * value for value in values)]), max([top, *(1.05 * value for value in values)]))


def line(label: str, at: Sequence[float], estimates: Sequence[Mapping[str, Any]], colour: str = COLOURS[0]) -> Line:
    """A line of estimates with mean, low and high, of which the ends may be None."""
    means, lows, highs = ([np.nan if e[end] is None else float(e[end]) for e in estimates] for end in ("mean", "low", "high"))
    return Line(label, at, means, lows, highs, colour)


def svg(panels: Sequence[Panel], columns: int = 4, salt: str = "experiment") -> str:
    """Charts side by side, in rows of `columns`, as the text of an SVG that is the same for the same figures."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    sheet = Figure(figsize=(3.4 * columns, 3.1 * rows), layout="constrained")
    for axes, panel in zip(sheet.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in sheet.axes[len(panels) :]:
        axes.set_visible(False)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        sheet.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw_panel(axes: Any, panel: Panel) -> None:
    for shown in panel.lines:
        axes.plot(shown.at, shown.means, "o-", color=shown.colour, label=shown.label, linewidth=1.2, markersize=4)
        axes.fill_between(shown.at, shown.lows, shown.highs, color=shown.colour, alpha=0.2, linewidth=0)
        for at, low, high in zip(shown.at, shown.lows, shown.highs, strict=True) if len(shown.at) == 1 else ():
            axes.vlines(at, low, high, color=shown.colour)
    if panel.log:
        axes.set_xscale("log")
    if panel.ticks:
        axes.set_xticks(list(panel.ticks), list(panel.ticks.values()), rotation=45 if len(panel.ticks) > 5 else 0)
        axes.minorticks_off()
    if panel.level is not None:
        axes.axhline(panel.level, color="#888888", linewidth=0.8)
    axes.set(xlabel=panel.x, ylabel=panel.y, title=panel.title)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize=7)
