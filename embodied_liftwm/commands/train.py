"""`liftwm train` and `liftwm priors train`: into a run folder, with a progress bar; an interrupted run is continued."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from embodied_liftwm.config import TRAIN_MAY_CHANGE, TeacherConfig, TrainConfig
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers.side_by_side import Meter, progress_bar

if TYPE_CHECKING:
    from torch import nn

    from embodied_liftwm.data.mixture import Mixture
    from embodied_liftwm.training.loop import Loop


def run(config: TrainConfig) -> None:
    """Train, or continue to, the end of `config.steps` or `config.minutes`; together with the processes of a `torchrun`.

    Raises:
        KeyboardInterrupt: says which step is kept.
    """
    from embodied_liftwm.training.parallel import torchrun_processes
    from embodied_liftwm.training.trainer import Trainer

    with torchrun_processes(config.device) as processes:
        console = plain_console(quiet=not processes.is_first)
        with _held(config, processes.is_first):
            trainer = Trainer(config)
            begun = f"with the weights of {config.initial}" if config.initial else "from scratch"
            together = f" with {processes.world_size} processes" if processes.world_size > 1 else ""
            about = _About(config.model.memory, trainer.model, begun, f"{together} on {_told(trainer.mixture)}", Meter())
            _fit(trainer, about, console)
            for name, row in trainer.validated.items():
                console.print(f"validation on {name}: loss {row['loss']:.3f}, PSNR {row['psnr']:.2f} dB")


def _told(mixture: Mixture) -> str:
    """What is trained on, and where there are several datasets, how often each is drawn."""
    parts = []
    for dataset, share in zip(mixture.datasets, mixture.shares, strict=True):
        held_out = f" and {len(dataset.held_out)} held out" if dataset.held_out else ""
        drawn = f", {100 * share:.0f} % of the steps" if len(mixture.datasets) > 1 else ""
        parts.append(f"{len(dataset.learned)} episodes{held_out}, {dataset.frames} frames of {dataset.name}{drawn}")
    return "; ".join(parts)


def run_teacher(config: TeacherConfig) -> None:
    """The same for a teacher of our own, which one process trains.

    Raises:
        KeyboardInterrupt: says which step is kept.
    """
    from embodied_liftwm.training.inhouse.trainer import TeacherTrainer

    with _held(config):
        trainer = TeacherTrainer(config)
        data = f" on {trainer.reader.episodes} episodes, {len(trainer.reader)} frames of {config.data}"
        about = _About(config.name, trainer.network, "from scratch", data, Meter("error", "error {:.3f}"))
        _fit(trainer, about, plain_console())


@contextmanager
def _held(config: TrainConfig | TeacherConfig, writes: bool = True) -> Iterator[None]:
    """Hold the run folder, if this is the process that writes, and say what an interrupted training has left."""
    from embodied_liftwm.training.checkpoint import checkpoints

    folder = Path(config.run)
    mine = open_run(folder, config, TRAIN_MAY_CHANGE, continued=bool(checkpoints(folder)))
    with mine if writes else nullcontext():
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(kept(folder)) from None


def kept(run: Path) -> str:
    """What an interrupted training has left for the same command to go on from."""
    from embodied_liftwm.training.checkpoint import checkpoints, step_of

    found = checkpoints(run)
    if not found:
        return f"no step was kept in {run}: the same command starts from the beginning"
    return f"step {step_of(found[-1])} is kept in {run}: the same command continues there"


class _About(NamedTuple):
    """What is said of a training."""

    name: str
    network: nn.Module
    begun: str  # how, where it is not continued
    data: str
    meter: Meter


def _fit(trainer: Loop, about: _About, console: Console) -> None:
    """Train to the end with a progress bar, unless there is nothing left to train."""
    if trainer.progress >= 1.0:
        line = f"already trained to step {trainer.step}: nothing to do; more steps= (or minutes=) continue it: {trainer.run}"
        console.print(line, soft_wrap=True)
        return
    parameters = sum(p.numel() for p in about.network.parameters()) / 1e6
    start = f"continuing at step {trainer.step}" if trainer.step else about.begun
    console.print(f"training {about.name} ({parameters:.2f} M parameters) {start}{about.data}")
    meter = about.meter
    with progress_bar(console) as bar:
        task = bar.add_task("train", total=1.0, **meter.fields)
        trainer.fit(lambda row: bar.update(task, completed=trainer.progress, **meter.update(row, trainer.progress)))
    quality = f", {meter.told}" if math.isfinite(meter.quality) else ""  # none while depth is learned alone
    console.print(f"trained to step {trainer.step} in {trainer.seconds / 60:.1f} minutes{quality}: {trainer.run}")
