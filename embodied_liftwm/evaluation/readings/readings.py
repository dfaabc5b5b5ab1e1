"""Three readings of one hidden fact: is the called object's place stored, readable, used?

After the guided tour of each episode of a manifest, three readers are asked where the called object is:

    probe    a small network that reads the frozen state's summary (`probe`); it finds the object if it errs by 1 m at most
    render   the model's own picture, from where the object comes into view (`read_state`); it finds the object if what it shows
             in the object's colour lies 1 m from it at most, in the median. It is not asked where no picture must show it,
             as under a cup (ShellGame)
    act      the planner on the model's state goes there; where others are called after it (Search), it is the first that counts

and where the model fails is said in one word:

    used           the planner arrives, and probe or render finds the object
    reached        the planner arrives, though neither finds it: by search or by luck
    not stored     the planner does not arrive, and neither finds it
    not readable   the planner does not arrive; probe finds it and render does not, or the reverse
    not used       the planner does not arrive, though every reader that was asked finds it

Probe and render are asked about every other hidden object, too: those rows fill the bins of gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import ALL, CheckedModel
from embodied_liftwm.evaluation.navigation.arena import Agent, AgentFactory, NavigationRow, Trace, oracle_agent, random_agent
from embodied_liftwm.evaluation.navigation.contestants import contestant
from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation
from embodied_liftwm.evaluation.permanence.manifest import folder_of, load_manifest
from embodied_liftwm.evaluation.permanence.suites import MakeAgent, Row
from embodied_liftwm.evaluation.readings.probe import Asked, Probe, distance_m, fit
from embodied_liftwm.evaluation.readings.work import PROBE_SEED, Reading, Tour, read_all

FOUND_M = 1.0
"""A reader that errs by no more has found the object."""
USED, REACHED, NOT_STORED, NOT_READABLE, NOT_USED = "used", "reached", "not stored", "not readable", "not used"
OUTCOMES = (USED, REACHED, NOT_STORED, NOT_READABLE, NOT_USED)


@dataclass(frozen=True)
class ProbeRow(Row):
    """One (model, hidden object, frame)."""

    reading: str  # "probe"
    object_id: int
    called: int  # 1 for the object that is called, at the call
    frame: int
    gap: int
    probe_error_m: float
    probe_baseline_m: float  # of the mean place of the training tours


@dataclass(frozen=True)
class RenderRow(Row):
    """One (model, object hidden at the call)."""

    reading: str  # "render"
    object_id: int
    called: int
    frame: int  # rendered; beyond the call where the oracle sees it again
    gap: int
    kind: str  # "return" or "earlier view"
    pixels: int
    score: float
    colour_share: float
    depth_share: float
    place_error_m: float  # inf where nothing in the picture has its colour, NaN where the true frame does not tell


@dataclass(frozen=True)
class ActRow(Row):
    """One (agent, episode): `NavigationRow` under the agent's model."""

    reading: str  # "act"
    success: float
    called_reached: (
        float  # 1 or 0: the object called first was reached; Search calls others after it, and success is all of them
    )
    spl: float
    soft_spl: float
    steps: int
    path_m: float
    shortest_m: float
    final_distance_m: float
    bumps: int


@dataclass(frozen=True)
class VerdictRow(Row):
    """One (model, episode): the three readings of the called object, and what follows from them."""

    reading: str  # "verdict"
    gap: int
    probe_found: float  # 1 or 0
    render_found: float  # 1 or 0, NaN where it was not asked
    success: float  # `ActRow.called_reached`
    outcome: str  # one of OUTCOMES


def measure(
    models: Sequence[CheckedModel],
    task: str,
    seeds: Sequence[int],
    config: EvaluateConfig,
    make_agent: MakeAgent,
    others: Mapping[str, AgentFactory],
) -> list[Row]:
    """All three readings of every model; see `suites.Measure`. `make_agent` makes the planner, `others` act beside it."""
    for model in models:
        model.needs(ALL)
    manifest = load_manifest(task, folder_of(config.manifests))
    tours = [Tour(i, PROBE_SEED + config.seed + i, False) for i in range(config.probe_episodes)]
    readings = read_all(models, manifest, [*tours, *(Tour(i, seed, True) for i, seed in enumerate(seeds))], config)
    taught, judged = readings[: len(tours)], readings[len(tours) :]
    probes = {model.name: fit(_asked(model.name, taught), config.seed) for model in models}
    agents: dict[str, AgentFactory] = {m.name: acting(m, make_agent, config) for m in models}
    there = replace(config, env=task, env_options=manifest.options)
    acted = evaluate_navigation({**agents, **others, "random": random_agent, "oracle": oracle_agent}, there, seeds)
    rows: list[Row] = []
    for model in models:
        rows += probe_rows(model.name, task, judged, probes[model.name])
    for name in judged[0].looked or {}:
        rows += render_rows(name, task, judged)
    rows += [act_row(task, row, trace) for row, trace in zip(acted.rows, acted.traces, strict=True)]
    return rows + verdict_rows(rows)


