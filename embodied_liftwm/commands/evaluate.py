"""`liftwm evaluate`: score a world model, a baseline and the floors by the same code, and write a report.

    OUT/metrics.json         figures with intervals, the command and the resolved configuration
    OUT/rows.csv             every row behind them
    OUT/report/index.html    one self-contained page

The same command gives the same figures; only timings differ (`cost` and `act_ms` in metrics.json).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

import embodied_liftwm
from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.permanence.unfinished import kept
from embodied_liftwm.files import disk_errors, write_text
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers import find_engine

STRIPS = 2
"""Turns away shown in the report."""

Result = TypeVar("Result")


def run(config: EvaluateConfig) -> int:
    """Evaluate, print the figures and say where the report is.

    Raises:
        KeyboardInterrupt: says what is kept.
    """
    try:
        evaluate(config, plain_console())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept(config)) from None
    return 0


def evaluate(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Run the suites of `config` and write everything under `config.out`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, dataset or manifest, sizes that differ, no truth, training scenes, a model that returns
            nonsense, no Ray for engine=ray, or a folder that another process holds or another command owns.
    """
    find_engine(config.engine, config.workers, config.ray_address)  # whether there is one, before any work
    if config.suite == "permanence":
        from embodied_liftwm.commands.permanence import evaluate_permanence

        return evaluate_permanence(config, console)
    with open_run(config.out, config) as out:
        return _evaluate(config, out, console)


def _evaluate(config: EvaluateConfig, out: Path, console: Console) -> dict[str, Any]:
    import torch

    from embodied_liftwm.evaluation.summary import summarize

    with disk_errors(out):
        (out / "report").mkdir(exist_ok=True)
    torch.manual_seed(config.seed)
    episodes = load_episodes(config)
    models = load_models(config)
    for model in models:
        _check_fit(model, episodes, config)
    rows = _measure(config, console, models, episodes)
    metrics = _provenance(config, models, episodes) | summarize(rows, config.bootstrap, config.seed)
    if rows.navigation:
        metrics["act_ms"] = rows.navigation.act_ms
    page = _write(config, console, models, episodes, rows, metrics)
    for table in result_tables(metrics):
        console.print(table)
    console.print(f"report: {page}")
    return metrics


def load_episodes(config: EvaluateConfig) -> list[Any]:
    """The held-out episodes that the suites need; none for navigation alone.

    Raises:
        UserError: no dataset, an episode without truth, or scenes that are not of the evaluation's seeds.
    """
    from embodied_liftwm.data import EvaluationReader
    from embodied_liftwm.data.splits import check_split
    from embodied_liftwm.evaluation.views.episodes import truth_of

    if not {"views", "persistence"} & set(config.suites):
        return []
    reader = EvaluationReader(config.data, "eval")
    check_split(reader.info, reader.seeds, "eval", f"data={config.data}")
    wanted = min(config.episodes or len(reader), len(reader))
    episodes = [reader[position] for position in range(wanted)]
    for position, episode in enumerate(episodes):
        truth_of(episode, position)
    return episodes


def load_models(config: EvaluateConfig) -> list[Any]:
    """The model, and the baseline where there is one, each behind checks of what it returns."""
    from embodied_liftwm.evaluation.checked import CheckedModel

    sources = {"model": config.model} | ({"baseline": config.baseline} if config.baseline else {})
    return [CheckedModel(embodied_liftwm.load(source, config.device), key, source) for key, source in sources.items()]


def _check_fit(model: Any, episodes: list[Any], config: EvaluateConfig) -> None:
    """Image, action and goal sizes of the dataset and of the task, before any work."""
    if episodes:
        first = episodes[0]
        model.fits(first.image_size, first.action.shape[1], first.goal.shape[1], f"data={config.data}")
    if "navigation" in config.suites:
        from gymnasium.spaces import flatdim

        from embodied_liftwm.evaluation.navigation.arena import make_env

        env = make_env(config)
        observed: Any = env.observation_space
        sizes = observed["rgb"].shape[:2], flatdim(env.action_space), flatdim(observed["goal"])
        if config.policy:
            agents_of(config)["policy"](env, config.seed)
        env.close()
        model.fits(*sizes, f"env={config.env}")


