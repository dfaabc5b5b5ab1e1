"""The permanence benchmark: does a model still know what it can no longer see, and can it use that?

`liftwm evaluate suite=permanence` runs every suite of `suites` on every task of `tasks=`. Episodes come from the manifests that
ship with the package: no data= is needed. The same command gives the same figures. An interrupted run keeps the suites that it
has finished, task by task, in OUT/unfinished, and the same command goes on there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import ALL, CheckedModel, try_out
from embodied_liftwm.evaluation.left_out import LeftOut
from embodied_liftwm.evaluation.navigation.arena import AgentFactory, MakeAgent, sizes_of
from embodied_liftwm.evaluation.navigation.contestants import LAST_FRAME, contestant
from embodied_liftwm.evaluation.permanence import expectation, hidden_changes
from embodied_liftwm.evaluation.permanence.control_figures import controls_suite
from embodied_liftwm.evaluation.permanence.manifest import Manifest, folder_of, known_tasks, load_manifest
from embodied_liftwm.evaluation.permanence.suites import Measure, Picture, Row, Suite
from embodied_liftwm.evaluation.permanence.unfinished import Unfinished
from embodied_liftwm.evaluation.permanence.watching import watch
from embodied_liftwm.evaluation.progress import timed
from embodied_liftwm.evaluation.readings.figures import SEED_MARK
from embodied_liftwm.evaluation.readings.suite import readings_of, readings_suite, untold
from embodied_liftwm.evaluation.report.permanence_page import terminal_tables, write_page
from embodied_liftwm.evaluation.report.tables import labels_of
from embodied_liftwm.evaluation.rows import write_mixed
from embodied_liftwm.files import disk_errors, write_text
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.world_model.base import BaseWorldModel


def suites(planner: MakeAgent, policy: AgentFactory | None) -> dict[str, Suite]:
    """Every suite of the benchmark by name, in the order of the report. A new suite is a line here and a word in `config`."""
    acting = readings_suite(planner, {"policy": policy} if policy else {}), controls_suite(planner)
    return {suite.name: suite for suite in (*acting, expectation.SUITE, hidden_changes.SUITE)}


def evaluate_permanence(
    config: EvaluateConfig, planner: MakeAgent, policy: AgentFactory | None,
    provenance: Callable[[Sequence[CheckedModel]], dict[str, Any]], console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Run the suites on the tasks and write everything under `config.out`; arguments as `held_out.evaluate_held_out`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, task or manifest; a manifest that was changed, an episode that is not as frozen; sizes that
            differ; a model that returns nonsense; what is left of an interrupted run with other settings.
    """
    folder = folder_of(config.manifests)
    manifests = {made.task: made for made in (load_manifest(task, folder) for task in tasks_of(config))}
    chosen = choose_suites(config, manifests, planner, policy)
    with open_run(config.out, config) as out:
        with disk_errors(out):
            (out / "report").mkdir(exist_ok=True)
        torch.manual_seed(config.seed)
        models = load_contestants(config)
        for task, manifest in manifests.items():
            check_before(models, task, manifest, policy, config)
        missing = [entry for manifest in manifests.values() for entry in left_out_of(chosen, manifest)]
        about = {"manifests": _listed(config, manifests), "left_out": [dataclasses.asdict(entry) for entry in missing]}
        metrics = provenance(models) | about | {"tasks": {}}
        return _evaluate(config, chosen, models, manifests, metrics, out, console)


