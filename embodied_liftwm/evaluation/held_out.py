"""Held-out episodes and navigation: `suite=views,persistence,navigation`, from the data to rows, figures and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

import embodied_liftwm
from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.splits import check_split
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import measure_cost
from embodied_liftwm.evaluation.judging import judge_all
from embodied_liftwm.evaluation.left_out import PERSISTENCE_NEEDS, LeftOut, lacking, left_out
from embodied_liftwm.evaluation.metrics.persistence import Persistence
from embodied_liftwm.evaluation.navigation.arena import (
    ORACLE,
    AgentFactory,
    MakeAgent,
    make_env,
    oracle_agent,
    random_agent,
    sizes_of,
)
from embodied_liftwm.evaluation.navigation.contestants import MEAN_COLOUR, agent_on
from embodied_liftwm.evaluation.navigation.navigation import SEED_OFFSET, evaluate_navigation, untold
from embodied_liftwm.evaluation.progress import timed
from embodied_liftwm.evaluation.report.page import Report, read_curve, write_report
from embodied_liftwm.evaluation.report.tables import labels_of
from embodied_liftwm.evaluation.report.terminal import result_tables
from embodied_liftwm.evaluation.rows import write_mixed
from embodied_liftwm.evaluation.summary import Rows, summarize
from embodied_liftwm.evaluation.views.episodes import known_truth, true_poses, truth_of
from embodied_liftwm.evaluation.views.mean_colour import FROZEN_FRAME, FrozenFrame, mean_colour_of
from embodied_liftwm.evaluation.views.novel import columns_without, novel_views, show_views
from embodied_liftwm.evaluation.views.strips import Strip, choose_revisits, make_strip
from embodied_liftwm.evaluation.views.swapped import SwappedFrames, is_surprised
from embodied_liftwm.files import disk_errors, write_text
from embodied_liftwm.run_folder import open_run
from liftwm_envs.contract import goal_kind

STRIPS, SHOWN_VIEWS = 2, 6
"""Turns away shown in the report; frames to come, where no truth tells of any."""


def evaluate_held_out(
    config: EvaluateConfig, planner: MakeAgent, policy: AgentFactory | None,
    provenance: Callable[[Sequence[CheckedModel]], dict[str, Any]], console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Run the suites and write everything under `config.out`.

    Args:
        config: what is judged, and how.
        planner: who acts on what a model remembers.
        policy: who acts beside it, if anybody.
        provenance: what metrics.json says of the command and of the models.
        console: where figures are printed.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: as `commands.evaluate.evaluate`.
    """
    with open_run(config.out, config) as out:
        with disk_errors(out):
            (out / "report").mkdir(exist_ok=True)
        torch.manual_seed(config.seed)
        episodes = load_episodes(config)
        known = known_truth(episodes)
        missing = left_out(config.suite, known, f"data={config.data}")
        config = _with_what_is_known(config, known, missing)
        models = _load_models(config)
        config, strangers = _where_they_fit(config, models, episodes)
        missing += strangers
        agents = _agents(config, planner, policy) if "navigation" in config.suite else {}
        for model in models:
            missing += _check_fit(model, episodes, agents, config)
            if "views" in config.suite and not is_surprised(model):
                missing.append(LeftOut("surprise", f"needs surprise(), which model {model.source} lacks"))
        rows = _measure(config, console, models, agents, episodes)
        missing += untold(rows.navigation, f"env={config.env}") if rows.navigation else []
        about = {"data": _data(config, episodes), "left_out": [asdict(entry) for entry in missing]}
        metrics = provenance(models) | about | summarize(rows, config.bootstrap, config.seed)
        if rows.navigation:
            metrics["act_ms"] = rows.navigation.act_ms
        page = _write(config, console, models, episodes, rows, metrics)
        for table in result_tables(metrics):
            console.print(table)
        for entry in missing:
            console.print(f"left out: {entry}", soft_wrap=True, markup=False, highlight=False)
        console.print(f"report: {page}")
        return metrics