def _measure(config: EvaluateConfig, console: Console, models: list[Any], episodes: list[Any]) -> Any:
    """All suites, one after another, each with a line."""
    from embodied_liftwm.evaluation.checked import CheckedModel
    from embodied_liftwm.evaluation.cost import measure_cost
    from embodied_liftwm.evaluation.judging import judge_all
    from embodied_liftwm.evaluation.metrics.persistence import Persistence
    from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation
    from embodied_liftwm.evaluation.summary import Rows
    from embodied_liftwm.evaluation.views.mean_colour import floor_model
    from embodied_liftwm.evaluation.views.novel import novel_views

    rows, device = Rows(), config.device
    with_floor = [*models, CheckedModel(floor_model(episodes, device), "floor", "mean colour")] if episodes else []
    if episodes:
        suites: dict[str, Any] = {}
        if "views" in config.suites:
            suites["views"] = novel_views(episodes, config.context, config.views_per_episode)
        if "persistence" in config.suites:
            suites["persistence"] = Persistence
        watch = partial(judge_all, with_floor, episodes, list(suites.values()), device)
        found = timed(console, "held-out episodes", watch, lambda lists: f"{sum(map(len, lists))} rows of {', '.join(suites)}")
        by_suite = dict(zip(suites, found, strict=True))
        rows.views, rows.persistence = by_suite.get("views", []), by_suite.get("persistence", [])
        rows.cost = timed(console, "cost", partial(measure_cost, models, episodes[0], device), lambda _: "one episode")
    if "navigation" in config.suites:
        navigate = partial(evaluate_navigation, agents_of(config), config)
        rows.navigation = timed(console, "navigation", navigate, lambda found: f"{len(found.rows)} episodes of all agents")
    return rows


def timed(console: Console, name: str, work: Callable[[], Result], describe: Callable[[Result], str]) -> Result:
    started = time.perf_counter()
    result = work()
    console.print(f"{name}: {describe(result)}, {time.perf_counter() - started:.1f} s")
    return result


def agents_of(config: EvaluateConfig) -> dict[str, Any]:
    """Who navigates: the planner on each model's state, a learned policy, the random floor and the scripted ceiling."""
    from embodied_liftwm.evaluation.navigation.arena import oracle_agent, random_agent
    from embodied_liftwm.experiments.acting import planner_agent, policy_agent

    agents: dict[str, Any] = {"planner": partial(planner_agent, config.model, config.planner, config.device)}
    if config.baseline:
        agents["planner_baseline"] = partial(planner_agent, config.baseline, config.planner, config.device)
    if config.policy:
        agents["policy"] = partial(policy_agent, config.model, config.policy, config.device, trust=config.trust)
    return agents | {"random": random_agent, "oracle": oracle_agent}


def _provenance(config: EvaluateConfig, models: list[Any], episodes: list[Any]) -> dict[str, Any]:
    """What the figures come from."""
    from embodied_liftwm.run_folder import versions

    data: dict[str, Any] = {"path": config.data, "episodes": len(episodes), "frames": sum(len(e.rgb) for e in episodes)}
    if episodes:
        data["image_size"] = "x".join(map(str, episodes[0].image_size))
        data["seeds"] = [episode.meta.get("seed") for episode in episodes]
    return {
        "command": command_line(config),
        "config": dataclasses.asdict(config),
        "versions": dict(line.split(" ", 1) for line in versions() if not line.startswith("command ")),
        "machine": f"{os.cpu_count()} CPU cores" if config.device == "cpu" else config.device,
        "data": data,
        "models": {model.name: describe(model) for model in models},
    }


def describe(model: Any) -> dict[str, Any]:
    """What a model is, and the training steps behind it where its source is a run folder."""
    from embodied_liftwm.training.checkpoint import checkpoints, step_of

    memory = getattr(getattr(model.model, "config", None), "memory", None)
    parameters = sum(p.numel() for p in model.model.parameters()) if hasattr(model.model, "parameters") else None
    about = {"source": model.source, "type": type(model.model).__name__, "memory": memory, "parameters": parameters}
    made = checkpoints(Path(model.source))
    return about | ({"steps": step_of(made[-1])} if made else {})


