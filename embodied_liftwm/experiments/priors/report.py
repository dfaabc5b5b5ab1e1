"""Tables, figure and page of `liftwm reproduce priors`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.evaluation.report import charts, tables
from embodied_liftwm.evaluation.report.charts import Series
from embodied_liftwm.evaluation.report.page import template
from embodied_liftwm.evaluation.results_table import LABELS, POOLED, TableFigure, pooled
from embodied_liftwm.experiments.liftwm.report import about, print_table, settings_yaml
from embodied_liftwm.experiments.priors.doses import (
    CLEAN,
    GAINS,
    PURE_NOISE,
    UNWEIGHTED,
    UNWEIGHTED_HELD,
    WEIGHTED,
    WEIGHTED_HELD,
    DoseFigure,
    forms_of,
    response,
)
from embodied_liftwm.files import whole_file, write_text
from embodied_liftwm.run_folder import versions

AIM_DB, AIM_DEPTH, AIM_NOISE_DB = 0.8, -10.0, 0.1
"""What distillation over GLO is to gain, change depth RMSE by in percent at most, and what a teacher of pure noise may cost."""
TITLES = {"scale": "scale drift", "noise": "noise", "outliers": "outliers", "pose": "wrong poses"}
UNITS = {
    "scale": "deviation of log-scale at the end",
    "noise": "deviation of log-depth, and radians",
    "outliers": "share of pixels",
    "pose": "displacement (m)",
}
NAMES = {"psnr_seen": "PSNR", "depth_rmse_seen_m_change": "depth RMSE"}
COLOURS = {
    WEIGHTED: "var(--model)",
    UNWEIGHTED: "var(--baseline)",
    WEIGHTED_HELD: "var(--oracle)",
    UNWEIGHTED_HELD: "var(--shuffled)",
}
DRAWN = {WEIGHTED: "#2b6cb0", UNWEIGHTED: "#b0532b", WEIGHTED_HELD: "#2f855a", UNWEIGHTED_HELD: "#97266d"}
QUALITY = (
    tables.Column("teacher's AbsRel", ("teacher_abs_rel",), 3),
    tables.Column("within 10 %", ("teacher_within",), 0, percent=True),
)
ROW_COLUMNS = (
    tables.Column("PSNR (dB)", ("psnr_seen",), 2),
    tables.Column("gain", ("gain psnr_seen",), 2),
    tables.Column("depth RMSE (m)", ("depth_rmse_seen_m",), 3),
    tables.Column("change (m)", ("gain depth_rmse_seen_m",), 3),
    tables.Column("change (%)", ("gain depth_rmse_seen_m_change",), 1),
    tables.Column("normals (°)", ("normal_deg_seen",), 1),
    tables.Column("persistence", ("persistence",), 3),
    tables.Column("gain", ("gain persistence",), 3),
    *QUALITY,
)
DOSE_COLUMNS = (
    tables.Column("gain in PSNR (dB)", ("psnr_seen",), 2),
    tables.Column("depth RMSE (%)", ("depth_rmse_seen_m_change",), 1),
    tables.Column("normals (°)", ("normal_deg_seen",), 1),
    tables.Column("persistence", ("persistence",), 3),
    *QUALITY,
)


def row_table(figures: Sequence[TableFigure]) -> tables.Table:
    """One row a model, seeds pooled, on seen pixels; gains and changes are to the same base without a teacher."""
    found = pooled(figures)
    rows = {row: dict(own) for row, own in found.items() if " - " not in row}
    for row, own in found.items():
        if " - " in row:
            rows[row.partition(" - ")[0]] |= {f"gain {figure}": estimate for figure, estimate in own.items()}
    seeds = {row: len({f.seed for f in figures if f.row == row} - {POOLED, ""}) for row in rows}
    fewer = {row: f" ({n} of {max(seeds.values())} seeds)" if n < max(seeds.values()) else "" for row, n in seeds.items()}
    return tables.figure_table(rows, {row: _label(row) + fewer[row] for row in rows}, ROW_COLUMNS, ())


def dose_table(figures: Sequence[DoseFigure]) -> tables.Table:
    """One row a dose and form, seeds pooled: differences to GLO without a teacher."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for f in figures:
        if f.seed == POOLED and not math.isnan(f.dose):
            dose = "" if f.kind in (CLEAN, PURE_NOISE) else f" {f.dose:g}"
            ends = {end: None if math.isnan(value) else value for end, value in (("low", f.low), ("high", f.high))}
            label = f"{TITLES.get(f.kind, 'pure noise' if f.kind == PURE_NOISE else f.kind)}{dose}, {f.form}"
            rows.setdefault(label, {})[f.figure] = {"mean": f.mean} | ends
    return tables.figure_table(rows, {}, DOSE_COLUMNS, ())


def print_rows(console: Console, figures: Sequence[TableFigure]) -> None:
    """The table of teachers as they are."""
    print_table(
        console,
        "seen pixels of novel views, seeds pooled; gains and changes over the same without a teacher",
        row_table(figures),
    )


def print_doses(console: Console, figures: Sequence[DoseFigure]) -> None:
    """The table of corrupted teachers."""
    print_table(console, "corrupted teachers over +GLO: differences to +GLO without a teacher", dose_table(figures))


