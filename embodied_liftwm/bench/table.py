"""What every benchmark shares: the machine, repeated timings, the printed table and the CSV.

A benchmark makes `Row`s: a case (what was timed, at which size) and its measures, one value per repeat. The table shows each
measure's median and spread; the CSV holds every repeat, with the machine named by its CPU, its cores and its versions alone.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from embodied_liftwm.files import write_text


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    case: dict[str, object]  # column -> what identifies the row
    measures: dict[str, list[float]]  # column, with its unit -> one value per repeat


def machine(*distributions: str, device: str = "cpu") -> dict[str, str]:
    """The CPU, its cores, the accelerator if `device` is one, and the versions of Python, torch and `distributions`."""
    import importlib.metadata

    found = {"cpu": _cpu(), "cores": str(os.cpu_count())}
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    found["python"] = platform.python_version()
    return found | {name: importlib.metadata.version(name) for name in ("embodied_liftwm", "torch", *distributions)}


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> list[float]:
    """Wall-clock seconds of each of `repeats` calls, after one to warm up; waits for what an accelerator still does."""
    return seconds_in_turn({"": work}, repeats, device)[""]


def seconds_in_turn(works: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """`seconds` of several works, a call of each in turn, so that what else the machine does falls on all of them."""
    wait: Callable[[], None] = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            wait()
            begin = time.perf_counter()
            work()
            wait()
            found[name].append(time.perf_counter() - begin)
    return found


def typical(work: Callable[[], object], within_s: float, device: str = "cpu") -> float:
    """Seconds of a call: the median of as many as fit into `within_s`, at least one."""
    first = seconds(work, 1, device)
    more = int(within_s / first[0])
    return statistics.median(first + (seconds(work, more, device) if more else []))


def by_name(repeats: list[dict[str, float]]) -> dict[str, list[float]]:
    """What each repeat measured, as the measures of a `Row`."""
    return {name: [found[name] for found in repeats] for name in repeats[0]}


def ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    """Repeat by repeat."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; 0 for all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def report(console: Console, title: str, rows: list[Row], about: dict[str, str], path: Path) -> None:
    """Print the table and the machine, and write the CSV, one line per row and repeat."""
    show(console, title, rows, about)
    write(path, rows, about)


def spread(values: list[float], form: str) -> str:
    """Median [least to most]; a single value as it is."""
    if len(values) < 2:
        return f"{values[0]:{form}}" if values else ""
    return f"{statistics.median(values):{form}} [{min(values):{form}} to {max(values):{form}}]"


def _columns(parts: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def show(console: Console, title: str, rows: list[Row], about: dict[str, str]) -> None:
    """Print the table and the machine."""
    repeats = max(len(values) for row in rows for values in row.measures.values())
    cases, measures = _columns([row.case for row in rows]), _columns([row.measures for row in rows])
    common = [name for name in cases if len(rows) > 1 and len({str(row.case.get(name)) for row in rows}) == 1]
    cases = [name for name in cases if name not in common]
    where = "".join(f", {name.replace('_', ' ')} {rows[0].case[name]}" for name in common)
    table = Table(title=f"{title}{where}: median of {repeats} [least to most]", title_justify="left")
    for name in (*cases, *measures):
        table.add_column(name.replace("_", " "))
    for row in rows:
        shown = [spread(row.measures.get(name, []), _form(row.measures.get(name, []))) for name in measures]
        table.add_row(*(str(row.case.get(name, "")) for name in cases), *shown)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), soft_wrap=True)


def _form(values: list[float]) -> str:
    """Three significant digits, as a format that suits all values."""
    size = abs(statistics.median(values)) if values else 0.0
    return ".0f" if size >= 100 else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".4f"


def write(path: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Write the CSV, one line per row and repeat."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    cases, measures = _columns([row.case for row in rows]), _columns([row.measures for row in rows])
    writer.writerow([*cases, "repeat", *measures, *about])
    for row in rows:
        for repeat in range(max(len(values) for values in row.measures.values())):
            found = [row.measures.get(name, []) for name in measures]
            cells = [_exact(values[repeat]) if repeat < len(values) else "" for values in found]
            writer.writerow([*(row.case.get(name, "") for name in cases), repeat, *cells, *about.values()])
    write_text(path, text.getvalue())


def _exact(value: float) -> str:
    """Five digits of what was measured, all digits of what was counted."""
    return str(value) if isinstance(value, int) else f"{value:.5g}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
