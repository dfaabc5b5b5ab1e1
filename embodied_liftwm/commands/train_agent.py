"""`liftwm train-agent`: a stable-baselines3 policy on what a world model remembers."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import embodied_liftwm
from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.errors import UserError


def run(config: TrainAgentConfig) -> int:
    """Train or continue the policy of a run folder, with a progress bar, and say where it is.

    Raises:
        UserError: no such model or environment, or they do not fit each other or the run folder.
    """
    from liftwm_agents.policy import AgentProgress, saved_steps, train_ppo

    folder = Path(config.run)
    model = embodied_liftwm.load(config.model, config.device)
    _write_config(folder, config)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[row]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("train-agent", total=config.steps, completed=saved_steps(folder), row="")

        def show(row: AgentProgress) -> None:
            progress.update(task, completed=min(row.steps, row.total), row=_describe(row))

        path = train_ppo(config, model, show)
    console.print(f"policy: {path} (open it with stable_baselines3.PPO.load), log: tensorboard --logdir {folder}")
    return 0


def _describe(row: object) -> str:
    """`31 fps, return 1.20, success 40 %`; what is not known yet is left out."""
    fps, mean_return, success = (getattr(row, name) for name in ("fps", "mean_return", "success_rate"))
    parts = [f"{fps:.0f} fps"]
    parts += [] if math.isnan(mean_return) else [f"return {mean_return:.2f}"]
    parts += [] if math.isnan(success) else [f"success {100 * success:.0f} %"]
    return ", ".join(parts)


def _write_config(folder: Path, config: TrainAgentConfig) -> None:
    """The resolved configuration, beside what it made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / ".config.yaml"
        partial.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
        os.replace(partial, folder / "config.yaml")
    except OSError as error:
        raise UserError(f"run={config.run}: cannot write there ({error.strerror})") from error
