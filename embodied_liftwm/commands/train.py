"""`liftwm train`: a world model, or a teacher, from a dataset, with a progress bar; an interrupted run is continued."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from embodied_liftwm.config import TRAIN_MAY_CHANGE, TrainConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers.side_by_side import Meter, progress_bar

if TYPE_CHECKING:
    from embodied_liftwm.training.inhouse.training import HouseTrainer
    from embodied_liftwm.training.parallel import Processes
    from embodied_liftwm.training.trainer import Trainer


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
        mine = open_run(folder, config, TRAIN_MAY_CHANGE, continued=bool(checkpoints(folder)))
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
