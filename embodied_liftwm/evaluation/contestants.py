"""Who is judged beside a model: the same model without a memory; and how any of them is made anew in another process."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import embodied_liftwm
from embodied_liftwm.evaluation.bounds import LastFrame
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.protocols import Camera, Observation, Prediction
from embodied_liftwm.tensor_tree import TensorTree

LAST_FRAME = "last_frame"
"""Name of the model that is emptied before each frame."""


class LastFrameAlone(LastFrame):
    """`LastFrame` as a whole `WorldModel`: what is left of a model when all that it may use is the last frame."""

    def imagine(self, state: TensorTree, action: Tensor) -> TensorTree:
        return self.model.imagine(state, action)

    def predict(self, state: TensorTree) -> Prediction:
        return self.model.predict(state)

    def surprise(self, state: TensorTree, observation: Observation) -> Tensor:
        """Of what is seen, to a model that remembers the frame before."""
        return self.model.surprise(state, replace(observation, is_first=torch.zeros_like(observation.is_first)))

    def summarize(self, state: TensorTree) -> Tensor:
        return self.model.summarize(state)

    def ego_camera(self, state: TensorTree) -> Camera:
        return self.model.ego_camera(state)


def contestant(name: str, source: str, device: str) -> CheckedModel:
    """Load the model that rows call `name`, as every process that judges does for itself."""
    model = embodied_liftwm.load(source, device)
    return CheckedModel(LastFrameAlone(model) if name == LAST_FRAME else model, name, source)
