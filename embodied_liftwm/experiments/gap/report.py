"""Tables and figure of `liftwm reproduce gap`."""

from __future__ import annotations

from collections.abc import Sequence

from embodied_liftwm.evaluation.report.charts import COLOURS, Line, Panel, svg
from embodied_liftwm.evaluation.report.tables import Cell, Table
from embodied_liftwm.experiments.engine import HONEST
from embodied_liftwm.experiments.gap.toy import ToyRow
from embodied_liftwm.experiments.gap.views import GLO, TWO_D, GapFigure
from embodied_liftwm.experiments.page import Section

PANELS = {"psnr_seen": "PSNR of displaced views, seen pixels (dB)", "abs_rel_seen": "depth error of displaced views (AbsRel)"}
GAIN = f"{GLO} - {TWO_D}"
COLUMNS = {
    "context PSNR": ("psnr_context", (TWO_D, GLO)),
    "PSNR": ("psnr_seen", (TWO_D, GLO, GAIN, *HONEST)),
    "AbsRel": ("abs_rel_seen", (TWO_D, GLO, GAIN, *HONEST)),
}


def toy_section(rows: Sequence[ToyRow]) -> Table:
    """What each set of terms knows, one row each; information is that in the worst direction."""
    cells = [
        (
            row.terms,
            row.terms,
            [Cell(text) for text in (f"{row.support_m:g}", f"{row.rank} of {row.points}", f"{row.least:.3g}", row.free)],
        )
        for row in rows
    ]
    return Table(["support m", "rank", "information", "left free"], cells)


def curve_sections(figures: Sequence[GapFigure]) -> list[Section]:
    """A row a support: the 2D loss, displaced views of both models with what GLO gains, and what learns nothing."""
    pooled = [f for f in figures if f.seed == "pooled"]
    found = []
    for loss, title in (("equal", "at equal 2D loss"), ("final", "at the end of training")):
        own = {(f.support_m, f.figure, f.model): f for f in pooled if f.loss == loss}
        names = [(title, figure, model) for title, (figure, models) in COLUMNS.items() for model in models]
        names = [name for name in names if any((figure, model) == name[1:] for _, figure, model in own)]
        rows = []
        for support in sorted({support for support, _, _ in own}):
            cells = [_cell(own.get((support, figure, model))) for _, figure, model in names]
            rows.append((f"{support:g}", f"{support:g} m" if support else "only turns", cells))
        titles = [f"{shown}: {model}" for shown, _, model in names]
        chart = svg([_panel(list(own.values()), *panel) for panel in PANELS.items()], salt="gap")
        words = "Views from away from where a model looked, pixels that it has seen."
        found.append(Section(f"Displaced views {title}, seen pixels", words, Table(titles, rows), chart))
    return found


def _cell(f: GapFigure | None) -> Cell:
    return Cell("–") if f is None else Cell(f"{f.mean:.2f}", f"[{f.low:.2f}, {f.high:.2f}]")


def _panel(figures: Sequence[GapFigure], figure: str, words: str) -> Panel:
    """Error of displaced views against camera support, pooled over seeds."""
    supports = sorted({f.support_m for f in figures})
    lines = []
    for i, model in enumerate((GLO, TWO_D)):
        own = [f for f in figures if (f.figure, f.model) == (figure, model)]
        means, lows, highs = ([getattr(f, end) for f in own] for end in ("mean", "low", "high"))
        lines.append(Line(model, [supports.index(f.support_m) for f in own], means, lows, highs, COLOURS[i]))
    ticks = {float(i): f"{s:g}" if s else "turns" for i, s in enumerate(supports)}
    return Panel("camera support (m)", words, lines, ticks=ticks)
