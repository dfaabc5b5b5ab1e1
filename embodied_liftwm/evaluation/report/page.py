"""One page that shows it all: `report/index.html`, self-contained, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from embodied_liftwm.data.video import write_mp4
from embodied_liftwm.evaluation.metrics.images import COLOUR_TOLERANCE, DEPTH_TOLERANCE
from embodied_liftwm.evaluation.navigation.arena import Trace
from embodied_liftwm.evaluation.report import charts, pictures, plans, tables
from embodied_liftwm.evaluation.report.charts import Series
from embodied_liftwm.evaluation.report.film import film, frame_words
from embodied_liftwm.evaluation.views.mean_colour import FROZEN_FRAME
from embodied_liftwm.evaluation.views.novel import Shown
from embodied_liftwm.evaluation.views.strips import Strip
from embodied_liftwm.files import write_bytes, write_text

COLOURS = {"model": "var(--model)", "baseline": "var(--baseline)", "floor": "var(--floor)", FROZEN_FRAME: "var(--shuffled)"}
AGENT_COLOURS = {
    "planner": "var(--model)",
    "planner_baseline": "var(--baseline)",
    "policy": "var(--shuffled)",
    "random": "var(--floor)",
    "oracle": "var(--oracle)",
}
SHOWN_TOURS = 4
"""Navigation episodes drawn: the first ones, whatever their outcome."""
FILM_FPS = 6
"""Steps of the agent that the film shows a second."""


@dataclass
class Report:
    """Everything the page is made of."""

    metrics: dict[str, Any]  # what metrics.json holds
    labels: dict[str, str]  # model key -> how the page calls it
    config_yaml: str
    strips: list[Strip] = field(default_factory=list)
    film: Strip | None = None  # every frame around the return that the first strip shows
    shown: Shown | None = None  # frames to come, where there are no strips
    scenes: dict[int, dict[str, Any]] = field(default_factory=dict)  # episode -> scene
    walked: dict[int, np.ndarray] = field(default_factory=dict)  # episode -> true camera xy [F, 2]
    traces: list[Trace] = field(default_factory=list)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # model key -> rows of its metrics.csv


def template(name: str) -> jinja2.Template:
    """A page of the folder `templates`."""
    loader = jinja2.PackageLoader("embodied_liftwm.evaluation", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name)


def write_report(folder: Path, report: Report) -> Path:
    """Write `index.html`, and the film and the first strip for use elsewhere; each whole or not at all."""
    page = template("report.html").render(
        metrics=report.metrics,
        labels=report.labels,
        config_yaml=report.config_yaml,
        cards=tables.headline(report.metrics),
        tables=_tables(report),
        persistence_chart=_persistence_chart(report),
        reliability_chart=_reliability_chart(report),
        navigation_chart=_navigation_chart(report),
        training_chart=_training_chart(report),
        training_steps=_training_steps(report),
        film=_film(folder, report),
        strips=[strip_grid(strip, report.labels) for strip in report.strips],
        shown=views_grid(report.shown, report.labels) if report.shown else None,
        maps=[_maps(strip, report) for strip in report.strips[:1]],
        tours=_tours(report.traces),
        agents=tables.AGENTS,
        agent_colours=AGENT_COLOURS | COLOURS,
        tolerance={"colour": COLOUR_TOLERANCE, "depth": DEPTH_TOLERANCE},
    )
    write_text(folder / "index.html", page)
    if report.strips:
        write_bytes(folder / "strip.png", pictures.png(strip_sheet(report.strips[0])))
    return folder / "index.html"


def _film(folder: Path, report: Report) -> dict[str, Any]:
    """Write `turn_away.mp4`; what the page needs to show it within itself."""
    if report.film is None:
        return {}
    write_mp4(folder / "turn_away.mp4", film(report.film, ["true", *report.film.shown]), FILM_FPS)
    video = base64.b64encode((folder / "turn_away.mp4").read_bytes()).decode()
    who = [f"{key}: {report.labels[key].removesuffix(' (baseline)')}" for key in report.film.shown]
    return {"video": f"data:video/mp4;base64,{video}", "who": "; ".join(who)}


def read_curve(run: Path) -> list[dict[str, float]]:
    """Rows of a run folder's metrics.csv; empty where there is none, or where it is no table of numbers."""
    path = run / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (ValueError, TypeError):
        return []


def strip_sheet(strip: Strip, geometry: bool = False, gap: int = 6) -> np.ndarray:
    """All rows of a strip in one picture: true, then predicted and error of each model. [rows, columns, 3] uint8

    With `geometry`, depth and normals follow the true frames, and the pictures of each model.
    """
    panel = strip_panel(strip)
    rows = [panel.true[:1] + (panel.true[1:] if geometry else [])]
    rows += [model[:2] + (model[2:] if geometry else []) for model in panel.models.values()]
    edge = ((0, gap), (0, gap), (0, 0))
    lines = [
        np.concatenate([np.pad(cell, edge, constant_values=255) for cell in line.images], axis=1)
        for part in rows
        for line in part
    ]
    return np.concatenate(lines, axis=0)[:-gap, :-gap]


