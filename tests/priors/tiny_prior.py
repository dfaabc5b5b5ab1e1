"""A prior of a few lines, as a user would write one: dark is far, and what moves along x moved in depth."""

from __future__ import annotations

import hashlib

import torch

from embodied_liftwm.priors.contract import Clip, DepthMaps, Matches, PriorCard, PriorOptions, PseudoObservations


class TinyPrior:
    """Inverse depth from brightness, and matches of every frame's centre with the next one's; `seed` is a setting of it."""

    def __init__(self, options: PriorOptions) -> None:
        self.seed = options.seed

    def fingerprint(self) -> str:
        return hashlib.sha256(f"tiny {self.seed}".encode()).hexdigest()[:16]

    def observe(self, clip: Clip) -> PseudoObservations:
        frames = torch.arange(len(clip.rgb))
        inverse = clip.rgb.mean(1) + self.seed + clip.world_from_camera[:, 0, 3].abs()[:, None, None]
        centre = clip.intrinsics[:2, 2].expand(len(frames) - 1, 2, 2).contiguous()
        return PseudoObservations(
            depth=DepthMaps(inverse, clip.rgb[:, 0].contiguous(), frames, "affine_inverse"),
            matches=Matches(centre, torch.ones(len(frames) - 1), torch.stack([frames[:-1], frames[1:]], -1)),
        )


def make_prior(options: PriorOptions) -> TinyPrior:
    return TinyPrior(options)


def lacks_weights(options: PriorOptions) -> str:
    return "" if options.weights else "no weights: set weights= to the folder where the checkpoint of this prior is"


CARD = PriorCard("tiny", ("depth", "matches"), "brightness", "CC-BY-NC-4.0", True, lacks_weights, make_prior)


class NoPrior:
    """Lacks `observe`."""

    def __init__(self, options: PriorOptions) -> None:
        pass

    def fingerprint(self) -> str:
        return "0" * 16


class Unhashed(TinyPrior):
    def fingerprint(self) -> str:
        return "version 2"


class Wrong(TinyPrior):
    """Confidence above 1, in the third clip and later."""

    clips = 0

    def observe(self, clip: Clip) -> PseudoObservations:
        found = super().observe(clip)
        self.clips += 1
        if self.clips > 2 and found.depth:
            found.depth.confidence.add_(1.0)
        return found
