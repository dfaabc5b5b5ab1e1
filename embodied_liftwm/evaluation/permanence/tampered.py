"""Models whose memory was tampered with: controls that show whether an agent acts on what its world model remembers.

Each wraps a world model and passes on what it does not change. They serve one agent at a time: batches of one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.tensor_tree import TensorTree


class Wrapped:
    """Passes everything on to a world model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not there yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self.model, name)


class KeepsState(Wrapped):
    """A world model whose last state can be had."""

    last: TensorTree

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        """As the model does."""
        self.last = self.model.observe(state, observation)
        return self.last


class AlteredAtCall(Wrapped):
    """A world model whose state is replaced when the goal is called, that is, with the first frame that shows a goal."""

    _called = False

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        """As the model does, but for the first frame with a goal."""
        if bool(observation.is_first.any()):
            self._called = False
        called = observation.goal is not None and bool((observation.goal != 0).any())
        if not called or self._called:
            return self.model.observe(state, observation)
        self._called = True
        return self.at_call(observation)

    def at_call(self, observation: Observation) -> TensorTree:
        """The state to go on with."""
        raise NotImplementedError


class ClearedMemory(AlteredAtCall):
    """Forgets everything but the frame of the call: what is left is search."""

    def at_call(self, observation: Observation) -> TensorTree:
        alone = replace(observation, is_first=torch.ones_like(observation.is_first))
        return self.model.observe(self.model.initial_state(1), alone)


class SwappedMemory(AlteredAtCall):
    """Goes on with the memory of another episode, as sharp as its own but of another scene."""

    def __init__(self, model: Any, other: TensorTree) -> None:
        super().__init__(model)
        self._other = other  # the model's state at the call of another episode, batch of one

    def at_call(self, observation: Observation) -> TensorTree:
        # Twice: the first look moves the believed camera from the other episode's end to here, a leap that is no motion.
        resting = replace(observation, action=torch.zeros_like(observation.action))
        return self.model.observe(self.model.observe(self._other, resting), resting)


def with_noisy_depth(model: Any, deviation: float, seed: int) -> Any:
    """A model of ours that misjudges the depth of what it observes.

    The logarithm of a frame's depth is off by a normal number of this deviation, and that of each of its cells by another one.

    Args:
        model: whose `encode` gives `depth` on a grid of cells.
        deviation: standard deviation of either error of the log-depth.
        seed: of the errors, which otherwise depend on the frame alone: the same frame is misjudged in the same way.

    Returns:
        A copy of the model.
    """
    noisy, encode = copy.copy(model), model.encode

    def misjudge(rgb: Tensor, camera: Camera, *sources: Any) -> Any:
        encoding = encode(rgb, camera, *sources)
        errors = [_log_errors(frame, encoding.depth.shape[1:], seed) for frame in rgb]
        return encoding._replace(depth=encoding.depth * (deviation * torch.stack(errors).to(rgb)).exp())

    noisy.encode = misjudge
    return noisy


def _log_errors(frame: Tensor, cells: torch.Size, seed: int) -> Tensor:
    """Standard normal numbers: one for the frame, added to one for each cell. [h, w]"""
    picture = (frame * 255.0).round().to(torch.int64)
    weights = torch.arange(1, picture.numel() + 1, device=picture.device).view_as(picture)
    generator = np.random.default_rng([seed, int((picture * weights).sum())])
    return torch.from_numpy(generator.standard_normal() + generator.standard_normal(tuple(cells))).float()


class OtherGoal:
    """An agent that is told to go to another object: it goes to a place that it remembers, but not to the goal's."""

    def __init__(self, agent: Any, goal: np.ndarray) -> None:
        self.agent, self._goal = agent, np.asarray(goal, np.float32)  # [G] the instruction that it is given for its own

    def begin(self, tour: Mapping[str, np.ndarray]) -> None:
        """Start an episode by watching its guided tour."""
        goals = np.where((tour["goal"] != 0).any(axis=-1, keepdims=True), self._goal, 0.0).astype(np.float32)
        self.agent.begin({**tour, "goal": goals})

    def act(self, obs: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Any:
        """An action of the environment's action space."""
        return self.agent.act({**obs, "goal": self._goal}, info)

    def diagnostics(self) -> dict[str, Any]:
        """What the agent believes."""
        return self.agent.diagnostics()
