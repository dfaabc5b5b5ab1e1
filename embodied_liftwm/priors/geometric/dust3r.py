"""DUSt3R (Wang et al. 2024, arXiv:2312.14132) as a teacher: points and depth of pairs of frames, without cameras.

Poses only choose the pairs: the model sees images alone, so its geometry is up to a factor, one for both maps of a pair.
"""

from __future__ import annotations

import torch
from torch import nn

from embodied_liftwm.priors.contract import Clip, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.geometric import pairs
from embodied_liftwm.priors.geometric.stereo_models import DUST3R, fingerprint, open_model, what_is_missing


class Dust3r:
    """Each frame is asked beside one that sees the same with parallax, see `pairs.choose_pairs`."""

    def __init__(self, network: nn.Module, options: PriorOptions, name: str) -> None:
        self.network, self.options, self.name = network, options, name

    def fingerprint(self) -> str:
        """See `Prior`."""
        return self.name

    def observe(self, clip: Clip) -> PseudoObservations:
        """Points of pairs, and each frame's depth from its own pair.

        Returns:
            points: first every frame beside itself as reference, then their partners in the reference's camera frame.
            depth: z of the former. Both "scale_free", on the CPU.
        """
        chosen = pairs.choose_pairs(clip)
        answers = pairs.ask(self.network, clip, chosen, self.options.batch_size, self.options.device)
        parts = [pairs.to_frames(maps, *clip.rgb.shape[-2:]) for _, maps in answers]
        points, confidence = (torch.cat(column) for column in zip(*parts))
        return PseudoObservations(
            depth=pairs.depth_maps(chosen, points, confidence, "scale_free"),
            points=pairs.point_maps(chosen, points, confidence, "scale_free"),
        )


def open_dust3r(options: PriorOptions) -> Dust3r:
    """Open it; nothing must be missing. Raises UserError where code or weights are not DUSt3R's."""
    settings = (pairs.WINDOW, pairs.SMALLEST_LONG_SIDE, pairs.EDGE)
    return Dust3r(open_model(DUST3R, options), options, fingerprint(DUST3R, options, *settings))


CARD = PriorCard(
    name="dust3r",
    gives=("depth", "points"),
    about="DUSt3R: pointmaps of image pairs without cameras (Wang et al. 2024, arXiv:2312.14132)",
    licence="CC-BY-NC-SA-4.0",
    non_commercial=True,
    missing=lambda options: what_is_missing(DUST3R, options),
    open=open_dust3r,
)