def load_episodes(config: EvaluateConfig) -> list[Episode]:
    """The held-out episodes that the suites need; none for navigation alone.

    Raises:
        UserError: no dataset, or scenes that are not of the evaluation's seeds.
    """
    if not {"views", "persistence"} & set(config.suite):
        return []
    reader = EvaluationReader(config.data, "eval")
    check_split(reader.info, reader.seeds, "eval", f"data={config.data}")
    wanted = min(config.episodes or len(reader), len(reader))
    return [reader[position] for position in range(wanted)]


def _with_what_is_known(config: EvaluateConfig, known: frozenset[str], missing: Sequence[LeftOut]) -> EvaluateConfig:
    """Without the suite `persistence` where the data do not tell what it needs.

    Raises:
        UserError: no suite is left.
    """
    if "persistence" not in config.suite or not lacking(PERSISTENCE_NEEDS, known):
        return config
    if config.suite == ("persistence",):
        raise UserError(f"suite=persistence: {missing[0].reason}; suite=views needs none")
    return replace(config, suite=tuple(suite for suite in config.suite if suite != "persistence"))


def _where_they_fit(
    config: EvaluateConfig, models: Sequence[CheckedModel], episodes: Sequence[Episode]
) -> tuple[EvaluateConfig, list[LeftOut]]:
    """Without the suite `navigation` where the data are of one body or task, and `env` of another: posed video has none."""
    if "navigation" not in config.suite or not episodes:
        return config, []
    env = make_env(config)
    here = episodes[0].action.shape[1], episodes[0].goal.shape[1]
    _, actions, goals = sizes_of(env)
    there = actions, here[1] if goals is None else goals
    env.close()
    if there == here or all(getattr(model.model, "shapes", None) is None for model in models):
        return config, []
    theirs, ours = (f"{actions} numbers an action and {goals} a goal" for actions, goals in (here, there))
    reason = f"data={config.data} has {theirs}, env={config.env} has {ours}: not the same task or body"
    suite = tuple(name for name in config.suite if name != "navigation")
    return replace(config, suite=suite), [LeftOut("navigation", reason)]


def _load_models(config: EvaluateConfig) -> list[CheckedModel]:
    """The model, and the baseline where there is one."""
    sources = {"model": config.model} | ({"baseline": config.baseline} if config.baseline else {})
    return [CheckedModel(embodied_liftwm.load(source, config.device), key, source) for key, source in sources.items()]


def _agents(config: EvaluateConfig, planner: MakeAgent, policy: AgentFactory | None) -> dict[str, AgentFactory]:
    """Who navigates: the planner on each model's state, a learned policy, random actions and the scripted oracle.

    Where the environment has no goal there is nothing to plan for, and where it knows no best action there is no oracle.

    Raises:
        UserError: the environment breaks its contract.
    """
    source, env = find_env(config.env), make_env(config)
    source.hold_to_contract(env, SEED_OFFSET + config.seed)
    has_goal, has_oracle = bool(goal_kind(env)), source.ours or env.has_wrapper_attr(ORACLE)
    env.close()
    agents: dict[str, AgentFactory] = {}
    if has_goal:
        agents["planner"] = partial(agent_on, planner, "model", config.model, config.device)
    if has_goal and config.baseline:
        agents["planner_baseline"] = partial(agent_on, planner, "baseline", config.baseline, config.device)
    if policy is not None:
        agents["policy"] = policy
    return agents | {"random": random_agent} | ({"oracle": oracle_agent} if has_oracle else {})


def _check_fit(
    model: CheckedModel, episodes: list[Episode], agents: Mapping[str, AgentFactory], config: EvaluateConfig
) -> list[LeftOut]:
    """Hold sizes of frames, actions and goals against the model before any work; what one of another body is not told."""
    untold = []
    if episodes:
        first = episodes[0]
        told = first.action.shape[1], first.goal.shape[1]
        if model.watch_only(*told):
            why = f"data={config.data} is of another body or task than model {model.source}, which is told neither"
            untold.append(LeftOut(f"actions and goals ({model.name})", why))
            told = model.model.shapes.action_dim, model.model.shapes.goal_dim
        model.fits(first.image_size, *told, f"data={config.data}")
    if "navigation" in config.suite:
        env = make_env(config)
        sizes = sizes_of(env)
        if "policy" in agents:
            agents["policy"](env, config.seed)
        env.close()
        model.fits(*sizes, f"env={config.env}")
    return untold


