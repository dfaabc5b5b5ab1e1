"""Tables, figure and page of `liftwm reproduce memories`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console

from embodied_liftwm.config import MemoryRow, ReproduceConfig
from embodied_liftwm.evaluation.report import tables
from embodied_liftwm.evaluation.report.page import template
from embodied_liftwm.evaluation.report.tables import Column
from embodied_liftwm.evaluation.results_table import GEOMETRY_COLUMNS, IMAGE_COLUMNS, PERSISTENCE_COLUMNS, TableFigure, pooled
from embodied_liftwm.experiments.liftwm.report import about, print_table, settings_yaml
from embodied_liftwm.experiments.memories.models import GAUSSIANS, architecture
from embodied_liftwm.files import whole_file, write_text
from embodied_liftwm.run_folder import versions

LABELS = {
    "none": "none (last frame)",
    "context": "raw context",
    "recurrent": "recurrent",
    "rgb_cloud": "RGB cloud",
    "latent_append": "latent cache, append",
    "latent_bounded": "latent cache",
    "patches": "relief patches",
    "gaussians": "Gaussians",
    "oracle": "oracle (patches, true depth)",
}
COLOURS = {
    "none": "#8a8a8a",
    "context": "#c9a227",
    "recurrent": "#b86b8b",
    "rgb_cloud": "#b0532b",
    "latent_append": "#5aa7a7",
    "latent_bounded": "#2f7d5b",
    "patches": "#2b6cb0",
    "gaussians": "#7a5aa7",
    "oracle": "#222222",
}
COST_COLUMNS = (
    Column("memory (KiB)", ("memory_kib",), 1),
    Column("whole state (KiB)", ("state_kib",), 1),
    Column("observe (ms)", ("observe_ms",), 1),
    Column("render (ms)", ("render_ms",), 1),
    Column("render at the end (ms)", ("last_render_ms",), 1),
)
AIM_DB = 1.0
"""What latent caches are to gain over the cloud on pixels seen before, and what empty cells may lose against full ones."""
TITLES = {
    "images": "novel views",
    "geometry": "depth of novel views",
    "persistence": "persistence, by steps since last seen",
    "cost": "cost, at the end of an episode",
}


def order(key: str) -> tuple[int, int]:
    """Where a row stands in the table."""
    row, budget = apart(key)
    return get_args(MemoryRow).index(row), budget or 10**12


def apart(key: str) -> tuple[str, int]:
    """A key's row and budget, 0 for the one that it was trained with."""
    row, _, budget = key.partition("-")
    return row, int(budget or 0)


def label(config: ReproduceConfig, key: str) -> str:
    """What a row, or a difference of two, is called."""
    if " - " in key:
        return " − ".join(label(config, end).partition(" (")[0] for end in key.split(" - "))
    row, budget = apart(key)
    model = architecture(config)
    if row == "latent_bounded":
        return f"{LABELS[row]}, {(budget or model.latent_bounded.bytes) / 1024:g} KiB"
    if row in ("patches", "gaussians"):
        return f"{LABELS[row]}, N = {budget or (GAUSSIANS if row == 'gaussians' else model.patches.budget)}"
    return LABELS[row]


def write(config: ReproduceConfig, folder: Path, results: Path, figures: Sequence[TableFigure]) -> Path:
    """Write the chart as SVG, and the page; returns the page."""
    draw(config, figures, results / "memories.svg")
    keys = [key for key in pooled(figures) if " - " not in key]
    text = template("memories.html").render(
        about=about(config),
        headline=headline(figures),
        tables={part: part_table(config, figures, part) for part in parts(config)},
        loops=config.loops,
        chart=(results / "memories.svg").read_text().partition("?>")[2].partition(">")[2],
        encoder=config.encoder,
        agent_colours={key: COLOURS[apart(key)[0]] for key in keys},
        versions=versions(),
        config_yaml=settings_yaml(config),
    )
    write_text(folder / "index.html", text)
    return folder / "index.html"


def parts(config: ReproduceConfig) -> dict[str, tuple[Column, ...]]:
    """The tables, and the columns of each."""
    loops = {f"videos along {path}": loop_columns(path) for path in config.loops}
    images = (*IMAGE_COLUMNS, Column("made up: below held (dB)", ("empty_loss_db",), 2, "lower"))
    fixed = {"images": images, "geometry": GEOMETRY_COLUMNS, "persistence": PERSISTENCE_COLUMNS}
    return fixed | loops | {"cost": COST_COLUMNS}


def loop_columns(path: str) -> tuple[Column, ...]:
    """Of the videos along a path."""
    return (
        Column("return / first (dB)", (f"{path} return_psnr",), 2, "higher"),
        Column("closure (dB)", (f"{path} closure_psnr",), 2, "higher"),
        Column("other places (dB)", (f"{path} elsewhere_psnr",), 2),
        Column("PSNR, seen px", (f"{path} psnr_seen",), 2, "higher"),
        Column("PSNR, seen then hidden", (f"{path} psnr_hidden",), 2, "higher"),
        Column("AbsRel, seen px", (f"{path} abs_rel_seen",), 3, "lower"),
        Column("holes", (f"{path} hole_rate",), 2),
    )


