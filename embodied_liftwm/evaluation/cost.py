"""What a model costs to use: milliseconds per observe and per render, bytes of state, against the length of the episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch

WARM_UP = 3
"""Calls that are made first and not counted: compilation, allocation, caches."""

RENDER_EVERY = 8
"""Frames between timed renders."""


@dataclass(frozen=True)
class CostRow:
    """One observed frame, one episode at a time (batch of one)."""

    model: str
    frame: int
    observe_ms: float
    render_ms: float  # NaN between timed renders
    state_bytes: int


@torch.no_grad()
def measure_cost(models: Sequence[CheckedModel], episode: Episode, device: str = "cpu") -> list[CostRow]:
    """Time every model over one episode, frame by frame, and render what it has just seen."""
    rows: list[CostRow] = []
    batch = EpisodeBatch([episode], [0], device)
    for model in models:
        _warm_up(model, batch)
        state = model.initial_state(1)
        for t in range(len(episode.rgb)):
            now = batch.observation([(0, t)])
            state, observe_ms = _timed(device, model.observe, state, now)
            render_ms = _timed(device, model.render, state, now.camera)[1] if t % RENDER_EVERY == 0 else float("nan")
            rows.append(CostRow(model.name, t, observe_ms, render_ms, state.nbytes()))
    return rows


def _warm_up(model: CheckedModel, batch: EpisodeBatch) -> None:
    state = model.initial_state(1)
    for _ in range(WARM_UP):
        now = batch.observation([(0, 0)])
        state = model.observe(state, now)
        model.render(state, now.camera)


def _timed(device: str, call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a call returns, and its milliseconds."""
    started = time.perf_counter()
    result = call(*arguments)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return result, (time.perf_counter() - started) * 1000.0
