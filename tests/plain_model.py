"""A world model that is not ours, for commands that load one by name: it knows the mean colour of what it saw, and no more."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.evaluation.views.mean_colour import MeanColour, MeanColourState
from embodied_liftwm.protocols import Camera, Observation, Prediction


class PlainModel(MeanColour):
    """The rest of the protocol, as far as a mean colour goes."""

    image_size = 32

    def imagine(self, state: MeanColourState, action: Tensor) -> MeanColourState:
        return state

    def predict(self, state: MeanColourState) -> Prediction:
        return Prediction(torch.zeros(len(state.frames)), torch.ones(len(state.frames)))

    def surprise(self, state: MeanColourState, observation: Observation) -> Tensor:
        return (self.render(state, observation.camera).rgb - observation.rgb).square().mean((1, 2, 3))

    def summarize(self, state: MeanColourState) -> Tensor:
        return state.colour / state.frames.clamp(min=1)

    def ego_camera(self, state: MeanColourState) -> Camera:
        eye = torch.eye(4).expand(len(state.frames), 4, 4)
        return Camera(torch.tensor([[16.0, 0, 16], [0, 16, 16], [0, 0, 1]]).expand(len(eye), 3, 3), eye, 32, 32)


def make_model() -> PlainModel:
    return PlainModel(2.0)


def make_wide() -> PlainModel:
    model = make_model()
    model.image_size = (32, 48)  # type: ignore[assignment]
    return model


def make_any() -> PlainModel:
    """One that does not say what it takes."""
    model = make_model()
    model.image_size = None  # type: ignore[assignment]
    return model
