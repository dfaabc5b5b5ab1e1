"""Tables, figure and claims of `liftwm reproduce priors`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from embodied_liftwm.evaluation.report.charts import COLOURS, Line, Panel, svg
from embodied_liftwm.evaluation.report.tables import Column, Table, figure_table
from embodied_liftwm.evaluation.results_table import POOLED, TableFigure, pooled
from embodied_liftwm.experiments.engine import HONEST
from embodied_liftwm.experiments.liftwm import LABELS
from embodied_liftwm.experiments.page import MINUS, Section, honest_lines, told, verdict
from embodied_liftwm.experiments.priors.doses import CLEAN, GAINS, PURE_NOISE, DoseFigure, forms_of, response

AIM_DB, AIM_DEPTH, AIM_NOISE_DB = 0.8, -10.0, 0.1
"""What distillation over GLO is to gain, change depth RMSE by in percent at most, and what a teacher of pure noise may cost."""
TITLES = {"noise": "noise", "outliers": "outliers"}
UNITS = {"noise": "deviation of log-depth, and radians", "outliers": "share of pixels"}
NAMES = {"psnr_seen": "PSNR", "depth_rmse_seen_m_change": "depth RMSE"}
AXES = {"psnr_seen": "gain in PSNR, seen px (dB)", "depth_rmse_seen_m_change": "depth RMSE saved, seen px (%)"}
QUALITY = (
    Column("teacher's AbsRel", ("teacher_abs_rel",), 3),
    Column("within 10 %", ("teacher_within",), 0, percent=True),
)
ROW_COLUMNS = (
    Column("PSNR (dB)", ("psnr_seen",), 2),
    Column("gain", ("gain psnr_seen",), 2),
    Column("depth RMSE (m)", ("depth_rmse_seen_m",), 3),
    Column("change (m)", ("gain depth_rmse_seen_m",), 3),
    Column("change (%)", ("gain depth_rmse_seen_m_change",), 1),
    Column("normals (°)", ("normal_deg_seen",), 1),
    Column("persistence", ("persistence",), 3),
    Column("gain", ("gain persistence",), 3),
    *QUALITY,
)
DOSE_COLUMNS = (
    Column("gain in PSNR (dB)", ("psnr_seen",), 2),
    Column("depth RMSE (%)", ("depth_rmse_seen_m_change",), 1),
    Column("normals (°)", ("normal_deg_seen",), 1),
    Column("persistence", ("persistence",), 3),
    *QUALITY,
)


def sections(figures: Sequence[TableFigure], doses: Sequence[DoseFigure]) -> list[Section]:
    """Teachers as they are, and made worse."""
    words = (
        "Each model is trained with the same steps on the same episodes as the one without a teacher; gains and changes "
        "are to that one, paired view by view. A teacher's own AbsRel is that of its depth maps of the training episodes, "
        "once aligned in what their convention leaves open. Figures are of pixels that show surfaces which some observed "
        "frame has shown."
    )
    found = [Section("teachers as they are: seen pixels of novel views, seeds pooled", words, row_table(figures))]
    if doses:
        words = (
            "One teacher, corrupted by a stated dose, over +GLO. <em>Weighted</em>: its confidence knows how likely the "
            "corruption leaves a pixel right. <em>Unweighted</em>: the same numbers, equally sure everywhere. Above 0 the "
            "teacher still helps."
        )
        charts = [_panel(doses, kind, figure) for figure in GAINS for kind in _kinds(doses)]
        chart = svg(charts, len(_kinds(doses)), "priors") if charts else ""
        title = "teachers made worse: differences to +GLO without a teacher"
        found.append(Section(title, words, dose_table(doses), chart))
    return found


def row_table(figures: Sequence[TableFigure]) -> Table:
    """One row a model, seeds pooled, on seen pixels; gains and changes are to the same base without a teacher."""
    found = pooled(figures)
    rows = {row: dict(own) for row, own in found.items() if MINUS not in row}
    for row, own in found.items():
        ours, _, base = row.partition(MINUS)
        if base and base not in HONEST:
            rows[ours] |= {f"gain {figure}": estimate for figure, estimate in own.items()}
    seeds = {row: len({f.seed for f in figures if f.row == row} - {POOLED, ""}) for row in rows}
    fewer = {row: f" ({n} of {max(seeds.values())} seeds)" if n < max(seeds.values()) else "" for row, n in seeds.items()}
    return figure_table(rows, {row: _label(row) + fewer[row] for row in rows}, ROW_COLUMNS, ())


def dose_table(figures: Sequence[DoseFigure]) -> Table:
    """One row a dose and form, seeds pooled: differences to GLO without a teacher."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for f in figures:
        if f.seed == POOLED and not math.isnan(f.dose):
            dose = "" if f.kind in (CLEAN, PURE_NOISE) else f" {f.dose:g}"
            ends = {end: None if math.isnan(value) else value for end, value in (("low", f.low), ("high", f.high))}
            label = f"{TITLES.get(f.kind, f.kind.replace('_', ' '))}{dose}, {f.form}"
            rows.setdefault(label, {})[f.figure] = {"mean": f.mean} | ends
    return figure_table(rows, {}, DOSE_COLUMNS, ())


