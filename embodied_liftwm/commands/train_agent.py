"""`liftwm train-agent`: a stable-baselines3 policy on what a world model remembers."""

from __future__ import annotations

import math
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

import embodied_liftwm
from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import plain_console, text_column


def run(config: TrainAgentConfig) -> int:
    """Train or continue the policy of a run folder, with a progress bar, and say where it is.

    Raises:
        UserError: no such model or environment, or they do not fit each other or the run folder.
        KeyboardInterrupt: says how many steps are kept.
    """
    from embodied_liftwm.commands import agent_loop
    from liftwm_agents.policies.policy_file import policy_at
    from liftwm_agents.policies.training import MAY_CHANGE, saved_steps

    folder = Path(config.run)
    begun = policy_at(folder) is not None or any((folder / arm).exists() for arm in agent_loop.ARMS)
    with open_run(folder, config, agent_loop.MAY_CHANGE if config.loop else MAY_CHANGE, continued=begun):
        try:
            if config.loop:
                agent_loop.run(config)
            else:
                _train(config, folder)
        except KeyboardInterrupt as stop:
            steps = saved_steps(folder)
            kept = f"{steps} steps are kept in {folder}: the same command continues there"
            nothing = f"no step was kept in {folder}: the same command starts from the beginning"
            raise KeyboardInterrupt(str(stop) or (kept if steps else nothing)) from None
    return 0


def _train(config: TrainAgentConfig, folder: Path) -> None:
    from liftwm_agents.policies.policy_file import POLICY_NAME
    from liftwm_agents.policies.training import AgentProgress, saved_steps, train_policy
    from liftwm_agents.policies.training_envs import check_task

    console, done = plain_console(), saved_steps(folder)
    if done >= config.steps and (folder / POLICY_NAME).exists():
        line = f"already trained to step {done}: nothing to do; more steps= continue it: {folder}"
        console.print(line, soft_wrap=True, highlight=False)
        for line in _held_out(folder):
            console.print(line)
        return
    model = embodied_liftwm.load(config.model, config.device)
    check_task(config, model)
    columns = (text_column("{task.description}"), BarColumn(), MofNCompleteColumn(), text_column("{task.fields[row]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("train-agent", total=config.steps, completed=done, row="")

        def show(row: AgentProgress) -> None:
            progress.update(task, completed=min(row.steps, row.total), row=_describe(row))

        path = train_policy(config, model, show)
    console.print(f"policy: {path}, log: tensorboard --logdir {folder}")
    for line in _held_out(folder):
        console.print(line)


def _held_out(folder: Path) -> list[str]:
    """The last row of the curve, in words; nothing where nothing was evaluated."""
    from embodied_liftwm.evaluation.statistics import wilson_interval
    from liftwm_agents.policies.training import CURVE_NAME, read_curve

    curve = read_curve(folder)
    if not curve:
        return []
    row = curve[-1]
    success = ""
    if not math.isnan(row.success):
        share = wilson_interval(round(row.success * row.episodes), row.episodes)
        success = f"success {100 * row.success:.0f} % of {row.episodes} [{100 * share.low:.0f}, {100 * share.high:.0f}], "
    line = f"held-out tours, after {row.steps} steps: {success}return {row.mean_return:.2f}; curve: {folder / CURVE_NAME}"
    lines = [line]
    if row.imagined_episodes:
        lines.append(
            f"the same {row.imagined_episodes} in imagination: success {100 * row.imagined_success:.0f} %, "
            f"return {row.imagined_return:.2f}"
        )
    return lines


def _describe(row: object) -> str:
    """`31 fps, return 1.20, success 40 %`; what is not known yet is left out."""
    fps, mean_return, success = (getattr(row, name) for name in ("fps", "mean_return", "success_rate"))
    parts = [f"{fps:.0f} fps"]
    parts += [] if math.isnan(mean_return) else [f"return {mean_return:.2f}"]
    parts += [] if math.isnan(success) else [f"success {100 * success:.0f} %"]
    return ", ".join(parts)
