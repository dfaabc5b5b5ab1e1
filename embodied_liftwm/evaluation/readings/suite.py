"""The suite of the three readings: every model is read, rendered and let act on every tour of a manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.left_out import lacking
from embodied_liftwm.evaluation.navigation.arena import (
    ORACLE,
    AgentFactory,
    MakeAgent,
    NavigationRow,
    Trace,
    oracle_agent,
    random_agent,
)
from embodied_liftwm.evaluation.navigation.contestants import agent_on
from embodied_liftwm.evaluation.navigation.explored import GOAL, LEFT, SHORTEST, SUCCESS
from embodied_liftwm.evaluation.navigation.navigation import evaluate_navigation
from embodied_liftwm.evaluation.permanence.manifest import Manifest, folder_of, load_manifest
from embodied_liftwm.evaluation.permanence.suites import Row, Suite
from embodied_liftwm.evaluation.readings.failures import draw_failures
from embodied_liftwm.evaluation.readings.figures import show, summarize
from embodied_liftwm.evaluation.readings.outcomes import ActRow, ProbeRow, RenderRow, VerdictRow, verdict_rows
from embodied_liftwm.evaluation.readings.probe import Asked, Probe, distance_m, fit
from embodied_liftwm.evaluation.readings.questions import PROBE_NEEDS, RENDER_NEEDS
from embodied_liftwm.evaluation.readings.reader import Reading, Tour, read_all

PROBE_SEED = 2**29
"""First seed of the tours that probes learn from: training scenes, far from those that models are trained on by default."""
ABOUT = (
    "After a guided tour one object is called that is out of view. Three readers are asked where it is: a probe reads the "
    "frozen state, the model's own picture of the way there is looked at, and a planner goes there. "
    "Together they say whether the place is not stored, stored but not readable, readable but not used, or used."
)
PICTURES = (
    "Where it failed",
    "The oracle's way, in steps from the call on: what is there, and what the model shows without looking. Plan: the tour "
    "faint, the oracle's way green, the planner's blue; the ring is the called object, the cross where the planner believed it "
    "to be.",
)


def readings_suite(make_agent: MakeAgent, others: Mapping[str, AgentFactory]) -> Suite:
    """The suite, for an agent that acts on a model, and for others that act beside it."""
    return Suite(
        "readings", "Stored, readable, used", ABOUT, partial(measure, make_agent, others), summarize, show,
        partial(draw_failures, make_agent), rows=(ProbeRow, RenderRow, ActRow, VerdictRow), pictures=PICTURES,
    )  # fmt: skip


def measure(
    make_agent: MakeAgent, others: Mapping[str, AgentFactory],
    models: Sequence[CheckedModel], task: str, seeds: Sequence[int], config: EvaluateConfig,
) -> list[Row]:  # fmt: skip
    """All three readings of every model; see `suites.Measure`. `make_agent` makes the planner, `others` act beside it."""
    manifest = load_manifest(task, folder_of(config.manifests))
    parts, rows = readings_of(manifest.knows), list[Row]()
    tours = [Tour(i, PROBE_SEED + config.seed + i, False) for i in range(config.probe_episodes) if PROBE in parts]
    if PROBE in parts or RENDER in parts:
        readings = read_all(models, manifest, [*tours, *(Tour(i, seed, True) for i, seed in enumerate(seeds))], config)
        taught, judged = readings[: len(tours)], readings[len(tours) :]
        for model in models if PROBE in parts and any(reading.asked for reading in taught) else ():
            rows += probe_rows(model.name, task, judged, fit(_asked(model.name, taught), config.seed))
        for name in judged[0].looked or {}:
            rows += render_rows(name, task, judged)
    if ACT in parts:
        rows += _acted(make_agent, others, models, manifest, seeds, config)
    return rows + verdict_rows(rows)


def _acted(
    make_agent: MakeAgent, others: Mapping[str, AgentFactory], models: Sequence[CheckedModel], manifest: Manifest,
    seeds: Sequence[int], config: EvaluateConfig,
) -> list[ActRow]:  # fmt: skip
    """Everybody who acts: the planner where there is a goal, and the oracle where somebody knows the way."""
    agents: dict[str, AgentFactory] = {}
    if GOAL in manifest.knows:
        agents = {m.name: partial(agent_on, make_agent, m.name, m.source, config.device) for m in models}
    agents |= {**others, "random": random_agent} | ({"oracle": oracle_agent} if _knows_the_way(manifest) else {})
    acted = evaluate_navigation(agents, manifest.setting(config), seeds)
    return [act_row(manifest.task, row, trace) for row, trace in zip(acted.rows, acted.traces, strict=True)]


def _knows_the_way(manifest: Manifest) -> bool:
    if manifest.ours:
        return True
    guide = manifest.guide()
    guide.close()
    return guide.env.has_wrapper_attr(ORACLE)


PROBE, RENDER, ACT = "probe", "render", "act"


def readings_of(knows: Collection[str]) -> set[str]:
    """Which of the three readings a world can be asked that tells so much."""
    needs = {PROBE: PROBE_NEEDS, RENDER: RENDER_NEEDS, ACT: (SUCCESS,)}
    return {name for name, needed in needs.items() if all(word in knows for word in needed)}


def untold(knows: Collection[str]) -> dict[str, str]:
    """What of the readings such a world cannot be asked -> what it lacks, in words."""
    lacked = {PROBE: lacking(PROBE_NEEDS, knows), RENDER: lacking(RENDER_NEEDS, knows)}
    lacked[ACT] = "" if SUCCESS in knows else 'info["success"]'
    if not lacked[ACT]:
        lacked["planner"] = "" if GOAL in knows else "a goal in the observation"
        lacked["SPL"] = "" if SHORTEST in knows else 'info["shortest_path_m"]'
        lacked["SoftSPL"] = "" if {SHORTEST, LEFT} <= set(knows) else 'info["shortest_path_m"] and info["distance_to_goal"]'
    return {name: words for name, words in lacked.items() if words}


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
    """What a model, or the mean colour, shows of each object."""
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
