"""`liftwm train-agent loop=true`: world model and policy grow up together, by rounds, beside the same on fixed data.

    RUN/loop/data, RUN/fixed/data        episodes, in the dataset format
    RUN/ARM/model-1, model-2, ...        world models, each begun with the weights of the last
    RUN/ARM/agent                        run folder of the policy
    RUN/held_out                         held-out episodes, of the development seeds
    RUN/loop.csv                         one row an arm and round

A round collects episodes, trains the world model on all episodes so far, and goes on with the policy on that model's state.
Both arms begin with the same explored episodes. After them `loop` collects with its policy (the scripted tour up to the call,
the policy from there), while `fixed` has as many explored ones, all of them from its first round on. Model steps and policy
steps are the same. Whatever is there is not done again, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import embodied_liftwm
from embodied_liftwm.commands import collect
from embodied_liftwm.commands import train as train_world
from embodied_liftwm.config import CollectConfig, TrainAgentConfig
from embodied_liftwm.evaluation.results_table import judge
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.statistics import wilson_interval
from embodied_liftwm.terminal import heading, plain_console

ARMS = ("loop", "fixed")
TABLE = "loop.csv"
MAY_CHANGE = ("run", "device", "rounds", "parallel")
"""Settings in which a continued loop may differ."""


@dataclass(frozen=True)
class LoopRow:
    """One arm after one round."""

    arm: str
    round: int
    episodes: int  # that the world model has been trained on
    model_steps: int  # over all rounds
    steps: int  # of the policy
    tours: int  # held out, that it was judged on
    success: float
    low: float  # Wilson's 95 % interval
    high: float
    mean_return: float
    psnr_seen: float  # dB, of the world model's novel views; nan without truth
    persistence: float  # its persistence score; nan where nothing came back into view, and without truth
    psnr: float = float("nan")  # dB, of all pixels


def run(config: TrainAgentConfig) -> None:
    """Do every round of both arms that is not there yet in a folder that this process holds, and show the table.

    Raises:
        KeyboardInterrupt: says what is kept.
    """
    console, folder = plain_console(), Path(config.run)
    rows = read_rows(folder / TABLE, LoopRow) if (folder / TABLE).exists() else []
    for number in range(1, config.rounds + 1):
        for arm in ARMS:
            if any((row.arm, row.round) == (arm, number) for row in rows):
                continue
            heading(console, f"round {number}/{config.rounds}", f", {arm}")
            try:
                rows.append(play_round(config, arm, number, console))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"what was finished is kept in {folder}: the same command continues there") from None
            write_rows(folder / TABLE, rows)
    for row in rows:
        unknown = np.isnan(row.psnr_seen)
        console.print(
            f"{row.arm:<6} round {row.round}: success {100 * row.success:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}] of "
            f"{row.tours}, return {row.mean_return:.2f}, views {row.psnr:.2f} dB"
            + ("" if unknown else f", seen ones {row.psnr_seen:.2f} dB, persistence {row.persistence:.2f}"),
            soft_wrap=True,
        )
    console.print(f"rows: {folder / TABLE}")


def play_round(config: TrainAgentConfig, arm: str, number: int, console: Console) -> LoopRow:
    """Collect, train the world model, train the policy, judge both."""
    from liftwm_agents.policies.training import train_policy

    folder = Path(config.run) / arm
    episodes = config.round_episodes * (number if arm == "loop" else config.rounds)
    if arm == "fixed" or number == 1:
        collect.run(collect_settings(config, folder / "data", episodes))
    else:
        _collect_with_policy(config, folder, number, console)
    before = str(folder / f"model-{number - 1}") if number > 1 else config.world.initial
    train_world.run(replace(config.world, data=(str(folder / "data"),), run=str(folder / f"model-{number}"), initial=before))
    model: Any = embodied_liftwm.load(str(folder / f"model-{number}"), config.device)
    agent = replace(config, run=str(folder / "agent"), steps=config.steps * number // config.rounds, evaluate_every=0)
    path = train_policy(replace(agent, model=str(folder / f"model-{number}")), model)
    console.print(f"trained the policy to step {agent.steps}: {path}")
    return _judge(config, arm, number, model, path)


def collect_settings(config: TrainAgentConfig, data: Path, episodes: int) -> CollectConfig:
    """How explored episodes are collected: the same ones in both arms."""
    return CollectConfig(
        env=config.env, env_options=config.env_options, out=str(data), episodes=episodes, steps=config.episode_steps,
        seed=config.seed, workers=1,
    )  # fmt: skip


def _collect_with_policy(config: TrainAgentConfig, folder: Path, number: int, console: Console) -> None:
    """The episodes of a round that are not there yet, with the policy and the world model of the round before."""
    from embodied_liftwm.data.storage import scan, write_episode
    from embodied_liftwm.environments import find_env
    from liftwm_agents.collection.workers import ShardCollector
    from liftwm_agents.policies.policy import PPOPolicy

    data, found = folder / "data", scan(folder / "data")
    indices = range(config.round_episodes * (number - 1), config.round_episodes * number)
    missing = [index for index in indices if index not in found]
    if not missing:
        return
    model: Any = embodied_liftwm.load(str(folder / f"model-{number - 1}"), config.device)
    collector = ShardCollector(collect_settings(config, data, 1), find_env(config.env))
    policy = PPOPolicy(model, folder / "agent", config.device, deterministic=False, space=collector.env.action_space)
    collector.policy_maker = _tour_then(policy, config)
    successes = []
    for index in missing:
        episode = collector.record(index)
        successes.append(bool(episode.meta.get("success")))
        meta = episode.meta | {"policy": f"train-agent, round {number - 1}"}
        write_episode(data, index, dataclasses.replace(episode, meta=meta))
    collector.close()
    console.print(f"collected {len(missing)} episodes with the policy, success {100 * float(np.mean(successes)):.0f} %: {data}")


def _tour_then(policy: Any, config: TrainAgentConfig) -> Callable[..., Any]:
    """A maker of policies, as collectors call it. Where there is no scripted tour, one takes half of an episode at most."""

    def make(name: str, env: Any, *, ours: bool, seed: int) -> Any:
        from embodied_liftwm.environments import guide_of
        from liftwm_agents.policies.policy import TourThenPolicy

        guide = None if ours else guide_of(config.tour)(env, seed)
        return TourThenPolicy(env, policy, guide, min(config.tour_steps, config.episode_steps // 2))

    return make


def _judge(config: TrainAgentConfig, arm: str, number: int, model: Any, path: Path) -> LoopRow:
    """The policy on held-out tours, the world model on held-out episodes."""
    from embodied_liftwm.data import EvaluationReader
    from liftwm_agents.policies.held_out import HeldOutTours
    from liftwm_agents.policies.policy_file import open_policy

    tours = HeldOutTours(config, model)
    score = tours.score(open_policy(path))
    tours.close()
    held_out = Path(config.run) / "held_out"
    settings = collect_settings(config, held_out, config.eval_episodes)
    collect.run(replace(settings, split="eval", seed=config.eval_seed))
    episodes = [episode for episode in EvaluationReader(held_out)]
    context = min(48, min(len(episode.rgb) for episode in episodes) - 2)
    judged = judge(model, arm, f"{arm}, round {number}", episodes, context, 4, config.device)
    told = 0 if np.isnan(score.success) else score.episodes
    share = wilson_interval(round(score.success * told) if told else 0, told)
    trained_on = config.round_episodes * (number if arm == "loop" else config.rounds)
    return LoopRow(
        arm, number, trained_on, config.world.steps * number, config.steps * number // config.rounds, score.episodes,
        score.success, share.low, share.high, score.mean_return, _mean([row.psnr_seen for row in judged.views]),
        _mean([row.score for row in judged.persistence]), _mean([row.psnr for row in judged.views]),
    )  # fmt: skip


def _mean(values: list[float]) -> float:
    """Of those that are numbers; nan of nothing."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