def acting(model: CheckedModel, make_agent: MakeAgent, config: EvaluateConfig) -> AgentFactory:
    """An agent on this model, which every process that lets it act loads for itself."""
    return partial(_acting, make_agent, model.name, model.source, config.device)


def _acting(make_agent: MakeAgent, name: str, source: str, device: str, env: Any, seed: int) -> Agent:
    return make_agent(contestant(name, source, device).model, device, env, seed)


def _asked(name: str, readings: Sequence[Reading]) -> Asked:
    """All questions of these tours, as one model's state stood under them."""
    kept = [reading for reading in readings if reading.asked]
    places = [question.place for reading in kept for question in reading.asked]
    owners = [reading.tour.episode for reading in kept for _ in reading.asked]
    return Asked(np.concatenate([r.features[name] for r in kept]), np.stack(places), np.array(owners))


def probe_rows(name: str, task: str, readings: Sequence[Reading], probe: Probe) -> list[ProbeRow]:
    """What a probe finds, and what the mean place of its training would have."""
    rows = []
    for reading in (reading for reading in readings if reading.asked):
        places = np.stack([question.place for question in reading.asked])
        errors = distance_m(probe(reading.features[name]), places)
        blind = distance_m(np.broadcast_to(probe.baseline, places.shape), places)
        rows += [
            ProbeRow(
                name, task, reading.tour.episode, reading.tour.seed, "probe", q.object_id, int(q.called), q.frame, q.gap,
                float(error), float(baseline),
            )
            for q, error, baseline in zip(reading.asked, errors, blind, strict=True)
        ]  # fmt: skip
    return rows


def render_rows(name: str, task: str, readings: Sequence[Reading]) -> list[RenderRow]:
    """What a model, or the floor, shows of each object."""
    return [
        RenderRow(
            name, task, reading.tour.episode, reading.tour.seed, "render", shown.object_id, int(shown.called), shown.frame,
            shown.gap, shown.kind, shown.pixels, looked.score, looked.colour_share, looked.depth_share, looked.place_error_m,
        )
        for reading in readings
        for shown, looked in zip(reading.shown, (reading.looked or {}).get(name, ()), strict=True)
    ]  # fmt: skip


def act_row(task: str, row: NavigationRow, trace: Trace) -> ActRow:
    """A row of navigation as one of this suite."""
    return ActRow(
        row.agent, task, row.episode, row.seed, "act", row.success, float(trace.targets_reached > 0), row.spl, row.soft_spl,
        row.steps, row.path_m, row.shortest_m, row.final_distance_m, row.bumps,
    )  # fmt: skip


def verdict_rows(rows: Sequence[Row]) -> list[VerdictRow]:
    """Join the readings of the called object, episode by episode, of every model that was probed."""
    acted = {(row.model, row.episode): row for row in rows if isinstance(row, ActRow)}
    rendered = {(row.model, row.episode): row for row in rows if isinstance(row, RenderRow) and row.called}
    found = []
    for row in (row for row in rows if isinstance(row, ProbeRow) and row.called):
        key = row.model, row.episode
        place = rendered[key].place_error_m if key in rendered else math.nan
        probe, render = float(row.probe_error_m <= FOUND_M), math.nan if math.isnan(place) else float(place <= FOUND_M)
        success = acted[key].called_reached if key in acted else math.nan
        outcome = outcome_of(bool(probe), None if math.isnan(render) else bool(render), bool(success))
        found.append(
            VerdictRow(row.model, row.task, row.episode, row.seed, "verdict", row.gap, probe, render, success, outcome)
        )
    return found


def outcome_of(probe: bool, render: bool | None, success: bool) -> str:
    """One of `OUTCOMES`, from who found the object; None for a reader that was not asked."""
    asked = [probe] if render is None else [probe, render]
    if success:
        return USED if any(asked) else REACHED
    if not any(asked):
        return NOT_STORED
    return NOT_USED if all(asked) else NOT_READABLE
