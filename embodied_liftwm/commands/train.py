"""`liftwm train`: a world model from a dataset, with a progress bar; an interrupted run is continued."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from embodied_liftwm.commands.run_folder import open_run
from embodied_liftwm.config import TrainConfig

MAY_CHANGE = {"steps", "minutes", "threads", "log_every", "save_every", "run", "device"}
"""Settings in which a continued run may differ from what it was begun with."""


def run(config: TrainConfig) -> None:
    """Train, or continue to, the end of `config.steps` or `config.minutes`."""
    from embodied_liftwm.training.checkpoint import checkpoints
    from embodied_liftwm.training.trainer import Trainer

    console = Console()
    continued = bool(checkpoints(Path(config.run)))
    open_run(config.run, config, MAY_CHANGE, continued)
    trainer = Trainer(config)
    parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    start = f"continuing at step {trainer.step}" if trainer.step else "from scratch"
    frames = int((trainer.reader.episode_lengths + 1).sum())
    console.print(
        f"training {config.model.memory} ({parameters:.2f} M parameters) {start} on {len(trainer.reader)} episodes, "
        f"{frames} frames of {config.data}"
    )
    with Progress(
        TextColumn("step {task.fields[step]:>6}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:7.3f}  psnr {task.fields[psnr]:5.2f} dB  {task.fields[rate]:5.2f} steps/s"),
        TimeElapsedColumn(),
        TextColumn("left {task.fields[left]}"),
        console=console,
    ) as bar:
        task = bar.add_task("train", total=1.0, step=trainer.step, loss=float("nan"), psnr=float("nan"), rate=0.0, left="?")
        meter = _Meter(trainer.step, trainer.seconds, trainer.progress)

        def show(row: dict[str, float]) -> None:
            bar.update(task, completed=trainer.progress, **meter.update(row, trainer.progress))

        trainer.fit(show)
    console.print(f"trained to step {trainer.step} in {trainer.seconds / 60:.1f} minutes, psnr {meter.psnr:.2f} dB: {config.run}")


class _Meter:
    """Running means for the bar: a single batch's loss jumps too much to read."""

    def __init__(self, step: int, seconds: float, progress: float) -> None:
        self._start = (step, seconds, progress)
        self.loss = self.psnr = float("nan")

    def update(self, row: dict[str, float], progress: float) -> dict[str, float | str]:
        self.loss = self._mean(self.loss, row["loss"])
        self.psnr = self._mean(self.psnr, row["psnr"])
        step, seconds, before = self._start
        spent = max(row["seconds"] - seconds, 1e-9)
        left = spent * (1.0 - progress) / max(progress - before, 1e-9)
        minutes, rest = divmod(round(left), 60)
        shown = {"step": int(row["step"]), "loss": self.loss, "psnr": self.psnr}
        return shown | {"rate": (row["step"] - step) / spent, "left": f"{minutes}:{rest:02d}"}

    @staticmethod
    def _mean(old: float, new: float) -> float:
        return new if old != old else old + 0.05 * (new - old)