class StripLine(NamedTuple):
    """One line of a strip: a picture for each frame."""

    label: str
    images: list[np.ndarray]


class StripPanel(NamedTuple):
    """All lines of a strip."""

    true: list[StripLine]  # frames, depth, normals
    models: dict[str, list[StripLine]]  # frames, error, depth, normals of each
    top_m: float  # the depth drawn darkest


def strip_panel(strip: Strip) -> StripPanel:
    """Draw every line of a strip."""
    top = float(np.percentile(strip.true_depth, 99))

    def geometry(name: str, depth: np.ndarray, normal: np.ndarray) -> list[StripLine]:
        depths = StripLine(f"{name} depth".strip(), [pictures.depth_picture(d, top) for d in depth])
        return [depths, StripLine(f"{name} normals".strip(), [pictures.normal_picture(n) for n in normal])]

    framed = [pictures.frame_picture(rgb, mask) for rgb, mask in zip(strip.true_rgb, strip.mask, strict=True)]
    true = [StripLine("true", framed), *geometry("true", strip.true_depth, strip.true_normal)]
    models = {}
    for key, shown in strip.shown.items():
        errors = [pictures.error_picture(rgb, t) for rgb, t in zip(shown.rgb, strip.true_rgb, strict=True)]
        predicted = StripLine("", [pictures.frame_picture(rgb) for rgb in shown.rgb])
        models[key] = [predicted, StripLine("error", errors), *geometry("", shown.depth, shown.normal)]
    return StripPanel(true, models, top)


def _tables(report: Report) -> dict[str, tables.Table]:
    metrics, ranked = report.metrics, ("model", "baseline")
    found = {}
    if metrics.get("views"):
        for name, columns in zip(("views", "geometry", "calibration"), tables.view_columns(metrics["views"]), strict=True):
            if columns:
                found[name] = tables.figure_table(metrics["views"], report.labels, columns, ranked)
    if metrics.get("surprise"):
        found["surprise"] = tables.figure_table(metrics["surprise"], report.labels, tables.SURPRISE_COLUMNS, ranked)
    if metrics.get("persistence"):
        found["persistence"] = tables.figure_table(metrics["persistence"], report.labels, tables.PERSISTENCE_COLUMNS, ranked)
    agents = metrics.get("navigation", {}).get("agents")
    if agents:
        mine = ("planner", "planner_baseline", "policy", "random")
        found["navigation"] = tables.figure_table(agents, tables.AGENTS, tables.navigation_columns(agents), mine)
    if metrics.get("cost"):
        found["cost"] = tables.cost_table(metrics["cost"], report.labels, metrics.get("act_ms", {}))
    return found


def _series(label: str, colour: str, estimates: list[dict[str, Any]], dashed: bool = False) -> Series:
    mean, low, high = ([estimate[end] for estimate in estimates] for end in ("mean", "low", "high"))
    return Series(label, colour, mean, low, high, dashed)


def _persistence_chart(report: Report) -> Markup:
    figures = report.metrics.get("persistence", {})
    if "model" not in figures:
        return Markup()
    bins, notes = tables.bin_labels(figures["model"])
    lines = [
        _series(report.labels[key], COLOURS[key], [figures[key]["bins"][name]["score"] for name in bins])
        for key in figures
        if key in COLOURS
    ]
    others = [figures["model"]["bins"][name]["floor"] for name in bins]
    lines.append(_series("another scene's state", "var(--shuffled)", others, dashed=True))
    return Markup(charts.category_chart(bins, lines, "persistence score", 1.0, notes))


def _reliability_chart(report: Report) -> Markup:
    curves = []
    for key in ("model", "baseline"):
        bins = report.metrics.get("views", {}).get(key, {}).get("reliability", [])
        line = _series(report.labels.get(key, key), COLOURS[key], [b["seen"] for b in bins])
        curves += [(line, [b["predicted"] for b in bins], [b["share"] for b in bins])] if bins else []
    return Markup(charts.reliability_chart(curves, "mean seen in a bin", "share truly seen") if curves else "")


def _navigation_chart(report: Report) -> Markup:
    agents = report.metrics.get("navigation", {}).get("agents", {})
    if not agents:
        return Markup()
    shown = (("success", "success"), ("SPL", "spl"), ("SoftSPL", "soft_spl"))
    groups = [(name, key) for name, key in shown if any(one[key]["mean"] is not None for one in agents.values())]
    if not groups:
        return Markup()
    bars = [
        _series(tables.AGENTS.get(agent, agent), AGENT_COLOURS.get(agent, "var(--floor)"), [figures[key] for _, key in groups])
        for agent, figures in agents.items()
    ]
    return Markup(charts.bar_chart([name for name, _ in groups], bars, "share", 1.0))


