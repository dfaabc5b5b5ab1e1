"""Work done side by side, a process each, with a bar for each of them: trainings, and what is judged after them."""

from __future__ import annotations

import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from embodied_liftwm.errors import UserError
from embodied_liftwm.interrupts import answering_parent, end
from embodied_liftwm.terminal import text_column
from embodied_liftwm.workers.local_engine import die_with_parent, safe_spawning

LOG_SECONDS = 30
"""Where there is no terminal to draw bars on, a line is printed this often, if it says anything new."""
TRAINED = {"progress": 1.0}
"""What a process reports when it has trained and goes on to judge."""

Tell = Callable[[dict[str, float]], None]
"""Takes a step's row with its `progress`, for the bar; `TRAINED` once there are no more."""


@dataclass(frozen=True)
class Task:
    """Work for a process of its own."""

    name: str  # of its bar
    work: Callable[[Tell], None]  # a function of a module, perhaps with `partial`: it travels to the process


def side_by_side(tasks: Sequence[Task], processes: int, console: Console) -> None:
    """Do tasks in processes of their own, so many at once, with a bar for each.

    Raises:
        UserError: one of them failed; its reason.
    """
    context = multiprocessing.get_context("spawn")
    rows: Any = context.Queue()
    made: dict[str, Any] = {task.name: context.Process(target=_do, args=(task, rows), daemon=True) for task in tasks}
    pool = ThreadPoolExecutor(processes)  # a thread starts a process and waits for its end: a slot
    try:
        with safe_spawning():  # which holds while they wait for their turn
            for process in made.values():
                pool.submit(_until_end, process)
            watch(console, rows, made)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        end([process for process in made.values() if process.pid is not None])


def _until_end(process: Any) -> None:
    process.start()
    process.join()


def _do(task: Task, rows: Any) -> None:
    """A task's progress, its end or its error goes into `rows`."""
    die_with_parent()
    try:
        with answering_parent():
            task.work(lambda row: rows.put((task.name, row)))
        rows.put((task.name, None))
    except UserError as error:
        rows.put((task.name, str(error)))
    except KeyboardInterrupt:
        rows.cancel_join_thread()  # nobody reads them any more
        raise SystemExit(143) from None


def watch(console: Console, rows: Any, processes: dict[str, Any]) -> None:
    """Show a bar for each of several trainings that report into a queue, until all have ended.

    Args:
        console: where to.
        rows: queue of (name, row with its progress), (name, `TRAINED`) when the training is over and what follows is not,
            (name, None) at the end, or (name, text of an error).
        processes: by name; one that dies without a word is an error.

    Raises:
        UserError: one of them failed.
    """
    meters = {name: Meter() for name in processes}
    running, lines = set(processes), _Lines(console)
    with progress_bar(console) as bar:
        tasks = {name: bar.add_task(name, total=1.0, **meters[name].fields) for name in processes}
        while running:
            try:
                name, row = rows.get(timeout=1.0)
            except queue.Empty:
                dead = [name for name in running if processes[name].exitcode not in (None, 0)]
                if dead:
                    raise UserError(f"training {dead[0]} died with exit code {processes[dead[0]].exitcode}") from None
                lines.show(meters)
                continue
            if isinstance(row, str):
                raise UserError(f"training {name}: {row}")
            if row is None:
                running.remove(name)
                bar.update(tasks[name], completed=1.0, **meters[name].turn_to("done"))
            elif row == TRAINED:
                bar.update(tasks[name], completed=1.0, **meters[name].turn_to("judging"))
            else:
                bar.update(tasks[name], completed=row["progress"], **meters[name].update(row, row["progress"]))
            lines.show(meters)


class _Lines:
    """Now and then a line on several trainings, where there is no terminal to draw bars on."""

    def __init__(self, console: Console) -> None:
        self._console, self._told, self._last = console, time.monotonic(), ""

    def show(self, meters: dict[str, Meter]) -> None:
        """What has begun and not ended, a part each; the others as counts."""
        if self._console.is_terminal or time.monotonic() - self._told <= LOG_SECONDS:
            return
        self._told = time.monotonic()
        parts = [f"{name} {meter}" for name, meter in meters.items() if meter.stage in ("training", "judging")]
        counts = {stage: sum(meter.stage == stage for meter in meters.values()) for stage in ("waiting", "done")}
        line = "; ".join([*parts, *(f"{count} {stage}" for stage, count in counts.items() if count)])
        if line != self._last:
            self._last = line
            self._console.print(f"  {line}")


def progress_bar(console: Console) -> Progress:
    """A bar with step, loss, PSNR or error, speed and the time that is left."""
    return Progress(
        text_column("  {task.description:<9} step {task.fields[step]:>6}"),
        BarColumn(bar_width=24),
        text_column("{task.fields[told]}"),
        TimeElapsedColumn(),
        text_column("left {task.fields[left]}"),
        console=console,
    )


class Meter:
    """Running means for a bar: a single batch's loss jumps too much to read."""

    def __init__(self, column: str = "psnr", form: str = "psnr {:5.2f} dB") -> None:
        """Beside the loss, show a column of the rows in this form."""
        self._start: tuple[float, float, float] | None = None
        self._column, self._form, self._parts = column, form, list[str]()
        self.loss = self.quality = float("nan")
        self.stage = "waiting"  # then training, and at the end judging or done
        self.fields: dict[str, Any] = {"step": 0, "told": self.stage, "left": "?"}

    @property
    def told(self) -> str:
        """The column's running mean, as in `psnr 21.00 dB`."""
        return " ".join(self._form.format(self.quality).split())

    def update(self, row: dict[str, float], progress: float) -> dict[str, Any]:
        """Take in one step's row; returns the fields of the bar."""
        if self._start is None:
            self._start = (row["step"], row["seconds"], progress)
        step, seconds, before = self._start
        self.stage = "training"
        spent = max(row["seconds"] - seconds, 1e-9)
        self._parts = [*self._measures(row), f"{(row['step'] - step) / spent:5.2f} steps/s"]
        minutes, rest = divmod(round(spent * (1.0 - progress) / max(progress - before, 1e-6)), 60)
        left = f"{minutes}:{rest:02d}" if progress > before else "?"
        self.fields = {"step": int(row["step"]), "told": "  ".join(self._parts), "left": left}
        return self.fields

    def _measures(self, row: dict[str, float]) -> list[str]:
        if "loss" not in row:  # of a policy
            return [] if math.isnan(row["success"]) else [f"success {100 * row['success']:3.0f} %"]
        self.loss, self.quality = self._mean(self.loss, row["loss"]), self._mean(self.quality, row[self._column])
        return [f"loss {self.loss:6.3f}", "depth first" if math.isnan(row[self._column]) else self._form.format(self.quality)]

    def turn_to(self, stage: str) -> dict[str, Any]:
        """No step is taken any more: it is `judging`, or `done`. Returns the fields of the bar, which ends as training did."""
        self.stage = stage
        told = "  ".join(self._parts) if stage == "done" and self._parts else stage
        self.fields = self.fields | {"told": told, "left": "0:00" if stage == "done" else "?"}
        return self.fields

    def __str__(self) -> str:
        if self.stage != "training":
            return self.stage
        parts = [f"step {self.fields['step']}", *self._parts, f"left {self.fields['left']}"]
        return ", ".join(" ".join(part.split()) for part in parts)

    @staticmethod
    def _mean(old: float, new: float) -> float:
        return new if math.isnan(old) else old + 0.05 * (new - old)
