"""Who is judged beside a model: the same model without a memory; and how any of them is made anew in another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import torch
from torch import Tensor

import embodied_liftwm
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import ActingModel, CheckedModel
from embodied_liftwm.evaluation.navigation.arena import Agent, MakeAgent
from embodied_liftwm.evaluation.views.bounds import LastFrame
from embodied_liftwm.evaluation.views.mean_colour import MeanColour, MeanColourState, mean_colour_of
from embodied_liftwm.protocols import Observation
from embodied_liftwm.tensor_tree import TensorTree

LAST_FRAME, MEAN_COLOUR = "last_frame", "floor"
"""Names of the model that is emptied before each frame, and of the mean colour."""


class LastFrameAlone(LastFrame):
    """`LastFrame` as a whole `WorldModel`: what is left of a model when all that it may use is the last frame."""

    def __getattr__(self, name: str) -> Any:
        if name not in ("imagine", "summarize", "ego_camera", "primitives"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def surprise(self, state: TensorTree, observation: Observation) -> Tensor:
        """Of what is seen, to a model that remembers the frame before."""
        return self.model.surprise(state, replace(observation, is_first=torch.zeros_like(observation.is_first)))


class Unmoved(MeanColour):
    """The mean colour as something that can go blind: it is the same wherever the camera goes."""

    def imagine(self, state: MeanColourState, action: Tensor) -> MeanColourState:
        return state


def mean_colour_on(episode: Episode, device: str) -> CheckedModel:
    """The mean colour of one episode at its median true depth, which is more than a model may know."""
    return CheckedModel(Unmoved(mean_colour_of([episode], device).depth_m, device), MEAN_COLOUR, "mean colour")


def contestant(name: str, source: str, device: str) -> CheckedModel:
    """Load the model that rows call `name`, as every process that judges does for itself."""
    model = embodied_liftwm.load(source, device)
    return CheckedModel(LastFrameAlone(model) if name == LAST_FRAME else model, name, source)


def agent_on(make_agent: MakeAgent, name: str, source: str, device: str, env: gymnasium.Env, seed: int) -> Agent:
    """An agent on the model that rows call `name`, loaded in this very process."""
    return make_agent(ActingModel(contestant(name, source, device).model, source), device, env, seed)


def sources_of(models: Sequence[CheckedModel]) -> tuple[tuple[str, str], ...]:
    """What another process needs to load these models: names and sources."""
    return tuple((model.name, model.source) for model in models)


def load_all(sources: Sequence[tuple[str, str]], device: str) -> list[CheckedModel]:
    """Load them there."""
    return [contestant(name, source, device) for name, source in sources]
