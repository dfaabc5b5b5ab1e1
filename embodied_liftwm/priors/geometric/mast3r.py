"""MASt3R (Leroy et al. 2024, arXiv:2406.09756) as a teacher: metric points of pairs of frames, and matches between them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embodied_liftwm.priors.contract import Clip, Matches, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.geometric import pairs
from embodied_liftwm.priors.geometric.stereo_models import MAST3R, fingerprint, open_model, what_is_missing

SUBSAMPLE = 8
"""Matching starts from every so many pixels of the model's image, as in its own default."""
_BLOCK = 2**13  # descriptors compared at once, as its own demo does

Matcher = Callable[[Tensor, Tensor], tuple[Any, Any]]
"""From unit descriptors of two images [h, w, D] to integer pixels (x, y) of what matches, twice [M, 2]."""


class Mast3r:
    """Each frame is asked beside one that sees the same with parallax, see `pairs.choose_pairs`."""

    def __init__(self, network: nn.Module, matcher: Matcher, options: PriorOptions, name: str) -> None:
        self.network, self.matcher, self.options, self.name = network, matcher, options, name

    def fingerprint(self) -> str:
        """See `Prior`."""
        return self.name

    def observe(self, clip: Clip) -> PseudoObservations:
        """Points and matches of pairs, and each frame's depth from its own pair.

        Returns:
            points: first every frame beside itself as reference, then their partners in the reference's camera frame.
            depth: z of the former. Both "metric", on the CPU.
            matches: of each pair of different frames once.
        """
        chosen = pairs.choose_pairs(clip)
        once, size = first_of_both_orders(chosen), (clip.rgb.shape[-2], clip.rgb.shape[-1])
        at_frames, matches, batch_size = [], [], self.options.batch_size
        answers = pairs.ask(self.network, clip, chosen, batch_size, self.options.device)
        for (batch, maps), wanted in zip(answers, once.split(batch_size)):
            at_frames.append(pairs.to_frames(maps, *size))
            matches += [match(maps, k, batch[k], size, self.matcher) for k in wanted.nonzero().flatten().tolist()]
        points, confidence = (torch.cat(column) for column in zip(*at_frames))
        return PseudoObservations(
            depth=pairs.depth_maps(chosen, points, confidence, "metric"),
            points=pairs.point_maps(chosen, points, confidence, "metric"),
            matches=join(matches),
        )


def first_of_both_orders(chosen: Tensor) -> Tensor:
    """Which pairs [P, 2] are of two frames that no earlier one has, in this or the other order. [P] bool"""
    seen: set[tuple[int, ...]] = set()
    first = []
    for a, b in chosen.tolist():
        key = (min(a, b), max(a, b))
        first.append(a != b and key not in seen)
        seen.add(key)
    return torch.tensor(first, dtype=torch.bool)


def match(maps: pairs.PairMaps, number: int, frames: Tensor, size: tuple[int, int], matcher: Matcher) -> Matches:
    """Match the two images of one pair by their descriptors.

    Args:
        maps: of some pairs, with descriptors.
        number: which of them.
        frames: their frames. [2] int64
        size: height and width of the frames.
        matcher: gives pixels whose descriptors are each other's nearest neighbours.
    """
    assert maps.descriptors is not None and maps.descriptor_confidence is not None
    descriptors, confidence = maps.descriptors[number], maps.descriptor_confidence[number].cpu()
    # Centres lie at integers in the model's image, at half-integers in ours.
    model_size = torch.tensor([descriptors.shape[2], descriptors.shape[1]])
    scale = torch.tensor([size[1], size[0]]) / model_size
    found = [torch.from_numpy(np.array(xy, np.int64)).reshape(-1, 2) for xy in matcher(descriptors[0], descriptors[1])]
    pixels = torch.stack([(xy + 0.5) * scale for xy in found], dim=1)
    sure = torch.stack([confidence[k, xy[:, 1], xy[:, 0]] for k, xy in enumerate(found)]).amin(0)
    return Matches(pixels.float(), sure.float(), frames.expand(len(pixels), 2))


def join(matches: list[Matches]) -> Matches:
    """Matches of several pairs as one; of none where there is no pair."""
    return Matches(
        pixels=torch.cat([torch.zeros(0, 2, 2), *(m.pixels for m in matches)]),
        confidence=torch.cat([torch.zeros(0), *(m.confidence for m in matches)]),
        frames=torch.cat([torch.zeros(0, 2, dtype=torch.int64), *(m.frames for m in matches)]),
    )


def own_matcher(device: str) -> Matcher:
    """MASt3R's own search for reciprocal nearest neighbours (arXiv:2406.09756, section 3.3); its package must be imported."""
    search = importlib.import_module("mast3r.fast_nn").fast_reciprocal_NNs
    return partial(search, subsample_or_initxy1=SUBSAMPLE, device=device, dist="dot", block_size=_BLOCK)


def open_mast3r(options: PriorOptions) -> Mast3r:
    """Open it; nothing must be missing. Raises UserError where code or weights are not MASt3R's."""
    settings = (pairs.WINDOW, pairs.SMALLEST_LONG_SIDE, pairs.EDGE, SUBSAMPLE)
    network = open_model(MAST3R, options)
    return Mast3r(network, own_matcher(options.device), options, fingerprint(MAST3R, options, *settings))


CARD = PriorCard(
    name="mast3r",
    gives=("depth", "points", "matches"),
    about="MASt3R: metric pointmaps and matches of image pairs (Leroy et al. 2024, arXiv:2406.09756)",
    licence="CC-BY-NC-SA-4.0, and the terms of its training sets",
    non_commercial=True,
    missing=lambda options: what_is_missing(MAST3R, options),
    open=open_mast3r,
)
