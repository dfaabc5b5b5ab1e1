"""`liftwm evaluate suite=permanence`: does a model still know what it can no longer see, and can it use that?

    OUT/metrics.json         figures with intervals, by task and suite; hashes of the manifests, command, configuration
    OUT/rows.csv             every row behind them
    OUT/report/index.html    tables, curves by gap, pictures and videos of failures

Episodes come from the manifests that ship with the package: no data= is needed. The same command gives the same figures.
An interrupted run keeps the suites that it has finished, task by task, in OUT/unfinished, and the same command goes on there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from embodied_liftwm.commands.evaluate import (
    command_line,
    csv_text,
    describe,
    labels_of,
    terminal_table,
    timed,
)
from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence.suites import Row, Suite, Table
from embodied_liftwm.evaluation.permanence.unfinished import Unfinished
from embodied_liftwm.experiments.acting import planner_on, policy_agent
from embodied_liftwm.files import disk_errors, write_text
from embodied_liftwm.run_folder import open_run


def suites(config: EvaluateConfig) -> dict[str, Suite]:
    """Every suite of the benchmark by name, in the order of the report. A new suite is a line here."""
    from embodied_liftwm.evaluation.permanence import expectation, hidden_changes
    from embodied_liftwm.evaluation.permanence.controls_suite import controls_suite
    from embodied_liftwm.evaluation.readings.suite import readings_suite

    planner = partial(planner_on, config.planner)
    learned = partial(policy_agent, _sources(config)[0], config.policy, config.device, trust=config.trust)
    acting: tuple[Suite, ...] = (
        readings_suite(planner, {"policy": learned} if config.policy else {}), controls_suite(planner),
    )  # fmt: skip
    found = (*acting, expectation.SUITE, hidden_changes.SUITE)
    return {suite.name: suite for suite in found}


def evaluate_permanence(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Run the suites on the tasks and write everything under `config.out`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, suite, task or manifest; a manifest that was changed, an episode that is not as frozen;
            sizes that differ; a model that returns nonsense; what is left of an interrupted run with other settings.
    """
    chosen, manifests = choose_suites(config), load_manifests(config)
    with open_run(config.out, config) as out:
        return _evaluate(config, chosen, manifests, out, console)


def _evaluate(
    config: EvaluateConfig, chosen: Sequence[Suite], manifests: dict[str, Any], out: Path, console: Console
) -> dict[str, Any]:
    import torch

    with disk_errors(out):
        (out / "report").mkdir(exist_ok=True)
    torch.manual_seed(config.seed)
    models = load_contestants(config)
    for task, manifest in manifests.items():
        check_before(models, task, manifest, config)
    kept = Unfinished(config, models, {task: manifest.text() for task, manifest in manifests.items()})
    rows, metrics, pictures = list[dict[str, Any]](), _provenance(config, models, manifests), dict[tuple[str, str], Any]()
    for task, manifest in manifests.items():
        asked = [suite for suite in chosen if runs_on(suite, task)]
        measured = measure_task(asked, models, task, chosen_seeds(manifest, config), config, kept, console)
        for suite in asked:
            own = measured[suite.name]
            rows += [{"suite": suite.name} | dataclasses.asdict(row) for row in own]
            metrics["tasks"].setdefault(task, {})[suite.name] = suite.summarize(own, config.bootstrap, config.seed)
            if suite.illustrate is not None:
                draw = partial(suite.illustrate, models, task, own, config)
                name = f"{task}, pictures of {suite.name}"
                pictures[task, suite.name] = timed(console, name, draw, lambda found: f"{len(found)} episodes")
    _write(out, metrics, rows, chosen, pictures, console)
    kept.remove()
    return metrics


def measure_task(
    asked: Sequence[Suite], models: Sequence[Any], task: str, seeds: Sequence[int], config: EvaluateConfig,
    kept: Unfinished, console: Console,
) -> dict[str, list[Row]]:  # fmt: skip
    """Rows of each suite on one task: those that an interrupted run left, and what remains to be measured.

    Suites with a `question` are measured together, on tours that are watched once.
    """
    from embodied_liftwm.evaluation.permanence.watched_worlds import watch

    left = {suite.name: kept.read(task, suite) for suite in asked}
    found = {name: rows for name, rows in left.items() if rows is not None}
    if found:
        console.print(f"{task}, {' and '.join(found)}: kept from an interrupted run")
    todo = [suite for suite in asked if suite.name not in found]
    together = [suite for suite in todo if suite.question is not None]
    passes: list[list[Suite]] = [[suite] for suite in todo if suite.question is None] + ([together] if together else [])
    for group in passes:
        if group is together:
            work = partial(watch, {suite.name: suite.question for suite in group}, models, task, seeds, config)
        else:
            work = partial(_alone, group[0], models, task, seeds, config)
        name = f"{task}, {' and '.join(suite.name for suite in group)}"
        measured = timed(console, name, work, lambda got: f"{sum(map(len, got.values()))} rows")
        for suite in group:
            kept.write(task, suite, measured[suite.name])
        found |= measured
    return found


def _alone(
    suite: Suite, models: Sequence[Any], task: str, seeds: Sequence[int], config: EvaluateConfig
) -> dict[str, list[Row]]:
    return {suite.name: suite.measure(models, task, seeds, config)}


