"""`liftwm evaluate`: score a world model, a baseline and what stands beside them by the same code, and write a report.

    OUT/metrics.json         figures with intervals, the command and the resolved configuration
    OUT/rows.csv             every row behind them
    OUT/report/index.html    one self-contained page; for the permanence benchmark with videos beside it

The work is in `evaluation.held_out` and `evaluation.permanence.benchmark`; who acts is given to it here, as `evaluation`
knows no agents. The same command gives the same figures; only timings differ (`cost` and `act_ms` in metrics.json).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from embodied_liftwm.commands.schema import command_line
from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.evaluation.permanence.unfinished import kept
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.workers import find_engine


def run(config: EvaluateConfig) -> int:
    """Evaluate, print the figures and say where the report is.

    Raises:
        KeyboardInterrupt: says what is kept.
    """
    try:
        evaluate(config, plain_console())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept(config)) from None
    return 0


def evaluate(config: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Run the suites of `config` and write everything under `config.out`.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: no such model, dataset, task or manifest, sizes that differ, no truth, training scenes, a model that returns
            nonsense, no Ray for engine=ray, or a folder that another process holds or another command owns.
    """
    from embodied_liftwm.evaluation.held_out import evaluate_held_out
    from embodied_liftwm.evaluation.permanence.benchmark import evaluate_permanence
    from embodied_liftwm.experiments.acting import planner_on, policy_agent

    find_engine(config.engine, config.workers, config.ray_address)  # whether there is one, before any work
    source = config.models[0] if config.permanence else config.model
    learned = partial(policy_agent, source, config.policy, config.device, trust=config.trust) if config.policy else None
    judge = evaluate_permanence if config.permanence else evaluate_held_out
    return judge(config, partial(planner_on, config.planner), learned, partial(provenance, config), console)


def provenance(config: EvaluateConfig, models: Sequence[Any]) -> dict[str, Any]:
    """What the figures come from: command, configuration, versions, machine and models."""
    from embodied_liftwm.run_folder import versions

    return {
        "command": command_line("evaluate", config),
        "config": dataclasses.asdict(config),
        "versions": dict(line.split(" ", 1) for line in versions() if not line.startswith("command ")),
        "machine": f"{os.cpu_count()} CPU cores" if config.device == "cpu" else config.device,
        "models": {model.name: describe(model) for model in models},
    }


def describe(model: Any) -> dict[str, Any]:
    """What a model is, and the training steps behind it where its source is a run folder."""
    from embodied_liftwm.training.checkpoint import checkpoints, step_of

    memory = getattr(getattr(model.model, "config", None), "memory", None)
    parameters = sum(p.numel() for p in model.model.parameters()) if hasattr(model.model, "parameters") else None
    about = {"source": model.source, "type": type(model.model).__name__, "memory": memory, "parameters": parameters}
    made = checkpoints(Path(model.source))
    return about | ({"steps": step_of(made[-1])} if made else {})
