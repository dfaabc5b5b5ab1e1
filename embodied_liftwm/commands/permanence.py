"""`liftwm evaluate suite=permanence`: does a model still know what it can no longer see, and can it use that?

    OUT/metrics.json         figures with intervals, by task and suite; hashes of the manifests, command, configuration
    OUT/rows.csv             every row behind them
    OUT/report/index.html    tables, curves by gap, pictures and videos of failures

Episodes come from the manifests that ship with the package: no data= is needed. The same command gives the same figures.
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

from embodied_liftwm.commands.evaluate import command_line, csv_text, describe, labels_of, terminal_table, timed
from embodied_liftwm.config import EvaluateConfig, PlannerConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.suites import Suite, Table
from embodied_liftwm.files import disk_errors, write_text
from embodied_liftwm.workers import find_engine


def suites() -> dict[str, Suite]:
    """Every suite of the benchmark by name, in the order of the report. A new suite is a line here."""
    from embodied_liftwm.evaluation import expectation, hidden_changes
    from embodied_liftwm.evaluation.controls_suite import controls_suite
    from embodied_liftwm.evaluation.reading_suite import readings_suite

    acting: tuple[Suite, ...] = (readings_suite(planner_on), controls_suite(planner_on))
    found = (*acting, expectation.SUITE, hidden_changes.SUITE)
    return {suite.name: suite for suite in found}


def planner_on(model: Any, device: str, env: Any, seed: int) -> Any:
    """The planner, on the state of a model."""
    from liftwm_agents.planner import PlannerPolicy

    return PlannerPolicy(model, PlannerConfig(), env.action_space, device, seed)


def evaluate_permanence(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Run the suites on the tasks and write everything under `config.out`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, suite, task or manifest; a manifest that was changed, an episode that is not as frozen;
            sizes that differ; a model that returns nonsense.
    """
    import torch

    from embodied_liftwm.evaluation.permanence_page import write_page

    find_engine(config.engine, config.workers, config.ray_address)  # whether there is one, before any work
    chosen, manifests = choose_suites(config), load_manifests(config)
    out = Path(config.out)
    with disk_errors(out):
        (out / "report").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    models = load_contestants(config)
    for task, manifest in manifests.items():
        _check_fit(models, task, manifest)
    rows, metrics, pictures = [], _provenance(config, models, manifests), {}
    labels = permanence_labels(metrics["models"])
    for task, manifest in manifests.items():
        seeds = _chosen_seeds(manifest, config)
        for suite in (suite for suite in chosen if runs_on(suite, task)):
            work = partial(suite.measure, models, task, seeds, config)
            measured = timed(console, f"{task}, {suite.name}", work, lambda found: f"{len(found)} rows")
            rows += [{"suite": suite.name} | dataclasses.asdict(row) for row in measured]
            metrics["tasks"].setdefault(task, {})[suite.name] = suite.summarize(measured, config.bootstrap, config.seed)
            if suite.illustrate is not None:
                draw = partial(suite.illustrate, models, task, measured, config)
                pictures[task, suite.name] = timed(console, "pictures", draw, lambda found: f"{len(found)} episodes")
    write_text(out / "rows.csv", csv_text(rows))
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    config_yaml = yaml.safe_dump(json.loads(json.dumps(metrics["config"])), sort_keys=False)
    page = write_page(out / "report", metrics, chosen, labels, pictures, config_yaml)
    for table in terminal_tables(metrics, chosen, labels):
        console.print(table)
    console.print(f"report: {page}")
    return metrics


def choose_suites(config: EvaluateConfig) -> list[Suite]:
    """The suites of `parts=`, or all. Raises UserError for one that there is not."""
    known = suites()
    for name in config.parts:
        if name not in known:
            raise UserError(f"parts={name}: the permanence benchmark has no such suite, it has {', '.join(known)}")
    return [suite for name, suite in known.items() if not config.parts or name in config.parts]


def runs_on(suite: Suite, task: str) -> bool:
    """Whether a suite has anything to ask of a task."""
    return not suite.tasks or task.partition("-")[0] in suite.tasks


def load_manifests(config: EvaluateConfig) -> dict[str, Any]:
    """The manifest of every task, each checked byte by byte."""
    from embodied_liftwm.evaluation.manifest import folder_of, load_manifest

    return {task: load_manifest(task, folder_of(config.manifests)) for task in config.tasks}


def load_contestants(config: EvaluateConfig) -> list[Any]:
    """The model, or several of one kind; the baseline; and, where it is ours, the first with nothing but its last frame."""
    from embodied_liftwm.evaluation.contestants import LAST_FRAME, contestant
    from embodied_liftwm.evaluation.reading_figures import SEED_MARK
    from embodied_liftwm.world_model.base import BaseWorldModel

    sources = [source.strip() for source in config.model.split(",") if source.strip()] or [""]
    names = ["model"] if len(sources) == 1 else [f"model{SEED_MARK}{i + 1}" for i in range(len(sources))]
    found = [contestant(name, source, config.device) for name, source in zip(names, sources, strict=True)]
    found += [contestant("baseline", config.baseline, config.device)] if config.baseline else []
    if isinstance(found[0].model, BaseWorldModel):
        found.append(contestant(LAST_FRAME, sources[0], config.device))
    return found


def _check_fit(models: Sequence[Any], task: str, manifest: Any) -> None:
    """Image, action and goal sizes of the task, before any work."""
    from gymnasium.spaces import flatdim

    from embodied_liftwm.evaluation.guided import Guide

    guide = Guide(task, manifest.options)
    observed: Any = guide.env.observation_space
    sizes = observed["rgb"].shape[:2], flatdim(guide.env.action_space), flatdim(observed["goal"])
    guide.close()
    for model in models:
        model.fits(*sizes, f"the manifest of {task}")


def _chosen_seeds(manifest: Any, config: EvaluateConfig) -> list[int]:
    return manifest.seeds[: config.permanence_episodes or len(manifest.seeds)]


def _provenance(config: EvaluateConfig, models: Sequence[Any], manifests: dict[str, Any]) -> dict[str, Any]:
    """What the figures come from."""
    from embodied_liftwm.commands.run_folder import versions

    listed = {
        task: {
            "sha256": hashlib.sha256(manifest.text().encode()).hexdigest(),
            "episodes": len(_chosen_seeds(manifest, config)),
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
    from embodied_liftwm.evaluation.contestants import LAST_FRAME

    own = {key: entry for key, entry in models.items() if key != LAST_FRAME}
    fixed = {LAST_FRAME: "last frame alone", "random": "random", "oracle": "scripted oracle", "mean place": "mean place"}
    return labels_of(own) | fixed


def terminal_tables(metrics: dict[str, Any], chosen: Sequence[Suite], labels: dict[str, str]) -> list[Any]:
    """The first columns of every table that is meant for the terminal."""
    from embodied_liftwm.evaluation import tables

    found = []
    for task, by_suite in metrics["tasks"].items():
        for suite in (suite for suite in chosen if suite.name in by_suite):
            for shown in suite.show(by_suite[suite.name]):
                if isinstance(shown, Table) and shown.terminal and shown.figures:
                    body = tables.figure_table(dict(shown.figures), labels, shown.columns[: shown.terminal_columns], ())
                    found.append(terminal_table(f"{task}: {shown.title}", body))
    return found
