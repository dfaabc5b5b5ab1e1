"""How much worse a teacher may become until it harms: gains of its students over its doses, and where they turn to losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from embodied_liftwm.evaluation.metrics.prior_quality import QUALITY_FIGURES, DepthQuality, quality_estimate
from embodied_liftwm.evaluation.results_table import POOLED, TableFigure

WEIGHTED, UNWEIGHTED = "weighted", "unweighted"
"""Whether a teacher's confidence knows of the corruption, or is 1 wherever it speaks."""
WEIGHTED_HELD, UNWEIGHTED_HELD = "weighted, noise held", "unweighted, noise held"
"""The same where the student does not learn how noisy its teacher is."""
FORMS = (WEIGHTED, UNWEIGHTED, WEIGHTED_HELD, UNWEIGHTED_HELD)
CLEAN, PURE_NOISE = "clean", "pure_noise"
"""Kinds that have no doses: the teacher as it is, and one that says nothing of the scene."""
GAINS = {"psnr_seen": 1.0, "depth_rmse_seen_m_change": -1.0}
"""Differences in which gains are told, and the sign of a gain."""


class Dose(NamedTuple):
    """What was done to a teacher."""

    kind: str
    form: str  # of FORMS
    dose: float


@dataclass(frozen=True)
class DoseFigure:
    """A difference to the same model without a teacher, with its 95 % interval; or a figure of the corrupted teacher."""

    kind: str
    form: str
    dose: float  # NaN of `<figure>_turns_at`
    seed: str
    figure: str  # of `TableFigure`; `<figure>_turns_at` is the dose at which its gain crosses zero, NaN where it never does
    mean: float
    low: float
    high: float
    count: int
    episodes: int


def teacher_figures(row: str, rows: Sequence[DepthQuality], resamples: int) -> list[TableFigure]:
    """How right a teacher's depths are, as figures of a row of the table; none for a teacher that gives no depth."""
    found = []
    for figure, column in QUALITY_FIGURES.items() if rows else ():
        e = quality_estimate(rows, column, resamples)
        found.append(TableFigure(row, POOLED, figure, e.mean, e.low, e.high, e.count, e.clusters))
    return found


def dose_figures(figures: Sequence[TableFigure], doses: Mapping[str, Dose]) -> list[DoseFigure]:
    """The rows of the dose-response, and the doses at which gains, pooled over seeds, turn.

    Args:
        figures: of the table; those of rows that are no dose are left out.
        doses: row of `figures` -> its dose.
    """
    found = [
        DoseFigure(*doses[f.row], f.seed, f.figure, f.mean, f.low, f.high, f.count, f.episodes)
        for f in figures
        if f.row in doses
    ]
    nan = float("nan")
    for kind in dict.fromkeys(dose.kind for dose in doses.values()):
        for form in forms_of(doses.values()) if kind not in (CLEAN, PURE_NOISE) else ():
            for figure in GAINS:
                at = turns_at(found, kind, form, figure)
                found.append(DoseFigure(kind, form, nan, POOLED, f"{figure}_turns_at", at, nan, nan, 0, 0))
    return found


def forms_of(doses: Iterable[Dose | DoseFigure]) -> list[str]:
    """The forms that there are of some teacher, in the order of FORMS."""
    found = {dose.form for dose in doses}
    return [form for form in FORMS if form in found]


def response(figures: Sequence[DoseFigure], kind: str, form: str, figure: str) -> list[DoseFigure]:
    """A figure over the doses of a kind, ascending, from the teacher as it is; pooled over seeds."""
    own = [f for f in figures if (f.form, f.seed, f.figure) == (form, POOLED, figure) and f.kind in (kind, CLEAN)]
    return sorted(own, key=lambda f: f.dose)


def turns_at(figures: Sequence[DoseFigure], kind: str, form: str, figure: str) -> float:
    """The dose of a kind at which the gain in a figure crosses zero; see `crossing`."""
    line = response(figures, kind, form, figure)
    return crossing([f.dose for f in line], [GAINS[figure] * f.mean for f in line])


def crossing(doses: Sequence[float], gains: Sequence[float]) -> float:
    """Where a gain first falls below zero, by linear interpolation between doses.

    Args:
        doses: ascending.
        gains: at each of them.

    Returns:
        The first dose where even that harms, NaN where none does.
    """
    if not gains or gains[0] < 0:
        return doses[0] if gains else float("nan")
    for i in range(1, len(gains)):
        if gains[i] < 0:
            return doses[i - 1] + (doses[i] - doses[i - 1]) * gains[i - 1] / (gains[i - 1] - gains[i])
    return float("nan")