def part_table(config: ReproduceConfig, figures: Sequence[TableFigure], part: str) -> tables.Table:
    """One of the tables, seeds pooled: the rows, then the paired differences."""
    columns = parts(config)[part]
    found = {}
    for key, own in pooled(figures).items():
        for name in ("memory", "state"):
            if f"{name}_bytes" in own:
                own[f"{name}_kib"] = own[f"{name}_bytes"] | {"mean": own[f"{name}_bytes"]["mean"] / 1024}
        if any(column.path[0] in own for column in columns):
            found[key] = own
    columns = tuple(column for column in columns if any(column.path[0] in own for own in found.values()))
    ranked = tuple(key for key in found if " - " not in key and apart(key)[0] != "oracle")
    return tables.figure_table(found, {key: label(config, key) for key in found}, columns, ranked)


def print_tables(console: Console, config: ReproduceConfig, figures: Sequence[TableFigure]) -> None:
    """All of them, without the differences, which are on the page and in the CSV."""
    rows = [figure for figure in figures if " - " not in figure.row]
    for part in parts(config):
        print_table(console, f"{TITLES.get(part, part)}, seeds pooled", part_table(config, rows, part))


def headline(figures: Sequence[TableFigure]) -> list[str]:
    """What the table says, in a line for each claim that it can decide."""
    found, rows = [], pooled(figures)
    for cache in ("latent_append", "latent_bounded"):
        gain = rows.get(f"{cache} - rgb_cloud", {}).get("psnr_seen")
        if gain:
            reached = "reached" if gain["mean"] >= AIM_DB else "not reached"
            told = tables.cell(gain, 2)
            aim = f"(aim: {AIM_DB:+g} dB, {reached})"
            found.append(f"{LABELS[cache]} over the RGB cloud, seen pixels: {told.value} dB {told.interval} {aim}")
            sizes = [rows[key]["memory_bytes"]["mean"] for key in ("rgb_cloud", cache)]
            found.append(f"{LABELS[cache]}: {sizes[0] / sizes[1]:.1f} times smaller than the cloud")
        found += _loop_gains(cache, rows)
        lost = rows.get(cache, {}).get("empty_loss_db")
        if lost:
            reached = "reached" if lost["mean"] <= AIM_DB else "not reached"
            told = tables.cell(lost, 2)
            aim = f"(aim: at most {AIM_DB:g} dB, {reached})"
            found.append(f"{LABELS[cache]}, seen pixels in empty cells: {told.value} dB below others {told.interval} {aim}")
    for figure, name, digits in (("psnr_seen", "PSNR on seen pixels", 2), ("persistence", "persistence", 3)):
        kept = {key: own[figure] for key, own in rows.items() if " - " not in key and key != "oracle" and figure in own}
        if kept:
            best = max(kept, key=lambda key: kept[key]["mean"])
            told = tables.cell(kept[best], digits)
            found.append(f"best {name}: {LABELS[apart(best)[0]]}, {told.value} {told.interval}")
    return found


def _loop_gains(cache: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a cache gains over the cloud on pixels of generated videos that went out of view and came back."""
    found = []
    for figure, cloud in rows.get("rgb_cloud", {}).items():
        path, _, column = figure.partition(" ")
        if column == "psnr_hidden" and figure in rows.get(cache, {}):
            gain = float(rows[cache][figure]["mean"]) - float(cloud["mean"])
            aim = f"(aim: {AIM_DB:+g} dB, {'reached' if gain >= AIM_DB else 'not reached'})"
            found.append(f"{LABELS[cache]} over the RGB cloud, seen then hidden, along {path}: {gain:+.2f} dB {aim}")
    return found


def draw(config: ReproduceConfig, figures: Sequence[TableFigure], path: Path) -> None:
    """Quality against bytes as SVG, with intervals; a row's budgets are joined."""
    rows = {key: own for key, own in pooled(figures).items() if " - " not in key and "memory_bytes" in own}
    sheet = Figure(figsize=(11.0, 4.6), layout="constrained")
    panels = {"psnr_seen": "PSNR, seen pixels (dB)", "persistence": "persistence"}
    for axes, (figure, words) in zip(sheet.subplots(1, len(panels)), panels.items(), strict=True):
        for row in dict.fromkeys(apart(key)[0] for key in rows):
            own = {key: found for key, found in rows.items() if apart(key)[0] == row and figure in found}
            _points(axes, config, row, own, figure)
        axes.set_xscale("log")
        axes.set_xlabel("bytes of memory at the end of an episode")
        axes.set_ylabel(words)
        axes.margins(x=0.18)
    with matplotlib.rc_context({"svg.hashsalt": "memories"}), whole_file(path) as partial:
        sheet.savefig(partial, format="svg", metadata={"Date": None})


def _points(axes: Any, config: ReproduceConfig, row: str, own: dict[str, dict[str, Any]], figure: str) -> None:
    """One row's budgets, named; the names of Gaussians are their numbers."""
    at = [found["memory_bytes"]["mean"] for found in own.values()]
    means = [found[figure]["mean"] for found in own.values()]
    ends = [
        [abs((found[figure][end] or mean) - mean) for found, mean in zip(own.values(), means, strict=True)]
        for end in ("low", "high")
    ]
    style = {"fillstyle": "none"} if row == "oracle" else {}
    axes.errorbar(at, means, yerr=ends, fmt="o-", color=COLOURS[row], linewidth=1.0, capsize=2, **style)
    for key, x, y in zip(own, at, means, strict=True):
        words = label(config, key).partition(" (")[0]
        words = words.partition("N = ")[2] if row == "gaussians" and apart(key)[1] else words
        axes.annotate(words, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7, color=COLOURS[row])
