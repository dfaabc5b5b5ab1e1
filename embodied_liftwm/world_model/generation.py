"""One step of closed-loop generation: the model shows what a camera would see, and then believes what it showed.

From one first frame on nothing real is observed any more, so that what was invented is remembered like what was seen, and a
camera that comes back meets it again. This is how video generators with a memory are used (Mirage, arXiv 2606.09828).
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch

from embodied_liftwm.protocols import Camera, Observation, View

S = TypeVar("S")


class Rememberer(Protocol[S]):
    """The part of `WorldModel` that generation needs."""

    def observe(self, state: S, observation: Observation) -> S: ...

    def render(self, state: S, camera: Camera) -> View: ...


def render_then_observe(model: Rememberer[S], state: S, camera: Camera, action_dim: int = 0) -> tuple[S, View]:
    """Render `camera`, then observe what was rendered, with the ego camera moved there.

    What is rendered holds the model's memory of before this step: its `seen` says which pixels it invented. The step has no
    action, since a camera path has none: zeros stand for it.

    Args:
        model: any world model, ours or not.
        state: B rows that have observed at least one frame.
        camera: B cameras, of the image size that the model observes.
        action_dim: numbers in an action of this model, A.

    Returns:
        The state after the step, and what was rendered.
    """
    view = model.render(state, camera)
    return model.observe(state, shown(view, camera, action_dim)), view


def shown(view: View, camera: Camera, action_dim: int) -> Observation:
    """A rendered view as what `camera` sees next, after no action."""
    rows = len(view.rgb)
    return Observation(
        rgb=view.rgb.clamp(0, 1),
        camera=camera,
        action=view.rgb.new_zeros(rows, action_dim),
        is_first=torch.zeros(rows, dtype=torch.bool, device=view.rgb.device),
    )