def headline(figures: Sequence[TableFigure], doses: Sequence[DoseFigure]) -> list[str]:
    """What the tables say, in a line for each claim, beside what is aimed at."""
    found, rows = [], pooled(figures)
    taught = [row for row in rows if row.endswith(" - glo")]
    for row in taught:
        gain, change = rows[row]["psnr_seen"], rows[row]["depth_rmse_seen_m_change"]
        teachers = row.partition(" - ")[0].split("+")[1:]
        text = f"distillation over GLO, {', '.join(teachers)}: {_told(gain, 2)} dB, depth RMSE {_told(change, 1)} %"
        if row == taught[-1]:  # all together, where there are several
            reached = gain["mean"] >= AIM_DB, change["mean"] <= AIM_DEPTH
            text += f" (aim: {AIM_DB:+g} dB, {_verdict(reached[0])}; {AIM_DEPTH:+g} %, {_verdict(reached[1])})"
        found.append(text)
    for f in doses:
        if (f.kind, f.seed, f.figure) == (PURE_NOISE, POOLED, "psnr_seen"):
            cost = f"pure noise, {f.form}, costs {-f.mean:.2f} dB [{-f.high:.2f}, {-f.low:.2f}]"
            found.append(f"{cost} (aim: less than {AIM_NOISE_DB:g} dB, {_verdict(-f.mean < AIM_NOISE_DB)})")
    for kind in _kinds(doses):
        for figure, name in NAMES.items():
            told = [form for form in forms_of(doses) if response(doses, kind, form, figure)]
            if told:
                turns = [f"{form} {_turn(doses, kind, form, figure)}" for form in told]
                found.append(f"{TITLES[kind]}, {name}: turns from help to harm {'; '.join(turns)} ({UNITS[kind]})")
    return found


def write(
    config: ReproduceConfig, folder: Path, results: Path, figures: Sequence[TableFigure], doses: Sequence[DoseFigure]
) -> Path:
    """Write the dose-response as SVG, and the page; returns the page."""
    if _kinds(doses):
        draw(doses, results / "priors_dose.svg")
    path = folder / "index.html"
    text = template("priors.html").render(
        about=about(config),
        headline=headline(figures, doses),
        rows=row_table(figures),
        doses=dose_table(doses) if doses else None,
        charts=[_chart(doses, kind) for kind in _kinds(doses)],
        agent_colours=_colours(figures, doses),
        versions=versions(),
        config_yaml=settings_yaml(config),
    )
    write_text(path, text)
    return path


def draw(doses: Sequence[DoseFigure], path: Path) -> None:
    """Gains over doses as SVG, a panel for each kind and figure, with intervals."""
    kinds, nan = _kinds(doses), float("nan")
    sheet = Figure(figsize=(3.2 * len(kinds), 5.6), layout="constrained")
    for row, (figure, sign) in zip(sheet.subplots(len(GAINS), len(kinds), squeeze=False), GAINS.items(), strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            for form in forms_of(doses):
                line = response(doses, kind, form, figure)
                ends = [[sign * getattr(f, end) if line else nan for f in line] for end in ("mean", "low", "high")]
                at = [f.dose for f in line]
                axes.plot(at, ends[0], "o-", color=DRAWN[form], label=form)
                axes.fill_between(at, ends[1], ends[2], color=DRAWN[form], alpha=0.2, linewidth=0)
            axes.axhline(0.0, color="#888888", linewidth=0.8)
            axes.set_xlabel(UNITS[kind])
            axes.set_title(TITLES[kind] if row[0].get_subplotspec().rowspan.start == 0 else "")
        row[0].set_ylabel("gain in PSNR, seen px (dB)" if figure == "psnr_seen" else "depth RMSE saved, seen px (%)")
        row[0].legend(frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "priors"}), whole_file(path) as partial:
        sheet.savefig(partial, format="svg", metadata={"Date": None})


def _chart(doses: Sequence[DoseFigure], kind: str) -> Markup:
    lines = []
    for form in forms_of(doses):
        line = response(doses, kind, form, "psnr_seen")
        lines.append((Series(form, COLOURS[form], [f.mean for f in line]), [f.dose for f in line]))
    return Markup(charts.line_chart(lines, f"{TITLES[kind]}: {UNITS[kind]}", "gain in PSNR (dB)"))


def _kinds(doses: Sequence[DoseFigure]) -> list[str]:
    return list(dict.fromkeys(f.kind for f in doses if f.kind in TITLES))


def _colours(figures: Sequence[TableFigure], doses: Sequence[DoseFigure]) -> dict[str, str]:
    rows = {key: "var(--model)" if key.startswith("glo") else "var(--baseline)" for key, _, _ in row_table(figures).rows}
    return rows | {key: COLOURS[key.partition(", ")[2]] for key, _, _ in dose_table(doses).rows}


def _label(row: str) -> str:
    base, *taught = row.split("+")
    return ", ".join([LABELS[base], *taught]) if len(taught) < 2 else f"{LABELS[base]}, all {len(taught)} teachers"


def _told(estimate: dict[str, Any], digits: int) -> str:
    """A difference with its sign, and its interval."""
    shown = tables.cell(estimate, digits)
    return f"{'+' if (estimate['mean'] or 0.0) >= 0 else ''}{shown.value} {shown.interval}".strip()


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def _turn(doses: Sequence[DoseFigure], kind: str, form: str, figure: str) -> str:
    """Where a gain turns, in words."""
    at = next(f.mean for f in doses if (f.kind, f.form, f.figure) == (kind, form, f"{figure}_turns_at"))
    if math.isnan(at):
        return f"nowhere up to {max(f.dose for f in response(doses, kind, form, figure)):g}"
    return f"at {at:.2g}" if at else "without corruption already"
