"""The least a world model must beat: the mean colour of all that was seen, and the last frame, held still.

Neither knows anything of where. They are also the shortest complete examples of a model that this package can score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.protocols import Camera, Observation, View
from embodied_liftwm.tensor_tree import TensorTree


@dataclass(frozen=True)
class MeanColourState(TensorTree):
    """Running sums over every frame observed."""

    colour: Tensor  # [B, 3] sum of the frames' mean colours
    frames: Tensor  # [B, 1]


class MeanColour:
    """Shows the mean colour of all frames observed, at one constant depth, whatever the camera.

    Args:
        depth_m: the constant depth. `mean_colour_of` takes the median true depth of the very episodes evaluated, so that it
            knows more than a model may.
    """

    def __init__(self, depth_m: float, device: str = "cpu") -> None:
        self.depth_m = depth_m
        self.device = device

    def initial_state(self, batch_size: int) -> MeanColourState:
        zeros = torch.zeros(batch_size, 4, device=self.device)
        return MeanColourState(colour=zeros[:, :3], frames=zeros[:, 3:])

    def observe(self, state: MeanColourState, observation: Observation) -> MeanColourState:
        first = observation.is_first[:, None]
        kept = MeanColourState(state.colour.masked_fill(first, 0.0), state.frames.masked_fill(first, 0.0))
        return MeanColourState(kept.colour + observation.rgb.mean(dim=(2, 3)), kept.frames + 1)

    def render(self, state: MeanColourState, camera: Camera) -> View:
        image = (len(camera.intrinsics), camera.height, camera.width)
        mean = state.colour / state.frames.clamp(min=1)
        return View(
            rgb=mean[:, :, None, None].expand(image[0], 3, *image[1:]),
            depth=torch.full(image, self.depth_m, device=self.device),
            seen=torch.zeros(image, device=self.device),
        )


FROZEN_FRAME = "frozen_frame"
"""Name of the model that shows the last frame again."""


@dataclass(frozen=True)
class FrozenState(TensorTree):
    """The last frame observed."""

    rgb: Tensor  # [B, 3, H, W], or [B, 3, 1, 1] before the first


class FrozenFrame:
    """Shows the last frame observed, as it was, whatever the camera; at one constant depth, as `MeanColour`."""

    def __init__(self, depth_m: float, device: str = "cpu") -> None:
        self.depth_m = depth_m
        self.device = device

    def initial_state(self, batch_size: int) -> FrozenState:
        return FrozenState(torch.zeros(batch_size, 3, 1, 1, device=self.device))

    def observe(self, state: FrozenState, observation: Observation) -> FrozenState:
        return FrozenState(observation.rgb)

    def render(self, state: FrozenState, camera: Camera) -> View:
        image = (len(camera.intrinsics), camera.height, camera.width)
        depth = torch.full(image, self.depth_m, device=self.device)
        return View(rgb=state.rgb.expand(image[0], 3, *image[1:]), depth=depth, seen=torch.zeros_like(depth))


def mean_colour_of(episodes: Sequence[Episode], device: str = "cpu") -> MeanColour:
    """The mean colour for these episodes: constant depth at the median of their true depth, 1 where there is none."""
    depths = [episode.truth.depth.astype(np.float32) for episode in episodes if episode.truth is not None]
    medians = [np.median(depth[depth > 0]) for depth in depths if (depth > 0).any()]
    return MeanColour(float(np.median(medians)) if medians else 1.0, device)
