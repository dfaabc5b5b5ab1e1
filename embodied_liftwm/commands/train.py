"""`liftwm train`: a world model, or a teacher, from a dataset, with a progress bar; an interrupted run is continued."""

from __future__ import annotations

import math
import queue
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from embodied_liftwm.config import TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console, text_column

if TYPE_CHECKING:
    from embodied_liftwm.training.inhouse.training import HouseTrainer
    from embodied_liftwm.training.parallel import Processes
    from embodied_liftwm.training.trainer import Trainer

MAY_CHANGE = {"steps", "minutes", "threads", "log_every", "save_every", "run", "device", "accumulate", "precision", "compile"}
"""Settings in which a continued run may differ from what it was begun with: its length, its speed, its rounding."""
LOG_SECONDS = 30
"""Where there is no terminal to draw bars on, a line is printed this often, if it says anything new."""
TRAINED = {"progress": 1.0}
"""What a process that `watch` watches reports when it has trained and goes on to judge."""


def run(config: TrainConfig) -> None:
    """Train, or continue to, the end of `config.steps` or `config.minutes`; together with the processes of a `torchrun`.

    Raises:
        KeyboardInterrupt: says which step is kept.
    """
    from embodied_liftwm.training.checkpoint import checkpoints
    from embodied_liftwm.training.parallel import torchrun_processes

    with torchrun_processes(config.device) as processes:
        console, folder = plain_console(quiet=not processes.is_first), Path(config.run)
        if config.prior != "none" and processes.world_size > 1:
            raise UserError(f"prior={config.prior}: is trained by one process, not by {processes.world_size}")
        mine = open_run(folder, config, MAY_CHANGE, continued=bool(checkpoints(folder)))
        with mine if processes.is_first else nullcontext():
            try:
                if config.prior == "none":
                    _train(config, processes, console)
                else:
                    _train_teacher(config, console)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(kept(folder)) from None


def kept(run: Path) -> str:
    """What an interrupted training has left for the same command to go on from."""
    from embodied_liftwm.training.checkpoint import checkpoints, step_of

    found = checkpoints(run)
    if not found:
        return f"no step was kept in {run}: the same command starts from the beginning"
    return f"step {step_of(found[-1])} is kept in {run}: the same command continues there"


def _is_over(trainer: Trainer | HouseTrainer, console: Console) -> bool:
    """Whether there is nothing left to train, which is told."""
    if trainer.progress < 1.0:
        return False
    run = trainer.config.run
    line = f"already trained to step {trainer.step}: nothing to do; more steps= (or minutes=) continue it: {run}"
    console.print(line, soft_wrap=True)
    return True


def _train(config: TrainConfig, processes: Processes, console: Console) -> None:
    from embodied_liftwm.training.trainer import Trainer

    trainer = Trainer(config)
    if _is_over(trainer, console):
        return
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    begun = f"with the weights of {config.initial}" if config.initial else "from scratch"
    start = f"continuing at step {trainer.step}" if trainer.step else begun
    together = f" with {processes.world_size} processes" if processes.world_size > 1 else ""
    frames = int((trainer.reader.episode_lengths + 1).sum())
    console.print(
        f"training {config.model.memory} ({parameters:.2f} M parameters) {start}{together} on {len(trainer.reader)} episodes, "
        f"{frames} frames of {config.data}"
    )
    meter = Meter()
    with progress_bar(console) as bar:
        task = bar.add_task("train", total=1.0, **meter.fields)

        def show(row: dict[str, float]) -> None:
            bar.update(task, completed=trainer.progress, **meter.update(row, trainer.progress))

        trainer.fit(show)
    minutes = trainer.seconds / 60
    quality = f", psnr {meter.quality:.2f} dB" if math.isfinite(meter.quality) else ""  # none while depth is learned alone
    console.print(f"trained to step {trainer.step} in {minutes:.1f} minutes{quality}: {config.run}")


def _train_teacher(config: TrainConfig, console: Console) -> None:
    from embodied_liftwm.training.inhouse.training import HouseTrainer

    trainer = HouseTrainer(config)
    if _is_over(trainer, console):
        return
    parameters = sum(p.numel() for p in trainer.network.parameters()) / 1e6
    start = f"continuing at step {trainer.step}" if trainer.step else "from scratch"
    console.print(
        f"training {config.prior} ({parameters:.2f} M parameters) {start} on {trainer.reader.episodes} episodes, "
        f"{len(trainer.reader)} frames of {config.data}"
    )
    meter = Meter("error", "error {:.3f}")
    with progress_bar(console) as bar:
        task = bar.add_task("train", total=1.0, **meter.fields)
        trainer.fit(lambda row: bar.update(task, completed=trainer.progress, **meter.update(row, trainer.progress)))
    minutes = trainer.seconds / 60
    console.print(f"trained to step {trainer.step} in {minutes:.1f} minutes, error {meter.quality:.3f}: {config.run}")


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

    def update(self, row: dict[str, float], progress: float) -> dict[str, Any]:
        """Take in one step's row; returns the fields of the bar."""
        if self._start is None:
            self._start = (row["step"], row["seconds"], progress)
        self.loss, self.quality = self._mean(self.loss, row["loss"]), self._mean(self.quality, row[self._column])
        step, seconds, before = self._start
        self.stage = "training"
        spent = max(row["seconds"] - seconds, 1e-9)
        picture = "depth first" if math.isnan(row[self._column]) else self._form.format(self.quality)
        self._parts = [f"loss {self.loss:6.3f}", picture, f"{(row['step'] - step) / spent:5.2f} steps/s"]
        minutes, rest = divmod(round(spent * (1.0 - progress) / max(progress - before, 1e-6)), 60)
        left = f"{minutes}:{rest:02d}" if progress > before else "?"
        self.fields = {"step": int(row["step"]), "told": "  ".join(self._parts), "left": left}
        return self.fields

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
