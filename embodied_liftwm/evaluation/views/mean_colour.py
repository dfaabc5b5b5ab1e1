"""The least a world model must beat: one that remembers the mean colour of all it saw, and nothing of where.

It is also the shortest complete example of a model that this package can score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.views.episodes import truth_of
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


def mean_colour_of(episodes: Sequence[Episode], device: str = "cpu") -> MeanColour:
    """The mean colour for these episodes: constant depth at the median of their true depth."""
    depths = [truth_of(episode, i).depth.astype(np.float32) for i, episode in enumerate(episodes)]
    medians = [np.median(depth[depth > 0]) for depth in depths if (depth > 0).any()]
    return MeanColour(float(np.median(medians)) if medians else 1.0, device)