def _write(
    out: Path, metrics: dict[str, Any], rows: list[dict[str, Any]], chosen: Sequence[Suite], pictures: Any, console: Console
) -> None:
    """rows.csv, metrics.json, the report and the tables of the terminal."""
    from embodied_liftwm.evaluation.report.permanence_page import write_page

    labels = permanence_labels(metrics["models"])
    write_text(out / "rows.csv", csv_text(rows))
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    config_yaml = yaml.safe_dump(json.loads(json.dumps(metrics["config"])), sort_keys=False)
    page = write_page(out / "report", metrics, chosen, labels, pictures, config_yaml)
    for table in terminal_tables(metrics, chosen, labels):
        console.print(table)
    console.print(f"report: {page}")


def choose_suites(config: EvaluateConfig) -> list[Suite]:
    """The suites of `parts=`, or all. Raises UserError for one that there is not, and where none of them fits any task."""
    known = suites(config)
    for name in config.parts:
        if name not in known:
            raise UserError(f"parts={name}: the permanence benchmark has no such suite, it has {', '.join(known)}")
    chosen = [suite for name, suite in known.items() if not config.parts or name in config.parts]
    for suite in chosen:
        if config.parts and not any(runs_on(suite, task) for task in config.tasks):
            raise UserError(f"parts={suite.name} runs on tasks {', '.join(suite.tasks)}; none of them is in tasks=")
    return chosen


def runs_on(suite: Suite, task: str) -> bool:
    """Whether a suite has anything to ask of a task."""
    return not suite.tasks or task.partition("-")[0] in suite.tasks


def load_manifests(config: EvaluateConfig) -> dict[str, Any]:
    """The manifest of every task, each checked byte by byte."""
    from embodied_liftwm.evaluation.permanence.manifest import folder_of, load_manifest

    return {task: load_manifest(task, folder_of(config.manifests)) for task in config.tasks}


def load_contestants(config: EvaluateConfig) -> list[Any]:
    """The model, or several of one kind; the baseline; and, where it is ours, the first with nothing but its last frame."""
    from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, contestant
    from embodied_liftwm.evaluation.readings.figures import SEED_MARK
    from embodied_liftwm.world_model.base import BaseWorldModel

    sources = _sources(config)
    names = ["model"] if len(sources) == 1 else [f"model{SEED_MARK}{i + 1}" for i in range(len(sources))]
    found = [contestant(name, source, config.device) for name, source in zip(names, sources, strict=True)]
    found += [contestant("baseline", config.baseline, config.device)] if config.baseline else []
    if isinstance(found[0].model, BaseWorldModel):
        found.append(contestant(LAST_FRAME, sources[0], config.device))
    return found


def _sources(config: EvaluateConfig) -> list[str]:
    """Models are separated by commas."""
    return [source.strip() for source in config.model.split(",") if source.strip()] or [""]


def check_before(models: Sequence[Any], task: str, manifest: Any, config: EvaluateConfig) -> None:
    """Sizes of the task, the first frames of its first tour, and the policy: what is wrong with them is said at once."""
    from gymnasium.spaces import flatdim

    from embodied_liftwm.evaluation.checked import ALL, try_out
    from embodied_liftwm.evaluation.navigation.guided import Guide

    guide = Guide(task, manifest.options)
    observed: Any = guide.env.observation_space
    sizes = observed["rgb"].shape[:2], flatdim(guide.env.action_space), flatdim(observed["goal"])
    recorded = guide.record(manifest.seeds[0], way=False)
    manifest.verify(recorded)
    for model in models:
        model.needs(ALL)
        model.fits(*sizes, f"the manifest of {task}")
        try_out(model, recorded.episode, config.device)
    if config.policy:
        policy_agent(_sources(config)[0], config.policy, config.device, guide.env, config.seed, trust=config.trust)
    guide.close()


def chosen_seeds(manifest: Any, config: EvaluateConfig) -> list[int]:
    """Of the episodes that are judged."""
    return manifest.seeds[: config.permanence_episodes or len(manifest.seeds)]


def _provenance(config: EvaluateConfig, models: Sequence[Any], manifests: dict[str, Any]) -> dict[str, Any]:
    """What the figures come from."""
    from embodied_liftwm.run_folder import versions

    listed = {
        task: {
            "sha256": hashlib.sha256(manifest.text().encode()).hexdigest(),
            "episodes": (count := len(chosen_seeds(manifest, config))),
            "controls": min(count, config.control_episodes or count),
            "of": len(manifest.episodes),
            "removed": manifest.reasons,
        }
        for task, manifest in manifests.items()
    }
    return {
        "command": command_line(config),
        "config": dataclasses.asdict(config),
        "versions": dict(line.split(" ", 1) for line in versions() if not line.startswith("command ")),
        "machine": f"{os.cpu_count()} CPU cores" if config.device == "cpu" else config.device,
        "models": {model.name: describe(model) for model in models},
        "manifests": listed,
        "tasks": {},
    }


def permanence_labels(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """How tables and the report call each model, floor and ceiling."""
    from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME

    own = {key: entry for key, entry in models.items() if key != LAST_FRAME}
    fixed = {LAST_FRAME: "last frame alone", "random": "random", "oracle": "scripted oracle", "mean place": "mean place"}
    return labels_of(own) | fixed | {"policy": "learned policy"}


def terminal_tables(metrics: dict[str, Any], chosen: Sequence[Suite], labels: dict[str, str]) -> list[Any]:
    """The first columns of every table that is meant for the terminal."""
    from embodied_liftwm.evaluation.report import tables

    found = []
    for task, by_suite in metrics["tasks"].items():
        for suite in (suite for suite in chosen if suite.name in by_suite):
            for shown in suite.show(by_suite[suite.name]):
                if isinstance(shown, Table) and shown.terminal and shown.figures:
                    body = tables.figure_table(dict(shown.figures), labels, shown.columns[: shown.terminal_columns], ())
                    found.append(terminal_table(f"{task}: {shown.title}", body))
    return found
