"""`liftwm reproduce moving`: where a model believes an object that went behind a screen, beside where it was last seen.

    liftwm collect env=MovingOcclusion-S split=eval seed=1048576 episodes=24 steps=96 out=data/report-moving
    liftwm reproduce moving model=runs/moving

    RESULTS/moving.csv

The model observes each episode from its start. A row is a step at which a moving object that was seen before covers no pixel.
The believed place is the mean of the model's moving points (`memory.movers`), weighed by how much they look like the object's
true colour; the other is the *true* place where the object was last seen, the best that a memory without motion could say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import embodied_liftwm
from embodied_liftwm.config import ReproduceMovingConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.report.tables import NONE, Cell, Table, cell
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.statistics import bootstrap_mean
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.goals import colour_likeness
from embodied_liftwm.memory.movers import Movers
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.terminal import plain_console
from liftwm_envs.settings import SEEN_PX

MOVED_M = 0.3
"""An object moves if its places in an episode lie further apart than this."""
LEAST_MASS = 0.5
"""Points of the object's colour without which the model believes nothing."""
GAPS = ((1, 5), (6, 15), (16, 30), (31, 10_000))


@dataclass(frozen=True)
class HiddenRow:
    """One object at one step at which nothing shows it."""

    episode: int
    step: int
    object: int
    unseen: int  # steps since it was seen
    last_seen_m: float  # from where it truly was when it was last seen, in the plan
    believed_m: float  # from where the model believes it, NaN where it believes nothing


def run(config: ReproduceMovingConfig) -> int:
    """Let the model watch every episode, and show the table. Raises UserError for a model in which nothing moves."""
    model: Any = embodied_liftwm.load(config.model)
    if not model.config.movers:
        raise UserError(f"{config.model}: nothing moves in this model; train one with model.movers=256 and the term motion")
    with torch.no_grad():
        episodes = enumerate(EvaluationReader(config.data))
        rows = [row for number, episode in episodes for row in judge(model, episode, number)]
    write_rows(Path(config.results) / "moving.csv", rows, HiddenRow)
    titles = ["where it was last seen (m)", "believed place (m)", "medians", "has a belief"]
    lines = [_line(low, high, [row for row in rows if low <= row.unseen <= high]) for low, high in GAPS]
    print_table(plain_console(), "by steps unseen", Table(titles, lines))
    return 0


def judge(model: WorldModel, episode: Episode, number: int) -> list[HiddenRow]:
    """The rows of one episode."""
    batch = EpisodeBatch([episode], [number])
    truth = batch.truth(0)
    places, visible = truth.object_pose[:, :, :2], truth.visible_pixels
    moving = np.flatnonzero(np.ptp(places, axis=0).max(-1) > MOVED_M)
    state, last, rows = model.initial_state(1), {}, []
    for step in range(len(episode.rgb)):
        state = model.observe(state, batch.observation([(0, step)]))
        for k in moving.tolist():
            if visible[step, k] >= SEEN_PX:
                last[k] = step
            elif visible[step, k] == 0 and k in last:
                place, colour = torch.from_numpy(places[step, k]), torch.from_numpy(truth.object_colour[k])
                gone = math.dist(places[step, k], places[last[k], k])
                rows.append(HiddenRow(number, step, k, step - last[k], gone, _error(state.world.movers, colour, place)))
    return rows


def _error(movers: Movers, colour: Tensor, place: Tensor) -> float:
    """Metres from the believed place of what has this colour [3] to the true one [2]."""
    mass = colour_likeness(movers.rgb, colour[None])[0] * (movers.evidence[0] > 0)
    if float(mass.sum()) < LEAST_MASS:
        return math.nan
    believed = (mass[:, None] * movers.means[0, :, :2]).sum(0) / mass.sum()
    return float((believed - place).norm())


def _line(low: int, high: int, rows: list[HiddenRow]) -> tuple[str, str, list[Cell]]:
    both = [row for row in rows if not math.isnan(row.believed_m)]
    span = f"{low} to {high}" if high < GAPS[-1][1] else f"{low} and more"
    if not both:
        return span, span, [Cell(NONE)] * 3 + [Cell(f"0 of {len(rows)}")]
    values = [[getattr(row, name) for row in both] for name in ("last_seen_m", "believed_m")]
    cells = [cell(bootstrap_mean(own, [row.episode for row in both]).as_dict(), 2) for own in values]
    medians = ", ".join(f"{np.median(own):.2f}" for own in values)
    return span, span, [*cells, Cell(medians), Cell(f"{len(both)} of {len(rows)}")]
