"""What memories are compared by beside novel views and persistence: generated videos, bytes and milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.cost import measure_cost
from embodied_liftwm.evaluation.generation.closed_loop import ClosedLoopRow
from embodied_liftwm.evaluation.results_table import POOLED, TableFigure
from embodied_liftwm.evaluation.statistics import column_mean
from embodied_liftwm.evaluation.views.bounds import LastFrame
from embodied_liftwm.protocols import Observation
from embodied_liftwm.tensor_tree import TensorTree

COMPARED = (
    ("latent_append", "rgb_cloud"),
    ("latent_bounded", "rgb_cloud"),
    ("latent_bounded", "latent_append"),
    ("patches", "rgb_cloud"),
    ("patches", "latent_bounded"),
    ("patches", "context"),
    ("patches", "gaussians"),
    ("oracle", "patches"),
    ("patches", "none"),
)
"""Pairs of rows whose difference has a row of its own."""
LOOP_COLUMNS = ("closure_psnr", "elsewhere_psnr", "psnr", "psnr_seen", "psnr_hidden", "abs_rel_seen", "hole_rate")
"""Columns of `ClosedLoopRow` that are reported of each path."""
Loops = Mapping[str, Mapping[int, Mapping[str, Sequence[ClosedLoopRow]]]]
"""Row -> training seed -> path -> steps of all its videos."""


@dataclass(frozen=True)
class MemoryCost:
    """What a memory costs, a batch of one, over one episode."""

    row: str
    frames: int  # observed
    memory_bytes: int  # of what it remembers with at the end: `Bytes.charged`
    state_bytes: int  # of the whole state then, with the frames that stereo keeps and with room to grow
    observe_ms: float  # median
    render_ms: float  # median over the episode
    last_render_ms: float  # median of the last quarter: what grows is slower then


class _Kept(CheckedModel):
    """Keeps the last state."""

    state: TensorTree

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        self.state = super().observe(state, observation)
        return self.state


def measure_memory(model: Any, row: str, episode: Episode, device: str) -> MemoryCost:
    """Time a model over one episode, frame by frame, and count what it then remembers with."""
    kept = _Kept(model, row)
    found = measure_cost([kept], episode, device)
    renders = [r.render_ms for r in found]
    return MemoryCost(
        row=row,
        frames=len(found),
        memory_bytes=frame_bytes(episode) if isinstance(model, LastFrame) else model.memory_bytes(kept.state).charged,
        state_bytes=found[-1].state_bytes,
        observe_ms=float(np.median([r.observe_ms for r in found])),
        render_ms=float(np.nanmedian(renders)),
        last_render_ms=float(np.nanmedian(renders[-max(len(renders) // 4, 9) :])),
    )


def frame_bytes(episode: Episode) -> int:
    """Of one frame with its pose, all that a memory of the last frame has to keep."""
    return int(episode.rgb[0].nbytes) + 16 * torch.finfo(torch.float32).bits // 8


def loop_figures(loops: Loops, resamples: int) -> list[TableFigure]:
    """Means of every path's columns, `PATH closure_psnr` and so on, seed by seed and pooled; `return_psnr` is at the start."""
    found = []
    for row, by_seed in loops.items():
        paths = dict.fromkeys(path for by_path in by_seed.values() for path in by_path)
        for path in paths:
            groups = {POOLED: list(by_seed)} | {str(seed): [seed] for seed in by_seed}
            for name, chosen in groups.items():
                steps = [step for seed in chosen for step in by_seed[seed][path]]
                found += [_loop(row, name, f"{path} {column}", steps, column, resamples) for column in LOOP_COLUMNS]
                home = [step for step in steps if step.revisits == 0]
                found += [_loop(row, name, f"{path} return_psnr", home, "closure_psnr", resamples)]
    return [figure for figure in found if figure.count]


def _loop(row: str, seed: str, figure: str, steps: Sequence[ClosedLoopRow], column: str, resamples: int) -> TableFigure:
    estimate = column_mean(steps, column, resamples)
    return TableFigure(row, seed, figure, estimate.mean, estimate.low, estimate.high, estimate.count, estimate.clusters)


def cost_figures(costs: Sequence[MemoryCost]) -> list[TableFigure]:
    """Bytes and milliseconds, which have no intervals: of one training, one episode, one machine."""
    nan = float("nan")
    names = [field.name for field in fields(MemoryCost) if field.name not in ("row", "frames")]
    return [
        TableFigure(cost.row, POOLED, name, float(getattr(cost, name)), nan, nan, cost.frames, 1)
        for cost in costs
        for name in names
    ]
