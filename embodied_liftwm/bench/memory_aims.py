"""What `liftwm bench memory` aims at, beside what it measured."""

from __future__ import annotations

from statistics import median

from rich.table import Table

from embodied_liftwm.bench.table import Row

SPEED, READ_SPEED = "times faster", "reads, times faster"
SIZE, SIZE_ALL = "times smaller", "times smaller than all pixels"
"""Ratios to the cloud, and to a cloud of which no voxel is thinned out."""
LEAST_SPEED, LEAST_SIZE, LEAST_SIZE_BOUNDED = 15.0, 55.0, 100.0
AIMED_SIZE = 256
FLAT = 1.1
"""Last tenth over first tenth up to which reading counts as flat."""


def aims(rows: list[Row], ages: list[Row]) -> Table:
    """What is aimed at beside what was measured: of caches of latents at the largest size, and of the longest walk of each
    bounded memory."""
    table = Table(title="aims", title_justify="left")
    for column in ("aim", "measured at", "measured", "reached"):
        table.add_column(column)
    largest = max(int(str(row.case["image_size"])) for row in rows)
    short = "" if largest == AIMED_SIZE else f" (asked for at {AIMED_SIZE})"
    for row in rows:
        if row.case["image_size"] != largest or SPEED not in row.measures or not str(row.case["memory"]).startswith("latent"):
            continue
        where, least = _where(row) + short, LEAST_SIZE_BOUNDED if row.case["budget"] else LEAST_SIZE
        _add(table, f"at least {LEAST_SPEED:.0f} times faster", where, median(row.measures[SPEED]), at_least=LEAST_SPEED)
        for name in (SIZE, SIZE_ALL):
            _add(table, f"at least {least:.0f} {name}", where, median(row.measures[name]), at_least=least)
    for row in _longest_bounded(ages):
        ratio = median(row.measures["last / first"])
        _add(table, f"read time flat: last / first tenth at most {FLAT}", _where(row), ratio, at_most=FLAT)
    return table


def _where(row: Row) -> str:
    name, budget, size, frames = (row.case[key] for key in ("memory", "budget", "image_size", "frames"))
    return f"{name}{f' of {budget} bytes' if budget else ''}, {size} px, {frames} frames"


def _longest_bounded(ages: list[Row]) -> list[Row]:
    bounded = [row for row in ages if row.case["budget"]]
    longest = max((int(str(row.case["frames"])) for row in bounded), default=0)
    return [row for row in bounded if row.case["frames"] == longest]


def _add(table: Table, aim: str, where: str, value: float, at_least: float = 0.0, at_most: float = float("inf")) -> None:
    table.add_row(aim, where, f"{value:.3g}", "yes" if at_least <= value <= at_most else "no")