def command_line(config: EvaluateConfig) -> str:
    """The shortest command that gives this configuration: only what differs from the defaults."""
    words = ["liftwm evaluate"]
    for name, value in _leaves(dataclasses.asdict(config)):
        default = dict(_leaves(dataclasses.asdict(EvaluateConfig())))[name]
        if value != default:
            words.append(f"{name}={','.join(value) if isinstance(value, tuple | list) else value}")
    return " ".join(words)


def _leaves(section: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in section.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _write(
    config: EvaluateConfig, console: Console, models: list[Any], episodes: list[Any], rows: Any, metrics: dict[str, Any]
) -> Path:
    """rows.csv, metrics.json and the report, each whole or not at all."""
    from embodied_liftwm.evaluation.report.page import Report, read_curve, write_report
    from embodied_liftwm.evaluation.views.strips import Strip, choose_revisits, make_strip

    out = Path(config.out)
    write_text(out / "rows.csv", csv_text(rows.flat()))
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    chosen = choose_revisits(episodes, STRIPS)

    def draw() -> list[Strip]:
        """A strip of each chosen return, then every frame around the first."""
        asked = [(one, False) for one in chosen] + [(one, True) for one in chosen[:1]]
        return [make_strip(models, episodes[i], i, revisit, config.device, film) for (i, revisit), film in asked]

    strips = timed(console, "pictures", draw, lambda found: f"{len(chosen)} strips, {len(found) - len(chosen)} film")
    film = strips.pop() if strips else None
    sources = {"model": config.model, "baseline": config.baseline}
    report = Report(
        metrics=metrics,
        labels=labels_of(metrics["models"]),
        config_yaml=yaml.safe_dump(json.loads(json.dumps(metrics["config"])), sort_keys=False),
        strips=strips,
        film=film,
        scenes={index: episodes[index].truth.scene for index, _ in chosen},
        walked={index: episodes[index].truth.world_from_camera[:, :2, 3] for index, _ in chosen},
        traces=rows.navigation.traces if rows.navigation else [],
        curves={key: read_curve(Path(source)) for key, source in sources.items() if source},
    )
    return write_report(out / "report", report)


def labels_of(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """How tables and the report call each model: by its memory, else its type."""
    labels = {key: str(entry["memory"] or entry["type"]) for key, entry in models.items()}
    if len(set(labels.values())) < len(labels):
        labels = {key: f"{labels[key]}, {Path(models[key]['source']).name}" for key in labels}
    if "baseline" in labels:
        labels["baseline"] = f"{labels['baseline']} (baseline)"
    return labels | {"floor": "mean colour (floor)"}


def csv_text(rows: list[dict[str, Any]]) -> str:
    """One table of all suites: columns in order of appearance, empty where a suite has no such column."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or ["suite"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def result_tables(metrics: dict[str, Any]) -> list[Table]:
    """The report's first columns for the terminal, each figure with its interval."""
    from embodied_liftwm.evaluation.report import tables

    labels = labels_of(metrics["models"])
    parts = (
        ("novel views", metrics.get("views"), labels, (*tables.VIEW_COLUMNS[:2], tables.VIEW_COLUMNS[4])),
        ("calibration of seen", metrics.get("views"), labels, tables.CALIBRATION_COLUMNS[:3]),
        ("persistence", metrics.get("persistence"), labels, tables.PERSISTENCE_COLUMNS[:3]),
        ("navigation", metrics.get("navigation", {}).get("agents"), tables.AGENTS, tables.NAVIGATION_COLUMNS[:3]),
    )
    found = []
    for title, figures, names, columns in parts:
        if not figures:
            continue
        body = tables.figure_table(figures, names, columns, ())
        found.append(terminal_table(title, body))
    return found


def terminal_table(title: str, body: Any) -> Table:
    """A table of `evaluation.tables` for the terminal, each figure with its interval below it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *body.titles):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for _, label, cells in body.rows:
        intervals = [(f"\n{cell.interval.replace(' %', '')}", "dim") for cell in cells]  # the unit stands with the value above
        table.add_row(label, *[Text.assemble(cell.value, low_high) for cell, low_high in zip(cells, intervals, strict=True)])
    return table
