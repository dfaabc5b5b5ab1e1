"""Use: every agent gets the same guided tours of the same scenes, and must then go to the object that is called.

Protocol. One integer seed fixes a scene, its tour and its goal. `GuidedTour` drives the tour; an agent digests it
(`begin(tour)`) and acts from the call on. Episodes that memory cannot solve (the goal was never in view) and episodes solved
where they start are removed for all agents, and counted. What remains is paired: same seeds, same order, for every agent.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from embodied_liftwm.config import EVAL_SEED_OFFSET, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.arena import AgentFactory, Arena, NavigationRow, Outcome, Trace, make_env
from embodied_liftwm.evaluation.progress import progress

SEED_OFFSET = EVAL_SEED_OFFSET + 2**24
"""First seed of navigation: beyond those of evaluation datasets, so that no goal lies in a scene of theirs."""


@dataclass(frozen=True)
class NavigationResult:
    """Rows of all agents, what was removed and why, and the time taken to decide."""

    rows: list[NavigationRow]
    removed: dict[str, list[int]]  # reason -> seeds
    traces: list[Trace]
    act_ms: dict[str, float]  # agent -> mean milliseconds per action; a timing, so never twice the same


def evaluate_navigation(agents: Mapping[str, AgentFactory], config: EvaluateConfig) -> NavigationResult:
    """Let every agent navigate the same `config.navigation_episodes` episodes, spread over `config.workers` processes.

    Args:
        agents: name -> factory, importable from a fresh process.
        config: env, env_options, navigation_episodes, seed and workers are read.

    Raises:
        UserError: no such environment, or a worker died.
    """
    seeds = [SEED_OFFSET + config.seed + i for i in range(config.navigation_episodes)]
    workers = min(config.workers, len(seeds))
    with progress("navigation", len(seeds)) as advance:
        if workers == 1:
            outcomes = _in_this_process(dict(agents), config, seeds, advance)
        else:
            outcomes = _in_processes(dict(agents), config, seeds, workers, advance)
    return _collect(list(agents), seeds, outcomes)


@functools.cache
def _arena() -> Arena:
    """The arena of this worker process. Made with its first episode and not before: an error there reaches the caller."""
    return Arena(*_given)


_given: tuple[dict[str, AgentFactory], EvaluateConfig]


def _start_worker(agents: dict[str, AgentFactory], config: EvaluateConfig) -> None:
    import torch

    global _given
    torch.set_num_threads(1)
    _given = agents, config


def _play(episode: int, seed: int) -> Outcome:
    return _arena().play(episode, seed)


def _in_this_process(
    agents: dict[str, AgentFactory], config: EvaluateConfig, seeds: list[int], advance: Callable[[int], None]
) -> list[Outcome]:
    arena = Arena(agents, config)
    outcomes = []
    for episode, seed in enumerate(seeds):
        outcomes.append(arena.play(episode, seed))
        advance(1)
    arena.env.close()
    return outcomes


def _in_processes(
    agents: dict[str, AgentFactory], config: EvaluateConfig, seeds: list[int], workers: int, advance: Callable[[int], None]
) -> list[Outcome]:
    """Spawned, not forked: GL contexts and torch's threads do not survive a fork."""
    make_env(config).close()  # a mistake in the environment is better named here than by a dead worker
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (agents, config)) as pool:
            futures = [pool.submit(_play, episode, seed) for episode, seed in enumerate(seeds)]
            for future in futures:
                future.add_done_callback(lambda _: advance(1))
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise UserError(f"navigation: a worker process died ({error}); run with workers=1 to see why") from error
    finally:
        os.environ.pop("OMP_NUM_THREADS") if threads is None else os.environ.update(OMP_NUM_THREADS=threads)


def _collect(agents: list[str], seeds: list[int], outcomes: list[Outcome]) -> NavigationResult:
    removed: dict[str, list[int]] = {}
    for seed, outcome in zip(seeds, outcomes, strict=True):
        if outcome.removed:
            removed.setdefault(outcome.removed, []).append(seed)
    kept = [outcome for outcome in outcomes if not outcome.removed]
    rows = [outcome.rows[i] for i in range(len(agents)) for outcome in kept]
    traces = [outcome.traces[i] for i in range(len(agents)) for outcome in kept]
    seconds = {name: [outcome.act_seconds[i] for outcome in kept] for i, name in enumerate(agents)}
    return NavigationResult(rows, removed, traces, {name: 1e3 * float(np.mean(s)) for name, s in seconds.items() if s})
