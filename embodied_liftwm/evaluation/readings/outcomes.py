"""Three readings of one hidden fact: is the called object's place stored, readable, used?

After the guided tour of each episode of a manifest, three readers are asked where the called object is:

    probe    a small network that reads the frozen state's summary (`probe`); it finds the object if it errs by 1 m at most
    render   the model's own picture, from where the object comes into view (`reader`); it finds the object if what it shows
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
from collections.abc import Sequence
from dataclasses import dataclass

from embodied_liftwm.evaluation.permanence.suites import Row

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


def verdict_rows(rows: Sequence[Row]) -> list[VerdictRow]:
    """Join the readings of the called object, episode by episode, of every model that was probed and acted on."""
    acted = {(row.model, row.episode): row for row in rows if isinstance(row, ActRow)}
    rendered = {(row.model, row.episode): row for row in rows if isinstance(row, RenderRow) and row.called}
    found = []
    for row in (row for row in rows if isinstance(row, ProbeRow) and row.called and (row.model, row.episode) in acted):
        key = row.model, row.episode
        place = rendered[key].place_error_m if key in rendered else math.nan
        probe, render = float(row.probe_error_m <= FOUND_M), math.nan if math.isnan(place) else float(place <= FOUND_M)
        success = acted[key].called_reached
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
