"""Pictures and videos of episodes in which a model failed: the way that it should have gone, and what it showed there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.navigation.arena import Arena, MakeAgent, Trace
from embodied_liftwm.evaluation.navigation.contestants import agent_on
from embodied_liftwm.evaluation.navigation.guided import Guided
from embodied_liftwm.evaluation.permanence.manifest import file_word, folder_of, load_manifest
from embodied_liftwm.evaluation.permanence.suites import Picture, Row
from embodied_liftwm.evaluation.readings.outcomes import NOT_READABLE, NOT_STORED, NOT_USED, VerdictRow
from embodied_liftwm.evaluation.report import plans
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, true_poses

FAILURES = 3
"""Episodes drawn for each task: the first of each way to fail, then the first of all."""


def choose_failures(rows: Sequence[Row], model: str, count: int = FAILURES) -> list[VerdictRow]:
    """Episodes in which a model failed: the first of each kind, then others in order."""
    failed = [r for r in rows if isinstance(r, VerdictRow) and r.model == model]
    failed = [r for r in failed if r.outcome in (NOT_STORED, NOT_READABLE, NOT_USED)]
    firsts = list({row.outcome: row for row in reversed(failed)}.values())
    firsts.sort(key=lambda row: row.episode)
    return [*firsts, *(row for row in failed if row not in firsts)][:count]


def draw_failures(
    make_agent: MakeAgent, models: Sequence[CheckedModel], task: str, rows: Sequence[Row], config: EvaluateConfig
) -> list[Picture]:
    """The oracle's way, true and as the first model shows it blind, beside a plan of where the planner went instead."""
    manifest, model = load_manifest(task, folder_of(config.manifests)), models[0]
    chosen = choose_failures(rows, model.name)
    if not chosen:
        return []
    agent = partial(agent_on, make_agent, model.name, model.source, config.device)
    guide, arena = manifest.guide(), Arena({model.name: agent}, manifest.setting(config))
    found = []
    for number, row in enumerate(chosen):
        guided = guide.record(row.seed)
        if len(guided.episode.rgb) == guided.call + 1:
            continue  # nobody knows the way
        played = arena.play(row.episode, row.seed)
        svg = _plan(guided, played.traces[0]) if played.traces else ""
        found.append(_picture(f"{file_word(task)}-failure-{number + 1}", model, guided, row, config.device, svg))
    guide.close()
    arena.env.close()
    return found


def _picture(name: str, model: CheckedModel, guided: Guided, row: VerdictRow, device: str, svg: str) -> Picture:
    true, shown = blind_way(model, guided, row.episode, device)
    heads = [f"+{t}" for t in range(1, len(true) + 1)]
    readers = (("probe", row.probe_found), ("picture", row.render_found))
    asked = [f"the {reader} {'finds' if found else 'does not find'} it" for reader, found in readers if not np.isnan(found)]
    text = f"The object was out of view for {row.gap} steps at the call; {', '.join(asked)}, and the planner does not arrive."
    title = f"Episode {row.episode}, seed {row.seed}: {row.outcome}"
    return Picture(name, title, text, {"true": true, "blind": shown}, heads, svg)


@torch.no_grad()
def blind_way(model: CheckedModel, guided: Guided, episode: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The oracle's way from the call on, true and as a model that saw the tour shows it: two of [F, H, W, 3] uint8."""
    batch = EpisodeBatch([guided.episode], [episode], device)
    state: Any = model.initial_state(1)
    for t in range(guided.call + 1):
        state = model.at(episode, t).observe(state, batch.observation([(0, t)]))
    frames = range(guided.call + 1, len(guided.episode.rgb))
    shown = []
    for t in frames:
        action = torch.from_numpy(guided.episode.action[t - 1])[None].to(device)
        state = model.at(episode, t).imagine(state, action)
        rgb = model.render(state, batch.camera([(0, t)])).rgb[0].clamp(0, 1)
        shown.append((255 * rgb).round().byte().permute(1, 2, 0).cpu().numpy())
    return guided.episode.rgb[guided.call + 1 :], np.stack(shown)


def _plan(guided: Guided, trace: Trace) -> str:
    """From above: the tour, the oracle's way, the planner's, and where the planner believed the object to be."""
    walked = true_poses(guided.episode)[:, :2, 3]
    ways = [
        plans.Path(walked[: guided.call + 1].tolist(), "var(--grid)"),
        plans.Path(walked[guided.call :].tolist(), "var(--oracle)"),
        plans.Path(trace.path, "var(--model)"),
    ]
    guess = (trace.remembered_goal, "var(--model)") if trace.remembered_goal else None
    return plans.plan(trace.scene, ways, goal=guided.goal_object, guess=guess)
