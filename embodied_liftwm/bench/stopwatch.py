"""Where the time of a training step goes: stages of a trainer and its model, and a stopwatch between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from embodied_liftwm.memory.gaussians import memory as gaussian_memory
from embodied_liftwm.memory.patches import read as patch_read
from embodied_liftwm.training import learner
from embodied_liftwm.training.prefetch import Prefetcher
from embodied_liftwm.training.trainer import Trainer

REST = "all else"


class Stopwatch:
    """Gives every moment to the innermost stage entered, so that the stages add up to the time that passed."""

    def __init__(self, stages: list[str], wait: Callable[[], None] = lambda: None) -> None:
        """`wait` is called at every change of stage: for an accelerator to finish what it was given."""
        self._spent = dict.fromkeys([*stages, REST], 0.0)
        self._stack = [REST]
        self._wait = wait
        self._since = time.perf_counter()

    def enter(self, stage: str) -> None:
        """Begin a stage inside the one that is under way."""
        self._count()
        self._stack.append(stage)

    def leave(self) -> None:
        """End the innermost stage."""
        self._count()
        self._stack.pop()

    def lap(self) -> dict[str, float]:
        """Seconds of every stage since the last lap."""
        self._count()
        spent, self._spent = self._spent, dict.fromkeys(self._spent, 0.0)
        return spent

    def _count(self) -> None:
        self._wait()
        now = time.perf_counter()
        self._spent[self._stack[-1]] += now - self._since
        self._since = now


def _places(trainer: Trainer) -> list[tuple[Any, str, str]]:
    """Owner, name of its function, and the stage that its calls are."""
    model, learns = trainer.model, trainer.learner
    places = [
        (Prefetcher, "take", "waiting for data"),
        (learner, "to_device", "copy to device"),
        (model, "encode_matched", "encoder and plane sweep"),
        (model, "write", "memory write"),
        (gaussian_memory, "rasterize", "rasterizer"),
        (patch_read, "read_placed", "rasterizer"),
        (model, "decode", "decoder"),
        (model, "predict", "ego motion and task heads"),
        (model.ego_motion, "forward", "ego motion and task heads"),
        (learns.objective, "forward", "objective"),
        (learns, "backward", "backward"),
        (learns, "update", "optimiser"),
        (trainer, "save", "checkpoints"),
    ]
    return places


@contextmanager
def watching(trainer: Trainer) -> Iterator[Stopwatch]:
    """Wrap the stages of a trainer for the length of the block."""
    cuda = torch.device(trainer.config.device).type == "cuda"
    places = _places(trainer)
    watch = Stopwatch([stage for _, _, stage in places], torch.cuda.synchronize if cuda else lambda: None)
    wrapped = [(owner, name, _timed(getattr(owner, name), watch, stage)) for owner, name, stage in places]
    before = [(owner, name, vars(owner).get(name)) for owner, name, _ in wrapped]
    for owner, name, function in wrapped:
        setattr(owner, name, function)
    try:
        yield watch
    finally:
        for owner, name, own in before:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _timed(function: Callable[..., Any], watch: Stopwatch, stage: str) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        watch.enter(stage)
        try:
            return function(*arguments, **options)
        finally:
            watch.leave()

    return run