def _training_chart(report: Report) -> Markup:
    lines = []
    for key, rows in report.curves.items():
        kept = [row for row in rows if "step" in row and "psnr" in row]
        if len(kept) > 1:
            smooth = _smoothed([row["psnr"] for row in kept])
            lines.append((Series(report.labels[key], COLOURS[key], smooth), [row["step"] for row in kept]))
    return Markup(charts.line_chart(lines, "training step", "training PSNR (dB), smoothed"))


def _training_steps(report: Report) -> str:
    """How long each model was trained, where its run folder says so: "patches: 120 steps; recurrent: 440 steps"."""
    entries = report.metrics.get("models", {})
    return "; ".join(f"{report.labels[key]}: {entry['steps']:,} steps" for key, entry in entries.items() if entry.get("steps"))


def _smoothed(values: list[float], share: float = 0.1) -> list[float]:
    """Exponential mean: one batch jumps too much to read."""
    found: list[float] = []
    for value in values:
        found.append(value if not found else (1 - share) * found[-1] + share * value)
    return found


def strip_grid(strip: Strip, labels: dict[str, str]) -> dict[str, Any]:
    """Rows of images with their captions, for the template's grid: frames and errors; depth; normals."""
    panel = strip_panel(strip)

    def row(label: str, line: StripLine) -> dict[str, Any]:
        return {"label": label, "images": [pictures.data_uri(image) for image in line.images]}

    rows = [row("true", panel.true[0])]
    for key, (predicted, error, _, _) in panel.models.items():
        rows += [row(labels[key], predicted), row("error", error)]
    depth, normals = (
        [row(panel.true[i].label, panel.true[i]), *(row(labels[key], lines[i + 1]) for key, lines in panel.models.items())]
        for i in (1, 2)
    )
    heads = [frame_words(strip, k) for k in range(len(strip.frames))]
    about = {"gap": strip.revisit.gap, "episode": strip.episode}
    return {"heads": heads, "rows": rows, "depth": depth, "normals": normals, "top_m": round(panel.top_m, 1)} | about


def views_grid(shown: Shown, labels: dict[str, str]) -> dict[str, Any]:
    """Rows of frames to come for the template's grid: true, then each model's and its error."""

    def row(label: str, images: list[np.ndarray]) -> dict[str, Any]:
        return {"label": label, "images": [pictures.data_uri(image) for image in images]}

    rows = [row("true", [pictures.frame_picture(rgb) for rgb in shown.true])]
    for key, own in shown.models.items():
        errors = [pictures.error_picture(rgb, true) for rgb, true in zip(own, shown.true, strict=True)]
        rows += [row(labels[key], [pictures.frame_picture(rgb) for rgb in own]), row("error", errors)]
    return {"episode": shown.episode, "heads": [(f"step {t}", "") for t in shown.frames], "rows": rows}


def _maps(strip: Strip, report: Report) -> list[dict[str, Any]]:
    """The true plan with the way so far, and what each state holds."""
    scene = report.scenes.get(strip.episode, {})
    way = [plans.Path(report.walked[strip.episode][: strip.revisit.entry + 1].tolist(), "var(--text)")]
    marked = strip.revisit.object_id
    found = [{"label": "true plan", "key": "", "svg": Markup(plans.plan(scene, way, marked=marked))}]
    for key, cloud in strip.maps.items():
        svg = Markup(plans.plan(scene, way, cloud, marked=marked))
        found.append({"label": report.labels[key], "key": key, "svg": svg})
    return found


def _tours(traces: list[Trace]) -> list[dict[str, Any]]:
    """One plan for each of the first episodes, with the ways of all agents."""
    found = []
    for seed in list(dict.fromkeys(trace.seed for trace in traces))[:SHOWN_TOURS]:
        mine = [trace for trace in traces if trace.seed == seed]
        ways = [plans.Path(mine[0].tour, "var(--grid)")]
        ways += [plans.Path(trace.path, AGENT_COLOURS.get(trace.agent, "var(--floor)")) for trace in reversed(mine)]
        believed = next((trace.remembered_goal for trace in mine if trace.agent == "planner"), None)
        guess = (believed, AGENT_COLOURS["planner"]) if believed else None
        svg = Markup(plans.plan(mine[0].scene, ways, goal=mine[0].goal_object, guess=guess))
        reached = [tables.AGENTS.get(trace.agent, trace.agent) for trace in mine if trace.success]
        found.append({"seed": seed, "svg": svg, "reached": ", ".join(reached) or "nobody"})
    return found
