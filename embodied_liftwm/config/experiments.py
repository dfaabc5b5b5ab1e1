"""Benchmarks and the demonstration."""

from __future__ import annotations

from dataclasses import dataclass, field

from embodied_liftwm.config.checks import MOST_PROCESSES, MOST_THREADS, bounded, check_fields, distinct, shown
from embodied_liftwm.config.episodes import CollectConfig, EnvOptions, training_scenes
from embodied_liftwm.config.judging import HELD_OUT, EvaluateConfig, TrainAgentConfig
from embodied_liftwm.config.model import ModelConfig
from embodied_liftwm.config.training import TrainConfig
from embodied_liftwm.errors import UserError


@dataclass(frozen=True)
class BenchConfig:
    """`liftwm bench NAME`: speed as a ratio within one run."""

    env: str = "Revisit-S"  # collect, train, state: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)  # collect, train, state: its options
    frames: int = bounded(1500, 1, 10_000_000)  # collect: frames per timing
    workers: int = bounded(2, 1, MOST_PROCESSES)  # collect, train: processes; of collect in the scaling row
    train: TrainConfig = field(default_factory=TrainConfig)  # train: what is trained, on which dataset
    model: ModelConfig = field(default_factory=ModelConfig)  # state, memory: the untrained model that is timed
    checkpoint: str = ""  # state: a trained one instead, such as base
    steps: int = bounded(1000, 1, 10_000_000)  # state: observes
    memory_sizes: tuple[int, ...] = bounded((64, 128, 256), 16, 2048)  # memory: pixels a side
    memory_frames: tuple[int, ...] = bounded((100, 1000, 10_000), 1, 1_000_000)  # memory: ages, in frames, at which memories
    # are compared
    memory_growing_frames: int = bounded(1000, 1, 1_000_000)  # memory: oldest of what grows but raw frames, and of all at all
    # but the least size
    memory_budgets: tuple[int, ...] = bounded((2**20, 2**17), 1, 2**36)  # memory: bytes of bounded caches
    repeats: int = bounded(3, 1, 1000)  # timings, of which the median is reported
    threads: int = bounded(0, 0, MOST_THREADS)  # rasterize, train, state, memory: torch threads; 0 for all cores
    device: str = "cpu"  # memory, rasterize, state: torch device
    out: str = "results"  # folder for the CSV

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("memory_sizes", "memory_frames", "memory_budgets"):
            distinct(name, getattr(self, name), "numbers")


@dataclass(frozen=True)
class DemoConfig:
    """`liftwm demo`: collect, train, plan, evaluate, report; small and whole."""

    out: str = "runs/demo"  # everything the demo writes
    collect: CollectConfig = field(default_factory=lambda: CollectConfig(episodes=160, steps=96))
    eval_episodes: int = bounded(12, 1, 100_000)  # held-out episodes for the figures
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=120))  # of the model, and of the baseline but for its
    # steps
    baseline_steps: int = bounded(440, 1, 100_000_000)  # as long on a core of its own as the model takes: 0.64 and 2.3 s a step
    evaluate: EvaluateConfig = field(default_factory=lambda: EvaluateConfig(navigation_episodes=12))
    agent: TrainAgentConfig = field(default_factory=lambda: TrainAgentConfig(steps=512))

    def __post_init__(self) -> None:
        check_fields(self)
        training_scenes(self.collect)
        if ":" in self.collect.env:
            raise UserError(f"collect.env={shown(self.collect.env)}: the demo plans, in tasks of liftwm_envs alone")
        if set(self.evaluate.suite) != set(HELD_OUT):
            raise UserError(f"evaluate.suite={list(self.evaluate.suite)}: the demo shows figures of {', '.join(HELD_OUT)}")
        if self.evaluate.context >= self.collect.steps:
            raise UserError(f"evaluate.context={self.evaluate.context}: must be below collect.steps={self.collect.steps}")
        if self.agent.loop:
            raise UserError("agent.loop=True: the demo trains its policy once")
