"""Tables and figure of `liftwm reproduce gap`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from embodied_liftwm.experiments.gap.toy import ToyRow
from embodied_liftwm.experiments.gap.views import GLO, TWO_D, GapFigure
from embodied_liftwm.files import whole_file

COLOURS = {TWO_D: "#b0532b", GLO: "#2b6cb0"}
PANELS = {"psnr_seen": "PSNR of displaced views, seen pixels (dB)", "abs_rel_seen": "depth error of displaced views (AbsRel)"}


def toy_table(title: str, rows: Sequence[ToyRow]) -> Table:
    """What each set of terms knows, one row each; information is that in the worst direction."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for name in ("support m", "terms", "rank", "information", "left free"):
        table.add_column(name, justify="left" if name in ("terms", "left free") else "right")
    for row in rows:
        table.add_row(f"{row.support_m:g}", row.terms, f"{row.rank} of {row.points}", f"{row.least:.3g}", row.free)
    return table


def curve_table(title: str, figures: Sequence[GapFigure]) -> Table:
    """One row a support: the 2D loss, and displaced views of both models with what GLO gains."""
    table = Table(title=f"Displaced views {title}, seen pixels, mean [95 % interval]", title_justify="left", box=SIMPLE_HEAD)
    for name in ("support m", "context PSNR, 2D and GLO", "PSNR: 2D", "GLO", "gain", "AbsRel: 2D", "GLO", "change"):
        table.add_column(name, justify="right")
    for support in sorted({f.support_m for f in figures}):
        own = {(f.figure, f.model): f for f in figures if f.support_m == support}
        levels = ", ".join(f"{own['psnr_context', model].mean:.2f}" for model in (TWO_D, GLO))
        shown = [
            _interval(own[figure, model])
            for figure in ("psnr_seen", "abs_rel_seen")
            for model in (TWO_D, GLO, f"{GLO} - {TWO_D}")
        ]
        table.add_row(f"{support:g}", levels, *shown)
    return table


def _interval(figure: GapFigure) -> str:
    return f"{figure.mean:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def draw(figures: Sequence[GapFigure], path: Path) -> None:
    """The curve at equal 2D loss, as SVG: error of displaced views against camera support, pooled over seeds."""
    supports = sorted({f.support_m for f in figures})
    sheet = Figure(figsize=(9.0, 3.4), layout="constrained")
    for axes, (figure, label) in zip(sheet.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for model, colour in COLOURS.items():
            own = [f for f in figures if (f.loss, f.seed, f.figure, f.model) == ("equal", "pooled", figure, model)]
            means, lows, highs = ([getattr(f, end) for f in own] for end in ("mean", "low", "high"))
            places = range(len(own))
            axes.plot(places, means, "o-", color=colour, label=model)
            axes.fill_between(places, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.set_xticks(range(len(supports)), [f"{s:g}" if s else "turns" for s in supports])
        axes.set_xlabel("camera support (m)")
        axes.set_ylabel(label)
        axes.legend(frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "gap"}), whole_file(path) as partial:
        sheet.savefig(partial, format="svg", metadata={"Date": None})