def headline(figures: Sequence[TableFigure], doses: Sequence[DoseFigure]) -> list[str]:
    """What the tables say, in a line for each claim, beside what is aimed at."""
    found, rows = list[str](), pooled(figures)
    taught = [row for row in rows if row.endswith(" - glo")]
    for row in taught:
        gain, change = rows[row]["psnr_seen"], rows[row]["depth_rmse_seen_m_change"]
        teachers = row.partition(MINUS)[0].split("+")[1:]
        text = f"distillation over GLO, {', '.join(teachers)}: {told(gain, 2)} dB, depth RMSE {told(change, 1)} %"
        if row == taught[-1]:  # all together, where there are several
            text += f" (aim: {AIM_DB:+g} dB, {verdict(gain['mean'] >= AIM_DB)};"
            text += f" {AIM_DEPTH:+g} %, {verdict(change['mean'] <= AIM_DEPTH)})"
        found.append(text)
    for f in doses:
        if (f.kind, f.seed, f.figure) == (PURE_NOISE, POOLED, "psnr_seen"):
            cost = f"pure noise, {f.form}, costs {-f.mean:.2f} dB [{-f.high:.2f}, {-f.low:.2f}]"
            found.append(f"{cost} (aim: less than {AIM_NOISE_DB:g} dB, {verdict(-f.mean < AIM_NOISE_DB)})")
    for kind in _kinds(doses):
        for figure, name in NAMES.items():
            forms = [form for form in forms_of(doses) if response(doses, kind, form, figure)]
            if forms:
                turns = [f"{form} {_turn(doses, kind, form, figure)}" for form in forms]
                found.append(f"{TITLES[kind]}, {name}: turns from help to harm {'; '.join(turns)} ({UNITS[kind]})")
    return found + honest_lines(figures, "glo", tuple(HONEST), _label)


def _panel(doses: Sequence[DoseFigure], kind: str, figure: str) -> Panel:
    """Gains over the doses of a kind."""
    lines = []
    for i, form in enumerate(forms_of(doses)):
        own = response(doses, kind, form, figure)
        means, lows, highs = ([GAINS[figure] * getattr(f, end) for f in own] for end in ("mean", "low", "high"))
        lines.append(Line(form, [f.dose for f in own], means, lows, highs, COLOURS[i]))
    return Panel(UNITS[kind], AXES[figure], lines, TITLES[kind], level=0.0)


def _kinds(doses: Sequence[DoseFigure]) -> list[str]:
    return list(dict.fromkeys(f.kind for f in doses if f.kind in TITLES))


def _label(row: str) -> str:
    base, *taught = row.split("+")
    return ", ".join([LABELS[base], *taught]) if len(taught) < 2 else f"{LABELS[base]}, all {len(taught)} teachers"


def _turn(doses: Sequence[DoseFigure], kind: str, form: str, figure: str) -> str:
    """Where a gain turns, in words."""
    at = next(f.mean for f in doses if (f.kind, f.form, f.figure) == (kind, form, f"{figure}_turns_at"))
    if math.isnan(at):
        return f"nowhere up to {max(f.dose for f in response(doses, kind, form, figure)):g}"
    return f"at {at:.2g}" if at else "without corruption already"
