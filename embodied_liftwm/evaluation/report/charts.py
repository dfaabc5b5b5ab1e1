"""Charts as inline SVG: small, sharp, and coloured by the page's own variables, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 58
DASHES = ' stroke-dasharray="5 4"'
LARGEST_MARK = 14.0
"""Radius of the mark of all cases in a reliability diagram."""


@dataclass(frozen=True)
class Series:
    """One line or one group of bars. `low` and `high` are interval ends; None where there is none."""

    label: str
    colour: str  # a CSS colour, usually var(--model)
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False


def category_chart(
    categories: Sequence[str], series: Sequence[Series], y_label: str, top: float, notes: Sequence[str] = ()
) -> str:
    """Points with intervals over named categories, joined within a series.

    Args:
        categories: names on the x axis.
        series: one value a category each.
        y_label: with its unit.
        top: upper end of the y axis; it starts at 0.
        notes: a second line under each category.
    """
    step = (WIDTH - LEFT - RIGHT) / max(len(categories), 1)
    parts = [_y_axis(0.0, top, y_label)]
    for i, name in enumerate(categories):
        x = LEFT + (i + 0.5) * step
        parts.append(_text(x, HEIGHT - BOTTOM + 20, name))
        if i < len(notes):
            parts.append(_text(x, HEIGHT - BOTTOM + 36, notes[i], "note"))
    spread = min(0.12 * step, 14.0)
    for k, line in enumerate(series):
        offset = (k - (len(series) - 1) / 2) * spread
        places = [(LEFT + (i + 0.5) * step + offset, i) for i, value in enumerate(line.values) if value is not None]
        points = [(x, _y(float(line.values[i] or 0.0), 0.0, top)) for x, i in places]
        if len(points) > 1:
            alike = [s for s in series if list(s.values) == list(line.values)]
            dash = _turns(alike.index(line), len(alike), points[0][0]) if len(alike) > 1 else DASHES if line.dashed else ""
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
        for (x, y), (_, i) in zip(points, places, strict=True):
            parts.append(_whisker(x, line, i, 0.0, top))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{line.colour}"/>')
    return _figure(parts, series)


def bar_chart(categories: Sequence[str], series: Sequence[Series], y_label: str, top: float) -> str:
    """Groups of bars with intervals; one group a category, one bar a series. Arguments as `category_chart`."""
    step = (WIDTH - LEFT - RIGHT) / max(len(categories), 1)
    width = min(0.7 * step / max(len(series), 1), 48.0)
    parts = [_y_axis(0.0, top, y_label)]
    for i, name in enumerate(categories):
        middle = LEFT + (i + 0.5) * step
        parts.append(_text(middle, HEIGHT - BOTTOM + 20, name))
        for k, bars in enumerate(series):
            value = bars.values[i]
            if value is None:
                continue
            x, y = middle + (k - len(series) / 2) * width, _y(value, 0.0, top)
            size = f'width="{width - 3:.1f}" height="{max(HEIGHT - BOTTOM - y, 1):.1f}"'
            parts.append(f'<rect x="{x + 1.5:.1f}" y="{y:.1f}" {size} rx="2" fill="{bars.colour}"/>')
            parts.append(_whisker(x + width / 2, bars, i, 0.0, top))
            parts.append(_text(x + width / 2, _label_y(bars, i, y, top), f"{value:.2f}", "value"))
    return _figure(parts, series)


def line_chart(lines: Sequence[tuple[Series, Sequence[float]]], x_label: str, y_label: str) -> str:
    """Curves over a numeric x axis.

    Args:
        lines: each series with its x values.
        x_label: with its unit.
        y_label: with its unit.
    """
    xs = [x for _, at in lines for x in at]
    ys = [y for line, _ in lines for y in line.values if y is not None and math.isfinite(y)]
    if not xs or not ys:
        return ""
    right, (low, high) = max(xs) or 1.0, _nice_range(min(ys), max(ys))
    parts = [_y_axis(low, high, y_label), _text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - BOTTOM + 40, x_label, "note")]
    for tick in _ticks(0.0, right):
        parts.append(_text(LEFT + tick / right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM + 20, f"{tick:g}"))
    for line, at in lines:
        pairs = [(x, y) for x, y in zip(at, line.values, strict=True) if y is not None and math.isfinite(y)]
        path = " ".join(f"{LEFT + x / right * (WIDTH - LEFT - RIGHT):.1f},{_y(y, low, high):.1f}" for x, y in pairs)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
    return _figure(parts, [line for line, _ in lines])


def reliability_chart(curves: Sequence[tuple[Series, Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> str:
    """What came true over what was forecast, with intervals; a calibrated forecast lies on the diagonal.

    Args:
        curves: each series with its x values and the share of all cases behind each point, which is the area of its mark.
        x_label: of the forecast. [0, 1]
        y_label: of the share that came true. [0, 1]
    """
    wide = WIDTH - LEFT - RIGHT
    parts = [_y_axis(0.0, 1.0, y_label), _text(LEFT + wide / 2, HEIGHT - BOTTOM + 40, x_label, "note")]
    parts += [_text(LEFT + tick * wide, HEIGHT - BOTTOM + 20, f"{tick:g}") for tick in _ticks(0.0, 1.0)]
    ends = f'x1="{LEFT}" y1="{_y(0.0, 0.0, 1.0):.1f}" x2="{LEFT + wide}" y2="{_y(1.0, 0.0, 1.0):.1f}"'
    parts.append(f'<line class="diagonal" {ends} stroke="var(--soft)" stroke-dasharray="5 4"/>')
    for line, at, shares in curves:
        points = [(LEFT + x * wide, _y(float(y or 0.0), 0.0, 1.0)) for x, y in zip(at, line.values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        for i, ((x, y), share) in enumerate(zip(points, shares, strict=True)):
            parts.append(_whisker(x, line, i, 0.0, 1.0))
            radius = max(2.0, LARGEST_MARK * math.sqrt(share))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{line.colour}" fill-opacity="0.75"/>')
    return _figure(parts, [line for line, _, _ in curves])


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _y_axis(low: float, high: float, label: str) -> str:
    lines = []
    for tick in _ticks(low, high):
        y = _y(tick, low, high)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 8, y + 4, f"{tick:g}", "tick"))
    middle = TOP + (HEIGHT - BOTTOM - TOP) / 2
    lines.append(f'<text class="label" transform="translate(14 {middle}) rotate(-90)">{escape(label)}</text>')
    return "".join(lines)


def _turns(which: int, count: int, x: float, length: float = 10.0) -> str:
    """Dashes of the `which`-th of `count` lines that lie on one another, from x on: they take turns, so that all are seen."""
    return f' stroke-dasharray="{length:g} {(count - 1) * length:g}" stroke-dashoffset="{x - which * length:.1f}"'


def _whisker(x: float, series: Series, i: int, low: float, high: float) -> str:
    if i >= len(series.low) or series.low[i] is None or series.high[i] is None:
        return ""
    ends = [_y(min(max(float(v or 0.0), low), high), low, high) for v in (series.low[i], series.high[i])]
    return f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>'


def _label_y(series: Series, i: int, y: float, top: float) -> float:
    """Above the bar and above its whisker."""
    high = series.high[i] if i < len(series.high) else None
    return min(y, _y(min(high, top), 0.0, top) if high is not None else y) - 5


def _text(x: float, y: float, text: str, kind: str = "category") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _figure(parts: Sequence[str], series: Sequence[Series]) -> str:
    keys = "".join(
        f'<span class="key"><i style="background:{s.colour}"></i>{escape(s.label)}</span>' for s in series if s.label
    )
    body = "".join(parts)
    svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{body}</svg>'
    return f'<div class="keys">{keys}</div>{svg}'


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _nice_range(low: float, high: float) -> tuple[float, float]:
    """A little room around the data."""
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room
