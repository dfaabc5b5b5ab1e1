"""`liftwm reproduce liftwm`: what each part of the objective brings (`engine.py` says what is written where).

    OUT/liftwm/cost.csv                          what calls cost at each budget
    RESULTS/liftwm.csv, liftwm_budget.csv        figures with intervals
    RESULTS/liftwm_budget.svg, liftwm_strip.png  the budget curve; true, predicted, error, depth, normals

Every model that is trained has the same encoder, decoder, data, number of steps, seeds, and about as large a state. `none` and
`oracle` are the weights of `glo`: one forgets all but the last frame, the other lifts the true depth of the episodes that it is
judged on (`evaluation/views/bounds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from embodied_liftwm.config import ReproduceLiftwmConfig, TrainConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import CostRow
from embodied_liftwm.evaluation.metrics.persistence import GAP_BINS
from embodied_liftwm.evaluation.report import pictures, tables
from embodied_liftwm.evaluation.report.charts import COLOURS, Panel, line, svg
from embodied_liftwm.evaluation.report.page import strip_grid, strip_sheet
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.results_table import (
    COMPARED,
    GEOMETRY_COLUMNS,
    IMAGE_COLUMNS,
    PERSISTENCE_COLUMNS,
    TableFigure,
    persistence_figure,
    pooled,
    table_figures,
)
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.summary import gap_label
from embodied_liftwm.evaluation.views.bounds import LastFrame, with_true_depth
from embodied_liftwm.evaluation.views.budget_curve import BudgetFigure, curve_figures, measure_costs
from embodied_liftwm.evaluation.views.strips import Strip, choose_revisits, make_strip
from embodied_liftwm.experiments.engine import HONEST, Experiment, Make, as_it_is, at, without_geometry
from embodied_liftwm.experiments.page import MINUS, Section, about_tables, honest_lines, show, table_of, told
from embodied_liftwm.files import write_bytes, write_text
from embodied_liftwm.terminal import plain_console

LABELS = {
    "none": "none (last frame)",
    "recurrent": "recurrent",
    "2d_only": "2D only",
    "mv": "+MV",
    "epipolar": "+epipolar",
    "depth_normal": "+depth-normal",
    "glo": "+GLO",
    "oracle": "oracle (true depth)",
} | HONEST  # fmt: skip
"""Rows, as the table calls them."""
TRAINED = ("glo", "epipolar", "mv", "2d_only", "depth_normal", "recurrent")
"""Rows that have weights of their own, the longest work first."""
BOUNDS = ("none", "oracle")
"""Rows made of the weights of `glo`."""
FRAME_ALONE = ("2d_only", "epipolar", "depth_normal")
"""Rows in which the frame term moves depth."""
ATTENTION_HEADS = 2
"""Of epipolar attention in the rows that have it, where `train.model.epipolar_heads` says none."""
SHOWN = ("2d_only", "glo", "oracle")
"""Rows in the strip of pictures, from the first seed."""
BUDGET_COLUMNS = (
    Column("PSNR, seen px (dB)", ("psnr_seen",), 2, "higher"),
    Column("depth RMSE, seen px (m)", ("depth_rmse_seen_m",), 3, "lower"),
    Column("epipolar (px)", ("epipolar_px",), 2, "lower"),
    Column("persistence", ("persistence",), 3, "higher"),
    Column("state (KiB)", ("state_kib",), 1),
    Column("observe (ms)", ("observe_ms",), 1),
    Column("render (ms)", ("render_ms",), 1),
)
TABLES = {
    "novel views": (
        IMAGE_COLUMNS,
        "Frames from later in the episode. <em>Seen</em> pixels show surfaces that some observed frame has shown. "
        "Epipolar error: a classical matcher looks for what was rendered in a true frame of another camera, and a match "
        "is as wrong as it lies off the epipolar line of the true cameras; beside it what true frames score.",
    ),
    "depth and normals of novel views": (GEOMETRY_COLUMNS, "A pixel without a depth counts as 0 m."),
    "calibration of seen": (
        tables.CALIBRATION_COLUMNS,
        "Every pixel comes with the probability that it shows something observed, not imagined. Brier score: its mean squared "
        "difference from the truth. ECE: how far the share of pixels truly seen is from what was claimed, over ten bins.",
    ),
    "persistence, by steps since last seen": (
        PERSISTENCE_COLUMNS,
        "An object leaves the view and comes back. The score is the share of its true pixels that the model renders in "
        "the right colour at the right depth, without having seen the return.",
    ),
}
"""Title -> columns and words of a table."""


def changes(base: TrainConfig, row: str) -> TrainConfig:
    """How a row is trained: as `base`, but for what its name says.

    - `2d_only`: the frame term alone moves depth, through the splatted image; no other frame is matched;
      its state is of Gaussians.
    - `epipolar`: the same with attention along epipolar lines, and the matching costs on them, of recent frames.
    - `depth_normal`: `2d_only` with the term that makes depths and normals agree.
    - `mv`: multi-view consistency, with all that the default model has for it (matching, depth learned first, smoothness).
    - `glo`: `mv` with attention and with the depth-normal term: all three.
    - `recurrent`: a GRU with a pose-queried decoder, on the same terms.
    """
    heads = base.model.epipolar_heads or ATTENTION_HEADS
    without_normal = tuple(term for term in base.terms if term != "depth_normal")
    found = without_geometry(base) if row in FRAME_ALONE else base
    if row == "epipolar":
        sources = max(base.model.stereo_sources, 1)
        found = replace(found, model=replace(found.model, epipolar_heads=heads, stereo_sources=sources))
    elif row == "depth_normal":
        found = replace(found, terms=(*found.terms, "depth_normal"))
    elif row == "mv":
        found = replace(found, terms=without_normal, model=replace(found.model, epipolar_heads=0))
    elif row == "glo":
        found = replace(found, terms=(*without_normal, "depth_normal"), model=replace(found.model, epipolar_heads=heads))
    elif row == "recurrent":
        found = replace(found, model=replace(found.model, memory="recurrent"))
    return found


class Liftwm(Experiment[ReproduceLiftwmConfig]):
    """The results table, and what `glo` remembers at other budgets."""

    name, about = "liftwm", "glo"
    may_change = {"rows", "budgets"}

    def trained_rows(self, seed: int) -> list[str]:
        """Rows to train: those asked for, and `glo` for the rows that are made of it."""
        wanted = {*self.config.rows, *(("glo",) if set(BOUNDS) & set(self.config.rows) else ())}
        return [row for row in TRAINED if row in wanted]

    def changes(self, row: str, seed: int) -> TrainConfig:
        return changes(self.config.train, row)

    def made_of(self, row: str) -> dict[str, Make]:
        if row != "glo":
            return {row: as_it_is}
        bounds: dict[str, Make] = {"none": lambda model, _: LastFrame(model), "oracle": with_true_depth}
        budgets = {f"glo-{n}": partial(at, n) for n in self.config.budgets}
        return {row: as_it_is} | {bound: bounds[bound] for bound in BOUNDS if bound in self.config.rows} | budgets

    def table(self) -> list[TableFigure]:
        """Every figure of the rows asked for, and of the honest ones."""
        keys = [key for key in LABELS if key in self.table_rows() and (key in self.config.rows or key in HONEST)]
        return table_figures(self.judged(keys), self.config.bootstrap, [*COMPARED, *self.compared(keys)])

    def curve(self) -> list[BudgetFigure]:
        """The budget curve of `glo`, at the budget it was trained with too; empty where it was not trained."""
        if "glo" not in self.trained_rows(0) or not self.config.budgets:
            return []
        own, place = self.config.train.model.size, self.folder / "cost.csv"
        keys = {budget: f"glo-{budget}" for budget in self.config.budgets} | {own: "glo"}
        costs = read_rows(place, CostRow) if place.exists() else []
        if {row.model for row in costs} != {str(budget) for budget in keys}:
            episode, seed = self.episodes()[0], self.config.train.seed
            models = {budget: self.make(keys[budget], seed, []) for budget in sorted(keys)}
            costs = measure_costs(models, episode, self.config.train.device)
            write_rows(place, costs)
        found = self.judged(keys.values())
        return curve_figures({budget: found[key] for budget, key in keys.items()}, costs, self.config.bootstrap)

    def strip(self) -> Strip | None:
        """One turn away as the rows of `SHOWN` show it; None where no object of the episodes comes back."""
        episodes, seed = self.episodes(), self.config.train.seed
        chosen, rows = choose_revisits(episodes, 1), [row for row in SHOWN if row in self.config.rows]
        if not chosen or not rows:
            return None
        models = [CheckedModel(self.make(row, seed, episodes), row) for row in rows]
        ((index, revisit),) = chosen
        return make_strip(models, episodes[index], index, revisit, self.config.train.device)


def run(config: ReproduceLiftwmConfig) -> int:
    """Collect, train, judge, and show the table.

    Raises:
        UserError: the folder holds the experiment with other settings, or a stage failed.
    """
    console, it = plain_console(), Liftwm(config)
    with it.claim():
        it.collect()
        it.train_and_judge_all(console)
        figures, curve, strip = it.table(), it.curve(), it.strip()
        write_rows(it.results / "liftwm.csv", figures)
        budget = [budget_section(curve)] if curve else []
        if curve:
            write_rows(it.results / "liftwm_budget.csv", curve)
            write_text(it.results / "liftwm_budget.svg", budget[0].chart)
        if strip:
            write_bytes(it.results / "liftwm_strip.png", pictures.png(strip_sheet(strip, geometry=True)))
        title, said = "What geometry adds to a 2D world model", [*headline(figures, curve)]
        if config.budgets and not curve:
            said.append("no budget curve: it is made of glo, which rows= leaves out")
        back = [Section("looking away, and back", picture=strip_grid(strip, LABELS))] if strip else []
        sections = [*table_sections(figures, label, list(LABELS)), *budget, *back]
        show(console, config, it.folder / "index.html", title, about_tables(config), said, sections)
        return 0


def label(row: str) -> str:
    return LABELS.get(row, row)


def table_sections(figures: Sequence[TableFigure], label: Callable[[str], str], order: Sequence[str]) -> list[Section]:
    """The table in four parts, with persistence by gap as a chart."""
    found = []
    for title, (columns, words) in TABLES.items():
        body = table_of(figures, columns, label, order, "oracle")
        chart = svg([gap_panel(figures, label)], salt="gaps") if columns is PERSISTENCE_COLUMNS else ""
        found.append(Section(f"{title}, seeds pooled", words, body, chart))
    return found


def gap_panel(figures: Sequence[TableFigure], label: Callable[[str], str]) -> Panel:
    """Persistence of every row by steps since the object was last seen."""
    rows = {row: own for row, own in pooled(figures).items() if MINUS not in row}
    bins = [ends for ends in GAP_BINS if any(persistence_figure(*ends) in own for own in rows.values())]
    lines = []
    for i, (row, own) in enumerate(rows.items()):
        there = [k for k, ends in enumerate(bins) if persistence_figure(*ends) in own]
        lines.append(line(label(row), there, [own[persistence_figure(*bins[k])] for k in there], COLOURS[i % len(COLOURS)]))
    ticks = {float(k): gap_label(*ends) for k, ends in enumerate(bins)}
    return Panel("steps since the object was last seen", "persistence score", lines, ticks=ticks)


def budget_section(curve: Sequence[BudgetFigure]) -> Section:
    """`glo` at every budget, seeds pooled: the table, and the curve."""
    figures = [TableFigure(str(f.budget), f.seed, f.figure, f.mean, f.low, f.high, f.count, f.episodes) for f in curve]
    rows, panels = pooled(figures), []
    for figure, words in (
        ("psnr_seen", "PSNR, seen pixels (dB)"), ("depth_rmse_seen_m", "depth RMSE, seen pixels (m)"),
        ("persistence", "persistence"), ("observe_ms", "ms per observe"),
    ):  # fmt: skip
        own = {int(row): found[figure] for row, found in rows.items() if figure in found}
        ticks = {float(budget): str(budget) for budget in own}
        panels.append(Panel("primitives in the state", words, [line("", list(own), list(own.values()))], ticks=ticks, log=True))
    body = table_of(figures, BUDGET_COLUMNS, lambda row: f"N = {row}", list(rows))
    words = "The same weights, with a state that may keep so many primitives."
    return Section("+GLO at other budgets", words, body, svg(panels, salt="budget"))


def headline(figures: Sequence[TableFigure], curve: Sequence[BudgetFigure]) -> list[str]:
    """What the table says, in a line for each claim that it can decide."""
    found, rows = honest_lines(figures, "glo", tuple(HONEST), label), pooled(figures)

    def mean(row: str, figure: str) -> float:
        return float(rows.get(row, {}).get(figure, {"mean": float("nan")})["mean"])

    if "glo - 2d_only" in rows:
        for figure, name in (("psnr", "PSNR"), ("psnr_seen", "PSNR on seen pixels")):
            gain = told(rows["glo - 2d_only"][figure], 2, sign=False)
            found.append(f"{name}, +GLO over 2D only: {gain} dB, to {mean('glo', figure):.2f} dB")
        for figure, name, unit in (
            ("depth_rmse_rel", "depth RMSE over the median depth", ""), ("epipolar_px", "epipolar error", " px")
        ):  # fmt: skip
            before, after = mean("2d_only", figure), mean("glo", figure)
            found.append(f"{name}, +GLO over 2D only: {100 * (after / before - 1):+.0f} %, {before:.3f} -> {after:.3f}{unit}")
    if "oracle - glo" in rows:
        gap = mean("oracle - glo", "psnr_seen"), mean("oracle - glo", persistence_figure())
        found.append(f"the oracle is {gap[0]:.2f} dB on seen pixels and {gap[1]:.3f} of persistence above +GLO")
    scores = {f.budget: f.mean for f in curve if (f.seed, f.figure) == ("pooled", "persistence")}
    if {128, 512} <= scores.keys():
        found.append(f"persistence at 128 -> 512 primitives: {scores[128]:.3f} -> {scores[512]:.3f}")
    return found