def _evaluate(
    config: EvaluateConfig, chosen: Sequence[Suite], models: Sequence[CheckedModel], manifests: Mapping[str, Manifest],
    metrics: dict[str, Any], out: Path, console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Task by task; `metrics` is filled."""
    kept = Unfinished(config, models, {task: manifest.text() for task, manifest in manifests.items()})
    rows, pictures = list[dict[str, Any]](), dict[tuple[str, str], list[Picture]]()
    for task, manifest in manifests.items():
        asked = [suite for suite in chosen if runs_on(suite, manifest)]
        measured = measure_task(asked, models, task, chosen_seeds(manifest, config), config, kept, console)
        for suite in asked:
            own = measured[suite.name]
            rows += [{"suite": suite.name} | dataclasses.asdict(row) for row in own]
            metrics["tasks"].setdefault(task, {})[suite.name] = suite.summarize(own, config.bootstrap, config.seed)
            if suite.illustrate is not None:
                draw = partial(suite.illustrate, models, task, own, config)
                name = f"{task}, pictures of {suite.name}"
                pictures[task, suite.name] = timed(console, name, draw, lambda found: f"{len(found)} episodes")
        metrics["left_out"] += [dataclasses.asdict(entry) for entry in _unasked(manifest, rows)]
    _write(out, metrics, rows, chosen, pictures, console)
    kept.remove()
    return metrics


def measure_task(
    asked: Sequence[Suite], models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig,
    kept: Unfinished, console: Console,
) -> dict[str, list[Row]]:  # fmt: skip
    """Rows of each suite on one task: those that an interrupted run left, and what remains to be measured.

    Suites with a `question` are measured together, on tours that are watched once.
    """
    left = {suite.name: kept.read(task, suite) for suite in asked}
    found = {name: rows for name, rows in left.items() if rows is not None}
    if found:
        console.print(f"{task}, {' and '.join(found)}: kept from an interrupted run")
    todo = [suite for suite in asked if suite.name not in found]
    questions = {suite.name: suite.question for suite in todo if suite.question is not None}
    work: list[tuple[list[Suite], Callable[[], dict[str, list[Row]]]]] = [
        ([suite], partial(_alone, suite.name, suite.measure, models, task, seeds, config)) for suite in todo if suite.measure
    ]
    if questions:
        work.append(([s for s in todo if s.name in questions], partial(watch, questions, models, task, seeds, config)))
    for group, measure in work:
        name = f"{task}, {' and '.join(suite.name for suite in group)}"
        measured = timed(console, name, measure, lambda got: f"{sum(map(len, got.values()))} rows")
        for suite in group:
            kept.write(task, suite, measured[suite.name])
        found |= measured
    return found


def _alone(name: str, measure: Measure, *given: Any) -> dict[str, list[Row]]:
    return {name: measure(*given)}


def _write(
    out: Path, metrics: dict[str, Any], rows: list[dict[str, Any]], chosen: Sequence[Suite], pictures: Any, console: Console
) -> None:
    """rows.csv, metrics.json, the report and the tables of the terminal."""
    labels = permanence_labels(metrics["models"])
    write_mixed(out / "rows.csv", rows)
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    config_yaml = yaml.safe_dump(json.loads(json.dumps(metrics["config"])), sort_keys=False)
    page = write_page(out / "report", metrics, chosen, labels, pictures, config_yaml)
    for table in terminal_tables(metrics, chosen, labels):
        console.print(table)
    for entry in metrics["left_out"]:
        console.print(f"left out: {entry['name']}: {entry['reason']}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {page}")


def tasks_of(config: EvaluateConfig) -> tuple[str, ...]:
    """The tasks asked for; where none was, all that a folder of the user's has a manifest of.

    Raises:
        UserError: the folder holds none.
    """
    if config.tasks != EvaluateConfig.tasks or not config.manifests:
        return config.tasks
    found = tuple(known_tasks(folder_of(config.manifests)))
    if not found:
        raise UserError(f"manifests={config.manifests}: no manifest in it: make one with `liftwm manifest make`")
    return found


def choose_suites(
    config: EvaluateConfig, manifests: Mapping[str, Manifest], planner: MakeAgent, policy: AgentFactory | None
) -> list[Suite]:
    """The suites of `suite=`.

    Raises:
        UserError: one of those that were asked for by name fits none of the tasks, or none is left.
    """
    everything = "permanence" in config.suite
    chosen = [suite for name, suite in suites(planner, policy).items() if everything or name in config.suite]
    for suite in chosen:
        if suite.name in config.suite and not any(runs_on(suite, manifest) for manifest in manifests.values()):
            raise UserError(f"suite={suite.name} {_where(suite)}; none of them is in tasks=")
    for task, manifest in manifests.items():
        if not any(runs_on(suite, manifest) for suite in chosen):
            raise UserError(f"task {task}: {'; '.join(str(entry) for entry in left_out_of(chosen, manifest))}")
    return chosen


def _where(suite: Suite) -> str:
    return f"runs on tasks {', '.join(suite.tasks)}" if suite.tasks else f"needs {suite.ours or 'more than these tell'}"


def runs_on(suite: Suite, manifest: Manifest) -> bool:
    """Whether a suite has anything to ask of a task."""
    if not manifest.ours:
        return not suite.ours and bool(readings_of(manifest.knows))
    return not suite.tasks or manifest.task.partition("-")[0] in suite.tasks


def left_out_of(chosen: Sequence[Suite], manifest: Manifest) -> list[LeftOut]:
    """What an environment that is none of ours cannot be asked."""
    if manifest.ours:
        return []
    readings = untold(manifest.knows) if any(not suite.ours for suite in chosen) else {}
    needs = readings | {suite.title.lower(): suite.ours for suite in chosen if suite.ours}
    return [LeftOut(f"{manifest.task}: {name}", f"needs {what}, which it lacks") for name, what in needs.items()]


def _unasked(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> list[LeftOut]:
    """Readings that such a world could be asked, if anything in it had been seen and then hidden."""
    asked = {row["reading"] for row in rows if row["suite"] == "readings" and row["task"] == manifest.task}
    left = sorted(readings_of(manifest.knows) - asked) if asked and not manifest.ours else []
    return [LeftOut(f"{manifest.task}: {name}", "nothing that was seen is out of view in these episodes") for name in left]


def load_contestants(config: EvaluateConfig) -> list[CheckedModel]:
    """The model, or several of one kind; the baseline; and, where it is ours, the first with nothing but its last frame."""
    sources = config.models
    names = ["model"] if len(sources) == 1 else [f"model{SEED_MARK}{i + 1}" for i in range(len(sources))]
    found = [contestant(name, source, config.device) for name, source in zip(names, sources, strict=True)]
    found += [contestant("baseline", config.baseline, config.device)] if config.baseline else []
    if isinstance(found[0].model, BaseWorldModel):
        found.append(contestant(LAST_FRAME, sources[0], config.device))
    return found


def check_before(
    models: Sequence[CheckedModel], task: str, manifest: Manifest, policy: AgentFactory | None, config: EvaluateConfig
) -> None:
    """Sizes of the task, the first frames of its first tour, and the policy: what is wrong with them is said at once."""
    guide = manifest.guide()
    recorded = guide.record(manifest.seeds[0], way=False)
    manifest.verify(recorded)
    for model in models:
        model.needs(ALL)
        model.fits(*sizes_of(guide.env), f"the manifest of {task}")
        try_out(model, recorded.episode, config.device)
    if policy is not None:
        policy(guide.env, config.seed)
    guide.close()


def chosen_seeds(manifest: Manifest, config: EvaluateConfig) -> list[int]:
    """Of the episodes that are judged."""
    return manifest.seeds[: config.permanence_episodes or len(manifest.seeds)]


def _listed(config: EvaluateConfig, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """What metrics.json says of each manifest."""
    return {
        task: {
            "sha256": hashlib.sha256(manifest.text().encode()).hexdigest(),
            "episodes": (count := len(chosen_seeds(manifest, config))),
            "controls": min(count, config.control_episodes or count),
            "of": len(manifest.episodes),
            "removed": manifest.reasons,
        }
        for task, manifest in manifests.items()
    }


def permanence_labels(models: dict[str, dict[str, Any]]) -> dict[str, str]:
    """How tables and the report call each model, and who stands beside them."""
    own = {key: entry for key, entry in models.items() if key != LAST_FRAME}
    fixed = {LAST_FRAME: "last frame alone", "random": "random", "oracle": "scripted oracle", "mean place": "mean place"}
    return labels_of(own) | fixed | {"policy": "learned policy"}