def _measure(
    config: EvaluateConfig, console: Console, models: list[CheckedModel], agents: Mapping[str, AgentFactory],
    episodes: list[Episode],
) -> Rows:  # fmt: skip
    """All suites, one after another, each with a line."""
    rows = Rows(without=columns_without(known_truth(episodes)))
    if episodes:
        factories: dict[str, Any] = {}
        if "views" in config.suite:
            asked = config.context, config.views_per_episode
            factories["views"] = novel_views(episodes, *asked)
            factories["surprise"] = partial(SwappedFrames, context=asked[0], views_per_episode=asked[1])
        if "persistence" in config.suite:
            factories["persistence"] = Persistence
        mean_colour = mean_colour_of(episodes, config.device)
        judged = [*models, CheckedModel(mean_colour, MEAN_COLOUR, "mean colour")]
        judged.append(CheckedModel(FrozenFrame(mean_colour.depth_m, config.device), FROZEN_FRAME, "last frame"))
        watch = partial(judge_all, judged, episodes, list(factories.values()), config.device)
        described = ", ".join(factories)
        found = timed(console, "held-out episodes", watch, lambda lists: f"{sum(map(len, lists))} rows of {described}")
        by_suite = dict(zip(factories, found, strict=True))
        rows.views, rows.persistence = by_suite.get("views", []), by_suite.get("persistence", [])
        rows.surprise = by_suite.get("surprise", [])
        rows.cost = timed(console, "cost", partial(measure_cost, models, episodes[0], config.device), lambda _: "one episode")
    if "navigation" in config.suite:
        navigate = partial(evaluate_navigation, agents, config)
        rows.navigation = timed(console, "navigation", navigate, lambda found: f"{len(found.rows)} episodes of all agents")
    return rows


def _data(config: EvaluateConfig, episodes: list[Episode]) -> dict[str, Any]:
    found: dict[str, Any] = {"path": config.data, "episodes": len(episodes), "frames": sum(len(e.rgb) for e in episodes)}
    if episodes:
        found["image_size"] = "x".join(map(str, episodes[0].image_size))
        found["seeds"] = [episode.meta.get("seed") for episode in episodes]
    return found


def _write(
    config: EvaluateConfig, console: Console, models: list[CheckedModel], episodes: list[Episode], rows: Rows,
    metrics: dict[str, Any],
) -> Path:  # fmt: skip
    """rows.csv, metrics.json and the report, each whole or not at all."""
    out = Path(config.out)
    write_mixed(out / "rows.csv", rows.flat())
    write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    drawable = not lacking(PERSISTENCE_NEEDS, known_truth(episodes))
    chosen = choose_revisits(episodes, STRIPS) if drawable else []

    def draw() -> list[Strip]:
        """A strip of each chosen return, then every frame around the first."""
        asked = [(one, False) for one in chosen] + [(one, True) for one in chosen[:1]]
        return [make_strip(models, episodes[i], i, revisit, config.device, film) for (i, revisit), film in asked]

    strips = timed(console, "pictures", draw, lambda found: f"{len(chosen)} strips, {len(found) - len(chosen)} film")
    film = strips.pop() if strips else None
    views = partial(show_views, models, context=config.context, count=SHOWN_VIEWS, device=config.device)
    longest = max(range(len(episodes)), key=lambda i: len(episodes[i].rgb), default=0)
    shown = None if strips or not rows.views else views(episodes[longest], longest)
    sources = {"model": config.model, "baseline": config.baseline}
    report = Report(
        metrics=metrics,
        labels=labels_of(metrics["models"]),
        config_yaml=yaml.safe_dump(json.loads(json.dumps(metrics["config"])), sort_keys=False),
        strips=strips,
        film=film,
        shown=shown,
        scenes={index: truth_of(episodes[index], index).scene for index, _ in chosen},
        walked={index: true_poses(episodes[index])[:, :2, 3] for index, _ in chosen},
        traces=rows.navigation.traces if rows.navigation else [],
        curves={key: read_curve(Path(source)) for key, source in sources.items() if source},
    )
    return write_report(out / "report", report)
