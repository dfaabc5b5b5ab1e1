"""`liftwm bench memory`: what a generated frame costs with every memory that has a store of its own, in one run on one tour.

An RGB cloud, caches of latents, relief patches and raw frames. Plain Gaussians are not among them, and a recurrent network has
no store.

A camera tours a textured room (`bench_memory_room`). Every memory takes in every frame of it, at the room's own depth and with
latents of the same encoder; weights are random, since no cost depends on them. When a memory is as old as `memory_frames` says,
it makes the frames that would follow: read, decode, write, none of which is kept (`bench_memory_parts`). The memories do so in
turn, so that what else the machine does falls on all of them. Reading of ages is timed in turn too: what the memory was in the
first tenth of its steps beside what it is in the last, read by the same cameras.

What grows stops at `memory_growing_frames`, and so do all sizes but the smallest; there raw frames go on, since they are only
put away, and reads are timed at the asked ages alone. `bench_memory.csv` has the stages, the bytes and the ratios to the cloud,
`bench_memory_age.csv` the reads by age. A store's bytes are those of all its tensors: a bounded one is charged with its whole
budget, what grows with the slots that are occupied; its room to grow is told, and not counted. Frames that stereo keeps beside
every memory are no part of any. Cells count as empty where nothing is there to be read; what raw frames show of a cell is for
trained attention to say, so that they have no such figure.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.status import Status
from rich.table import Table

from embodied_liftwm.bench.memory_parts import (
    ENCODE,
    ENCODE_MADE,
    READ,
    RENDER,
    WRITE,
    Kept,
    build,
    encoded,
    new_watch,
    stride_of,
)
from embodied_liftwm.bench.memory_room import Frame, film
from embodied_liftwm.bench.table import Row, machine, report, seconds_in_turn, using_threads, write
from embodied_liftwm.config import BenchConfig
from embodied_liftwm.memory.contract import Read
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.world_model.decoders.latents import KNOWN_FROM

CALLS = 7
"""Generated frames of which a repeat is the median; reads of each age, alike."""
WARM_UP = 2
"""Generated frames that are not timed."""
AGES = 5
"""Moments of the first tenth, and of the last, at which a memory is kept to be read later."""
SPEED, READ_SPEED = "times faster", "reads, times faster"
SIZE, SIZE_ALL = "times smaller", "times smaller than all pixels"
"""Ratios to the cloud, and to a cloud of which no voxel is thinned out."""
LEAST_SPEED, LEAST_SIZE, LEAST_SIZE_BOUNDED = 15.0, 55.0, 100.0
AIMED_SIZE = 256
FLAT = 1.1
"""Last tenth over first tenth up to which reading counts as flat."""

PIXEL_BYTES = 16
"""Of a point of the cloud: what each pixel of every frame costs where voxels are not thinned out."""
TIMES = (*(f"{name}, ms" for name in (RENDER, ENCODE, READ, "decode", ENCODE_MADE, "write", "frame")), SPEED, READ_SPEED)
NAMES_WIDTH, MEMORY_WIDTH = 29, 13
"""Characters of a table's first column, and of each memory's."""


def run(config: BenchConfig) -> int:
    """Time, count, print and write.

    Raises:
        UserError: a size that models do not take, or a budget of less than one frame.
    """
    console, out = plain_console(), Path(config.out)
    about = machine("numba", device=config.device)
    rows: list[Row] = []
    ages: list[Row] = []
    with torch.no_grad(), using_threads(config.threads), console.status("building models") as status:
        about["threads"] = str(torch.get_num_threads())
        walks = [Walk(config, image_size, status) for image_size in config.memory_sizes]  # what cannot be built says so now
        while walks:
            walks.pop(0).go(rows, ages)
    _show(console, rows, about)
    write(out / "bench_memory.csv", rows, about)
    report(console, "reads by age", ages, about, out / "bench_memory_age.csv")
    console.print(aims(rows, ages))
    for line in left_out(config):
        console.print(line, soft_wrap=True)
    return 0


class Walk:
    """All memories on one tour at one size."""

    def __init__(self, config: BenchConfig, image_size: int, status: Status) -> None:
        self._config, self._size, self._status = config, image_size, status
        self._encoder, self._memories = build(config, image_size)
        self._stride = stride_of(image_size)
        self._worlds = {memory: memory.empty() for memory in self._memories}
        self._kept: dict[tuple[Kept, int], Any] = {}
        self._watch = new_watch(config.device)
        self._begun = time.monotonic()

    def go(self, rows: list[Row], ages: list[Row]) -> None:
        """Walk as far as any memory is to, and add the rows of every stop."""
        stops = [n for n in sorted(set(self._config.memory_frames)) if self._walkers(n)]
        moments = {n: _moments(n) for n in stops}
        for age in range(1, max(stops, default=0) + 1):
            if age % 20 == 1:
                self._tell(f"frame {age} of {max(stops)}")
            self._worlds = {memory: self._worlds[memory] for memory in self._walkers(min(n for n in stops if n >= age))}
            self._observe(self._film(age - 1))
            for memory in self._worlds:
                if any(age in early + late for early, late in moments.values()):
                    self._kept[memory, age] = self._worlds[memory]
            if age in stops:
                self._tell(f"timing after {age} frames", line=True)
                rows.extend(self._generate(age))
                ages.extend(self._read_by_age(memory, age, *moments[age]) for memory in self._worlds)

    def _tell(self, what: str, line: bool = False) -> None:
        """Progress: a status that moves on, or a `line` that stays, which is all that shows where there is no terminal."""
        text = f"{self._size} x {self._size} pixels, {(time.monotonic() - self._begun) / 60:.1f} minutes: {what}"
        if line:
            self._status.console.print(text, soft_wrap=True, highlight=False)
        self._status.update(text)

    def _walkers(self, frames: int) -> list[Kept]:
        """Memories that walk so far at this size."""
        few = frames <= self._config.memory_growing_frames
        smallest = self._size == min(self._config.memory_sizes)
        return [memory for memory in self._memories if few or (memory.walks_far and smallest)]

    def _film(self, step: int) -> Frame:
        return film(step, self._size, self._stride, self._config.device)

    def _observe(self, frame: Frame) -> None:
        latents = encoded(self._encoder, frame.rgb, frame.camera)
        for memory, world in self._worlds.items():
            self._worlds[memory] = memory.observe(world, frame, latents)

    def _generate(self, age: int) -> list[Row]:
        """A row for each memory: frames made in turn."""
        frames = [self._film(age + k) for k in range(CALLS)]
        measures: dict[Kept, dict[str, list[float]]] = {memory: {} for memory in self._worlds}
        for frame in frames[:WARM_UP]:
            for memory, world in self._worlds.items():
                memory.generate(world, frame, self._watch)
        for _ in range(self._config.repeats):
            laps: dict[Kept, list[dict[str, float]]] = {memory: [] for memory in self._worlds}
            for frame in frames:
                for memory, world in self._worlds.items():
                    self._watch.lap()
                    read = memory.generate(world, frame, self._watch)
                    laps[memory].append(_milliseconds(self._watch.lap()) | _shares(memory, read))
            for memory, found in laps.items():
                for name in found[0]:
                    measures[memory].setdefault(name, []).append(median(lap[name] for lap in found))
        self._compare(measures, age)
        return [Row(self._case(memory, age), found) for memory, found in measures.items()]

    def _compare(self, measures: dict[Kept, dict[str, list[float]]], age: int) -> None:
        """Add bytes, and ratios to the cloud where it is among them."""
        cloud = next((memory for memory in measures if memory.name == "rgb_cloud"), None)
        for memory, found in measures.items():
            size = memory.bytes(self._worlds[memory])
            charged = size.charged
            found["bytes"], found["occupied, bytes"], found["allocated, bytes"] = ([float(n)] for n in (charged, *size[:2]))
            if cloud:
                for ratio, time in ((SPEED, "frame, ms"), (READ_SPEED, "read, ms")):
                    found[ratio] = [a / b for a, b in zip(measures[cloud][time], found[time], strict=True)]
                found[SIZE] = [cloud.bytes(self._worlds[cloud]).charged / charged]
            found[SIZE_ALL] = [age * self._size**2 * PIXEL_BYTES / charged]

    def _read_by_age(self, memory: Kept, age: int, early: list[int], late: list[int]) -> Row:
        cameras = [self._film(age + k).camera for k in range(CALLS)]
        found: dict[str, list[float]] = {}
        for _ in range(self._config.repeats):
            works = {
                name: _reader(memory, [self._kept[memory, moment] for moment in moments], cameras, self._config.device)
                for name, moments in (("first", early), ("last", late))
            }
            times = {name: 1e3 * median(s) for name, s in seconds_in_turn(works, CALLS, self._config.device).items()}
            ratio = times["last"] / times["first"]
            measured = {"first tenth, ms": times["first"], "last tenth, ms": times["last"], "last / first": ratio}
            for name, value in measured.items():
                found.setdefault(name, []).append(value)
        return Row(self._case(memory, age), found)

    def _case(self, memory: Kept, age: int) -> dict[str, object]:
        return {"image_size": self._size, "frames": age, "memory": memory.name, "budget": memory.budget or ""}


def _moments(frames: int) -> tuple[list[int], list[int]]:
    """Ages in the first tenth of so many steps, and in the last."""
    tenth = max(1, frames // 10)
    early = sorted({max(1, tenth * k // AGES) for k in range(1, AGES + 1)})
    return early, sorted({frames - tenth + age for age in early})


def _reader(memory: Kept, worlds: list[Any], cameras: list, device: str) -> Any:
    """A work that reads the worlds in turn, from one camera after another."""
    watch, calls = new_watch(device), iter(range(10**9))

    def read() -> Read:
        k = next(calls)
        return memory.read(worlds[k % len(worlds)], cameras[k % len(cameras)], watch)

    return read


def _milliseconds(lap: dict[str, float]) -> dict[str, float]:
    """Of the stages; a read is rendering and encoding too, a write the encoding of what is written."""
    ms = {name: 1e3 * value for name, value in lap.items()}
    found = {f"{name}, ms": ms[name] for name in (RENDER, ENCODE, ENCODE_MADE) if ms[name]}
    read, write = ms[RENDER] + ms[ENCODE] + ms[READ], ms[WRITE] + ms[ENCODE_MADE]
    return found | {"read, ms": read, "decode, ms": ms["decode"], "write, ms": write, "frame, ms": sum(ms.values())}


def _shares(memory: Kept, read: Read) -> dict[str, float]:
    """Cells of which nothing was read, and cells that the decoder fills, in part at least."""
    shown = memory.coverage(read)
    if shown is None:
        return {}
    return {"empty cells": float((shown <= 0).float().mean()), "holes": float((shown < KNOWN_FROM).float().mean())}


def _show(console: Console, rows: list[Row], about: dict[str, str]) -> None:
    """A table for each size and age, a column a memory: the one for the CSV is too wide for most."""
    for size, age in dict.fromkeys((row.case["image_size"], row.case["frames"]) for row in rows):
        own = [row for row in rows if (row.case["image_size"], row.case["frames"]) == (size, age)]
        fit = max(1, (console.width - NAMES_WIDTH) // MEMORY_WIDTH)
        for first in range(0, len(own), fit):
            title = f"a generated frame of {size} x {size}, after {age} frames: medians"
            console.print(_table(title, own[first : first + fit]))
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), soft_wrap=True)


def _table(title: str, rows: list[Row]) -> Table:
    """Measures down, memories across."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for row in rows:
        budget = int(str(row.case["budget"] or 0))
        name = str(row.case["memory"]).replace("_", " ")
        table.add_column(f"{name} {budget / 1024:,.0f} KiB" if budget else name, justify="right", max_width=11)
    names = dict.fromkeys(name for row in rows for name in row.measures)
    for name in sorted(names, key=lambda name: name not in TIMES):  # times first
        table.add_row(name, *(_median(row.measures.get(name, [])) for row in rows))
    return table


def _median(values: list[float]) -> str:
    """Three digits, or all of a number that was counted."""
    if not values:
        return ""
    middle = median(values)
    return f"{middle:,.0f}" if middle >= 1000 else f"{middle:.3g}"


def left_out(config: BenchConfig) -> list[str]:
    """What was not run, a line each."""
    long = [n for n in config.memory_frames if n > config.memory_growing_frames]
    if not long:
        return []
    frames, sizes = ", ".join(map(str, long)), sorted(config.memory_sizes)[1:]
    more = f", and of all at {', '.join(map(str, sizes))} px" if sizes else ""
    limit = f"memory_growing_frames={config.memory_growing_frames}"
    return [f"left out ({limit}): {frames} frames of memories that grow, raw frames apart{more}"]


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
