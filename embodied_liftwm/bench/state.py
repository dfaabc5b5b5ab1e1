"""`liftwm bench state`: what a world model's calls cost, and whether they still cost it after a thousand steps.

A model, untrained or that of `checkpoint`, walks along a recorded tour, there and back and there again, for as many steps as
`steps` says; then its other calls are timed on the state that it has by then. What they cost depends on the map, whose number
of primitives is told beside it, and otherwise not on what was learned. Milliseconds are of a batch of one, and each repeat is
a walk of its own.

`bench_state.csv` has the calls and the bytes of the state, `bench_state_walk.csv` the first tenth of a walk beside the last
(`steps=10000`: the first thousand observes beside the last), with the state and the process before and after. The two tenths
are timed in turn: a second walk begins when the first has but a tenth to go, so that what else the machine does falls on both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from embodied_liftwm.bench.table import Row, by_name, machine, report, seconds, seconds_in_turn, using_threads
from embodied_liftwm.config import BenchConfig, CollectConfig, ModelConfig, size_word
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.views.budget_curve import at_budget
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.memory.gaussians import choose_backend
from embodied_liftwm.protocols import Observation
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.training.checkpoint import load_model
from embodied_liftwm.world_model.base import BaseWorldModel, ModelShapes
from embodied_liftwm.world_model.build import build_model
from liftwm_agents.collection.workers import ShardCollector

BUDGETS = (512, 2048)
"""Primitives, timed beside as many as the model has, where they are fewer."""
CALLS = 20
"""Calls of which a repeat is the median."""
WARM_UP = 8
"""Observes of a walk that is not timed: kernels are compiled or loaded, and stereo has found its sources."""
MIB = 2**20


def run(config: BenchConfig) -> int:
    """Time, print and write the two tables.

    Raises:
        UserError: the environment or the model cannot be built, or the two do not fit.
    """
    console, out = plain_console(), Path(config.out)
    backend = choose_backend(torch.device(config.device))
    about = machine(*({"numba", "gsplat"} & {backend}), device=config.device)
    with torch.no_grad(), using_threads(config.threads), console.status("recording a tour") as status:
        about["threads"] = str(torch.get_num_threads())
        observations, shapes = _tour(config)
        calls, walks = [], []
        for budget in _budgets(_untimed(config, shapes).config):
            status.update(f"walking {config.repeats} x {config.steps} steps with a budget of {budget}")
            call, walk = _time_budget(config, shapes, budget, observations)
            calls.append(call)
            walks.append(walk)
    report(console, f"a call after {config.steps} observes", calls, about, out / "bench_state.csv")
    report(console, f"{config.steps} observes in a row", walks, about, out / "bench_state_walk.csv")
    return 0


def _budgets(settings: ModelConfig) -> list[int]:
    return [*(budget for budget in BUDGETS if budget < settings.primitives), settings.size]


def _tour(config: BenchConfig) -> tuple[list[Observation], ModelShapes]:
    """The frames of an episode of `config.env`, none marked as the first, and what a model must know of them."""
    settings = CollectConfig(env=config.env, env_options=config.env_options, steps=config.steps)
    source = find_env(config.env)
    source.check(settings.env_options, settings.policy)
    collector = ShardCollector(settings, source)
    episode: Episode = collector.record(0)
    collector.close()
    batch = EpisodeBatch([episode], [0], config.device)
    frames = [batch.observation([(0, t)]) for t in range(len(episode.rgb))]
    shapes = ModelShapes(episode.image_size, episode.action.shape[1], episode.goal.shape[1])
    return [replace(frame, is_first=torch.zeros_like(frame.is_first)) for frame in frames], shapes


class Walk:
    """A model that observes a tour there and back, again and again, from an empty state on."""

    def __init__(self, model: BaseWorldModel[Any], tour: list[Observation]) -> None:
        self._model, self._steps = model, 0
        self._route = [*tour, *tour[-2:0:-1]]
        first = replace(tour[0], is_first=torch.ones_like(tour[0].is_first))
        self.state = model.observe(model.initial_state(1), first)

    @property
    def now(self) -> Observation:
        """What was observed last."""
        return self._route[self._steps % len(self._route)]

    def step(self) -> None:
        """Observe the next frame."""
        self._steps += 1
        self.state = self._model.observe(self.state, self.now)


def _time_budget(config: BenchConfig, shapes: ModelShapes, budget: int, tour: list[Observation]) -> tuple[Row, Row]:
    """The row of calls and the row of walks of one budget."""
    model = at_budget(_untimed(config, shapes), budget)
    _walk(model, tour, WARM_UP, config.device)
    walks, calls = [], []
    for _ in range(config.repeats):
        walk, measured = _walk(model, tour, config.steps, config.device)
        walks.append(measured)
        calls.append(_state_size(walk.state) | _time_calls(model, walk, config.device))
    case: dict[str, object] = {
        "model": config.checkpoint or "untrained",
        "memory": model.config.memory,
        "budget": budget,
        "image_size": size_word(shapes.image_size),
        "steps": config.steps,
    }
    return Row(case, by_name(calls)), Row(case, by_name(walks))


def _untimed(config: BenchConfig, shapes: ModelShapes) -> BaseWorldModel[Any]:
    """The model of the checkpoint, else an untrained one.

    Raises:
        UserError: no such checkpoint, or it sees frames of another size.
    """
    if not config.checkpoint:
        torch.manual_seed(0)
        return build_model(config.model, shapes).to(config.device).eval()
    model: Any = load_model(config.checkpoint, config.device)
    if model.image_size != shapes.image_size:
        wanted, got = size_word(model.image_size), size_word(shapes.image_size)
        raise UserError(f"env_options.image_size={got}: {config.checkpoint} sees frames of {wanted} pixels, set {wanted}")
    return model


def _walk(model: BaseWorldModel[Any], tour: list[Observation], steps: int, device: str) -> tuple[Walk, dict[str, float]]:
    """Observe `steps` times: milliseconds, bytes of the state and memory of the process, early and late."""
    walk, tenth = Walk(model, tour), max(1, steps // 10)
    for _ in range(tenth):
        walk.step()
    before, small = _process_mib(device), walk.state.nbytes() / MIB
    for _ in range(steps - 2 * tenth - 2):  # the timing has a step before it to warm up
        walk.step()
    after, large = _process_mib(device), walk.state.nbytes() / MIB
    tenths = seconds_in_turn({"first": Walk(model, tour).step, "last": walk.step}, tenth, device)
    early, late = median(tenths["first"]), median(tenths["last"])
    ms = {"first tenth, ms": 1e3 * early, "last tenth, ms": 1e3 * late, "last / first": late / early}
    memory = {"state first, MiB": small, "state last, MiB": large, "process first, MiB": before, "process last, MiB": after}
    return walk, ms | memory | {"process grew, MiB": after - before}


def _process_mib(device: str) -> float:
    """Resident memory of this process, and what it has allocated on an accelerator."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    allocated = torch.cuda.memory_allocated(device) if torch.device(device).type == "cuda" else 0
    return (pages * os.sysconf("SC_PAGE_SIZE") + allocated) / MIB


def _state_size(state: Any) -> dict[str, float]:
    held = {"primitives": float(state.world.occupied.sum())} if hasattr(state, "world") else {}
    return held | {"state, MiB": state.nbytes() / MIB}


def _time_calls(model: BaseWorldModel[Any], walk: Walk, device: str) -> dict[str, float]:
    """Milliseconds of each call on the state at the end of a walk."""
    state, now = walk.state, walk.now
    calls: dict[str, Callable[[], object]] = {
        "observe": lambda: model.observe(state, now),
        "render": lambda: model.render(state, now.camera),
        "imagine": lambda: model.imagine(state, now.action),
        "predict": lambda: model.predict(state),
        "summarize": lambda: model.summarize(state),
    }
    return {f"{name}, ms": 1e3 * median(seconds(call, CALLS, device)) for name, call in calls.items()}
