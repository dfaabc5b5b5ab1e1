"""`liftwm demo`: the whole idea, small: collect, train, plan, evaluate, report. Each stage says what it does and shows.

    OUT/data/train, OUT/data/eval       episodes of rooms that never meet
    OUT/model, OUT/baseline, OUT/agent  run folders
    OUT/metrics.json, OUT/rows.csv, OUT/report/index.html

Stages continue what an interrupted demo left. Everything is bounded by steps and drawn from seeds, and each process computes
with one thread: a slow or busy machine takes longer and ends at the same figures.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from embodied_liftwm.commands import collect, evaluate, train_agent
from embodied_liftwm.commands.train import kept
from embodied_liftwm.config import REPORT_SEED, DemoConfig, TrainConfig
from embodied_liftwm.experiments.engine import train
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.terminal import heading, plain_console
from embodied_liftwm.workers.side_by_side import Task, side_by_side

MODEL_STEP_S, BASELINE_STEP_S = 2.3, 0.64
"""Seconds that a training step takes beside the other model's: the mean of steps on depth alone (0.8) and on all (3.8)."""
EPISODE_S, AGENT_STEP_S, JUDGED_S, COMPILE_S = 0.11, 0.05, 5.0, 45.0
"""Seconds to collect an episode, to play and learn a step of the policy, to judge an episode, and to compile kernels once."""


def run(config: DemoConfig) -> None:
    """Run every stage, then say the headline in three lines."""
    with open_run(config.out, config) as out:
        _run(config, out)


def _run(config: DemoConfig, out: Path) -> None:
    console, started = plain_console(), time.monotonic()
    minutes = f"about {expected_minutes(config):.0f} minutes on two quiet cores"
    console.print(f"{minutes}, longer on slow or busy ones, with the same figures: {out}")
    train_data, eval_data = out / "data" / "train", out / "data" / "eval"
    env = config.collect.env

    episodes = config.collect.episodes
    _stage(console, 1, f"collect {episodes} episodes of {env}: an agent with a camera tours rooms and looks around")
    collect.run(replace(config.collect, out=str(train_data), split="train"))
    evaluated = replace(config.collect, out=str(eval_data), split="eval", episodes=config.eval_episodes)
    collect.run(replace(evaluated, seed=REPORT_SEED + config.collect.seed))

    _stage(console, 2, "train two world models side by side, a core each, on what was seen: no depth, no maps")
    console.print(
        f"  model: a persistent map of relief patches, {config.train.steps} steps; "
        f"baseline: a recurrent network, {config.baseline_steps} steps on the same frames, poses and terms"
    )
    memories = {"model": "patches", "baseline": "recurrent"}
    settings = {
        name: replace(
            config.train, data=(str(train_data),), run=str(out / name), model=replace(config.train.model, memory=memory)
        )
        for name, memory in memories.items()
    }
    settings["baseline"] = replace(settings["baseline"], steps=config.baseline_steps)
    train_side_by_side(settings, console)

    _stage(console, 3, f"train a PPO policy on what the model remembers, {config.agent.steps} steps: short, to show the path")
    options = config.collect.env_options
    agent = replace(config.agent, model=str(out / "model"), run=str(out / "agent"), env=env, env_options=options)
    train_agent.run(agent)

    _stage(console, 4, "evaluate in rooms never seen: novel views, objects that were out of sight, and going back to them")
    evaluation = replace(
        config.evaluate,
        model=str(out / "model"),
        baseline=str(out / "baseline"),
        policy=str(out / "agent"),
        data=str(eval_data),
        out=config.out,
        env=env,
        env_options=options,
    )
    metrics = evaluate.evaluate(evaluation, console)
    _headline(console, metrics, (time.monotonic() - started) / 60)


def expected_minutes(config: DemoConfig) -> float:
    """What a demo takes on two quiet cores, from what its stages took on one machine (`MODEL_STEP_S` and so on)."""
    longer = max(config.train.steps * MODEL_STEP_S, config.baseline_steps * BASELINE_STEP_S)
    evaluated = config.eval_episodes + config.evaluate.navigation_episodes
    around = COMPILE_S + config.collect.episodes * EPISODE_S + config.agent.steps * AGENT_STEP_S + evaluated * JUDGED_S
    return max(1.0, (longer + around) / 60)


def _stage(console: Console, number: int, text: str) -> None:
    heading(console, f"{number}/4", f" {text}")


def train_side_by_side(settings: dict[str, TrainConfig], console: Console) -> None:
    """Train several models at once, a process each: the same wall-clock time on the same machine for all.

    Raises:
        UserError: one of them failed; its reason.
    """
    tasks = [Task(name, partial(train, config)) for name, config in settings.items()]
    try:
        side_by_side(tasks, len(tasks), console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; ".join(kept(Path(config.run)) for config in settings.values())) from None


def _headline(console: Console, metrics: dict[str, Any], minutes: float) -> None:
    views, persistence, agents = metrics["views"], metrics["persistence"], metrics["navigation"]["agents"]
    seen = [_mean(views[name]["psnr_seen"]) for name in ("model", "baseline")]
    kept = [_mean(persistence[name]["gap_11_up"]["score"]) for name in ("model", "baseline")]
    rate = {name: 100 * _mean(agents[name]["success"]) for name in ("planner", "random", "oracle")}
    steps = " and ".join(str(metrics["models"][name]["steps"]) for name in ("model", "baseline"))
    heading(console, f"In {minutes:.1f} minutes, {steps} training steps:")
    console.print(f"  views of what was seen before: {seen[0]:.1f} dB with the 3D state, {seen[1]:.1f} dB with the baseline")
    console.print(f"  objects unseen for 11 steps or more: persistence {kept[0]:.2f} against {kept[1]:.2f}")
    console.print(
        f"  going back to them: the planner succeeds in {rate['planner']:.0f} %, random in {rate['random']:.0f} %, "
        f"the oracle in {rate['oracle']:.0f} %"
    )


def _mean(estimate: dict[str, Any]) -> float:
    """The mean of an estimate; nan where there was nothing to measure, as in a demo of two episodes."""
    return float("nan") if estimate["mean"] is None else float(estimate["mean"])
